"""The command ``hiebridge``: finds its commands by the table below, and imports only the one that is called.

To add a command, put a click command called ``command`` into ``bridge/cli/commands/NAME.py`` and its line into
:data:`COMMANDS`. Its help ends with an example that starts with ``$ hiebridge NAME``. It raises the closed error categories;
this module alone turns them into texts and exit codes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from bridge.cli.errors import EXIT_CODES, INTERRUPTED, render, unexpected
from bridge.cli.invocation import Invocation
from bridge.errors import BridgeError
from bridge.telemetry.logs import LEVELS, configure_logging, log_uncaught, take_over_process

COMMANDS: Final[Mapping[str, str]] = {
    "work": "Work sources and the embedded queue off.",
    "up": "Run every role in one process.",
    "serve": "Serve the FHIR API.",
    "listen": "Receive messages over MLLP and from folders.",
    "anchor": "Number leaves, sign checkpoints, and take heads and consent words to the chain.",
    "deliver": "Take to the sinks what waits for them.",
    "send": "Send messages from files to an MLLP port, and tell how they were acknowledged.",
    "sinks": "Look at what waits for the sinks, and deal with what they refused.",
    "migrate": "Bring the store's schema up to date.",
    "demo": "Show the whole road on a hospital's morning.",
    "check-feed": "Check a sender's messages strictly, and tell what they break, how often and where.",
    "convert": "Print the FHIR Bundles that HL7 v2 messages or FHIR resources become.",
    "codes": "Look at the codes that senders use and mappings do not know.",
    "coverage": "Show what became of every field of a feed: mapped, dropped by rule, unmapped.",
    "deadletters": "Look at messages that could not be stored, do them again, or close them.",
    "restrictions": "Look at restrictions of patients, or lift them.",
    "fsck": "Check the whole store.",
    "policy": "Write a template of a trust policy.",
    "scaffold": "Write files to start from.",
    "prove": "Write the proof that one version of a resource was logged and has not changed.",
    "synth": "Send the feed of a synthetic hospital region.",
    "verify": "Check a proof against a trust policy.",
    "config": "Check, show and describe the configuration.",
    "keys": "Make the keys of a deployment.",
    "mappings": "Check, test and compare mappings.",
    "token": "Make an access token for a demonstration.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the table."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Imports one command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"bridge.cli.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the table, so that help imports nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=Path("hiebridge.yaml"),
    envvar="HIEBRIDGE_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
@click.option("--log-level", type=click.Choice(list(LEVELS)), help="Least level logged; default: as configured.")
@click.version_option(package_name="hie-bridge")
@click.pass_obj
def hiebridge(invocation: Invocation, config: Path, log_level: str | None) -> None:
    """HL7 v2 and FHIR feeds to provable, consent-checked FHIR R4 records.

    Exit codes: 0 done; 1 a check found something wrong, or nobody read the answer; 2 incorrect input or configuration; 3 forbidden; 4 not found;
    5 conflict; 6 busy; 7 unavailable; 8 unsupported; 9 fault of the program; 130 interrupted.

    \b
    Example:
      $ hiebridge --config bridge.yaml config check
    """  # noqa: D301 - \b is click's mark for text that is not wrapped
    invocation.config = config
    invocation.log_level = log_level
    if log_level:
        configure_logging(log_level)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and answers its exit code.

    Args:
        arguments: without the program's name; None = those of the process.
    """
    configure_logging()
    invocation = Invocation()
    try:
        result: Any = hiebridge.main(
            args=None if arguments is None else list(arguments),
            prog_name="hiebridge",
            obj=invocation,
            standalone_mode=False,
        )
    except BridgeError as error:
        click.echo(render(error, as_json=invocation.as_json), err=True)
        return EXIT_CODES[error.category]
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last place that can keep its text from the terminal
        log_uncaught(error)
        click.echo(render(unexpected(error), as_json=invocation.as_json), err=True)
        return EXIT_CODES[unexpected(error).category]
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """Entry point of the installed command."""
    take_over_process()
    leave(run())


def leave(code: int) -> NoReturn:
    """Ends the process with ``code``, without waiting for threads that had their time and hang."""
    main_thread = threading.main_thread()
    if any(thread is not main_thread and not thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
