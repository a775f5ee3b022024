"""The reader on every message that the reference projects publish, and beside hl7apy on those that hl7apy takes."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

from bridge.errors import Incorrect
from bridge.hl7v2.acknowledge import AckCode, acknowledge, read_asked
from bridge.hl7v2.batch import split_messages
from bridge.hl7v2.message import NULL, Message, parse, valued_elements
from bridge.hl7v2.write import write
from tests.reference import reference_data

FOLDERS = [
    "CDCgov-prime-reportstream",
    "HL7-v2-to-fhir",
    "LinuxForHealth-connect",
    "LinuxForHealth-hl7v2-fhir-converter",
    "crs4-hl7apy",
    "google-simhospital",
]


def files(folder: str) -> list[bytes]:
    base = reference_data("hl7v2", folder)
    found = [path.read_bytes() for path in sorted(base.rglob("*")) if path.suffix in (".hl7", ".out")]
    assert found
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_published_message_parses_or_is_refused_by_name(folder):
    """Whole files give a message or a closed error; divided into messages, none is refused."""
    refused: Counter[str] = Counter()
    for raw in files(folder):
        try:
            parse(raw)
        except Incorrect as error:
            refused[error.code] += 1
        for part in split_messages(raw):
            message = parse(part)
            again = parse(write(message), charset=message.charset)
            assert [s.text for s in again.segments] == [s.text.replace("\n", "\\X0A\\") for s in message.segments]
            answer = parse(acknowledge(read_asked(part), AckCode.ACCEPT, control_id="1", now=datetime.now(UTC)))
            assert answer.header.version == message.header.version or not message.header.version

    assert set(refused) <= {"several-messages", "hl7-batch", "not-hl7"}


@pytest.mark.parametrize("folder", FOLDERS[:2] + FOLDERS[3:5])
def test_hl7apy_reads_the_same_elements(folder):
    """Of every fourth file: wherever hl7apy accepts a message, each field holds the same valued primitives in the same places."""
    compared = 0
    for raw in files(folder)[::4]:
        for part in split_messages(raw)[:3]:
            compared += agrees(parse(part))

    assert compared


def test_hl7apy_reads_simhospital_the_same():
    """Every twentieth of the recorded messages; hl7apy accepts them all."""
    raw = reference_data("hl7v2", "google-simhospital", "messages.out").read_bytes()
    sample = split_messages(raw)[::20]

    assert sum(agrees(parse(part)) for part in sample) == len(sample)


def agrees(message: Message) -> bool:
    """Compares with hl7apy; False where hl7apy does not take the message."""
    text = "\r".join(segment.text for segment in message.segments)
    try:
        other = parse_message(text, find_groups=False)
    except (HL7apyException, ValueError, IndexError, AttributeError):
        return False
    segments = other.children
    assert [segment.name for segment in segments] == [segment.name for segment in message.segments]
    for ours, theirs in zip(message.segments[1:], segments[1:], strict=True):
        expected: dict[int, list[str]] = {}
        unnumbered: list[str] = []  # fields beyond the segment's definition have no name there
        for field in theirs.children:
            leaves = [leaf.to_er7() for component in field.children for leaf in component.children]
            number = re.fullmatch(r"..._([0-9]+)", field.name or "")
            (expected.setdefault(int(number[1]), []) if number else unnumbered).extend(
                canonical(leaf) for leaf in leaves if leaf.strip()
            )
        found: dict[int, list[str]] = {}
        for element in valued_elements(ours):
            text = '""' if element.text is NULL else canonical(element.text)
            if text:  # hl7apy drops blanks at the end of a segment
                found.setdefault(element.field, []).append(text)
        assert {number: texts for number, texts in found.items() if number in expected} == {
            number: texts for number, texts in expected.items() if texts
        }, ours
        assert [text for number in found if number not in expected for text in found[number]] == unnumbered, ours
    return True


def canonical(text: str) -> str:
    """Without what hl7apy changes on its way out: blanks at the end, leading zeros, escaped formatting commands."""
    plain = text.replace("\\E\\", "\\").strip()
    return str(Decimal(plain).normalize()) if re.fullmatch(r"[+-]?([0-9]+(\.[0-9]+)?|\.[0-9]+)", plain) else plain
