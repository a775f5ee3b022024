"""What the HL7 v2 reader makes of messages, good and bad."""

from __future__ import annotations

import pytest

from bridge.errors import Incorrect, Unsupported
from bridge.hl7v2.message import NULL, Limits, State, parse, primitive, valued_elements
from bridge.hl7v2.write import write

MSH = rb"MSH|^~\&|LAB|NORTH|EHR|SOUTH|20260102030405||ORU^R01|4711|P|2.5.1"


def message(*segments: bytes, msh: bytes = MSH, end: bytes = b"\r"):
    return parse(end.join([msh, *segments]) + end)


def code_of(raw: bytes, **options) -> str:
    with pytest.raises(Incorrect) as caught:
        parse(raw, **options)
    return caught.value.code


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\r\r\n\r", b"\n \n"])
def test_every_line_end_gives_the_same_segments(end):
    """CR, LF, CRLF and blank lines separate segments alike."""
    read = message(b"PID|1||77", b"PV1|1|I", end=end)

    assert [(s.name, s.position, s.text) for s in read.segments[1:]] == [("PID", 2, "PID|1||77"), ("PV1", 3, "PV1|1|I")]


@pytest.mark.parametrize("raw", [MSH, b"\x0b" + MSH + b"\r\x1c\r", b"\xef\xbb\xbf" + MSH, b"\r\n \t" + MSH + b"\n"])
def test_framing_and_blanks_around_a_message_are_no_part_of_it(raw):
    """VT, FS, a byte order mark and blank lines around the message change nothing; ``raw`` stays as given."""
    read = parse(raw)

    assert read.raw == raw
    assert read.segments[0].text == MSH.decode()
    assert read.header.version == "2.5.1"


def test_msh_fields_have_hl7s_numbers():
    """MSH-1 is the field separator, MSH-2 the encoding characters, never split or unescaped."""
    msh = parse(MSH).segments[0]

    assert msh.get(1) == "|"
    assert msh.get(2) == r"^~\&"
    assert msh.get(2, 2) is None
    assert msh.repetitions(2) == (r"^~\&",)
    assert msh.get(12) == "2.5.1"
    assert msh.field_count == 12


def test_header_and_type():
    """The header gives MSH's fields as text, absent ones empty; HD.2 stands in for an absent HD.1."""
    read = parse(rb"MSH|^~\&|^1.2.3^ISO|NORTH|EHR||20260102||ADT^A04|a\T\b|P|2.5|||AL|NE|CHE|8859/1~UNICODE UTF-8")

    assert read.header.sending_application == "1.2.3"
    assert read.header.sending_facility == "NORTH"
    assert read.header.receiving_facility == ""
    assert read.header.control_id == "a&b"
    assert (read.header.accept_ack, read.header.application_ack) == ("AL", "NE")
    assert read.header.charsets == ("8859/1", "UNICODE UTF-8")
    assert read.type == ("ADT", "A04", "ADT_A01")


@pytest.mark.parametrize(
    ("msh9", "structure"),
    [
        (b"ADT^A08", "ADT_A01"),
        (b"ADT^A40", "ADT_A39"),
        (b"ADT^A02", "ADT_A02"),
        (b"ORU^R01", "ORU_R01"),
        (b"MDM^T10", "MDM_T02"),
        (b"ADT^A08^ADT_A08", "ADT_A08"),
        (b"ACK", "ACK"),
        (b"ORU", "ORU_R01"),
        (b"ORU_R01", "ORU_R01"),
        (b"SRR^S03", "SRR_S01"),
        (b"QRY", "QRY"),
        (b"ZZZ^Z99", "ZZZ_Z99"),
    ],
)
def test_structure_is_derived_where_msh_9_3_is_missing(msh9, structure):
    """Table 0354 tells the structure; what the sender wrote stands."""
    assert parse(MSH.replace(b"ORU^R01", msh9)).type.structure == structure


def test_event_falls_back_to_evn():
    """A message type without event takes EVN-1."""
    assert message(b"EVN|A03|2026", msh=MSH.replace(b"ORU^R01", b"ADT")).type == ("ADT", "A03", "ADT_A03")


