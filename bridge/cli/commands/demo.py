"""``hiebridge demo``: a hospital's morning, from the first message to a checked proof."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import FrameType

import click

from bridge.cli.demo.console import Console, StepFailed
from bridge.cli.demo.folder import Demonstration, demonstration_folder, set_up
from bridge.cli.demo.play import play
from bridge.cli.demo.running import bridge_up
from bridge.cli.demo.stage import Stage, identifier
from bridge.cli.demo.tools import Tools
from bridge.cli.errors import CHECK_FAILED
from bridge.synth import morning

_OTHER_PATIENT = ("urn:oid:2.16.840.1.113883.19.7.2", "Q1003216")


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(".demo"),
    show_default=True,
    help="Folder to set up in; one that a demonstration made before is made anew, any other is refused.",
)
@click.option("--keep", is_flag=True, help="Leave the bridge running afterwards, until Ctrl-C or SIGTERM.")
@click.option("--no-color", is_flag=True, help="Plain text; also with NO_COLOR set, or where no terminal reads.")
def command(folder: Path, keep: bool, no_color: bool) -> int:
    """Show the whole road on a hospital's morning: from the first message to a proof that is checked offline.

    Sets up a bridge on embedded defaults in a folder of its own, runs it, feeds it, asks it, and checks every answer:
    exit code 0 only if each step held, 1 if one did not. Needs no other server and about half a minute.

    \b
    Example:
      $ hiebridge demo --keep
    """  # noqa: D301 - click's mark
    console = Console(_color(plain=no_color))
    signal.signal(signal.SIGTERM, _interrupt)
    # Not Python's own handler: asyncio replaces that, and loses an interrupt that comes as its task ends.
    signal.signal(signal.SIGINT, _interrupt)
    with demonstration_folder(folder):
        demonstration = set_up(folder, morning.SITES)
        tools = Tools(console, demonstration.config)
        console.say(f"hie-bridge, demonstrated in {folder}. The bridge runs as it would anywhere:")
        console.command(f"hiebridge --config {demonstration.config} up")
        try:
            with bridge_up(demonstration, tools) as process:
                held = play(Stage(demonstration, tools))
                if keep and held:
                    _keep(demonstration, console, process)
        except StepFailed as failure:
            console.failed(failure)
            return CHECK_FAILED
        if held and process.returncode != 0:
            console.failed(StepFailed("the bridge ends on SIGTERM with exit code 0", str(process.returncode)))
            held = False
    return 0 if held else CHECK_FAILED


def _color(*, plain: bool) -> bool | None:
    return False if plain or os.environ.get("NO_COLOR") else None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _keep(demonstration: Demonstration, console: Console, process: subprocess.Popen[bytes]) -> None:
    """Says how to reach the bridge, then waits until someone ends it, or it ends by itself."""
    ports = ", ".join(f"{site} 127.0.0.1:{port}" for site, port in demonstration.mllp_ports.items())
    config = demonstration.config
    console.say("The bridge goes on. Ctrl-C ends it.", after=True)
    console.answer(
        [
            f"FHIR R4     {demonstration.fhir}",
            f"log         {demonstration.server}/log/checkpoint",
            f"metrics     {demonstration.server}/metrics",
            f"MLLP        {ports}",
            f"its log     {demonstration.folder / 'bridge.log'}",
        ]
    )
    console.command(f"WARD_TOKEN=$(hiebridge --config {config} token --client ward-portal --purpose TREAT)")
    query = f"Patient?{identifier(*_OTHER_PATIENT)}"
    console.command(f'curl -s -H "Authorization: Bearer $WARD_TOKEN" "{demonstration.fhir}/{query}"')
    try:
        process.wait()
    except KeyboardInterrupt:
        return
    raise StepFailed("the bridge runs until it is ended", f"it ended by itself with exit code {process.returncode}")
