"""Stopping: asked for once, seen by threads and event loops alike."""

from __future__ import annotations

import asyncio
import threading

from bridge.telemetry.stop import Stop


def test_threads_and_loops_see_the_same_stop():
    """A waiting thread and a waiting coroutine both go on once anyone asks to stop."""
    stop = Stop()
    seen = []
    thread = threading.Thread(target=lambda: seen.append(stop.wait(30)))
    thread.start()

    async def main():
        waiting = asyncio.create_task(stop.wait_async())
        await asyncio.sleep(0)
        threading.Thread(target=stop.set).start()
        await asyncio.wait_for(waiting, 30)

    asyncio.run(main())
    thread.join(30)

    assert seen == [True]
    assert stop.is_set


def test_who_comes_late_does_not_wait():
    """A stop that was asked for before is seen at once, any number of times."""
    stop = Stop()
    stop.set()
    stop.set()

    asyncio.run(stop.wait_async())

    assert stop.wait(0)


def test_nobody_stops_unasked():
    """A time-out answers that nothing was asked."""
    assert not Stop().wait(0)
