"""Names of table 0211 and what is done where none is declared."""

from __future__ import annotations

from importlib.resources import files

import pytest

from bridge.errors import Incorrect, Unsupported
from bridge.hl7v2.charset import decode, decode_octets, decode_wide, encode, encoding_of


@pytest.mark.parametrize("part", [*range(1, 12), 13, 14, 15, 16])
@pytest.mark.parametrize("spelling", ["8859/{}", "8859-{}", "ISO-8859-{}", "ISO8859-{}", "ISO 8859/{}", "iso_8859-{}"])
def test_every_spelling_of_the_iso_8859_family(part, spelling):
    """All spellings in use name the same part, which Python can decode."""
    name = encoding_of(spelling.format(part))

    assert name == f"ISO-8859-{part}"
    assert decode(b"A", spelling.format(part)) == ("A", name, False)


@pytest.mark.parametrize("name", ["8859/12", "8859/17", "8859/0", "ISO IR999", "VENDOR 7", "utf-7", "-"])
def test_unsupported_names(name):
    """What is not read is said so, never guessed."""
    assert encoding_of(name) is None
    with pytest.raises(Unsupported):
        decode(b"A", name)


@pytest.mark.parametrize("name", ["ASCII", "us-ascii", "UNICODE UTF-8", " utf-8 ", "UTF8"])
def test_unicode_and_ascii_names(name):
    """ASCII and UTF-8 under their usual names."""
    assert decode(b"A", name).text == "A"
    assert not decode(b"A", name).fallback


def test_nothing_declared():
    """UTF-8 where the bytes are UTF-8, else ISO-8859-1; both recorded as fallback."""
    assert decode("é".encode(), "") == ("é", "UTF-8", True)
    assert decode(b"\xe9", "") == ("é", "ISO-8859-1", True)


def test_nothing_declared_and_nothing_but_ascii_sent():
    """ASCII is what the absence of MSH-18 says: no fallback."""
    assert decode(b"A", "") == ("A", "UTF-8", False)


def test_ascii_declared_and_more_sent():
    """Valid UTF-8 is read as that and recorded; anything else is refused."""
    assert decode("é".encode(), "ASCII") == ("é", "UTF-8", True)
    with pytest.raises(Incorrect):
        decode(b"\xe9", "ASCII")


@pytest.mark.parametrize(("name", "raw"), [("UTF-8", b"\xe9"), ("UTF-8", b"\xed\xa0\x80"), ("8859/3", b"\xa5")])
def test_bytes_that_are_not_what_is_declared(name, raw):
    """A declared encoding is a promise: one byte that breaks it closes the message."""
    with pytest.raises(Incorrect) as caught:
        decode(b"ok" + raw, name)

    assert caught.value.code == "charset-invalid"
    assert "offset 2" in caught.value.message


TABLE_0211 = [
    *("ASCII", *(f"8859/{part}" for part in range(1, 10)), "8859/15", "ISO IR6", "ISO IR14", "ISO IR87", "ISO IR159"),
    *("GB 18030-2000", "KS X 1001", "CNS 11643-1992", "BIG-5", "UNICODE", "UNICODE UTF-8", "UNICODE UTF-16"),
    *("UNICODE UTF-32", "JAS2020", "JIS X 0202"),
]


@pytest.mark.parametrize("name", TABLE_0211)
def test_every_name_of_the_table_is_read(name):
    """All of table 0211 (v2.9) has an encoding, and reads what is ASCII in it."""
    assert encoding_of(name)
    assert decode(b"MSH|A", name).text == "MSH|A"


def test_no_spelling_names_two_sets():
    """Every name of the file, in every spelling, means the encoding of its own row."""
    for line in files("bridge.hl7v2").joinpath("charsets.tsv").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, encoding, codec, *spellings = line.split("\t")
        for spelling in (name, *";".join(spellings).split(";")):
            if spelling.strip():
                assert encoding_of(spelling) == encoding
        if codec not in ("switch", "wide"):
            assert encode(decode(b"A", name).text, encoding) == b"A"


@pytest.mark.parametrize(
    ("name", "text", "raw"),
    [
        ("GB 18030-2000", "汉字€𠀀", "汉字€𠀀".encode("gb18030")),
        ("KS X 1001", "한글", b"\xc7\xd1\xb1\xdb"),
        ("BIG-5", "功許", b"\xa5\x5c\xb3\x5c"),  # both end in what ASCII calls a backslash
        ("CNS 11643-1992", "中文𠀀", b"\xc4\xe3\xc5\xc6\x8e\xa5\xa1\xa5"),
        ("ISO IR14", "ﾔﾏﾀﾞ^~\\", b"\xd4\xcf\xc0\xde^~\\"),
        ("8859/7", "Αθήνα", "Αθήνα".encode("iso8859-7")),
        ("WINDOWS-1252", "€“”", b"\x80\x93\x94"),
    ],
)
def test_sets_in_one_piece(name, text, raw):
    """What each says, and that writing it gives the same bytes."""
    read = decode(raw, name)

    assert (read.text, read.fallback) == (text, False)
    assert encode(text, read.charset) == raw


def test_cns_11643_agrees_with_big5():
    """Its planes hold every character of Big5's two levels, and their bytes are distinct."""
    rows = [bytes((lead, trail)) for lead in range(0xA4, 0xFA) for trail in (*range(0x40, 0x7F), *range(0xA1, 0xFF))]
    ideographs = [c for c in (row.decode("big5", "ignore") for row in rows) if "\u4e00" <= c <= "\u9fff"]
    written = [encode(character, "EUC-TW") for character in ideographs]

    assert len(ideographs) > 13_000
    assert decode(b"".join(written), "CNS 11643").text == "".join(ideographs)
    assert len(set(written)) == len(ideographs)


