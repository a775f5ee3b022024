"""Writing: values, segments, and acknowledgements of whatever came in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from bridge.hl7v2.delimiters import Delimiters
from bridge.hl7v2.message import NULL, parse
from bridge.hl7v2.write import AckCode, AckError, acknowledge, write, write_field, write_message, write_segment

NOW = datetime(2026, 2, 28, 13, 14, 15, tzinfo=timezone(timedelta(hours=1)))
REFUSED = AckError("not-hl7")


def answer(raw: bytes, code: AckCode = AckCode.ACCEPT, error: AckError | None = None):
    return parse(acknowledge(raw, code, control_id="A-1", now=NOW, error=error))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (None, ""),
        ("", ""),
        (NULL, '""'),
        ("a|b", r"a\F\b"),
        ('""', "\\X2222\\"),
        (("a", None, ("b", NULL, None), None), 'a^^b&""'),
        (["a", ("b", "c"), None], "a~b^c~"),
        (("x\ry\nz\x00",), "x\\X0D\\y\\X0A\\z\\X00\\"),
    ],
)
def test_fields(field, text):
    """Lists are repetitions, tuples components and subcomponents, NULL is two quotation marks, the rest is escaped."""
    assert write_field(field) == text


def test_segments_and_messages():
    """MSH-1 and MSH-2 come from the delimiters, what is empty at the end is left out, CR ends each segment."""
    delimiters = Delimiters(component="*")
    msh = write_segment(
        "MSH", ["LAB", None, "EHR", None, "2026", None, ("ADT", "A01"), "1", "P", "2.5", None], delimiters
    )
    raw = write_message([msh, write_segment("PID", ["1", None, [("77", None, None, "N*H")], None], delimiters)])

    assert raw == b"MSH|*~\\&|LAB||EHR||2026||ADT*A01|1|P|2.5\rPID|1||77***N\\S\\H\r"
    assert parse(raw).segments[1].get(3, 4) == "N*H"


def test_a_message_that_was_read_is_written_in_its_own_encoding():
    """Delimiters and charset are those of the message; a line break in a field is escaped."""
    raw = b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|1|P|2.5||||||8859/1\n\nPID|1||||M\xfcller\nZeile\n"

    assert write(parse(raw)) == raw[: raw.index(b"\n")] + b"\rPID|1||||M\xfcller\\X0A\\Zeile\r"


def test_acceptance_echoes_and_swaps():
    """Applications and facilities swap; event, control id, processing id, version and charset come back as written."""
    raw = b"MSH|^~\\&|LAB^1.2^ISO|NORTH|EHR|SOUTH|2026||ADT^A08^ADT_A01|47\\T\\11|D^T|2.5.1^DEU||||||8859/1\rPID|||1"

    written = acknowledge(raw, AckCode.ACCEPT, control_id="A-1", now=NOW)

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
    assert segment.get(field, component, subcomponent) == "207"
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

    assert b"\rMSA|AA|n\xe9\r" in acknowledge(raw, AckCode.ACCEPT, control_id="1", now=NOW.astimezone(UTC))


def test_a_wide_message_is_answered_in_its_own_encoding():
    """UTF-16 in, UTF-16 out, the control id intact."""
    raw = "MSH|^~\\&|A|B|C|D|2026||ADT^A01|nß|P|2.5||||||UNICODE UTF-16\rPID|1".encode("utf-16-be")
    read = parse(acknowledge(raw, AckCode.ACCEPT, control_id="1", now=NOW))

    assert (read.charset, read.segments[1].get(2)) == ("UTF-16BE", "nß")


def test_own_delimiters_and_framing():
    """The answer is in the sender's delimiters; framing bytes inside the header are not echoed."""
    written = acknowledge(
        b"\x0bMSH$*%@:$A$B$C$D$2026$$ADT*A01$7\x1c|9$P$2.5\rPID$1",
        AckCode.ERROR,
        control_id="1",
        now=NOW,
        error=REFUSED,
    )

    assert written.startswith(b"MSH$*%@:$C$D$A$B$")
    assert b"\rMSA$AE$7|9$not-hl7\rERR$$$207*Application error*HL70357$E$$$$not-hl7\r" in written


@pytest.mark.parametrize("version", ["2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8"])
@pytest.mark.parametrize(("code", "error"), [(AckCode.ACCEPT, None), (AckCode.REJECT, REFUSED)])
def test_hl7apy_finds_nothing_wrong(version, code, error):
    """Strict validation by another library, in each version from 2.3.1 (before, it knows no acknowledgement without MSH-9.3)."""
    raw = b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|7|P|" + version.encode()
    text = acknowledge(raw, code, control_id="A-1", now=NOW, error=error).decode().rstrip("\r")

    read = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT)

    assert read.validate()
    assert read.msa.msa_2.value == "7"
