r"""Test cases of mappings: a message, and what must become of it, told in FHIRPath; written beside the mappings.

A file holds cases by name, under ``hl7v2/cases/`` of a folder of mappings:

    site: queensbridge
    cases:
      a-registered-outpatient:
        message: |
          MSH|^~\&|…
        expect:
          Patient.birthDate: 1970-01-02
          Encounter.count(): 1
        unmapped: ["ZPI[1]-2[1].1"]

An expression that begins with a type speaks of all resources of that type in the Bundle; any other begins at the Bundle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import yaml
from fhirpathpy import compile as compile_fhirpath
from fhirpathpy.models import models

from bridge.errors import BridgeError, Where
from bridge.fhir.elements import elements
from bridge.fhir.json import dumps, loads_stored
from bridge.mapping.bundle import to_bundle
from bridge.mapping.objects import plain
from bridge.mapping.operations import Conversion, Fate
from bridge.mapping.source import Map, load, mistake

Json = Any
Values = list[Json]

CASES: Final = ("hl7v2", "cases")
_FILE_KEYS: Final = ("site", "cases")
_CASE_KEYS: Final = ("site", "message", "file", "expect", "refused", "unmapped", "reported")
_TYPE: Final = re.compile(r"([A-Z][A-Za-z]+)(?=[.\[]|$)")
_REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class Case:
    """One message, and what must become of it.

    Attributes:
        name: unique within its file.
        file: the file of the case.
        where: its place.
        site: the site's name or file; None = a site made for the message.
        content: the message.
        expected: what each expression must give; ``refused``, ``unmapped`` and ``reported`` stand beside the expressions.
        places: where each of them is told.
    """

    name: str
    file: Path
    where: Where
    site: str | None
    content: bytes = field(repr=False)
    expected: Mapping[str, Values] = field(repr=False)
    places: Mapping[str, Where]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An expectation that is not met.

    Attributes:
        told: the expression, or ``refused``, ``unmapped``, ``reported``.
        where: its place.
        expected: what the case says.
        actual: what the conversion says.
    """

    told: str
    where: Where
    expected: Values
    actual: Values

    def lines(self) -> Iterator[str]:
        """Readable: what was expected and is not there, and what is there and was not expected."""
        yield f"{self.where}: {self.told}"
        if self.expected and self.actual and sorted(map(_text, self.expected)) == sorted(map(_text, self.actual)):
            yield f"    in another order: {_text(self.actual)}"
            return
        yield from (f"  - {_text(value)}" for value in _without(self.expected, self.actual))
        yield from (f"  + {_text(value)}" for value in _without(self.actual, self.expected))


def read_cases(folder: Path, shown: Callable[[Path], str]) -> list[Case]:
    """The cases of a folder of mappings, in order of their files.

    Args:
        folder: holds ``hl7v2/cases``.
        shown: how reports name a file.

    Raises:
        Incorrect: a code beginning with ``mapping-`` or ``case-``, with file, line and column of the mistake.
    """
    return [case for path in sorted(folder.joinpath(*CASES).rglob("*.yaml")) for case in _cases(path, shown(path))]


def _cases(path: Path, name: str) -> Iterator[Case]:
    source = load(path, name)
    source.only(_FILE_KEYS, "a file of cases")
    site = source.text("site") if "site" in source else None
    for label, entry in source.map("cases").maps():
        entry.only(_CASE_KEYS, "a case")
        expectations = entry.map("expect")
        expected = {told: _values(value) for told, value in expectations.items()}
        places = {told: expectations.at(told) for told in expectations}
        for told in (_REFUSED, "unmapped", "reported"):
            if told in entry:
                expected[told] = _values(entry[told])
                places[told] = entry.at(told)
        if not expected:
            raise mistake("case-without-expectation", f"'{label}' expects nothing", entry.where)
        own = entry.text("site") if "site" in entry else site
        where = source.map("cases").at(label)
        yield Case(label, path, where, own, _content(entry, path), expected, places)


