"""Properties of the HL7 v2 reader and writer over any input."""

from __future__ import annotations

import re
import string
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import BridgeError, Category
from bridge.hl7v2.acknowledge import AckCode, AckError, acknowledge, read_asked
from bridge.hl7v2.batch import split_messages
from bridge.hl7v2.delimiters import PUNCTUATION, Delimiters, unescape
from bridge.hl7v2.message import NULL, Message, parse, valued_elements
from bridge.hl7v2.times import parse_time, parse_time_of_day
from bridge.hl7v2.write import escape, write, write_message, write_segment

NOW = datetime(2026, 2, 28, tzinfo=UTC)
HEADER = b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|7|P|2.5"
PIECES = [
    b"|",
    b"^",
    b"~",
    b"\\",
    b"&",
    b"\r",
    b"\n",
    b"\x0b",
    b"\x1c",
    b" ",
    b'""',
    b"PID|",
    b"OBX|",
    b"MSH|",
    b"EVN",
    b"\xe9",
    b"\x1b$B",
    b"\x1b(B",
    b"\x1b-F",
    b"\\M2442\\",
    b"\\C2842\\",
    b"\\.in+4\\",
    b"\\.br\\",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
HL7ISH = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6)), max_size=40).map(b"".join)
CHARSETS = st.sampled_from(
    [
        b"",
        *(
            b"||||||" + name
            for name in (b"ASCII", b"8859/1", b"UNICODE UTF-8", b"~ISO IR87", b"8859/1~8859/7", b"BIG-5")
        ),
    ]
)
LIKE_A_MESSAGE = st.builds(lambda charset, rest: HEADER + charset + b"\r" + rest, CHARSETS, HL7ISH)
DELIMITERS = st.permutations(sorted(PUNCTUATION)).flatmap(
    lambda marks: st.sampled_from([Delimiters(*marks[:5]), Delimiters(*marks[:6])])
)
FHIR_DATE_TIME = re.compile(
    r"([0-9]([0-9]([0-9][1-9]|[1-9]0)|[1-9]00)|[1-9]000)(-(0[1-9]|1[0-2])(-(0[1-9]|[1-2][0-9]|3[0-1])"
    r"(T([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?(Z|(\+|-)((0[0-9]|1[0-3]):[0-5][0-9]|14:00)))?)?)?"
)
FHIR_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?")


def read(raw: bytes) -> Message | None:
    """The message, or None where the reader refused with an error of the closed categories that retrying cannot mend."""
    try:
        return parse(raw)
    except BridgeError as error:
        if error.category in (Category.INCORRECT, Category.UNSUPPORTED):
            return None
        raise


@given(st.one_of(st.binary(), LIKE_A_MESSAGE, HL7ISH.map(lambda rest: b"MSH" + rest)))
def test_any_bytes_are_a_message_or_a_closed_error(raw):
    """And every question to the message has an answer: no accessor raises."""
    message = read(raw)
    if message is None:
        return

    assert message.segments[0].name == "MSH"
    assert len(message.type) == 3
    assert message.header.control_id is not None
    for segment in message.segments:
        for number in range(-1, segment.field_count + 2):
            assert segment.state(number) is not None
            for repetition, _ in enumerate(segment.repetitions(number), 1):
                assert segment.get(number, 2, 2, repetition) != ""


@given(LIKE_A_MESSAGE)
@example(HEADER + b"\rPID|a\x1c\r \r")
@example(HEADER + b"\rPID|a\x0b\x1c")
@example(HEADER + b"\rEVN\r|")
@example(HEADER + b"||||||~ISO IR87\rPID|\x1b$B;3ED\x1b(B\x1b\r")
@example(HEADER + b"||||||8859/1~ISO IR87\rPID|\\M2442\\;3ED\\C2842\\\xe9\r")
@example((HEADER + b"\rPID|a\r").decode().encode("utf-16"))
def test_what_was_read_is_written_and_read_again_as_the_same(raw):
    """Writing keeps every segment, element and meaning; writing again changes no byte."""
    first = read(raw)
    if first is None:
        return
    written = write(first)
    second = parse(written, charset=first.charset)

    assert write(second) == written
    assert [s.name for s in second.segments] == [s.name for s in first.segments]
    for before, after in zip(first.segments, second.segments, strict=True):
        assert [(e[:4], meaning(e.text, first)) for e in valued_elements(before)] == [
            (e[:4], meaning(e.text, second)) for e in valued_elements(after)
        ]


