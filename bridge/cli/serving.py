"""Which roles a deployment has, made from its parts."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from bridge.cli.deployment import Deployment
from bridge.cli.roles import Role
from bridge.cli.web import WebServer
from bridge.config.load import check_mode
from bridge.config.settings import QUEUE, Mode
from bridge.errors import BridgeError
from bridge.pipeline.observer import Observer
from bridge.pipeline.ports import Intake, Listener
from bridge.store import marks
from bridge.store.database import Database
from bridge.store.marks import Mark
from bridge.store.migrate import migrate, require_current
from bridge.telemetry.metrics import serve_metrics
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

_RETRY_SECONDS: Final = 2.0
_FOR_OPERATORS: Final = frozenset({"schema-outdated", "store-absent"})  # waiting mends neither


def migrate_store(deployment: Deployment) -> None:
    """Brings the store's schema up to date."""
    migrate(deployment.settings.store.address().reveal())


def check_store(deployment: Deployment) -> None:
    """Waits until the store answers, then refuses one without the schema of this program, or in the wrong mode.

    Development mode is refused on a store that `hiebridge demo` did not make, or where others could reach it.

    Raises:
        Unavailable: ``schema-outdated``, ``store-absent``.
        Forbidden: as :func:`bridge.config.load.check_mode`.
    """
    demonstration = False
    with deployment.database(read_only=True) as database:
        while (away := _away(database)) is not None:
            _log.warning("store-waits", code=away.code, remedy=away.remedy)
            time.sleep(_RETRY_SECONDS)
        if deployment.settings.mode is Mode.DEVELOPMENT:
            with database.transaction(read_only=True) as txn:
                demonstration = marks.has(txn, Mark.DEMONSTRATION)
    check_mode(deployment.settings, demo_store=demonstration)


def _away(database: Database) -> BridgeError | None:
    try:
        require_current(database)
    except BridgeError as error:
        if not error.transient or error.code in _FOR_OPERATORS:
            raise
        return error
    return None


def work_roles(deployment: Deployment) -> list[Role]:
    """A worker for each source, and one for the embedded queue if a listener uses it."""
    roles = [
        Role(f"work-{source.name}", run=deployment.source_worker(source.name).run)
        for source in deployment.settings.sources
    ]
    if any(listener.intake == QUEUE for listener in deployment.settings.listeners):
        roles.append(Role("work-queue", run=deployment.queue_worker().run))
    return roles


def metrics_roles(deployment: Deployment) -> list[Role]:
    """What keeps the gauges that only the store knows, and the port for metrics where one is configured."""
    telemetry = deployment.settings.telemetry
    observer = Observer(deployment.database(read_only=True))

    def serve(stop: Stop) -> None:
        server = (
            None if telemetry.metrics_port is None else serve_metrics(telemetry.metrics_host, telemetry.metrics_port)
        )
        observer.run(stop)
        if server is not None:
            server.shutdown()

    return [Role("metrics", run=serve)]


def anchor_roles(deployment: Deployment) -> list[Role]:
    """The sequencer and the anchor service."""
    return [Role("sequence", run=deployment.sequencer().run), Role("anchor", run=deployment.anchorer().run)]


def deliver_roles(deployment: Deployment) -> list[Role]:
    """A dispatcher for each sink."""
    pairs = zip(deployment.routes, deployment.dispatchers(), strict=True)
    return [Role(f"deliver-{route.sink}", run=dispatcher.run) for route, dispatcher in pairs]


def listen_roles(deployment: Deployment) -> list[Role]:
    """All listeners, as one role that closes their intakes behind them."""
    listeners = deployment.listeners()
    if not listeners:
        return []

    async def serve(stop: Stop) -> None:
        intakes: dict[str, Intake] = {name: deployment.intake(name) for name in {name for _, name in listeners}}
        try:
            await _together([(listener, intakes[name]) for listener, name in listeners], stop)
        finally:
            await asyncio.gather(*(asyncio.to_thread(intake.close) for intake in intakes.values()))

    return [Role("listen", serve=serve)]


async def _together(listeners: list[tuple[Listener, Intake]], stop: Stop) -> None:
    async with asyncio.TaskGroup() as group:
        for listener, intake in listeners:
            group.create_task(listener.run(intake, stop))


def serve_roles(deployment: Deployment) -> list[Role]:
    """The web server."""
    return [Role("serve", serve=WebServer(deployment).serve)]
