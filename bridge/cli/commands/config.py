"""``hiebridge config``: check, show and describe the configuration."""

from __future__ import annotations

import json

import click
import yaml

from bridge.cli.composition import check_everything, reference_page
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.config.reference import json_schema, shown


@click.group()
def command() -> None:
    """Check, show and describe the configuration.

    \b
    Example:
      $ hiebridge config check
    """  # noqa: D301 - click's mark


@command.command()
@json_option
@pass_invocation
def check(invocation: Invocation) -> None:
    """Check the configuration, its adapters' settings and its site files; shows every problem with its place.

    Reads files only: nothing is connected to.

    \b
    Example:
      $ hiebridge --config bridge.yaml config check --json
    """  # noqa: D301 - click's mark
    settings = invocation.settings()
    sites = check_everything(settings)
    said = {
        "file": str(invocation.config),
        "mode": settings.mode.value,
        "sites": sites,
        "sources": len(settings.sources),
        "listeners": len(settings.listeners),
    }
    invocation.answer(
        said,
        f"{invocation.config}: in order; {settings.mode}, {sites} sites, {len(settings.sources)} sources, "
        f"{len(settings.listeners)} listeners",
    )


@command.command()
@json_option
@pass_invocation
def show(invocation: Invocation) -> None:
    """Show the settings in force: the file, the environment over it, and the defaults. Secrets are masked.

    \b
    Example:
      $ HIEBRIDGE__API__PORT=9000 hiebridge config show
    """  # noqa: D301 - click's mark
    data = shown(invocation.settings())
    invocation.answer(data, yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip())


@command.command()
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the reference page instead.")
@json_option
def schema(as_markdown: bool) -> None:
    """Print the JSON Schema of the configuration file, for editors that check while one types.

    \b
    Example:
      $ hiebridge config schema > hiebridge.schema.json
    """  # noqa: D301 - click's mark
    if as_markdown:
        click.echo(reference_page(), nl=False)
    else:
        click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
