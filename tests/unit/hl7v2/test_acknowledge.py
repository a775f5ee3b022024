"""Acknowledgements of whatever came in, and what a header asks for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from bridge.hl7v2.acknowledge import (
    AckCode,
    AckCondition,
    AckError,
    Position,
    ack_error,
    acknowledge,
    read_asked,
)
from bridge.hl7v2.message import parse

NOW = datetime(2026, 2, 28, 13, 14, 15, tzinfo=timezone(timedelta(hours=1)))
REFUSED = ack_error("not-hl7")
DEEP = AckError("value-unknown", "103", Position("PID", 2, 8, 1))


def answer(raw: bytes, code: AckCode = AckCode.ACCEPT, error: AckError | None = None):
    return parse(acknowledge(read_asked(raw), code, control_id="A-1", now=NOW, error=error))


def test_acceptance_echoes_and_swaps():
    """Applications and facilities swap; event, control id, processing id, version and charset come back as written."""
    raw = b"MSH|^~\\&|LAB^1.2^ISO|NORTH|EHR|SOUTH|2026||ADT^A08^ADT_A01|47\\T\\11|D^T|2.5.1^DEU||||||8859/1\rPID|||1"

    written = acknowledge(read_asked(raw), AckCode.ACCEPT, control_id="A-1", now=NOW)

    assert written == (
        b"MSH|^~\\&|EHR|SOUTH|LAB^1.2^ISO|NORTH|20260228131415+0100||ACK^A08^ACK|A-1|D^T|2.5.1^DEU||||||8859/1\r"
        b"MSA|AA|47\\T\\11\r"
    )


@pytest.mark.parametrize(
    ("version", "kind", "msa3", "err"),
    [
        (b"2.2", ("ACK", "", "ACK"), "not-hl7", (1, 1, 4, 1)),
        (b"2.3", ("ACK", "", "ACK"), "not-hl7", (1, 1, 4, 1)),
        (b"2.3.1", ("ACK", "A01", "ACK"), "not-hl7", (1, 1, 4, 1)),
        (b"2.4", ("ACK", "A01", "ACK"), "not-hl7", (1, 1, 4, 1)),
        (b"2.5", ("ACK", "A01", "ACK"), "not-hl7", (3, 1, 1, 1)),
        (b"2.8.2", ("ACK", "A01", "ACK"), None, (3, 1, 1, 1)),
        (b"nonsense", ("ACK", "A01", "ACK"), "not-hl7", (3, 1, 1, 1)),
    ],
)
def test_refusals_speak_the_senders_version(version, kind, msa3, err):
    """ERR has the form of the version; MSA-3 ends with 2.6; the cause is named by its code only."""
    raw = b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|7|P|" + version
    read = answer(raw, AckCode.REJECT, REFUSED)
    field, _, component, subcomponent = err
    msa, segment = read.segments[1], read.segments[2]

    assert read.type == kind
    assert (msa.get(1), msa.get(2), msa.get(3)) == ("AR", "7", msa3)
    assert segment.name == "ERR"
    assert segment.get(field, component, subcomponent) == "100"
    assert (segment.get(4), segment.get(8)) == (("E", "not-hl7") if field == 3 else (None, None))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"MSH",
        b"MSH|^~\\&|A",
        b"MSH|^^^^|A|B|C|D|2026||ADT^A01|7|P|2.5",
        b"\xff\xfe\x00" * 99,
        b"PID|1",
    ],
)
def test_a_broken_header_is_answered_all_the_same(raw):
    """Default delimiters and version, no control id to echo."""
    read = answer(raw, AckCode.REJECT, REFUSED)

    assert read.type == ("ACK", "", "ACK")
    assert (read.segment("MSA").get(1), read.segment("MSA").get(2)) == ("AR", None)
    assert read.header.version == "2.5.1"


@pytest.mark.parametrize("declared", [b"ASCII", b"UNICODE UTF-8", b"VENDOR 7", b""])
def test_bytes_that_are_not_what_msh_18_says_come_back_unchanged(declared):
    """A control id in the wrong encoding is echoed byte for byte: the sender looks for its own."""
    raw = b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|n\xe9|P|2.5||||||" + declared

    assert b"\rMSA|AA|n\xe9\r" in acknowledge(read_asked(raw), AckCode.ACCEPT, control_id="1", now=NOW.astimezone(UTC))


def test_a_wide_message_is_answered_in_its_own_encoding():
    """UTF-16 in, UTF-16 out, the control id intact."""
    raw = "MSH|^~\\&|A|B|C|D|2026||ADT^A01|nß|P|2.5||||||UNICODE UTF-16\rPID|1".encode("utf-16-be")
    read = parse(acknowledge(read_asked(raw), AckCode.ACCEPT, control_id="1", now=NOW))

    assert (read.charset, read.segments[1].get(2)) == ("UTF-16BE", "nß")


def test_own_delimiters_and_framing():
    """The answer is in the sender's delimiters; framing bytes inside the header are not echoed."""
    written = acknowledge(
        read_asked(b"\x0bMSH$*%@:$A$B$C$D$2026$$ADT*A01$7\x1c|9$P$2.5\rPID$1"),
        AckCode.ERROR,
        control_id="1",
        now=NOW,
        error=REFUSED,
    )

    assert written.startswith(b"MSH$*%@:$C$D$A$B$")
    assert b"\rMSA$AE$7|9$not-hl7\rERR$$MSH*1$100*Segment sequence error*HL70357$E$$$$not-hl7\r" in written


