"""Running roles in one process: a thread for each blocking one, one event loop for the listeners and the API.

SIGTERM and SIGINT ask everyone to stop; a role that fails for good stops the others, and its error is the command's. From
then on there is one deadline for all of them.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from bridge.errors import BridgeError, Fault
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

_CANCEL_SECONDS: Final = 1.0  # what a cancelled task may take to clean up


@dataclass(frozen=True, slots=True)
class Role:
    """Something that runs until it is told to stop: blocking (``run``) or on the event loop (``serve``)."""

    name: str
    run: Callable[[Stop], None] | None = None
    serve: Callable[[Stop], Awaitable[None]] | None = None


def run_roles(roles: Sequence[Role], stop: Stop, *, stop_seconds: float) -> None:
    """Runs ``roles`` until a signal, ``stop`` or the first failure.

    Args:
        roles: what to run.
        stop: also set by whoever wants to end it from inside.
        stop_seconds: how long all the roles together may take to finish once asked.

    Raises:
        BridgeError: the first failure of a role.
        Fault: ``role-broken`` for a failure that is none of ours; ``roles-not-stopped``.
    """
    failures: list[BridgeError] = []
    settle_memory()

    def guarded(role: Role) -> None:
        assert role.run is not None
        try:
            role.run(stop)
        except Exception as error:  # noqa: BLE001 - a thread must not die unseen
            _failed(role, _closed(role, error), failures)
        finally:
            stop.set()

    threads = [
        threading.Thread(target=guarded, args=(role,), name=role.name, daemon=True) for role in roles if role.run
    ]
    for thread in threads:
        thread.start()
    late, deadline = _run_loop([role for role in roles if role.serve], stop, failures, stop_seconds)
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late += [thread.name for thread in threads if thread.is_alive()]
    if late:
        _log.error("roles-not-stopped", roles=late)
    if failures:
        raise failures[0]
    if late:
        raise Fault(
            "roles-not-stopped",
            f"These roles did not finish in time: {', '.join(late)}.",
            remedy="Raise limits.stop_seconds if they only needed longer; what was not committed is done again.",
        )


def settle_memory() -> None:
    """Spares the garbage collector what lives as long as the process (compiled mappings, modules).

    Messages leave little cyclic garbage; walking everything alive after each 700 allocations cost a third of applying them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _run_loop(
    roles: Sequence[Role], stop: Stop, failures: list[BridgeError], stop_seconds: float
) -> tuple[list[str], float]:
    """Runs the roles of the event loop; the names of those that were late, and everybody's deadline (monotonic)."""
    # asyncio.run would wait without limit for cancelled tasks and for the threads of to_thread
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_serve(roles, stop, failures, stop_seconds))
    finally:
        loop.close()


async def _serve(
    roles: Sequence[Role], stop: Stop, failures: list[BridgeError], stop_seconds: float
) -> tuple[list[str], float]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def guarded(role: Role) -> None:
        assert role.serve is not None
        try:
            await role.serve(stop)
        except Exception as error:  # noqa: BLE001 - as in a thread
            _failed(role, _closed(role, error), failures)
        finally:
            stop.set()

    tasks = [asyncio.create_task(guarded(role), name=role.name) for role in roles]
    await stop.wait_async()
    deadline = time.monotonic() + stop_seconds
    late: list[str] = []
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=stop_seconds)
        late = [task.get_name() for task in tasks if task in pending]
    leftover = asyncio.all_tasks() - {asyncio.current_task()}
    for task in leftover:
        task.cancel()
    if leftover:
        await asyncio.wait(leftover, timeout=_CANCEL_SECONDS)
    await loop.shutdown_asyncgens()
    return late, deadline


def _failed(role: Role, error: BridgeError, failures: list[BridgeError]) -> None:
    _log.error("role-failed", role=role.name, code=error.code)
    failures.append(error)


def _closed(role: Role, error: Exception) -> BridgeError:
    """The error itself if it is one of ours, the first of ours in a group of errors, else a Fault."""
    if isinstance(error, BridgeError):
        return error
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            found = _closed(role, inner)
            if found.code != "role-broken":
                return found
    _log.error("role-broken", role=role.name, exc_info=error)
    fault = Fault(
        "role-broken", f"The role {role.name} broke ({type(error).__name__}).", remedy="Report it with the log."
    )
    fault.__cause__ = error
    return fault
