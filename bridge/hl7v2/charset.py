"""Character sets of HL7 v2 messages: MSH-18 (table 0211) to a decoder, once per message."""

from __future__ import annotations

import codecs
import re
from typing import Final, NamedTuple

from bridge.errors import Incorrect, Unsupported

_ISO_8859: Final = re.compile(r"(?:ISO[ _-]?(?:IR[ _-]?)?)?8859[/ _-]?(1[0-5]|[1-9])")
_NAMES: Final = {
    "ASCII": "US-ASCII",
    "US-ASCII": "US-ASCII",
    "UNICODE UTF-8": "UTF-8",
    "UNICODE UTF8": "UTF-8",
    "UTF-8": "UTF-8",
    "UTF8": "UTF-8",
}


class Decoded(NamedTuple):
    """Text of a message and how it was read: IANA name of the encoding, and whether that is not the declared one."""

    text: str
    charset: str
    fallback: bool


def encoding_of(name: str) -> str | None:
    """The IANA name of the encoding that table 0211 calls ``name``; None where this reader does not know it."""
    plain = name.strip().upper()
    known = _NAMES.get(plain)
    if known is not None:
        return known
    match = _ISO_8859.fullmatch(plain)
    if match is None or match[1] == "12":  # part 12 was never published
        return None
    return f"ISO-8859-{match[1]}"


def decode(raw: bytes, declared: str) -> Decoded:
    """Decodes ``raw`` by the declared name of MSH-18 (its first repetition; empty = not declared).

    Nothing declared: UTF-8 where the bytes are valid UTF-8, else ISO-8859-1, either recorded as fallback. ASCII declared
    and bytes above 127 that are valid UTF-8: read as UTF-8, recorded as fallback (senders declare ASCII by default).

    Raises:
        Unsupported: ``charset-unsupported``, the declared name is none that this reader knows.
        Incorrect: ``charset-invalid``, the bytes are not what is declared.
    """
    if not declared:
        try:
            return Decoded(raw.decode("utf-8"), "UTF-8", fallback=True)
        except UnicodeDecodeError:
            return Decoded(raw.decode("latin-1"), "ISO-8859-1", fallback=True)
    charset = encoding_of(declared)
    if charset is None:
        raise Unsupported(
            "charset-unsupported",
            "MSH-18 names a character set that is not supported",
            remedy="Use ASCII, 8859/1 to 8859/15 or UNICODE UTF-8, or set the charset of the site.",
        )
    if charset == "US-ASCII":
        if raw.isascii():
            return Decoded(raw.decode("ascii"), charset, fallback=False)
        return Decoded(_strict(raw, "UTF-8", charset), "UTF-8", fallback=True)
    return Decoded(_strict(raw, charset, charset), charset, fallback=False)


def _strict(raw: bytes, charset: str, declared: str) -> str:
    try:
        return codecs.decode(raw, charset)
    except UnicodeDecodeError as error:
        start = error.start
    raise Incorrect(
        "charset-invalid",
        f"the message is declared as {declared}, and the byte at offset {start} is not",
        remedy="Correct MSH-18 at the sender, or set the charset of the site.",
    )
