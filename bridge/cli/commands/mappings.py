"""``hiebridge mappings``: the tools of whoever writes mappings."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

from bridge.cli.corpus import Converter, Entry, contents, files, site_of
from bridge.cli.errors import CHECK_FAILED
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.config.load import mappings_root
from bridge.errors import BridgeError, Incorrect, NotFound
from bridge.mapping.operations import Conversion
from bridge.mapping.rules import load_rules
from bridge.mapping.workbench.difference import Change, Sums
from bridge.mapping.workbench.findings import Finding, Severity, as_json, as_sarif
from bridge.mapping.workbench.lint import lint as findings_of
from bridge.mapping.workbench.pages import described, name_of
from bridge.mapping.workbench.sources import read_sources, shown

BUILT_IN: Final = Path("built-in")


@click.group()
def command() -> None:
    """Check, test and compare mappings.

    \b
    Example:
      $ hiebridge mappings lint overlay/
    """  # noqa: D301 - click's mark


def rooted(path: Path) -> tuple[Path, tuple[Path, ...]]:
    """Root and overlays for a folder of mappings: it is a root if it holds messages, else an overlay on the built-in ones.

    Raises:
        Incorrect: ``mappings-absent``.
    """
    if not (path / "hl7v2").is_dir():
        raise Incorrect(
            "mappings-absent", f"{path} holds no mappings", remedy="Name a folder with a folder hl7v2 in it."
        )
    if any((path / "hl7v2" / "messages").glob("*.yaml")) and any((path / "hl7v2" / "segments").glob("*.yaml")):
        return path, ()
    return mappings_root(), (path,)


@command.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    show_default=True,
    help="How to tell the findings.",
)
@click.option(
    "--fail-on",
    type=click.Choice([*map(str, Severity)]),
    default=str(Severity.WARNING),
    show_default=True,
    help="The least severity that gives exit code 1.",
)
@click.option("--ignore", multiple=True, metavar="CODE", help="A kind of finding to leave out; may be repeated.")
def lint(path: Path | None, style: str, fail_on: str, ignore: tuple[str, ...]) -> int:
    """Check mapping files: places that HL7 v2 or FHIR does not have, codes out of their value set, rules that do nothing.

    PATH is a folder of mappings, or of overlays, which are then checked on top of the built-in mappings; without it the
    built-in ones are checked. Exit code 0: nothing found; 1: something was; 2: the files can't be read.

    \b
    Example:
      $ hiebridge mappings lint overlay/ --format sarif > lint.sarif
    """  # noqa: D301 - click's mark
    root, overlays = rooted(path) if path is not None else (mappings_root(), ())
    within = f"{shown(overlays[0] if overlays else root)}/"
    found = [one for one in findings_of(root, overlays) if one.code not in ignore and _ours(one, within)]
    if style == "json":
        click.echo(json.dumps({"findings": as_json(found)}, ensure_ascii=False, indent=2))
    elif style == "sarif":
        click.echo(json.dumps(as_sarif(found, version("hie-bridge")), ensure_ascii=False, indent=2))
    else:
        for finding in found:
            click.echo(str(finding))
        errors = sum(1 for one in found if one.severity is Severity.ERROR)
        click.echo(f"{errors} errors, {len(found) - errors} warnings", err=True)
    bad = [one for one in found if one.severity is Severity.ERROR or fail_on == Severity.WARNING]
    return CHECK_FAILED if bad else 0


@command.command("test")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--update", is_flag=True, help="Write what is into the cases that fail, in place of what they expect.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="File for the answers as JUnit XML.")
def test_command(path: Path | None, update: bool, junit: Path | None) -> int:
    """Run the test cases that stand beside mappings, in hl7v2/cases.

    PATH is a folder of mappings, or of overlays, which are then tested on top of the built-in mappings; without it the
    built-in cases are run. Exit code 1 if a case failed, also with --update: look at what it wrote before you keep it.

    \b
    Example:
      $ hiebridge mappings test overlay/ --junit cases.xml
    """  # noqa: D301 - click's mark
    from bridge.cli.cases import run_cases  # noqa: PLC0415 - FHIRPath takes a while to load

    root, overlays = rooted(path) if path is not None else (mappings_root(), ())
    return run_cases(overlays[0] if overlays else root, load_rules(root, overlays), update=update, junit=junit)


@command.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH...")
@click.option("--site", "site_name", help="Site file, or name of one of the built-in sites.")
@click.option(
    "--pattern", default="*", show_default=True, metavar="GLOB", help="Which files of folders to take, by name."
)
@click.option("--values", is_flag=True, help="Also tell the values that differ: parts of the messages.")
@json_option
@pass_invocation
def diff(
    invocation: Invocation,
    old: Path,
    new: Path,
    paths: tuple[Path, ...],
    site_name: str | None,
    pattern: str,
    values: bool,
) -> int:
    """Show what a change of mappings alters over the messages of files and folders.

    OLD and NEW are folders of mappings, or of overlays on the built-in mappings; `built-in` stands for these alone. Tells
    for each message which elements are added, removed and changed, and at the end in how many messages each is. Values are
    shown only if asked for. With --json one line a message that differs, then one with the sums. Exit code 1 if anything
    differs.

    \b
    Example:
      $ hiebridge mappings diff built-in overlay/ feed/ --site queensbridge
    """  # noqa: D301 - click's mark
    site = site_of(site_name)
    before, after = (Converter(load_rules(*_sets(path)), site) for path in (old, new))
    sums = Sums()
    for file in files(paths, pattern):
        held = contents(file)
        if held.error is not None:
            click.echo(f"{file.name}: {held.error}", err=True)
        for entry in held.entries:
            results = [_result(converter, entry) for converter in (before, after)]
            found = sums.add(*results)
            if found or any(isinstance(one, BridgeError) for one in results):
                _tell(invocation, entry.name, found, results, values=values)
    if invocation.as_json:
        click.echo(json.dumps({"summary": sums.described()}, ensure_ascii=False))
    else:
        click.echo("\n".join(sums.lines()))
    return CHECK_FAILED if sums.differs else 0


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--mappings",
    "overlays",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="Folder of mappings searched before the built-in ones; may be repeated.",
)
def show(names: tuple[str, ...], overlays: tuple[Path, ...]) -> None:
    """Show what the maps of a message, segment, data type or table read and write.

    \b
    Example:
      $ hiebridge mappings show PID ADT_A01
    """  # noqa: D301 - click's mark
    sources = read_sources(mappings_root(), overlays)
    for name in names:
        found = [source for source in sources.files if name_of(source) == name]
        if not found:
            raise NotFound("mapping-absent", f"there is no message, segment, data type or table {name}")
        for source in found:
            click.echo("\n".join(described(source)))


def _sets(path: Path) -> tuple[Path, tuple[Path, ...]]:
    return (mappings_root(), ()) if path == BUILT_IN and not path.exists() else rooted(path)


def _result(converter: Converter, entry: Entry) -> Conversion | BridgeError:
    result = converter.attempt(entry)
    return result if isinstance(result, BridgeError) else result[0]


def _tell(
    invocation: Invocation,
    name: str,
    found: list[Change],
    results: list[Conversion | BridgeError],
    *,
    values: bool,
) -> None:
    codes = [one.code if isinstance(one, BridgeError) else "" for one in results]
    if not found and codes[0] == codes[1]:
        return
    if invocation.as_json:
        said = [
            {"resource": one.resource, "path": one.path, "change": str(one.kind)}
            | ({"old": [*map(_plain, one.before)], "new": [*map(_plain, one.after)]} if values else {})
            for one in found
        ]
        refused = {"old": codes[0] or None, "new": codes[1] or None}
        click.echo(json.dumps({"message": name, "refused": refused, "changes": said}, ensure_ascii=False))
        return
    click.echo(f"{name}:")
    for told, code in zip(("old", "new"), codes, strict=True):
        if code:
            click.echo(f"  refused by the {told} mappings: {code}")
    for one in found:
        click.echo(f"  {one.resource}{f'.{one.path}' if one.path else ''} {one.kind}")
        for sign, held in (("-", one.before), ("+", one.after)) if values else ():
            for value in held:
                click.echo(f"    {sign} {json.dumps(_plain(value), ensure_ascii=False)}")


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bool | int) else str(value)


def _ours(finding: Finding, folder: str) -> bool:
    return folder == "./" or finding.file.startswith(folder) or finding.code.startswith("mapping-")
