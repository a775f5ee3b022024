"""Strict checks: what is found has a code and a place, and no value of the message ever leaves."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bridge.hl7v2.message import parse
from bridge.hl7v2.strict import Severity, strict_findings, structure

EVN = b"EVN||20260102030405\r"
PID = b"PID|1||77^^^NORTH^MR||Doe^Jane||19800102|F\r"
PV1 = b"PV1|1|I\r"


HEADER = b"MSH|^~\\&|LAB|NORTH|EHR|SOUTH|20260102030405||ADT^A01^ADT_A01|1|P|2.5"


def adt(*segments: bytes, version: bytes = b"2.5", msh2: bytes = b"^~\\&", event: bytes = b"A01") -> bytes:
    kind = b"ADT^%s^ADT_A01" % event
    header = b"MSH|%s|LAB|NORTH|EHR|SOUTH|20260102030405||%s|1|P|%s\r" % (msh2, kind, version)
    return header + b"".join(segments or (EVN, PID, PV1))


def found(raw: bytes) -> set[tuple[str, str, str]]:
    return {(one.code, one.place, one.detail) for one in strict_findings(parse(raw))}


def test_a_message_by_the_book_has_no_finding():
    """Nothing is held against it."""
    assert found(adt()) == set()


@pytest.mark.parametrize(
    ("raw", "finding"),
    [
        (adt(EVN, PID), ("required-missing", "ADT_A01.PV1", "")),
        (adt(EVN, PID.replace(b"77^^^NORTH^MR", b""), PV1), ("required-missing", "PID-3", "")),
        (adt(EVN, EVN, PID, PV1), ("too-many", "ADT_A01.EVN", "")),
        (adt(EVN, PID, PV1, b"OBR|1\r"), ("not-in-structure", "ADT_A01.OBR", "")),
        (adt(EVN, PID, b"PV1|1" + b"|" * 60 + b"x\r"), ("beyond-definition", "PV1", "")),
        (adt(EVN, PID.replace(b"Doe^Jane", b"Doe" + b"^" * 30 + b"x"), PV1), ("beyond-definition", "PID-5", "")),
        (adt(EVN, PID.replace(b"NORTH^MR", b"NORTH^sEcReT"), PV1), ("not-in-table", "PID-3.5", "0203")),
        (adt(version=b"2.5", msh2=b"^~\\&#"), ("delimiters-not-of-version", "MSH-2", "truncation character")),
        (adt(version=b"9.9"), ("not-checked", "", "UnsupportedVersion")),
    ],
)
def test_what_is_broken_has_a_code_and_a_place(raw, finding):
    """Required, repeated, unknown, outside of its table, and what can't be checked at all."""
    assert finding in found(raw)


def test_tables_are_warnings_and_structure_an_error():
    """The weight decides what a check says in the end."""
    raw = adt(EVN, PID.replace(b"NORTH^MR", b"NORTH^other"))
    weights = {one.code: one.severity for one in strict_findings(parse(raw))}

    assert weights == {"not-in-table": Severity.WARNING, "required-missing": Severity.ERROR}


def secret(raw: bytes) -> Iterable[bytes]:
    """The message with a secret in every place of its segments, one after the other."""
    for position, byte in enumerate(raw):
        if byte in b"|^\r" and position > len(HEADER):
            yield raw[:position] + b"sEcReT not in table\nHL70001" + raw[position:]


def test_no_value_is_ever_told():
    """Wherever a value stands, torn by a line break even, codes, places, details and structure show nothing of it."""
    for raw in secret(adt()):
        message = parse(raw)
        told = repr(strict_findings(message)) + structure(message)

        assert "sEcReT" not in told.replace("not-in-table", "")


def test_the_structure_shows_known_segments_by_name():
    """Runs are counted; a segment of a later version and a local one are known, a torn value is not."""
    message = parse(adt(EVN, PID, PV1, b"OBX|1\rOBX|2\rPRT|1\rZPI|1\rDOE|1\r"))

    assert structure(message) == "MSH EVN PID PV1 OBX*2 PRT ZPI ???"
