"""``hiebridge convert``: what a message becomes, without a configuration and without a store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from bridge.cli.errors import EXIT_CODES, described, render
from bridge.cli.files import read_bytes
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.cli.trial import named_site, trial_site
from bridge.config.load import mappings_root
from bridge.config.site import Site
from bridge.errors import BridgeError
from bridge.fhir.json import dumps, loads
from bridge.hl7v2.batch import split_messages
from bridge.hl7v2.message import parse
from bridge.mapping.bundle import explain_lines, to_bundle
from bridge.mapping.convert import convert
from bridge.mapping.fhir_input import convert_fhir
from bridge.mapping.operations import Conversion
from bridge.mapping.rules import Rules, load_rules
from bridge.pipeline.ports import ContentKind
from bridge.pipeline.prepare import detect, joined


@dataclass(frozen=True, slots=True)
class _Converter:
    site: Site | None
    rules: Rules
    explain: bool

    def __call__(self, content: bytes, kind: ContentKind) -> tuple[Conversion, Site]:
        if kind is ContentKind.FHIR_JSON:
            site = self.site or trial_site()
            return joined(convert_fhir(loads(content), site, received_us=time.time_ns() // 1000)), site
        message = parse(content, charset=self.site.charset if self.site else None)
        site = self.site or trial_site(message)
        return convert(message, site, self.rules, explain=self.explain), site


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--site", "site_name", help="Site file, or name of one of the built-in sites.")
@click.option(
    "--explain", is_flag=True, help="Print the rule behind each element, and what became of each input element."
)
@click.option(
    "--mappings",
    "overlays",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="Folder of mappings searched before the built-in ones; may be repeated.",
)
@json_option
@pass_invocation
def command(
    invocation: Invocation, file: Path, site_name: str | None, explain: bool, overlays: tuple[Path, ...]
) -> int:
    """Print the FHIR Bundle that a file of HL7 v2 messages or a FHIR resource becomes, one Bundle a message.

    Needs no configuration and changes nothing; `-` reads standard input. Without --site every authority in the message
    is taken for one that names records; with it the site's file decides, as in the bridge. The ids in the Bundle are
    running numbers, not the ones that a bridge would mint.

    \b
    Example:
      $ hiebridge convert message.hl7 --site queensbridge --explain
    """  # noqa: D301 - click's mark
    converter = _Converter(named_site(site_name) if site_name else None, load_rules(mappings_root(), overlays), explain)
    content = read_bytes(file)
    kind = detect(content)
    contents = split_messages(content) if kind is ContentKind.HL7V2 else [content]
    answers: list[dict[str, Any]] = []
    code = 0
    for number, one in enumerate(contents, 1):
        try:
            conversion, site = converter(one, kind)
        except BridgeError as error:
            code = code or EXIT_CODES[error.category]
            answers.append({"message": number, "error": described(error)})
            if not invocation.as_json:
                if len(contents) > 1:
                    click.echo(f"message {number}:", err=True)
                click.echo(render(error, as_json=False), err=True)
            continue
        if invocation.as_json:
            answers.append({"message": number, **_described(conversion, explain=explain)})
        elif explain:
            click.echo("\n".join([f"{conversion.event}:", *(f"  {line}" for line in explain_lines(conversion))]))
        else:
            click.echo(_indented(to_bundle(conversion)))
        if site_name and not _allowed(conversion, site):
            click.echo(f"note: the file of {site.site} leaves {conversion.event} out", err=True)
    if invocation.as_json:
        click.echo(_indented({"messages": answers}))
    return code


def _indented(value: dict[str, Any]) -> str:
    return msgspec.json.format(dumps(value), indent=2).decode()


def _allowed(conversion: Conversion, site: Site) -> bool:
    return conversion.event.startswith("fhir:") or conversion.event in site.events.allowed


def _described(conversion: Conversion, *, explain: bool) -> dict[str, Any]:
    said: dict[str, Any] = {
        "event": conversion.event,
        "elements": {
            "mapped": conversion.mapped,
            "dropped": conversion.dropped,
            "unmapped": conversion.unmapped,
        },
        "reports": [{"code": report.code, "place": report.place} for report in conversion.reports],
    }
    if not explain:
        return said | {"bundle": to_bundle(conversion)}
    outputs = dict.fromkeys((output.target.resource_type, output.path, output.rule) for output in conversion.outputs)
    return said | {
        "outputs": [{"resource": kind, "path": path, "rule": rule} for kind, path, rule in outputs],
        "inputs": [{"place": entry.place, "fate": str(entry.fate), "rule": entry.rule} for entry in conversion.ledger],
    }
