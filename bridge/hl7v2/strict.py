"""Strict checks of one message against the standard's definitions of its version, by hl7apy. Slow: for new feeds and tests.

hl7apy's words hold values of messages; only codes and places leave this module.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from tempfile import TemporaryFile
from typing import Any, Final

from hl7apy import load_reference
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException, ValidationError
from hl7apy.parser import parse_message
from hl7apy.validation import Validator

from bridge.hl7v2.message import Message
from bridge.hl7v2.write import write

OTHER: Final = "???"
"""Stands for a segment that HL7 does not know, and that is not local: its name may be a torn value."""


class Severity(StrEnum):
    """How much a finding weighs."""

    ERROR = "error"  # structure: other systems may refuse or misread the message
    WARNING = "warning"  # values outside of HL7's tables, which many systems never keep to


@dataclass(frozen=True, slots=True, order=True)
class StrictFinding:
    """One way in which a message is not what its version says.

    Attributes:
        severity: error or warning.
        code: kebab-case name of the rule that is broken.
        place: segment, field, component or group, e.g. ``PID-8``, ``PID-3.4`` or, within a data type, ``CX-4.3``; '' = the message.
        detail: the table or type that was expected; '' if there is nothing to add.
    """

    severity: Severity
    code: str
    place: str
    detail: str = ""


def strict_findings(message: Message) -> list[StrictFinding]:
    """Everything that hl7apy holds against a message, in its order; raises nothing.

    Required and repeated elements, elements that the version does not have, data types, tables. Lengths are not among them: hl7apy has none. A message whose
    structure or version hl7apy does not know is ``not-checked``.
    """
    version = (message.header.version or "").strip()
    found: list[StrictFinding] = []
    text = message_text(message)
    if message.delimiters.truncation and version < "2.7":
        found.append(StrictFinding(Severity.ERROR, "delimiters-not-of-version", "MSH-2", "truncation character"))
        text = text[:8] + text[9:]
    try:
        parsed = parse_message(text, validation_level=VALIDATION_LEVEL.TOLERANT)
        return found + _left_out(message, parsed, version) + _validated(parsed, version)
    except Exception as error:  # noqa: BLE001 - hl7apy stumbles over messages that it did not foresee; the others are checked
        return [*found, _not_checked(error)]


def structure(message: Message) -> str:
    """The segments of a message by name, runs of one name counted: ``MSH EVN PID OBX*3``."""
    version = (message.header.version or "").strip()
    runs: list[tuple[str, int]] = []
    for segment in message.segments:
        name = _segment_name(segment.name, version)
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return " ".join(f"{name}*{count}" if count > 1 else name for name, count in runs)


def message_text(message: Message) -> str:
    """A message as hl7apy wants it: text, segments divided by CR, no line break within a field."""
    return write(message).decode(message.charset, "replace").rstrip("\r")


def _not_checked(error: Exception) -> StrictFinding:
    return StrictFinding(Severity.ERROR, "not-checked", "", type(error).__name__)


def _left_out(message: Message, parsed: Any, version: str) -> list[StrictFinding]:
    """Segments that stand where their structure has none: hl7apy leaves them out without a word."""
    left = Counter(segment.name for segment in message.segments)
    left.subtract(_names(parsed))
    place = parsed.name or "MSH-9"
    return [
        StrictFinding(Severity.ERROR, "not-in-structure", f"{place}.{_segment_name(name, version)}")
        for name in sorted((+left).elements())
    ]


def _names(element: Any) -> Iterator[str]:
    for child in element.children:
        if child.classname == "Segment":
            yield child.name
        else:
            yield from _names(child)


def _validated(parsed: Any, version: str) -> list[StrictFinding]:
    with TemporaryFile() as report:  # without a name on the disk: it holds values
        with suppress(ValidationError):  # the first line of the report
            Validator.validate(parsed, report_file=os.dup(report.fileno()))
        report.seek(0)
        lines = report.read().decode(errors="replace").splitlines()
    return [finding for line in lines for finding in _read(line, version)]


def _read(line: str, version: str) -> Iterator[StrictFinding]:
    if _ARTEFACT.match(line):
        return
    for pattern, made in _RULES:
        if match := pattern.fullmatch(line):
            yield from made(match, version)
            return


def _one(severity: Severity, code: str) -> Callable[[re.Match[str], str], Iterator[StrictFinding]]:
    def made(match: re.Match[str], _version: str) -> Iterator[StrictFinding]:
        groups = match.groupdict()
        yield StrictFinding(severity, code, _place(match["parent"], match["child"]), groups.get("detail") or "")

    return made


def _invalid_children(match: re.Match[str], version: str) -> Iterator[StrictFinding]:
    """Elements that their parent does not have: unnamed ones (more fields or components than the version knows), segments."""
    parent, names = match["parent"], set(re.findall(r"'([^']*)'|(None)", match["children"]))
    for name, nameless in sorted(names):
        if nameless:
            yield StrictFinding(Severity.ERROR, "beyond-definition", _dashed(parent))
        else:
            known = name if "_" in name and _NAME.fullmatch(name) else _segment_name(name, version)
            yield StrictFinding(Severity.ERROR, "not-in-structure", f"{_dashed(parent)}.{_dashed(known)}")


def _unknown(match: re.Match[str], _version: str) -> Iterator[StrictFinding]:
    message = match["kind"] == "Message"
    yield StrictFinding(
        Severity.ERROR, "structure-unknown" if message else "element-unknown", "MSH-9" if message else ""
    )


_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{1,2}(?:_[A-Z0-9_]+)?")
_NUMBERED: Final = re.compile(r"([A-Z][A-Z0-9]{1,2})_([0-9]+)")
# hl7apy compares a datatype that it does not have with itself
_ARTEFACT: Final = re.compile(r"Error: Datatype None is not correct for ")
_PLACE: Final = r"(?P<parent>[A-Z0-9_]+)\.(?P<child>[A-Z0-9_]+)"
_RULES: Final = tuple(
    (re.compile(pattern, re.DOTALL), made)
    for pattern, made in (
        (rf"Error: Missing required child {_PLACE}", _one(Severity.ERROR, "required-missing")),
        (rf"Error: Child limit exceeded {_PLACE}", _one(Severity.ERROR, "too-many")),
        (
            rf"Error: Datatype \w+ is not correct for {_PLACE} \(it must be (?P<detail>\w+)\)",
            _one(Severity.ERROR, "datatype-wrong"),
        ),
        (
            rf"Warning: Value .* not in table HL7(?P<detail>[0-9]+) in element {_PLACE}",
            _one(Severity.WARNING, "not-in-table"),
        ),
        (
            r"Error: Invalid children detected for <\w+ (?P<parent>[A-Z0-9_]+)[^>]*>: \[(?P<children>.*)\]",
            _invalid_children,
        ),
        (r"Error: (?:Unknown|Invalid) element found: .*<(?P<kind>\w+)[^>]*>", _unknown),
    )
)


def _place(parent: str, child: str) -> str:
    inner, outer = _NUMBERED.fullmatch(child), _NUMBERED.fullmatch(parent)
    if inner is None:
        return f"{_dashed(parent)}.{child.removeprefix(parent + '_')}"
    if inner[1] == parent:
        return f"{parent}-{inner[2]}"
    return f"{_dashed(parent)}.{inner[2]}" if outer else f"{parent}.{_dashed(child)}"


def _dashed(name: str) -> str:
    return _NUMBERED.sub(r"\1-\2", name) if _NUMBERED.fullmatch(name) else name


@lru_cache(maxsize=1024)
def _segment_name(name: str, version: str) -> str:
    """The name of a segment, if it is one of the version, or of another one that stands in this, or local."""
    if _LOCAL.fullmatch(name):
        return name
    for known in (version, _NEWEST):
        with suppress(HL7apyException):
            load_reference(name, "Segment", known)
            return name
    return OTHER


_NEWEST: Final = "2.8.2"
_LOCAL: Final = re.compile(r"Z[A-Z0-9]{2}")
