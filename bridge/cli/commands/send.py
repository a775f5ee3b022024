"""``hiebridge send``: messages from files to an MLLP port."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from bridge.cli.corpus import contents, files
from bridge.cli.destinations import open_intake
from bridge.cli.errors import CHECK_FAILED
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.cli.sending import Sending
from bridge.errors import BridgeError, Incorrect
from bridge.pipeline.ports import ContentKind

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH...")
@click.option("--to", "address", required=True, metavar="mllp://HOST:PORT", help="The port.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Messages a second; default: as fast as taken."
)
@click.option(
    "--connections",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Connections side by side. Only one keeps the messages in order.",
)
@click.option(
    "--attempts", type=click.IntRange(1, 100), default=3, show_default=True, help="How often a message is sent at most."
)
@click.option(
    "--timeout-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Longest wait for one acknowledgement.",
)
@click.option("--pattern", default="*", show_default=True, metavar="GLOB", help="Which files of folders, by name.")
@click.option("--tls", is_flag=True, help="Use TLS, trusting the system's authorities; the next three imply it.")
@click.option("--tls-ca", type=_FILE, help="Authorities that the port's certificate must chain to (PEM).")
@click.option("--tls-certificate", type=_FILE, help="Own certificate, for mutual TLS (PEM).")
@click.option("--tls-key", type=_FILE, help="Private key of the own certificate (PEM).")
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    paths: tuple[Path, ...],
    address: str,
    rate: float | None,
    connections: int,
    attempts: int,
    timeout_seconds: float,
    pattern: str,
    tls: bool,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
) -> int:
    """Send messages from files to an MLLP port, and tell how they were acknowledged.

    Takes files and folders; batch files are split into their messages, and `-` reads standard input. The bytes go as they
    are. Each connection waits for the acknowledgement before its next message; a message that gets none is sent again. A
    message that asks for no acknowledgement (MSH-15) is not waited for. Exit code 1 if a message was not acknowledged
    with AA or CA, or a file could not be read; 7 if the port stopped answering.

    \b
    Example:
      $ hiebridge send feed/ --to mllp://127.0.0.1:2575 --rate 50
      $ hiebridge send adt.hl7 --to mllp://hie.example:2575 --tls-ca ca.pem --tls-certificate me.pem --tls-key me.key
    """  # noqa: D301 - click's mark
    if not address.startswith("mllp://"):
        raise Incorrect("destination-malformed", f"{address} is no MLLP port", remedy="Write mllp://HOST:PORT.")
    if (tls_certificate is None) != (tls_key is None):
        raise Incorrect(
            "mllp-tls-files", "a certificate needs its key", remedy="Give --tls-certificate and --tls-key together."
        )
    settings: dict[str, Any] = {"timeout_seconds": timeout_seconds}
    if tls or tls_ca or tls_certificate:
        settings["tls"] = {"ca_file": tls_ca, "certificate_file": tls_certificate, "key_file": tls_key}
    unread: Counter[str] = Counter()
    stopped: BridgeError | None = None
    with ExitStack() as stack:
        intakes = [open_intake(address, f"send-{number}", settings) for number in range(1, connections + 1)]
        for intake in intakes:
            stack.callback(intake.close)
        sending = Sending(intakes, rate=rate, attempts=attempts)
        try:
            asyncio.run(sending.run(_messages(paths, pattern, unread)))
        except BridgeError as error:
            stopped = error
    said = sending.statistics.described() | {"files_not_read": dict(unread)}
    lines = [*sending.statistics.lines(), *(f"not read: {count} [{code}]" for code, count in unread.items())]
    invocation.answer(said, "\n".join(lines))
    if stopped is not None:
        raise stopped
    return CHECK_FAILED if sending.statistics.failed or unread else 0


def _messages(paths: tuple[Path, ...], pattern: str, unread: Counter[str]) -> Iterator[bytes]:
    for file in files(paths, pattern):
        held = contents(file)
        if held.error is not None:
            unread[held.error.code] += 1
        for entry in held.entries:
            if entry.kind is ContentKind.HL7V2:
                yield entry.content
            else:
                unread["not-hl7"] += 1
