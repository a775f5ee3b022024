"""Which roles a deployment has, made from its parts."""

from __future__ import annotations

import asyncio

from bridge.cli.deployment import Deployment
from bridge.cli.roles import Role
from bridge.cli.web import WebServer
from bridge.config.settings import QUEUE
from bridge.pipeline.ports import Intake, Listener
from bridge.store.migrate import migrate
from bridge.telemetry.stop import Stop


def migrate_store(deployment: Deployment) -> None:
    """Brings the store's schema up to date."""
    migrate(deployment.settings.store.address().reveal())


def work_roles(deployment: Deployment) -> list[Role]:
    """A worker for each source, and one for the embedded queue if a listener uses it."""
    roles = [
        Role(f"work-{source.name}", run=deployment.source_worker(source.name).run)
        for source in deployment.settings.sources
    ]
    if any(listener.intake == QUEUE for listener in deployment.settings.listeners):
        roles.append(Role("work-queue", run=deployment.queue_worker().run))
    return roles


def anchor_roles(deployment: Deployment) -> list[Role]:
    """The sequencer and the anchor service."""
    return [Role("sequence", run=deployment.sequencer().run), Role("anchor", run=deployment.anchorer().run)]


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
            for intake in intakes.values():
                await asyncio.to_thread(intake.close)

    return [Role("listen", serve=serve)]


async def _together(listeners: list[tuple[Listener, Intake]], stop: Stop) -> None:
    async with asyncio.TaskGroup() as group:
        for listener, intake in listeners:
            group.create_task(listener.run(intake, stop))


def serve_roles(deployment: Deployment) -> list[Role]:
    """The web server."""
    return [Role("serve", serve=WebServer(deployment).serve)]
