"""The test servers by hand: ``python -m tests.services kafka|postgres|anvil|all up|install``."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time

from tests.services import anvil, kafka, postgres
from tests.services.process import ServiceUnavailable

SERVICES = {"kafka": kafka, "postgres": postgres, "anvil": anvil}
ADDRESS = {"kafka": "bootstrap", "postgres": "url", "anvil": "url"}


def main() -> int:
    """Installs the named servers, or starts them, prints their addresses and ends them on Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=main.__doc__)
    parser.add_argument("service", choices=[*SERVICES, "all"])
    parser.add_argument("action", choices=["up", "install"])
    chosen = parser.parse_args()
    names = list(SERVICES) if chosen.service == "all" else [chosen.service]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if chosen.action == "install":
            for name in names:
                print(f"{name} {SERVICES[name].ensure()}", flush=True)
            return 0
        with contextlib.ExitStack() as stack:
            for name in names:
                server = stack.enter_context(SERVICES[name].start())
                print(f"{name} {getattr(server, ADDRESS[name])} pid {server.pid} log {server.log}", flush=True)
            while True:
                time.sleep(3600)
    except ServiceUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