def test_absent_null_and_value_are_kept_apart():
    """None says nothing, NULL says cleared, text is a value, at every level."""
    pid = message(b'PID|1||""|x|Doe^""^&""&b~~""|^^|""^""|').segments[1]

    assert pid.get(2) is None
    assert pid.get(3) is NULL
    assert pid.get(3, 4, 2) is NULL
    assert pid.get(3, repetition=2) is None
    assert pid.get(5) == "Doe"
    assert pid.get(5, 2) is NULL
    assert pid.get(5, 3) is None
    assert pid.get(5, 3, 2) is NULL
    assert pid.get(5, 3, 3) == "b"
    assert pid.get(5, repetition=2) is None
    assert pid.get(5, 7, repetition=3) is NULL
    assert pid.get(5, repetition=4) is None
    assert pid.get(99) is None
    assert [pid.state(n) for n in (2, 3, 4, 5, 6, 7, 8, 99)] == [
        State.ABSENT,
        State.NULL,
        State.VALUE,
        State.VALUE,
        State.ABSENT,
        State.NULL,
        State.ABSENT,
        State.ABSENT,
    ]
    assert not NULL


def test_positions_below_what_was_split():
    """An undivided text answers at position 1 of each finer level, and nowhere else."""
    pid = message(b"PID|1||77").segments[1]

    assert pid.get(3, 1, 1) == "77"
    assert pid.get(3, 2) is None
    assert pid.get(3, 1, 2) is None
    assert pid.get(3, 0) is None
    assert pid.get(0) is None
    assert pid.get(-1) is None


def test_fields_and_repetitions_are_raw():
    """``field`` and ``repetitions`` give the text as written; an absent field has no repetitions."""
    pid = message(rb"PID|||1^\T\~2^^^X||").segments[1]

    assert pid.field(3) == r"1^\T\~2^^^X"
    assert pid.repetitions(3) == (r"1^\T\ "[:-1], "2^^^X")
    assert pid.repetitions(4) == ()
    assert pid.field(40) == ""
    assert primitive(pid.repetitions(3)[0], pid.delimiters, 2) == "&"


def test_own_delimiters_are_obeyed():
    """Whatever distinct punctuation MSH declares is what divides the message, a truncation character included."""
    read = parse(b"MSH!*%@:#!A!B!C!D!2026!!ADT*A01*ADT_A01!1!P!2.7\rPID!!!1*2:3%4!a@F@b@P@c|^\r")
    pid = read.segments[1]

    assert read.delimiters.truncation == "#"
    assert (pid.get(3, 2, 2), pid.get(3, repetition=2)) == ("3", "4")
    assert pid.get(4) == "a!b#c|^"


@pytest.mark.parametrize("written", [rb"^~\&", rb"^~\\&", b"^~\\", b"^~", b"^", b""])
def test_short_or_doubled_encoding_characters_are_read_as_meant(written):
    """Missing encoding characters are the usual ones; an escape character doubled by an export counts once."""
    read = parse(MSH.replace(rb"^~\&", written) + b"\rPID|||1&2^3~4")

    assert read.delimiters.encoding_characters == r"^~\&"
    assert read.segments[1].get(3, 1, 2) == "2"


@pytest.mark.parametrize("written", [rb"^^\&", rb"a~\&", rb"^~\&#$", b'^~\\"', b"^~\xe9&"])
def test_delimiters_that_cannot_divide_are_refused(written):
    """Equal, too many or unprintable delimiters, or the quotation mark that says null."""
    raw = MSH.replace(rb"^~\&", written)

    assert code_of(raw) == "delimiters-invalid"


def test_line_breaks_inside_a_field_continue_it():
    """A line that cannot begin a segment belongs to the field before; nothing of it is lost."""
    read = message(b"EVN", b"OBX|1|TX|||first", b"second line", b"END", b"  third|x", b"  NTE|1||indented")

    assert [s.name for s in read.segments] == ["MSH", "EVN", "OBX", "NTE"]
    assert read.segments[2].get(5) == "first\nsecond line\nEND\n  third"
    assert read.segments[3].get(3) == "indented"


def test_a_name_alone_before_more_of_a_field_is_part_of_it():
    """A segment without fields cannot be continued: name and rest belong to the field before both."""
    read = message(b"PV1|1", b"EVN", b"DG1", b"goes on|2", b"EVN")

    assert [s.name for s in read.segments] == ["MSH", "PV1", "EVN"]
    assert read.segments[1].text == "PV1|1\nEVN\nDG1\ngoes on|2"


