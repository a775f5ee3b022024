"""Named failpoints: where the fault suites stop, kill or break the program.

A failpoint costs one dictionary look-up and does nothing unless ``HIEBRIDGE_FAILPOINTS`` names it, as
``name=action[@nth],…`` with action ``kill`` (SIGKILL to the own process), ``error`` (raise :class:`Unavailable`),
``pause:SECONDS`` or ``trace`` (append ``name pid`` to the file in ``HIEBRIDGE_FAILPOINT_TRACE``). ``@nth`` acts on the nth
passage only. Every passage is traced when the trace file is set and the name is listed.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from bridge.errors import Unavailable

NAMES = frozenset(
    {
        "intake.before-durable",
        "intake.after-durable",
        "worker.before-commit",
        "worker.after-commit",
        "worker.after-offset-commit",
        "sequencer.before-sign",
        "sequencer.after-sign",
        "sequencer.before-commit",
        "sequencer.after-commit",
        "sequencer.after-publish",
        "anchor.before-persist",
        "anchor.after-persist",
        "anchor.after-send",
        "anchor.after-acknowledge",
        "consent.before-commit",
        "consent.after-commit",
        "access.before-commit",
        "access.after-commit",
        "mllp.before-acknowledge",
        "deliver.after-send",
        "deliver.after-commit",
    },
)


def _parse(text: str) -> dict[str, tuple[str, int]]:
    points: dict[str, tuple[str, int]] = {}
    for item in filter(None, text.split(",")):
        name, _, action = item.partition("=")
        action, _, nth = action.partition("@")
        points[name.strip()] = (action or "trace", int(nth or 0))
    return points


_active = _parse(os.environ.get("HIEBRIDGE_FAILPOINTS", ""))
_passages: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Pass the failpoint ``name``; does nothing unless the environment names it."""
    if not _active:
        return
    point = _active.get(name)
    if point is None:
        return
    action, nth = point
    _passages[name] = _passages.get(name, 0) + 1
    trace = os.environ.get("HIEBRIDGE_FAILPOINT_TRACE")
    if trace:
        with Path(trace).open("a", encoding="ascii") as file:
            file.write(f"{name} {os.getpid()} {_passages[name]}\n")
    if nth and _passages[name] != nth:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "error":
        raise Unavailable("failpoint", f"failpoint {name} was told to fail", remedy="Unset HIEBRIDGE_FAILPOINTS.")
    elif action.startswith("pause:"):
        time.sleep(float(action.removeprefix("pause:")))
