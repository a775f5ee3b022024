"""Files of messages."""

from __future__ import annotations

import pytest

from bridge.errors import Incorrect
from bridge.hl7v2.batch import Finding, read_batch, split_messages
from bridge.hl7v2.message import parse
from tests.reference import reference_data

ONE = b"MSH|^~\\&|LAB|N|E|S|2026||ORU^R01|1|P|2.5\rPID|1||77\r"
TWO = b"MSH|^~\\&|LAB|N|E|S|2026||ORU^R01|2|P|2.5\rPID|1||78\r"


@pytest.mark.parametrize(
    "raw",
    [
        ONE + TWO,
        ONE + b"\n" + TWO + b"\n",
        (ONE + TWO).replace(b"\r", b"\r\n"),
        b"\x0b" + ONE + b"\x1c\r\x0b" + TWO + b"\x1c\r",
        b"FHS|^~\\&|A\rBHS|^~\\&|B\r" + ONE + TWO + b"BTS|2\rFTS|1\r",
        b"FHS|^~\\&|A\rBHS|^~\\&|B\r" + ONE + b"BTS|1\rBHS|^~\\&|C\r" + TWO + b"BTS\rFTS",
    ],
)
def test_each_message_comes_out_alone(raw):
    """Bare concatenation, blank lines, MLLP framing and batch envelopes all divide into the same messages."""
    parts = [parse(part) for part in split_messages(raw)]

    assert [part.header.control_id for part in parts] == ["1", "2"]
    assert [[s.name for s in part.segments] for part in parts] == [["MSH", "PID"]] * 2


def test_what_holds_no_message():
    """Nothing gives nothing; anything else comes back whole for its reader to refuse."""
    assert split_messages(b"") == []
    assert split_messages(b"\r\n\x0b\x1c\r") == []
    assert split_messages(b"no MSH| here") == [b"no MSH| here"]


def test_simhospital_recording():
    """The recording holds 1,013 messages; all parse."""
    parts = split_messages(reference_data("hl7v2", "google-simhospital", "messages.out").read_bytes())

    assert len(parts) == 1013
    assert sum(len(parse(part).segments) for part in parts) == 10951


FHS, BHS = b"FHS|^~\\&|A\r", b"BHS|^~\\&|B\r"


@pytest.mark.parametrize(
    ("raw", "findings"),
    [
        (ONE + TWO, []),
        (FHS + BHS + ONE + TWO + b"BTS|2|done\rFTS|1\r", []),
        (FHS + BHS + ONE + b"BTS|1\r" + BHS + TWO + b"BTS|1\rFTS|2\r", []),
        (BHS + ONE + TWO + b"BTS\r", []),
        (BHS + ONE + TWO + b"BTS||two\r", []),
        (BHS + ONE + TWO + b"BTS|two\r", []),
        (FHS + ONE + TWO + b"FTS|0\r", []),
        (BHS + b"BTS|0\r", []),
        (BHS + ONE + TWO + b"BTS|3\r", [Finding("batch-count-wrong", 1, 3, 2)]),
        (FHS + BHS + ONE + b"BTS|1\rFTS|2\r", [Finding("file-count-wrong", 1, 2, 1)]),
        (FHS + BHS + ONE + TWO, [Finding("batch-not-ended", 1, None, 2), Finding("file-not-ended", 1, None, 1)]),
        (BHS + ONE + BHS + TWO + b"BTS|1\r", [Finding("batch-not-ended", 1, None, 1)]),
        (
            ONE + TWO + b"BTS|2\rFTS|1\r",
            [Finding("batch-not-begun", 1, None, 2), Finding("file-not-begun", 1, None, 1)],
        ),
        (FHS + BHS + b"PV1|1|I\r" + ONE + b"BTS|1\rFTS|1\r", [Finding("outside-messages", 1, None, 7)]),
        (BHS + ONE + b"BTS|1\rPID|1||79\r", [Finding("outside-messages", 1, None, 9)]),
    ],
)
def test_envelopes_are_checked_against_what_they_hold(raw, findings):
    """Counts that differ, trailers or headers that did not come, bytes outside; every message comes out all the same."""
    batch = read_batch(raw)

    assert list(batch.findings) == findings
    assert [part for part in batch.messages if part.startswith(b"MSH|")] == [m for m in (ONE, TWO) if m in raw]
    assert len(batch.messages) == raw.count(b"MSH|") + sum(finding.code == "outside-messages" for finding in findings)


def test_bytes_outside_are_neither_lost_nor_joined_to_a_message():
    """The half of a message stands alone where it was, to be refused; words that look like an envelope's name are text."""
    batch = read_batch(b"PV1|1|I\r" + ONE + b"OBX|1|TX|||a\rBHS\rb\r" + b"BTS|1\r" + b"PID|1||79\r" + TWO)

    assert list(batch.messages) == [b"PV1|1|I\r", ONE + b"OBX|1|TX|||a\rBHS\rb\r", b"PID|1||79\r", TWO]
    for half in (batch.messages[0], batch.messages[2]):
        with pytest.raises(Incorrect):
            parse(half)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-be"])
def test_wide_files_divide_into_wide_messages(encoding):
    """A file in UTF-16 gives messages in UTF-16, readable alone; one that breaks off within a character is refused."""
    raw = (FHS + BHS + ONE + TWO + b"BTS|2\rFTS|1\r").decode().replace("77", "7山").encode(encoding)
    parts = [parse(part) for part in split_messages(raw)]

    assert [part.segments[1].get(3) for part in parts] == ["7山", "78"]
    assert {part.charset[:3] for part in parts} == {"UTF"}
    assert not read_batch(raw).findings
    with pytest.raises(Incorrect):
        split_messages(raw[:-1])


def test_a_batch_that_breaks_off_gives_what_came():
    """Wherever a file ends: its whole messages, at most one half, and a finding that says so."""
    raw = FHS + BHS + ONE + TWO + b"BTS|2\rFTS|1\r"
    for end in range(len(FHS), raw.index(b"FTS")):
        batch = read_batch(raw[:end])

        assert "file-not-ended" in {finding.code for finding in batch.findings}
        whole = [part for part in batch.messages if part in (ONE, TWO)]
        assert whole == [ONE, TWO][: len(whole)]
        assert len(batch.messages) - len(whole) <= 1