def test_valued_elements_lists_every_primitive_once():
    """Field, repetition, component, subcomponent and raw text of whatever is valued; MSH-1 and MSH-2 undivided."""
    read = message(rb'PID|1||A^^^B&""~\T\||^""')

    assert [tuple(e) for e in valued_elements(read.segments[1])] == [
        (1, 1, 1, 1, "1"),
        (3, 1, 1, 1, "A"),
        (3, 1, 4, 1, "B"),
        (3, 1, 4, 2, NULL),
        (3, 2, 1, 1, r"\T" + "\\"),
        (5, 1, 2, 1, NULL),
    ]
    assert [tuple(e)[4] for e in valued_elements(read.segments[0])][:3] == ["|", r"^~\&", "LAB"]


def test_repr_shows_structure_and_no_values():
    """What a log or a traceback prints of a message names segments only, and no name that is not one."""
    read = message(b"PID|1||SECRET-77", b"\xc3\x84BC|SECRET", b"PV1")

    shown = repr(read) + repr(read.segments) + repr(read.segments[1])

    assert "PID" in shown
    assert "SECRET" not in shown
    assert "ÄBC" not in shown


def test_segments_by_name():
    """``segment`` gives the first of a name, ``all`` every one, in order."""
    read = message(b"OBX|1", b"NTE|1", b"OBX|2")

    assert read.segment("OBX") is read.segments[1]
    assert [s.get(1) for s in read.all("OBX")] == ["1", "2"]
    assert read.segment("ZZZ") is None
    assert read.all("ZZZ") == ()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "not-hl7"),
        (b"hello", "not-hl7"),
        (b'{"resourceType": "Patient"}', "not-hl7"),
        (b"\x00" * 100, "not-hl7"),
        (b"PID|1||77\rMSH|^~\\&|", "not-hl7"),
        (b"MSH", "msh-truncated"),
        (b"MSH|^~\\&", "msh-truncated"),
        (b"MSH|^~\\&|LAB|NORTH|EHR\rPID|1||77|||||||||", "msh-truncated"),
        (b"MSHA^~\\&ALABANORTHAEHRA", "delimiters-invalid"),
        (b"FHS|^~\\&|LAB\rBHS|^~\\&\r" + MSH, "hl7-batch"),
        (b"BHS|^~\\&|LAB\r" + MSH, "hl7-batch"),
        (MSH + b"\rPID|1||77\r" + MSH + b"\rPID|1||78", "several-messages"),
        (MSH + b"\rPID|1||77" + MSH + b"\rPID|1||78", "several-messages"),
        (MSH + b"\rPID|1||77\rMSH!^~\\&!LAB", "several-messages"),
    ],
)
def test_what_is_no_message_is_refused_by_name(raw, code):
    """Each kind of wrong beginning has its own code."""
    assert code_of(raw) == code


def test_limits():
    """Size, lines, segments and fields are bounded, each with its code."""
    many = MSH + b"\rNTE|1" * 50

    assert code_of(MSH, limits=Limits(message_bytes=20)) == "message-too-large"
    assert code_of(many, limits=Limits(segments=50)) == "too-many-segments"
    assert code_of(MSH + b"\r" * 91 + b"NTE|1", limits=Limits(lines=90)) == "too-many-lines"
    assert code_of(MSH + b"\rOBX|" + b"x" * 2000, limits=Limits(segment_chars=2000)) == "segment-too-long"
    assert code_of(MSH + b"\rOBX" + b"|" * 1001) == "too-many-fields"
    assert code_of(MSH + b"\rPID|||" + b"~" * 1001, limits=Limits(repetitions=1000)) == "too-many-repetitions"
    assert code_of(MSH + b"\rPID|||" + b"^&" * 501, limits=Limits(elements=1000)) == "too-many-elements"
    assert parse(MSH + b"\rPID|||" + b"~" * 999, limits=Limits(repetitions=1000, elements=1025)).segments[1]
    assert parse(many, limits=Limits(segments=51, lines=51)).segments[-1].position == 51


def test_a_segment_of_fifty_megabytes_is_refused():
    """Under the default limits; and it is refused as well where the message limit alone would let it pass."""
    raw = MSH + b"\rOBX|1|ED|||" + b"x" * 50_000_000

    assert code_of(raw) == "message-too-large"
    assert code_of(raw, limits=Limits(message_bytes=60_000_000)) == "segment-too-long"


