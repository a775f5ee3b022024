"""The bridge as the demonstration runs it: ``hiebridge up``, a process of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bridge.cli.demo.console import StepFailed
from bridge.cli.demo.folder import Demonstration
from bridge.cli.demo.tools import PROGRAM, Tools, own_environment

PATIENCE_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.1


def wait_until(holds: Callable[[], bool], expected: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Asks again and again.

    Raises:
        StepFailed: it did not come to hold in time.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise StepFailed(expected, f"not so after {seconds:.0f} seconds")
        time.sleep(_PAUSE_SECONDS)


@contextmanager
def bridge_up(demonstration: Demonstration, tools: Tools) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the bridge for the length of the block; it is ready when the block begins.

    Its log goes to ``bridge.log`` in the folder. However the block ends, the process is stopped.

    Raises:
        StepFailed: it did not become ready.
    """
    log = demonstration.folder / "bridge.log"
    with log.open("wb") as file:
        # A session of its own: Ctrl-C reaches the demonstration alone, which then stops the bridge in order.
        process = subprocess.Popen(  # noqa: S603 - this program
            [*PROGRAM, "--config", str(demonstration.config), "up"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=own_environment(),
            start_new_session=True,
        )
    try:
        wait_until(lambda: _ready(demonstration, tools, process), "the bridge is ready")
        yield process
    finally:
        stop(process)


def _ready(demonstration: Demonstration, tools: Tools, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        lines = (demonstration.folder / "bridge.log").read_text(encoding="utf-8", errors="replace").splitlines()
        raise StepFailed("the bridge runs", f"it ended with exit code {process.returncode}: {' '.join(lines[-3:])}")
    try:
        return tools.request(f"{demonstration.server}/ready", show=False).status == 200
    except StepFailed:
        return False


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ends the bridge by SIGTERM; its exit code."""
    process.terminate()
    try:
        return process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