@pytest.mark.parametrize("version", ["2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8"])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (AckCode.ACCEPT, None),
        (AckCode.REJECT, REFUSED),
        (AckCode.ERROR, DEEP),
        (AckCode.COMMIT_ACCEPT, None),
        (AckCode.COMMIT_REJECT, ack_error("control-id-reused")),
        (AckCode.COMMIT_ERROR, ack_error("anything")),
    ],
)
def test_hl7apy_finds_nothing_wrong(version, code, error):
    """Strict validation by another library, in each version from 2.3.1 (before, it knows no acknowledgement without MSH-9.3)."""
    raw = b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|7|P|" + version.encode()
    text = acknowledge(read_asked(raw), code, control_id="A-1", now=NOW, error=error).decode().rstrip("\r")

    read = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT)

    assert read.validate()
    assert read.msa.msa_2.value == "7"


@pytest.mark.parametrize(
    ("version", "err"),
    [
        (b"2.3", "ERR|PID^2^8^103&Table value not found&HL70357"),
        (b"2.4", "ERR|PID^2^8^103&Table value not found&HL70357"),
        (b"2.5", "ERR||PID^2^8^1^1|103^Table value not found^HL70357|E||||value-unknown"),
        (b"2.8", "ERR||PID^2^8^1^1|103^Table value not found^HL70357|E||||value-unknown"),
    ],
)
def test_an_error_says_where(version, err):
    """ERR-2 from 2.5 on, before that in ERR-1: segment, which of its name, field, component."""
    read = answer(b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|7|P|" + version, AckCode.ERROR, DEEP)

    assert read.segments[2].text == err


@pytest.mark.parametrize(
    ("code", "hl7_code", "position"),
    [
        ("not-hl7", "100", ("MSH", 1, None)),
        ("hl7-batch", "100", ("MSH", 1, None)),
        ("msh-truncated", "101", ("MSH", 1, 9)),
        ("delimiters-invalid", "102", ("MSH", 1, 2)),
        ("control-id-reused", "205", ("MSH", 1, 10)),
        ("anything-else", "207", None),
    ],
)
def test_refusals_have_their_code_of_table_0357_and_their_place(code, hl7_code, position):
    """What is not listed is an application error with no place."""
    error = ack_error(code)

    assert (error.code, error.hl7_code) == (code, hl7_code)
    assert (error.position and (error.position.segment, error.position.sequence, error.position.field)) == position


@pytest.mark.parametrize(
    ("msh15", "msh16", "enhanced", "accept", "application"),
    [
        (b"", b"", False, "NE", "NE"),
        (b'""', b"", False, "NE", "NE"),
        (b"AL", b"NE", True, "AL", "NE"),
        (b"NE", b"AL", True, "NE", "AL"),
        (b"", b"AL", True, "NE", "AL"),
        (b"er", b" SU ", True, "ER", "SU"),
        (b"Y", b"", True, "AL", "NE"),
    ],
)
def test_the_mode_is_what_msh_15_and_16_say(msh15, msh16, enhanced, accept, application):
    """Neither valued is original mode; one of them enhanced mode, in which an absent other one is never."""
    asked = read_asked(b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|7|P|2.5|||" + msh15 + b"|" + msh16 + b"\rPID|1")

    assert (asked.enhanced, asked.accept, asked.application) == (enhanced, accept, application)


@pytest.mark.parametrize(
    ("condition", "success", "failure"),
    [("AL", True, True), ("NE", False, False), ("ER", False, True), ("SU", True, False)],
)
def test_a_condition_wants_its_outcomes(condition, success, failure):
    """Table 0155, both outcomes of each."""
    wanted = AckCondition(condition)

    assert (wanted.wants(success=True), wanted.wants(success=False)) == (success, failure)