def _content(entry: Map, path: Path) -> bytes:
    if "message" in entry:
        return "\r".join([*entry.text("message").strip().splitlines(), ""]).encode()
    if "file" not in entry:
        raise mistake("case-without-message", "a case has a message or a file", entry.where)
    try:
        return (path.parent / entry.text("file")).read_bytes()
    except OSError as error:
        message = f"the case's file can't be read ({type(error).__name__})"
        raise mistake("case-file-unreadable", message, entry.at("file")) from None


def mismatches(case: Case, result: Conversion | BridgeError) -> list[Mismatch]:
    """Which expectations the conversion does not meet.

    Args:
        case: what must be.
        result: made with ``explain``; or why the message was refused.

    Raises:
        Incorrect: ``case-expression-invalid``.
    """
    found = []
    if isinstance(result, BridgeError):
        if case.expected.get(_REFUSED) != [result.code]:
            where = case.places.get(_REFUSED, case.where)
            found.append(Mismatch(_REFUSED, where, case.expected.get(_REFUSED, []), [result.code]))
        return found
    bundle = loads_stored(dumps(to_bundle(result)))
    for told, expected in case.expected.items():
        if told == _REFUSED:
            actual: Values = []
        elif told == "unmapped":
            actual = [entry.place for entry in result.ledger if entry.fate is Fate.UNMAPPED]
        elif told == "reported":
            actual = [f"{report.code} {report.place}".rstrip() for report in result.reports]
        else:
            actual = evaluate(told, bundle, case.places[told])
        if actual != expected:
            found.append(Mismatch(told, case.places[told], expected, actual))
    return found


def evaluate(expression: str, bundle: Json, where: Where) -> Values:
    """What an expression of FHIRPath (N1, with R4's types) gives, in the form that expectations are compared in.

    Raises:
        Incorrect: ``case-expression-invalid``.
    """
    match = _TYPE.match(expression)
    if match and match[1] != "Bundle" and match[1] in elements():
        expression = f"Bundle.entry.resource.ofType({match[1]}){expression[match.end() :]}"
    try:
        found = compile_fhirpath(expression, model=models["r4"])(bundle, {})
    except Exception as error:  # noqa: BLE001 - the library raises plain Exceptions for whatever it can't read
        message = f"'{expression}' is no FHIRPath that can be evaluated ({type(error).__name__})"
        raise mistake("case-expression-invalid", message, where) from None
    return [_normal(value) for value in found]


def updated(text: str, case: str, changes: Sequence[Mismatch]) -> str:
    """The text of a file of cases in which expectations of one case say what is; all else stays as it is written.

    Args:
        text: of the file.
        case: its name.
        changes: of expectations that the case has.
    """
    node = _child(_child(yaml.compose(text, Loader=yaml.CSafeLoader), "cases"), case)
    edits: list[tuple[int, int, str]] = []
    for change in changes:
        holder = node if change.told in (_REFUSED, "unmapped", "reported") else _child(node, "expect")
        value = _child(holder, change.told)
        if value is None or (change.told == _REFUSED and not change.actual):
            continue
        start, end = value.start_mark.index, value.end_mark.index
        end = start + len(text[start:end].rstrip())
        edits.append((start, end, _text(change.actual[0] if len(change.actual) == 1 else change.actual)))
    for start, end, written in sorted(edits, reverse=True):
        text = text[:start] + written + text[end:]
    return text


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                return value  # type: ignore[no-any-return]  # PyYAML's stubs leave the members of a node open
    return None


def _values(value: Json) -> Values:
    return [_normal(item) for item in (value if isinstance(value, list) else [value])]


def _normal(value: Json) -> Json:
    """Numbers as texts, since YAML and JSON keep their digits differently."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, Mapping):
        return {key: _normal(item) for key, item in plain(value).items()}
    if isinstance(value, list):
        return [_normal(item) for item in value]
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _without(values: Values, others: Values) -> Values:
    left = [_text(value) for value in others]
    rest = []
    for value in values:
        if _text(value) in left:
            left.remove(_text(value))
        else:
            rest.append(value)
    return rest


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
