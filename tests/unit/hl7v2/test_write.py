"""Writing: values, segments, messages."""

from __future__ import annotations

import pytest

from bridge.hl7v2.delimiters import Delimiters
from bridge.hl7v2.message import NULL, parse
from bridge.hl7v2.write import write, write_field, write_message, write_segment


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
