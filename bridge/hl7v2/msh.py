"""The beginning of a message: framing around it, its delimiters, its declared character set. Reads no further than MSH-18."""

from __future__ import annotations

import re
from typing import Final

from bridge.errors import Incorrect
from bridge.hl7v2.charset import decode_wide, is_codec_of
from bridge.hl7v2.delimiters import PUNCTUATION, Delimiters, declared_delimiters

_FRAMING: Final = b"\x0b\x1c\r\n"
_BOM: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"[\r\n]")


def stripped(raw: bytes) -> bytes:
    """``raw`` without MLLP bytes, UTF-8's byte order mark and line ends around it."""
    return raw.strip(_FRAMING).removeprefix(_BOM).lstrip(_FRAMING + b" \t")


def without_framing(raw: bytes) -> bytes:
    """``raw`` from its first meaningful byte to its last: no MLLP bytes, byte order mark or line ends around it.

    What is UTF-16 or UTF-32, whole or cut anywhere, comes back in UTF-8.
    """
    body = stripped(raw)
    if body[:3] != b"MSH" and (wide := decode_wide(raw, strict=False)) is not None:
        return wide[0].encode("utf-8", "replace")
    return body


def read_msh(body: bytes) -> tuple[Delimiters, str]:
    """The delimiters and the declared charset of a message whose first bytes are its MSH segment.

    The latter is MSH-18 with its repetitions divided by ``~``, '' if it is absent.

    Raises: as :func:`parse`, for what concerns MSH alone.
    """
    start = body[:3]
    if start != b"MSH":
        if start in (b"FHS", b"BHS"):
            raise Incorrect(
                "hl7-batch",
                "this is a batch or file of messages, not one message",
                remedy="Split it into its messages.",
            )
        raise Incorrect("not-hl7", "the bytes do not begin with an MSH segment", remedy="Send HL7 v2 in ER7 encoding.")
    line = _LINE_END.split(body, maxsplit=1)[0]
    if len(line) == 3:
        raise _truncated()
    if chr(line[3]) not in PUNCTUATION:
        raise Incorrect(
            "delimiters-invalid", "MSH is followed by no field separator", remedy="Send HL7 v2 in ER7 encoding."
        )
    separator = line[3:4]
    fields = line.split(separator, 18)
    if len(fields) < 9:
        raise _truncated()
    delimiters = declared_delimiters(chr(line[3]), fields[1].decode("latin-1"), "UTF-8")
    if not line.isascii() or 0x1B in line:
        fields = _fields_beyond_ascii(line, separator)
    if len(fields) < 18:
        return delimiters, ""
    return delimiters, fields[17].decode("latin-1").replace(delimiters.repetition, "~").strip()


def _fields_beyond_ascii(line: bytes, separator: bytes) -> list[bytes]:
    """The fields of an MSH in which a byte of another character may look like the separator.

    Such are the second bytes of Big5, GB 18030 and Shift_JIS, and both of what ISO 2022 designates: read in one of these,
    the header must name just that one.
    """
    if 0x1B in line:
        line = _SWITCHED.sub(b"", line)
    for codec in ("cp950", "gb18030", "cp932"):
        fields = [
            field.encode("ascii", "replace")
            for field in line.decode(codec, "replace").split(separator.decode("ascii"), 18)
        ]
        if len(fields) >= 18 and is_codec_of(fields[17].decode("ascii"), codec):
            return fields
    return line.split(separator, 18)


_SWITCHED: Final = re.compile(rb"\x1b\$[^\x1b]*")


def _truncated() -> Incorrect:
    return Incorrect(
        "msh-truncated", "the MSH segment ends before the message type (MSH-9)", remedy="Send the whole header."
    )
