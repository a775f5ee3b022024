"""``hiebridge codes``: the vocabulary of senders."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from bridge.cli.corpus import Converter, contents, corpus_options, files, site_of
from bridge.cli.files import write_text
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.config.load import mappings_root
from bridge.errors import BridgeError, Incorrect
from bridge.mapping.rules import load_rules
from bridge.mapping.workbench.sources import Source, read_sources
from bridge.mapping.workbench.vocabulary import Collector, Unmapped
from bridge.pipeline.ports import ContentKind


@click.group()
def command() -> None:
    """Look at the codes that senders use and mappings do not know.

    \b
    Example:
      $ hiebridge codes unmapped feed/
    """  # noqa: D301 - click's mark


@command.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH...")
@click.option("--kept", is_flag=True, help="Also codes of tables that keep what they do not know.")
@click.option(
    "--fill",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of overlays: gets a copy of each table concerned, with the codes to be filled in.",
)
@corpus_options
@json_option
@pass_invocation
def unmapped(
    invocation: Invocation,
    paths: tuple[Path, ...],
    kept: bool,
    fill: Path | None,
    site_name: str | None,
    pattern: str,
    overlays: tuple[Path, ...],
) -> None:
    """List the codes of messages that no table knows, with how many messages hold each, and one of them as an example.

    Codes are what senders wrote into coded elements: look before you pass the list on. With --fill each table concerned is
    copied into a folder of overlays, with the codes at its end as comments: fill in what they mean, take the comment marks
    away, and see with `hiebridge mappings diff built-in FOLDER PATH` what that changes.

    \b
    Example:
      $ hiebridge codes unmapped feed/ --site queensbridge --fill overlay/
    """  # noqa: D301 - click's mark
    collector = Collector()
    rules = load_rules(mappings_root(), overlays, watched=collector.watched)
    # what is remembered from one message to the next would be counted once
    converter = Converter(rules, site_of(site_name), apart=True)
    refused: Counter[str] = Counter()
    count = 0
    for file in files(paths, pattern):
        held = contents(file)
        if held.error is not None:
            refused[held.error.code] += 1
        for entry in held.entries:
            if entry.kind is not ContentKind.HL7V2:
                continue
            count += 1
            collector.begin(entry.name)
            result = converter.attempt(entry)
            if isinstance(result, BridgeError):
                refused[result.code] += 1
    found = [one for one in collector.found() if kept or not one.kept]
    if fill is not None:
        _fill(fill, found, overlays)
    lines = [
        f"{one.table}  {one.code}  {one.messages} messages  {', '.join(sorted(one.places))}  e.g. {one.example}"
        for one in found
    ]
    lines.append(f"{count} messages, {refused.total()} refused: {len(found)} codes unmapped")
    said = {"messages": count, "refused": dict(refused), "codes": [one.described() for one in found]}
    invocation.answer(said, "\n".join(lines))


def _fill(folder: Path, found: list[Unmapped], overlays: tuple[Path, ...]) -> None:
    tables = {source.content.get("table"): source for source in read_sources(mappings_root(), overlays).of("tables")}
    drafts: dict[Path, str] = {}
    for name in dict.fromkeys(one.table for one in found):
        source = tables[name]
        path = folder / "hl7v2" / source.label
        if path.exists():
            raise Incorrect(
                "overlay-exists", f"{path} is there already", remedy="Fill it in, or name another folder with --fill."
            )
        drafts[path] = _draft(source, [one for one in found if one.table == name])
    for path, text in drafts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def _draft(source: Source, missing: list[Unmapped]) -> str:
    lines = [
        f"  # {json.dumps(one.code, ensure_ascii=False)}: ?  # {one.messages} messages, e.g. {one.example}"
        for one in missing
    ]
    return source.path.read_text(encoding="utf-8").rstrip("\n") + "\n" + "\n".join(lines) + "\n"
