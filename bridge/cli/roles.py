"""Running roles in one process: a thread for each blocking one, one event loop for the listeners and the API.

SIGTERM and SIGINT ask everyone to stop; a role that fails for good stops the others, and its error is the command's.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from bridge.errors import BridgeError, Fault
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)


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
        stop_seconds: how long the roles may take to finish once asked.

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
    asyncio.run(_serve([role for role in roles if role.serve], stop, failures))
    for thread in threads:
        thread.join(stop_seconds)
    if failures:
        raise failures[0]
    late = [thread.name for thread in threads if thread.is_alive()]
    if late:
        raise Fault("roles-not-stopped", f"These roles did not finish in time: {', '.join(late)}.")


def settle_memory() -> None:
    """Spares the garbage collector what lives as long as the process (compiled mappings, modules).

    Messages leave little cyclic garbage; walking everything alive after each 700 allocations cost a third of applying them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _serve(roles: Sequence[Role], stop: Stop, failures: list[BridgeError]) -> None:
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
    if tasks:
        await asyncio.wait(tasks)


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