@given(TEXT, st.sampled_from(["UTF-8", "UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE", "GB18030"]))
def test_any_text_survives_in_every_encoding_that_has_it(text, encoding):
    """Escaped, written and read again it is the same, wherever MSH must be found first."""
    head = HEADER.decode() + ("||||||GB 18030-2000" if encoding == "GB18030" else "")
    read = parse(write_message([head, f"PID|||||{escape(text)}"], encoding))

    assert read.charset == encoding
    assert read.segments[1].get(5) == (text or None)


@given(st.text(st.sampled_from("aé~\\山ｱ가简Ж丂鷗\x1b$B(\n"), max_size=30))
def test_switched_texts_survive(text):
    """What is written with designations is read as the same, segment by segment."""
    read = parse(
        write_message([HEADER.decode() + "||||||8859/1~ISO IR87", f"PID|||||{escape(text)}"], "ISO-8859-1+ISO-2022")
    )

    assert (read.segments[1].get(5) if len(read.segments) > 1 else None) == (text or None)


def meaning(text, message: Message):
    return NULL if text is NULL else unescape(text, message.delimiters)


@given(LIKE_A_MESSAGE)
def test_every_valued_element_is_what_get_answers_there(raw):
    """The walk and the questions agree, and the walk misses no position within reach."""
    message = read(raw)
    if message is None:
        return
    for segment in message.segments[1:]:
        found = {element[:4]: meaning(element.text, message) for element in valued_elements(segment)}
        for (field, repetition, component, subcomponent), value in found.items():
            assert segment.get(field, component, subcomponent, repetition) == (
                value or (NULL if value is NULL else None)
            )
        for field in range(1, segment.field_count + 1):
            for repetition in range(1, 4):
                for component in range(1, 4):
                    asked = segment.get(field, component, 1, repetition)
                    if asked is not None and asked is not NULL:
                        assert found[field, repetition, component, 1] == asked


@given(TEXT, DELIMITERS)
@example('""', Delimiters())
@example("\\X41\\", Delimiters())
def test_escaping_is_undone_by_unescaping(text, delimiters):
    """Any text survives, under any delimiters, and divides nothing on its way."""
    written = escape(text, delimiters)

    assert unescape(written, delimiters) == text
    assert written != '""'
    assert not {
        delimiters.field,
        delimiters.component,
        delimiters.repetition,
        delimiters.subcomponent,
        "\r",
        "\n",
    } & set(written.replace(delimiters.escape, ""))


COMPONENTS = st.lists(st.one_of(st.none(), TEXT), max_size=3).map(tuple)
FIELDS = st.lists(st.lists(COMPONENTS, max_size=3).map(tuple), max_size=3)


@given(DELIMITERS, st.lists(FIELDS, max_size=5))
def test_written_values_are_read_at_their_positions(delimiters, fields):
    """Fields, repetitions, components and subcomponents come back where they were put, in each delimiter alphabet."""
    msh = write_segment("MSH", ["A", None, None, None, "2026", None, ("ADT", "A01"), "1", "P", "2.7"], delimiters)
    message = parse(write_message([msh, write_segment("ZZZ", fields, delimiters)]))

    assert [segment.name for segment in message.segments] == ["MSH", "ZZZ"]
    for number, field in enumerate(fields, 1):
        for r, repetition in enumerate(field, 1):
            for c, component in enumerate(repetition, 1):
                for s, value in enumerate(component, 1):
                    assert message.segments[1].get(number, c, s, r) == (value or None)


