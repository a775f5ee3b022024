r"""Escape sequences: what stands between two ``\``."""

from __future__ import annotations

import pytest

from bridge.hl7v2.delimiters import Delimiters, unescape
from bridge.hl7v2.write import escape

WITH_TRUNCATION = Delimiters(truncation="#")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("plain", "plain"),
        ("a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f", "a|b^c&d~e\\f"),
        ("\\E\\T\\E\\", "\\T\\"),
        ("\\H\\bold\\N\\ plain", "bold plain"),
        ("\\X41\\\\X0d0A\\", "A\r\n"),
        ("\\XC3A9\\", "é"),
        ("\\XE9\\", "é"),
        ("one\\.br\\two\\.sp2\\three\\.sp\\four", "one\ntwo\n\nthree\nfour"),
        ("a\\.sk3\\b\\.sk 2\\c\\.fi\\d\\.nf\\e", "a   b  cde"),
        ("\\.ce\\Title\\.ce\\Second\\.br\\\\.ce\\Third", "Title\nSecond\nThird"),
        ("\\.in+4\\a\\.br\\b\\.in-2\\\\.br\\c\\.in0\\\\.br\\d", "    a\n    b\n  c\nd"),
        ("\\.ti+2\\a\\.br\\b\\.ti2\\c", "  a\nbc"),
        ("\\.in2\\\\.ti+3\\a\\.sp2\\\\.ti+1\\b\\F\\\\X41\\", "     a\n\n   b|A"),
        ("\\P\\", "\\P\\"),
    ],
)
def test_known_sequences(written, meant):
    """Each sequence of chapter 2.7 becomes what it stands for."""
    assert unescape(written, Delimiters()) == meant


@pytest.mark.parametrize(
    "written",
    [
        "C:\\temp\\new",
        "\\",
        "a\\b",
        "\\X4\\",
        "\\XZZ\\",
        "\\X\\",
        "\\Q\\",
        "\\Z01\\",
        "\\C2842\\",
        "\\f\\",
        "\\.zz\\",
        "\\\\",
    ],
)
def test_unknown_sequences_are_kept(written):
    """What no rule knows is kept letter by letter: a path or a local escape loses nothing."""
    assert unescape(written, Delimiters()) == written


def test_an_unknown_sequence_does_not_hide_a_known_one():
    """The escape character that ends nothing may begin something."""
    assert unescape("C:\\dir\\T\\x", Delimiters()) == "C:\\dir&x"


def test_hexadecimal_is_read_in_the_messages_encoding():
    """The same byte is another letter in another part of ISO 8859."""
    assert unescape("\\XB1\\", Delimiters(charset="ISO-8859-2")) == "ą"


def test_truncation_character_is_escaped_where_declared():
    r"""``\P\`` exists only where MSH-2 declares a fifth character."""
    assert unescape("a\\P\\b", WITH_TRUNCATION) == "a#b"
    assert escape("a#b", WITH_TRUNCATION) == "a\\P\\b"
    assert escape("a#b") == "a#b"


def test_repetition_counts_are_bounded():
    """A hostile count cannot blow up the text."""
    assert len(unescape("\\.sp999\\" * 10, Delimiters())) == 1000
    assert len(unescape("\\.in+999\\" * 10 + "\\.br\\" * 10, Delimiters())) == 100 + 10 * 101


def test_nested_escapes_are_read_once():
    """What an escape sequence yields is never read as another one."""
    assert unescape("\\E\\F\\E\\", Delimiters()) == "\\F\\"
    assert unescape("\\X5C465C\\", Delimiters()) == "\\F\\"
    assert unescape("\\E\\X41\\E\\" * 3, Delimiters()) == "\\X41\\" * 3
