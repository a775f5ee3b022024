"""Roles of one process end together: by one deadline, whatever hangs, and whoever hangs is named."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bridge.cli.roles import Role, run_roles
from bridge.errors import Fault, Incorrect
from bridge.telemetry.stop import Stop

HANGING_INTAKE = """
import asyncio, sys, threading
from bridge.cli.main import leave
from bridge.cli.roles import Role, run_roles
from bridge.errors import Fault
from bridge.telemetry.stop import Stop

async def serve(stop):
    print("ready", flush=True)
    try:
        await stop.wait_async()
    finally:
        await asyncio.to_thread(threading.Event().wait)  # a close that never returns

try:
    run_roles([Role("listen", serve=serve)], Stop(), stop_seconds=0.2)
except Fault as error:
    print(error.code, error.message, flush=True)
    leave(9)
leave(0)
"""


def stopped() -> Stop:
    stop = Stop()
    stop.set()
    return stop


def test_roles_that_finish_when_asked_end_without_an_error() -> None:
    """Blocking ones and those of the event loop alike."""
    ended: list[str] = []

    def run(stop: Stop) -> None:
        stop.wait()
        ended.append("work")

    async def serve(stop: Stop) -> None:
        stop.set()
        await stop.wait_async()
        ended.append("serve")

    run_roles([Role("work", run=run), Role("serve", serve=serve)], Stop(), stop_seconds=30)

    assert sorted(ended) == ["serve", "work"]


def test_the_first_failure_stops_the_others_and_is_the_error() -> None:
    """Nobody goes on beside a role that broke."""

    async def broken(_: Stop) -> None:
        raise Incorrect("folder-missing", "No folder.")

    def run(stop: Stop) -> None:
        stop.wait()

    with pytest.raises(Incorrect, match="No folder"):
        run_roles([Role("work", run=run), Role("listen", serve=broken)], Stop(), stop_seconds=30)


def test_a_role_of_the_event_loop_that_does_not_finish_is_cancelled_and_named() -> None:
    """Its cleaning up still runs."""
    cleaned: list[bool] = []

    async def hanging(_: Stop) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    async def fine(_: Stop) -> None:
        return

    with pytest.raises(Fault, match=r"in time: listen\.") as caught:
        run_roles([Role("listen", serve=hanging), Role("serve", serve=fine)], stopped(), stop_seconds=0.05)

    assert caught.value.code == "roles-not-stopped"
    assert cleaned == [True]


def test_all_roles_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten that hang take no longer than one: what the joins may wait adds up to the limit, not to ten of it."""
    allowed: list[float] = []
    join, release = threading.Thread.join, threading.Event()

    def joined(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name.startswith("hang-") and timeout is not None:
            allowed.append(timeout)
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", joined)

    def hang(_: Stop) -> None:
        release.wait()

    names = [f"hang-{number}" for number in range(10)]
    try:
        with pytest.raises(Fault) as caught:
            run_roles([Role(name, run=hang) for name in names], stopped(), stop_seconds=0.2)
    finally:
        release.set()

    assert all(name in caught.value.message for name in names)
    assert len(allowed) == 10
    assert sum(allowed) <= 0.2


def test_a_close_that_never_returns_does_not_outlive_sigterm() -> None:
    """The process says which role hung, and ends although the hanging thread does not."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING_INTAKE], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[0]
    finally:
        process.kill()

    assert process.returncode == 9
    assert "roles-not-stopped" in said
    assert "listen" in said