@given(st.one_of(st.binary(), LIKE_A_MESSAGE), st.sampled_from(AckCode))
def test_anything_can_be_acknowledged(raw, code):
    """The acknowledgement of any bytes at all is one readable message, which answers with the code it was given."""
    written = acknowledge(read_asked(raw), code, control_id="A1", now=NOW, error=AckError("not-hl7"))
    # An echoed MSH-18 that this reader knows not, or that the echoed bytes belie, is the sender's own.
    answer = parse(written, charset="8859/1")

    assert answer.type.code == "ACK"
    assert answer.segment("MSA").get(1) == code.value
    assert [s.name for s in answer.segments] == ["MSH", "MSA", "ERR"]
    assert not set(written) & {0x0B, 0x1C}


@given(st.lists(HL7ISH.map(lambda rest: HEADER + b"\rPID|" + re.sub(rb"MSH|[FB][HT]S|\x0b", b"", rest)), min_size=1))
def test_files_divide_into_their_messages(messages):
    """As many messages come out as were put in, each with its own bytes."""
    parts = split_messages(b"\r\n".join(messages))

    assert len(parts) == len(messages)
    for part, message in zip(parts, messages, strict=True):
        assert part.strip(b"\r\n\x1c") == message.strip(b"\r\n\x1c")


@given(LIKE_A_MESSAGE.map(lambda raw: raw.replace(b"PID|", b"PID|sEcReT")))
def test_no_error_and_no_repr_shows_a_value(raw):
    """Whatever happens, what is printed names structure only."""
    try:
        shown = repr(parse(raw).segments) + repr(parse(raw))
    except BridgeError as error:
        shown = str(error)

    assert "sEcReT" not in shown


@given(
    st.one_of(st.text(), st.from_regex(r"[0-9]{4,14}(\.[0-9]{1,4})?([+-][0-9]{4})?", fullmatch=True)),
    st.sampled_from([None, "UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"]),
    st.sampled_from(["", "Y", "L", "D", "H", "M", "S"]),
)
def test_times_are_fhir_times_or_none(text, zone, degree):
    """Whatever parses is a dateTime that FHIR R4 accepts, and its instant is that of the text."""
    time = parse_time(text, degree)
    if time is None:
        return
    where = ZoneInfo(zone) if zone else None
    written = time.to_fhir(where).text
    instant = time.to_instant_us(where)

    assert FHIR_DATE_TIME.fullmatch(written)
    if "T" in written:
        parsed = datetime.fromisoformat(written[:19] + written[-6:])
        assert (parsed - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() == instant // 1_000_000


@given(st.one_of(st.text(), st.text(string.digits + ".+-", max_size=12)))
def test_times_of_day_are_fhir_times_or_none(text):
    """Whatever parses is a time that FHIR R4 accepts."""
    time = parse_time_of_day(text)

    assert time is None or FHIR_TIME.fullmatch(time)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"])
@given(st.datetimes(datetime(1950, 1, 1), datetime(2037, 1, 1)).map(lambda t: t.replace(microsecond=0)))  # noqa: DTZ001 - local times are the point
def test_local_times_resolve_forward_and_first(zone, local):
    """A local time that exists is kept and is the earlier of its two readings; one that does not is moved forward."""
    where = ZoneInfo(zone)
    time = parse_time(local.strftime("%Y%m%d%H%M%S"))
    assert time is not None
    text, cut, shifted = time.to_fhir(where)
    back = datetime.fromisoformat(text).astimezone(where).replace(tzinfo=None)
    readings = [local.replace(tzinfo=where, fold=fold).timestamp() for fold in (0, 1)]

    assert not cut
    assert back >= local
    assert shifted == (back != local)
    if not shifted:
        assert time.to_instant_us(where) == int(min(readings)) * 1_000_000
