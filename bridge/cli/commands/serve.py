"""``hiebridge serve``: the FHIR API."""

from __future__ import annotations

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.invocation import Invocation, pass_invocation
from bridge.cli.roles import run_roles
from bridge.cli.serving import check_store, metrics_roles, serve_roles
from bridge.telemetry.stop import Stop


@click.command()
@pass_invocation
def command(invocation: Invocation) -> None:
    """Serve the FHIR API, the log's checkpoint and the metrics. Ends on SIGTERM.

    \b
    Example:
      $ hiebridge serve
    """  # noqa: D301 - click's mark
    settings = invocation.settings()
    deployment = open_deployment(settings)
    check_store(deployment)
    roles = [*serve_roles(deployment), *metrics_roles(deployment)]
    run_roles(roles, Stop(), stop_seconds=settings.limits.stop_seconds)
