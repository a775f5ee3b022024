"""``hiebridge convert``: what messages become, without a configuration and without a store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec

from bridge.cli.corpus import Contents, Converter, Entry, contents, corpus_options, files, site_of
from bridge.cli.errors import CHECK_FAILED, described, render
from bridge.cli.files import write_bytes
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.cli.outputs import OutputFolder
from bridge.config.load import mappings_root
from bridge.config.site import Site
from bridge.errors import BridgeError
from bridge.fhir.json import dumps
from bridge.mapping.bundle import explain_lines, ledger_line, to_bundle
from bridge.mapping.operations import Conversion
from bridge.mapping.rules import load_rules


@dataclass(slots=True)
class _Sums:
    """What came of a run."""

    files: int = 0
    converted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    mapped: int = 0
    dropped: int = 0
    unmapped: int = 0

    def add(self, conversion: Conversion, site: Site | None) -> None:
        self.converted += 1
        self.mapped += conversion.mapped
        self.dropped += conversion.dropped
        self.unmapped += conversion.unmapped
        if site is not None and not _allowed(conversion, site):
            self.left_out[site.site, conversion.event] += 1

    def described(self) -> dict[str, Any]:
        return {
            "files": self.files,
            "messages": self.converted + self.refused.total(),
            "converted": self.converted,
            "refused": dict(self.refused.most_common()),
            "elements": {"mapped": self.mapped, "dropped": self.dropped, "unmapped": self.unmapped},
            "left_out_by_site": [
                {"site": site, "event": event, "messages": count} for (site, event), count in self.left_out.items()
            ],
        }

    def lines(self) -> Iterator[str]:
        for (site, event), count in self.left_out.items():
            yield f"note: the file of {site} leaves {event} out ({count})"
        yield f"{self.files} files: {self.converted} messages converted, {self.refused.total()} refused"
        for code, count in self.refused.most_common():
            yield f"  refused: {count} {code}"
        yield f"elements: {self.mapped} mapped, {self.dropped} dropped by rule, {self.unmapped} unmapped"


@click.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the Bundles, a file each message."
)
@click.option(
    "--ledger",
    is_flag=True,
    help="Also write what became of each input element: beside the Bundles of --out, else on standard error.",
)
@click.option(
    "--explain", is_flag=True, help="Print the rule behind each element, and what became of each input element."
)
@corpus_options
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    paths: tuple[Path, ...],
    out: Path | None,
    ledger: bool,
    explain: bool,
    site_name: str | None,
    pattern: str,
    overlays: tuple[Path, ...],
) -> int:
    """Print the FHIR Bundles that HL7 v2 messages or FHIR resources become.

    Takes files and folders; batch files are split into their messages, and `-` reads standard input. Each message gives
    one Bundle, with --json one line. How many were converted and refused, why, and how many elements were mapped, dropped
    by rule and unmapped stands on standard error. Exit code 1 if a message was refused.

    Needs no configuration and changes nothing. Without --site every authority in a message is taken for one that names
    records; with it the site's file decides, as in the bridge. The ids in a Bundle are running numbers, not the ones that
    a bridge would mint.

    \b
    Example:
      $ hiebridge convert message.hl7 --site queensbridge --explain
      $ hiebridge convert feed/ --site queensbridge --out bundles/ --ledger
    """  # noqa: D301 - click's mark
    converter = Converter(load_rules(mappings_root(), overlays), site_of(site_name), explain=explain or ledger)
    printer = _Printer(
        as_json=invocation.as_json, explain=explain, ledger=ledger, folder=OutputFolder(out) if out else None
    )
    sums = _Sums()
    for file in files(paths, pattern):
        held = contents(file)
        sums.files += 1
        printer.findings(held)
        if held.error is not None:
            sums.refused[held.error.code] += 1
            printer.refused(file.name, 0, held.error)
        for entry in held.entries:
            result = converter.attempt(entry)
            if isinstance(result, BridgeError):
                sums.refused[result.code] += 1
                printer.refused(entry.file.name, entry.number if entry.of > 1 else 0, result)
            else:
                conversion, site = result
                sums.add(conversion, site if site_name else None)
                printer.converted(entry, conversion)
    if invocation.as_json:
        _tell(json.dumps({"summary": sums.described()}, ensure_ascii=False))
    else:
        _tell("\n".join(sums.lines()))
    return CHECK_FAILED if sums.refused else 0


@dataclass(frozen=True, slots=True)
class _Printer:
    as_json: bool
    explain: bool
    ledger: bool
    folder: OutputFolder | None

    def findings(self, held: Contents) -> None:
        """Where a batch is not what its envelopes say."""
        for finding in held.findings:
            if self.as_json:
                _tell(json.dumps({"file": held.file.name, "finding": finding._asdict()}, ensure_ascii=False))
            else:
                told = f" (told {finding.told}, found {finding.found})" if finding.told is not None else ""
                _tell(f"note: {held.file.name}: {finding.code}{told}")

    def refused(self, name: str, number: int, error: BridgeError) -> None:
        if self.as_json:
            said = {"file": name, "message": number or 1, "error": described(error)}
            _tell(json.dumps(said, ensure_ascii=False))
        else:
            _tell(f"{name}{f'#{number}' if number else ''}: {render(error, as_json=False)}")

    def converted(self, entry: Entry, conversion: Conversion) -> None:
        if self.explain:
            self._explained(entry, conversion)
        else:
            bundle = dumps(to_bundle(conversion))
            if self.folder is not None:
                write_bytes(self.folder.place(entry, ".json"), bundle if self.as_json else _indented(bundle))
            else:
                click.echo(bundle if self.as_json else _indented(bundle))
        if self.ledger:
            self._ledger(entry, conversion)

    def _explained(self, entry: Entry, conversion: Conversion) -> None:
        if self.as_json:
            text = json.dumps(_described(entry, conversion), ensure_ascii=False)
        else:
            text = "\n".join([f"{conversion.event}:", *(f"  {line}" for line in explain_lines(conversion))])
        if self.folder is not None:
            write_bytes(
                self.folder.place(entry, ".explained.json" if self.as_json else ".explained.txt"), text.encode()
            )
        else:
            click.echo(text)

    def _ledger(self, entry: Entry, conversion: Conversion) -> None:
        if self.folder is not None:
            content = json.dumps(_ledger(entry, conversion), ensure_ascii=False, indent=1).encode() + b"\n"
            write_bytes(self.folder.place(entry, ".ledger.json"), content)
        elif self.as_json:
            _tell(json.dumps(_ledger(entry, conversion), ensure_ascii=False))
        else:
            _tell("\n".join([f"{entry.name}:", *(f"  {ledger_line(one)}" for one in conversion.ledger)]))


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _indented(bundle: bytes) -> bytes:
    return msgspec.json.format(bundle, indent=2)


def _allowed(conversion: Conversion, site: Site) -> bool:
    return conversion.event.startswith("fhir:") or conversion.event in site.events.allowed


def _ledger(entry: Entry, conversion: Conversion) -> dict[str, Any]:
    return {
        "file": entry.file.name,
        "message": entry.number,
        "event": conversion.event,
        "elements": {
            "mapped": conversion.mapped,
            "dropped": conversion.dropped,
            "unmapped": conversion.unmapped,
        },
        "reports": [{"code": report.code, "place": report.place} for report in conversion.reports],
        "inputs": [{"place": one.place, "fate": str(one.fate), "rule": one.rule} for one in conversion.ledger],
    }


def _described(entry: Entry, conversion: Conversion) -> dict[str, Any]:
    outputs = dict.fromkeys((output.target.resource_type, output.path, output.rule) for output in conversion.outputs)
    said = {"outputs": [{"resource": kind, "path": path, "rule": rule} for kind, path, rule in outputs]}
    return _ledger(entry, conversion) | said
