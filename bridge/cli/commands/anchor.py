"""``hiebridge anchor``: number leaves, sign checkpoints, anchor them."""

from __future__ import annotations

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.invocation import Invocation, pass_invocation
from bridge.cli.roles import run_roles
from bridge.cli.serving import anchor_roles, check_store, metrics_roles
from bridge.telemetry.stop import Stop


@click.command()
@pass_invocation
def command(invocation: Invocation) -> None:
    """Number leaves, sign checkpoints, and take heads and consent words to the chain. One at a time, by lease. Ends on SIGTERM.

    \b
    Example:
      $ hiebridge anchor
    """  # noqa: D301 - click's mark
    settings = invocation.settings()
    deployment = open_deployment(settings)
    check_store(deployment)
    roles = [*anchor_roles(deployment), *metrics_roles(deployment)]
    run_roles(roles, Stop(), stop_seconds=settings.limits.stop_seconds)
