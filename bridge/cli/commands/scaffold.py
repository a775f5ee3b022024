"""``hiebridge scaffold``: files to start from."""

from __future__ import annotations

from pathlib import Path

import click
import yaml
from pydantic import ValidationError

from bridge.cli.corpus import Converter, contents, files
from bridge.cli.files import write_text
from bridge.config.load import mappings_root
from bridge.config.site import Site
from bridge.errors import BridgeError, Conflict, Incorrect
from bridge.mapping.rules import load_rules
from bridge.mapping.workbench.observing import Observed, site_file
from bridge.mapping.workbench.sources import read_sources
from bridge.pipeline.ports import ContentKind


@click.group()
def command() -> None:
    """Write files to start from.

    \b
    Example:
      $ hiebridge scaffold site quayside feed/
    """  # noqa: D301 - click's mark


@command.command()
@click.argument("name")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, metavar="[PATH...]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; default: standard output.")
@click.option(
    "--pattern", default="*", show_default=True, metavar="GLOB", help="Which files of folders to take, by name."
)
def site(name: str, paths: tuple[Path, ...], out: Path | None, pattern: str) -> None:
    """Write a site file that takes in what a sender's messages show.

    Reads from the messages who sends them, which authorities name patients, which events come, whether times have an
    offset, and which coding systems are local; what a person has to decide stands in comments. Without messages it is a
    template.

    \b
    Example:
      $ hiebridge scaffold site quayside feed/ --out sites/quayside.yaml
    """  # noqa: D301 - click's mark
    if out is not None and out.exists():
        raise Conflict("site-exists", f"{out} is there already", remedy="Name another file with --out.")
    rules = load_rules(mappings_root())
    reader = Converter(rules, None)
    observed = Observed()
    unread = 0
    for file in files(paths, pattern):
        held = contents(file)
        unread += held.error is not None
        for entry in held.entries:
            if entry.kind is not ContentKind.HL7V2:
                continue
            try:
                observed.add(reader.read(entry))
            except BridgeError:
                unread += 1
    if unread:
        click.echo(f"note: {unread} messages or files can't be read; hiebridge convert says why", err=True)
    text = site_file(name, observed, rules.events, _coding_systems())
    try:
        Site.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        places = ", ".join(sorted({".".join(map(str, one["loc"])) for one in error.errors(include_input=False)}))
        raise Incorrect(
            "site-not-made", f"no site file follows from this: {places}", remedy="Choose a name of a-z, 0-9 and -."
        ) from None
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)


def _coding_systems() -> set[str]:
    """The names of coding systems that the built-in mappings know."""
    return {
        name for source in read_sources(mappings_root()).of("tables") for name in source.content.map("coding-systems")
    }
