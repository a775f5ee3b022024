"""``hiebridge up``: every role in one process."""

from __future__ import annotations

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.invocation import Invocation, pass_invocation
from bridge.cli.roles import Role, run_roles
from bridge.cli.serving import (
    anchor_roles,
    check_store,
    deliver_roles,
    listen_roles,
    metrics_roles,
    migrate_store,
    serve_roles,
    work_roles,
)
from bridge.telemetry.stop import Stop


@click.command()
@pass_invocation
def command(invocation: Invocation) -> None:
    """Run every role in one process: listeners, workers, API, sequencer, anchors and sinks. Ends on SIGTERM.

    \b
    Example:
      $ hiebridge up
    """  # noqa: D301 - click's mark
    settings = invocation.settings()
    deployment = open_deployment(settings)
    migrate_store(deployment)
    check_store(deployment)
    stop = Stop()
    roles: list[Role] = [
        *work_roles(deployment),
        *anchor_roles(deployment),
        *deliver_roles(deployment),
        *listen_roles(deployment),
        *serve_roles(deployment),
        *metrics_roles(deployment),
    ]
    run_roles(roles, stop, stop_seconds=settings.limits.stop_seconds)
