"""``hiebridge coverage``: what became of every field of a feed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from bridge.cli.corpus import Converter, contents, corpus_options, files, site_of
from bridge.cli.errors import CHECK_FAILED
from bridge.cli.files import read_bytes
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.config.load import mappings_root
from bridge.errors import BridgeError, Incorrect
from bridge.mapping.operations import Fate
from bridge.mapping.rules import load_rules
from bridge.mapping.workbench.coverage import Coverage, Place, fields_read, followed, rule_names
from bridge.mapping.workbench.sources import read_sources

_FIELD: Final = re.compile(r"([A-Z][A-Z0-9]{2})-(\d+)")


@click.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH...")
@click.option("--unmapped", "lost_only", is_flag=True, help="Only fields of which something is unmapped.")
@click.option("--rules", "by_rule", is_flag=True, help="Also list the rules that no message exercised.")
@click.option("--fail-on-unmapped", is_flag=True, help="Exit code 1 if any element is unmapped.")
@click.option(
    "--guide",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of HL7's v2-to-FHIR guide: also told is how many of its fields rules read and messages exercise.",
)
@corpus_options
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    paths: tuple[Path, ...],
    lost_only: bool,
    by_rule: bool,
    fail_on_unmapped: bool,
    guide: Path | None,
    site_name: str | None,
    pattern: str,
    overlays: tuple[Path, ...],
) -> int:
    """Show what became of every field of a feed: mapped, dropped by rule, unmapped.

    Each PATH, a file or a folder, is one feed; several are also summed. An element is a valued component of a field. Also
    told is how many of the rules of segments the messages exercised. Exit code 1 if a message was refused.

    \b
    Example:
      $ hiebridge coverage feed/ --site queensbridge --unmapped
    """  # noqa: D301 - click's mark
    converter = Converter(load_rules(mappings_root(), overlays), site_of(site_name), explain=True)
    feeds = {str(path): _feed(converter, path, pattern) for path in paths}
    total = Coverage()
    for feed in feeds.values():
        total.join(feed)
    sources = read_sources(mappings_root(), overlays)
    names = rule_names(sources)
    unused = [name for name in names if name not in total.exercised]
    rules = {"compiled": len(names), "exercised": len(names) - len(unused)}
    said: dict[str, Any] = {"feeds": {name: feed.described() for name, feed in feeds.items()}, "rules": rules}
    if len(feeds) > 1:
        said["total"] = total.described()
    if by_rule:
        said["rules"] = rules | {"not_exercised": unused}
    lines = [line for name, feed in feeds.items() for line in _headed(name, feed.lines(lost_only=lost_only))]
    if len(feeds) > 1:
        lines += _headed("all", total.lines(lost_only=lost_only))
    lines.append(f"rules of segments: {rules['exercised']} of {rules['compiled']} exercised")
    lines += [f"  not exercised: {name}" for name in unused] if by_rule else []
    if guide is not None:
        reach = followed(_guide_fields(guide), fields_read(sources), total)
        said["guide"] = reach._asdict()
        lines.append(
            f"official guide: of {reach.there} fields with a target rules read {reach.read}, messages exercised {reach.exercised}"
        )
        lines += [f"  not read: {field}" for field in reach.unread] if by_rule else []
    if invocation.as_json:
        click.echo(json.dumps(said, ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(lines))
    return CHECK_FAILED if total.refused or (fail_on_unmapped and total.total(Fate.UNMAPPED)) else 0


def _feed(converter: Converter, path: Path, pattern: str) -> Coverage:
    feed = Coverage()
    for file in files([path], pattern):
        held = contents(file)
        if held.error is not None:
            feed.refused[held.error.code] += 1
        for entry in held.entries:
            result = converter.attempt(entry)
            if isinstance(result, BridgeError):
                feed.refused[result.code] += 1
            else:
                feed.add(result[0])
    return feed


def _guide_fields(guide: Path) -> Iterator[Place]:
    """The fields that have a target in the guide's segment maps (columns 2 and 10 of its tables).

    Raises:
        Incorrect: ``guide-absent``.
    """
    tables = sorted((guide / "segments").glob("*.csv"))
    if not tables:
        raise Incorrect(
            "guide-absent", f"{guide} holds no segment maps", remedy="Name the folder that has segments/*.csv."
        )
    for table in tables:
        for row in csv.reader(read_bytes(table).decode("utf-8-sig").splitlines(keepends=True)):
            match = _FIELD.fullmatch(row[1].strip()) if len(row) > 9 and row[9].strip() else None
            if match is not None:
                yield Place(match[1], int(match[2]))


def _headed(name: str, lines: Iterator[str]) -> Iterator[str]:
    yield f"{name}: {next(lines)}"
    yield from lines
