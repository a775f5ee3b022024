"""Files of messages."""

from __future__ import annotations

import pytest

from bridge.hl7v2.batch import split_messages
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
