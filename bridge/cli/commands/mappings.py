"""``hiebridge mappings``: the tools of whoever writes mappings."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import click

from bridge.cli.errors import CHECK_FAILED
from bridge.config.load import mappings_root
from bridge.errors import Incorrect
from bridge.mapping.rules import load_rules
from bridge.mapping.workbench.findings import Finding, Severity, as_json, as_sarif
from bridge.mapping.workbench.lint import lint as findings_of
from bridge.mapping.workbench.sources import shown


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


def _ours(finding: Finding, folder: str) -> bool:
    return folder == "./" or finding.file.startswith(folder) or finding.code.startswith("mapping-")
