"""``hiebridge migrate``: bring the store's schema up to date."""

from __future__ import annotations

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.cli.serving import migrate_store
from bridge.store.migrate import head


@click.command()
@json_option
@pass_invocation
def command(invocation: Invocation) -> None:
    """Bring the store's schema up to date, creating it if need be. `up` does so by itself.

    \b
    Example:
      $ hiebridge migrate
    """  # noqa: D301 - click's mark
    migrate_store(open_deployment(invocation.settings()))
    invocation.answer({"schema": head()}, f"The store is at schema {head()}.")
