"""The one way to ask a role to stop, from any thread and from signal handlers."""

from __future__ import annotations

import asyncio
import threading


class Stop:
    """Set once, seen by threads (:meth:`wait`) and event loops (:meth:`wait_async`) alike."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    @property
    def is_set(self) -> bool:
        """Whether stopping has been asked for."""
        return self._event.is_set()

    def set(self) -> None:
        """Asks everyone to stop; safe in any thread."""
        self._event.set()
        with self._lock:
            waiters = list(self._waiters)
        for loop, event in waiters:
            loop.call_soon_threadsafe(event.set)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Blocks until set or timed out; answers whether it is set."""
        return self._event.wait(timeout_seconds)

    async def wait_async(self) -> None:
        """Returns when set."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiters.add(waiter)
        try:
            if not self._event.is_set():
                await waiter[1].wait()
        finally:
            with self._lock:
                self._waiters.discard(waiter)
