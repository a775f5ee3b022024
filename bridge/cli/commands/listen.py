"""``hiebridge listen``: receive messages over MLLP and from folders."""

from __future__ import annotations

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.invocation import Invocation, pass_invocation
from bridge.cli.roles import run_roles
from bridge.cli.serving import check_store, listen_roles, metrics_roles
from bridge.telemetry.stop import Stop


@click.command()
@pass_invocation
def command(invocation: Invocation) -> None:
    """Receive messages over MLLP and from folders, and acknowledge them once they are durable. Ends on SIGTERM.

    \b
    Example:
      $ hiebridge listen
    """  # noqa: D301 - click's mark
    settings = invocation.settings()
    deployment = open_deployment(settings)
    check_store(deployment)
    roles = [*listen_roles(deployment), *metrics_roles(deployment)]
    run_roles(roles, Stop(), stop_seconds=settings.limits.stop_seconds)
