"""``hiebridge work``: bring messages from sources and the embedded queue into the store."""

from __future__ import annotations

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.invocation import Invocation, pass_invocation
from bridge.cli.roles import run_roles
from bridge.cli.serving import check_store, metrics_roles, work_roles
from bridge.telemetry.stop import Stop


@click.command()
@pass_invocation
def command(invocation: Invocation) -> None:
    """Work sources and the embedded queue off. One connection and one consumer a process; run more processes for more. Ends on SIGTERM.

    \b
    Example:
      $ hiebridge work
    """  # noqa: D301 - click's mark
    settings = invocation.settings()
    deployment = open_deployment(settings)
    check_store(deployment)
    roles = [*work_roles(deployment), *metrics_roles(deployment)]
    run_roles(roles, Stop(), stop_seconds=settings.limits.stop_seconds)
