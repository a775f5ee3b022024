"""Runs the test cases of mappings, and tells what came of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from bridge.cli.corpus import Converter
from bridge.cli.errors import CHECK_FAILED
from bridge.cli.files import read_bytes, write_bytes
from bridge.cli.trial import named_site
from bridge.config.site import Site
from bridge.errors import BridgeError, Incorrect
from bridge.hl7v2.message import parse
from bridge.mapping.operations import Conversion
from bridge.mapping.rules import Rules
from bridge.mapping.workbench.cases import Case, Mismatch, mismatches, read_cases, updated
from bridge.mapping.workbench.junit import Outcome, as_junit
from bridge.mapping.workbench.sources import shown


def run_cases(folder: Path, rules: Rules, *, update: bool, junit: Path | None) -> int:
    """Runs every case of a folder of mappings; answers the exit code.

    Args:
        folder: whose cases are run.
        rules: the mappings that they are about.
        update: whether expectations that are not met are overwritten.
        junit: where to write the answers as XML.

    Raises:
        Incorrect: ``cases-absent``, or a case that can't be read.
    """
    cases = read_cases(folder, shown)
    if not cases:
        raise Incorrect("cases-absent", f"{shown(folder)} has no cases", remedy="Write some, in hl7v2/cases.")
    outcomes: list[Outcome] = []
    for case in cases:
        started = time.perf_counter()
        failed = mismatches(case, _result(case, rules))
        failure = "\n".join(_lines(case, failed)) if failed else ""
        outcomes.append(Outcome(case.where.file, case.name, case.where.line, failure, time.perf_counter() - started))
        if failure:
            click.echo(failure)
        if failed and update:
            _update(case, failed)
    if junit is not None:
        write_bytes(junit, as_junit(outcomes))
    failures = sum(1 for one in outcomes if one.failure)
    click.echo(f"{len(cases)} cases: {len(cases) - failures} as expected, {failures} not", err=True)
    return CHECK_FAILED if failures else 0


def _result(case: Case, rules: Rules) -> Conversion | BridgeError:
    site = _site(case)
    try:
        message = parse(case.content, charset=site.charset if site else None)
        return Converter(rules, site, explain=True).message(message)[0]
    except BridgeError as error:
        return error


def _site(case: Case) -> Site | None:
    if case.site is None:
        return None
    beside = case.file.parent / case.site
    return named_site(str(beside) if beside.is_file() else case.site)


def _lines(case: Case, failed: Sequence[Mismatch]) -> Iterator[str]:
    yield f"{case.where}: {case.name}"
    for mismatch in failed:
        yield from (f"  {line}" for line in mismatch.lines())


def _update(case: Case, failed: Sequence[Mismatch]) -> None:
    text = read_bytes(case.file).decode()
    mode = case.file.stat().st_mode
    write_bytes(case.file, updated(text, case.name, failed).encode())
    case.file.chmod(mode)