@pytest.mark.parametrize(
    ("name", "raw"), [("CNS 11643", b"\xc4"), ("CNS 11643", b"\x8e\xb0\xa1\xa1"), ("ISO IR14", b"\xff")]
)
def test_bytes_that_our_own_codecs_do_not_know(name, raw):
    """They are refused at their place, as Python's own would."""
    with pytest.raises(Incorrect) as caught:
        decode(b"ok" + raw, name)

    assert "offset 2" in caught.value.message


@pytest.mark.parametrize(
    "declared", ["~ISO IR87", "ASCII~ISO IR87", "ISO IR6~ISO IR87~ISO IR159", "ISO IR87", "JAS2020"]
)
def test_japanese_switches_to_kanji_and_back(declared):
    """ISO 2022 designations among ASCII; bytes of Kanji that look like delimiters are none."""
    raw = b"PID|||1^^^\x1b$B;3ED\x1b(B^\x1b$BJ|J^\x1b(B|x"
    read = decode(raw, declared)

    assert read == (raw.decode("iso2022_jp"), "US-ASCII+ISO-2022", False)
    assert read.text.count("|") == 4
    assert encode(read.text, read.charset) == raw


def test_every_way_into_another_set():
    """Katakana, both Kanji sets, Korean, Chinese, and right halves of ISO 8859, in one message; each line begins anew."""
    text = "aé山ｱ가简Ж丂鷗\rαb山\nｱ"
    written = encode(text, "ISO-8859-1+ISO-2022")
    read = decode(written, "8859/1~ISO IR87")

    assert read == (text, "ISO-8859-1+ISO-2022", False)
    with pytest.raises(UnicodeEncodeError):
        encode("𝄞", "ISO-8859-1+ISO-2022")


def test_designations_nobody_declared():
    """They are obeyed and recorded as fallback, among ASCII; elsewhere ESC is a character."""
    assert decode(b"\x1b$B;3\x1b(B", "") == ("山", "US-ASCII+ISO-2022", True)
    assert decode(b"\x1b$B;3\x1b(B", "ASCII") == ("山", "US-ASCII+ISO-2022", True)
    assert decode(b"\x1b$B;3\x1b(B", "UNICODE UTF-8") == ("\x1b$B;3\x1b(B", "UTF-8", False)
    assert decode(b"a\x1bb", "") == ("a\x1bb", "UTF-8", False)


def test_escapes_switch_where_msh_18_names_what_to():
    r"""``\C..\`` and ``\M..\`` as the standard's own examples have them; without alternates they stay letter by letter."""
    raw = rb"\M2442\;3ED\C2842\ \C2D42\%s\C2D46\%s" % (b"\xb1", b"\xe1")

    assert decode(raw, "8859/1~ISO IR87~8859/2~8859/7").text == "山田 ąα"
    assert decode(raw.replace(b"\\", b"@"), "8859/1~ISO IR87", b"@").text == "山田 ąα"
    assert decode(rb"\M2442\;3", "8859/1").text == r"\M2442\;3"


@pytest.mark.parametrize("raw", [b"\x1b$B;", b"\x1b$B;3\x1b(B\xe9", b"\x1b$(D\x7e\x7e\x1b(B"])
def test_switched_bytes_that_are_not_there(raw):
    """Half a Kanji, a right half that nobody designated, an empty place of a set."""
    with pytest.raises(Incorrect) as caught:
        decode(raw, "~ISO IR87")

    assert caught.value.code == "charset-invalid"


@pytest.mark.parametrize("encoding", ["utf-16le", "utf-16be", "utf-32le", "utf-32be"])
@pytest.mark.parametrize("before", ["", "\ufeff", "\r\n", "\ufeff\n"])
@pytest.mark.parametrize("framed", [False, True])
def test_wide_messages_are_found_with_and_without_a_mark(encoding, before, framed):
    """MSH is found in UTF-16 and UTF-32 of either byte order, blank lines and framing before it or not."""
    text = "MSH|^~\\&|A|B\rPID|1||山田𠀀"
    raw = f"{before}{text}\r".encode(encoding)
    read = decode_wide(b"\x0b" + raw + b"\x1c\r" if framed else raw)

    assert read == (text, encoding.upper())
    assert decode_wide(raw[:-1], strict=False)[0][:5] == "MSH|^"


@pytest.mark.parametrize("raw", [b"", b"MSH|", "PID|1".encode("utf-16"), b"\0" * 99, b"xM\0S\0H\0", b"\xff\xfe"])
def test_what_is_not_wide(raw):
    """Neither narrow messages nor wide bytes that begin with something else."""
    assert decode_wide(raw) is None


def test_half_a_surrogate_pair_is_refused():
    """A lone surrogate is no character of UTF-16."""
    with pytest.raises(Incorrect):
        decode_wide("MSH|A".encode("utf-16le") + b"\x00\xd8|\0")


def test_wide_declared_and_narrow_sent():
    """An engine that converts and leaves MSH-18 as it was: UTF-8, recorded; else refused."""
    assert decode("é".encode(), "UNICODE UTF-16") == ("é", "UTF-8", True)
    with pytest.raises(Incorrect):
        decode(b"\xe9", "UNICODE UTF-16")


def test_hexadecimal_escapes_in_every_encoding():
    """In the message's encoding; in UTF-16 as UTF-8; bytes that say nothing there as ISO-8859-1."""
    assert decode_octets(b"\xc4\xe3", "EUC-TW") == "中"
    assert decode_octets(b"\x1b$B;3\x1b(B", "US-ASCII+ISO-2022") == "山"
    assert decode_octets(b"\r\n", "UTF-16LE") == "\r\n"
    assert decode_octets(b"\xe9", "Big5") == "é"