def test_charset_by_msh_18():
    """MSH-18's first repetition decides, once for the whole message."""
    header = MSH + b"||||||"

    latin = parse(header + b"8859/2~UNICODE UTF-8\rPID|1||||N\xf3wak")
    assert (latin.charset, latin.charset_fallback) == ("ISO-8859-2", False)
    assert latin.segments[1].get(5) == "Nówak"

    utf8 = parse(header + b"UNICODE UTF-8\rPID|1||||N\xc3\xb3wak")
    assert (utf8.charset, utf8.charset_fallback) == ("UTF-8", False)
    assert utf8.segments[1].get(5) == "Nówak"


def test_charset_of_the_site_overrules_msh_18():
    """A site known to declare one thing and send another is read as the site's file says."""
    read = parse(MSH + b"||||||ASCII\rPID|1||||N\xf3wak", charset="8859/2")

    assert (read.charset, read.segments[1].get(5)) == ("ISO-8859-2", "Nówak")


def test_wrong_charset():
    """Bytes that are not what is declared close the message; an unknown name is unsupported. Neither shows content."""
    with pytest.raises(Incorrect) as invalid:
        parse(MSH + b"||||||UNICODE UTF-8\rPID|1||||N\xf3wak")
    with pytest.raises(Unsupported) as unknown:
        parse(MSH + b"||||||VENDOR 7\rPID|1")

    assert invalid.value.code == "charset-invalid"
    assert "wak" not in str(invalid.value)
    assert unknown.value.code == "charset-unsupported"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16le", "utf-16be", "utf-32", "utf-32le", "utf-32be"])
@pytest.mark.parametrize(
    ("declared", "fallback"), [("", True), ("8859/1", True), ("UNICODE UTF-{}", False), ("X", True)]
)
def test_wide_messages_are_read_whatever_they_declare(encoding, declared, fallback):
    """With or without a byte order mark; what MSH-18 says of it decides only whether that is recorded as fallback."""
    text = MSH.decode() + f"||||||{declared.format(encoding[4:6])}\r" + "PID|1||77||山田\\F\\\\X0D0A\\"
    read = parse(text.encode(encoding))

    assert read.charset.startswith(encoding.upper())
    assert read.charset_fallback is fallback
    assert read.segments[1].get(5) == "山田|\r\n"
    assert [segment.text for segment in parse(write(read)).segments] == text.split("\r")


def test_a_header_with_bytes_that_look_like_its_separator():
    """The second byte of a character of Big5, GB 18030 or Shift_JIS, or of Kanji, divides no field of MSH."""
    for declared, name, raw in [
        ("BIG-5", "弧", b"\xa9\xb7"),
        ("BIG-5", "育", b"\xa8|"),
        ("GB 18030-2000", "寍", "寍".encode("gb18030")),
        ("~ISO IR87", "ー", b"\x1b$B!<\x1b(B"),
        ("~ISO IR87", "陛", b"\x1b$BJ|\x1b(B"),
    ]:
        header = MSH.replace(b"NORTH", raw) + b"||||||" + declared.encode()
        read = parse(header)

        assert read.header.version == "2.5.1", declared
        assert read.header.sending_facility == (name if b"|" not in raw else read.header.sending_facility)
        assert len(read.header.sending_facility) == 1
        assert len(read.header.charsets) >= 1


def test_sets_to_switch_to():
    """The repetitions of MSH-18: a name in Kanji behind its romaji, by designations and by escapes."""
    header = MSH + b"||||||~ISO IR87||ISO 2022-1994"
    by_designation = parse(header + b"\rPID|||7||Yamada^Taro~\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B||1965\r")
    by_escape = parse(header + rb"%sPID|||7||Yamada^Taro~\M2442\;3ED\C2842\^\M2442\B@O:\C2842\||1965" % b"\r")

    for read in (by_designation, by_escape):
        assert read.charset == "US-ASCII+ISO-2022"
        assert not read.charset_fallback
        assert (read.segments[1].get(5, 1, 1, 2), read.segments[1].get(5, 2, 1, 2)) == ("山田", "太郎")
        assert read.segments[1].get(7) == "1965"
        assert parse(write(read)).segments[1].text == read.segments[1].text


@pytest.mark.parametrize(
    "version", ["2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5.1", "2.6", "2.7.1", "2.8.2", "2.9", "2.15^XXX", "3", ""]
)
def test_every_version_is_read_alike(version):
    """What MSH-12 claims changes nothing about how a message is divided."""
    read = message(b"PID|1||77^^^A", msh=MSH.replace(b"2.5.1", version.encode()))

    assert read.header.version == version.partition("^")[0]
    assert read.segments[1].get(3, 4) == "A"
