"""Names of table 0211 and what is done where none is declared."""

from __future__ import annotations

import pytest

from bridge.errors import Incorrect, Unsupported
from bridge.hl7v2.charset import decode, encoding_of


@pytest.mark.parametrize("part", [*range(1, 12), 13, 14, 15])
@pytest.mark.parametrize("spelling", ["8859/{}", "8859-{}", "ISO-8859-{}", "ISO8859-{}", "ISO 8859/{}", "iso_8859-{}"])
def test_every_spelling_of_the_iso_8859_family(part, spelling):
    """All spellings in use name the same part, which Python can decode."""
    name = encoding_of(spelling.format(part))

    assert name == f"ISO-8859-{part}"
    assert decode(b"A", spelling.format(part)) == ("A", name, False)


@pytest.mark.parametrize(
    "name", ["8859/12", "8859/16", "8859/0", "ISO IR87", "GB 18030-2000", "UNICODE UTF-16", "utf-7"]
)
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
