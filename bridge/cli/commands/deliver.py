"""``hiebridge deliver``: take to the sinks what waits for them."""

from __future__ import annotations

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.invocation import Invocation, pass_invocation
from bridge.cli.roles import run_roles
from bridge.cli.serving import check_store, deliver_roles, metrics_roles
from bridge.errors import Incorrect
from bridge.telemetry.stop import Stop


@click.command()
@pass_invocation
def command(invocation: Invocation) -> None:
    """Take to the sinks what waits for them. One process at a time works for a sink, by lease. Ends on SIGTERM.

    \b
    Example:
      $ hiebridge deliver
    """  # noqa: D301 - click's mark
    settings = invocation.settings()
    deployment = open_deployment(settings)
    if not settings.sinks:
        raise Incorrect("sinks-none", "The configuration has no sinks.", remedy="Add one under sinks.")
    check_store(deployment)
    roles = [*deliver_roles(deployment), *metrics_roles(deployment)]
    run_roles(roles, Stop(), stop_seconds=settings.limits.stop_seconds)
