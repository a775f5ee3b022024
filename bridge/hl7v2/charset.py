"""Character sets of HL7 v2 messages: MSH-18 (table 0211) to text, once per message, and back.

An encoding is named as IANA does; ``+ISO-2022`` behind the name says that the message leaves it for other sets in between.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final, NamedTuple

from bridge.errors import Incorrect, Unsupported
from bridge.hl7v2.codecs import decode_bytes, encode_text
from bridge.hl7v2.iso2022 import decode_switching, encode_switching, may_switch, switches, switches_undeclared

_SWITCHING: Final = "+ISO-2022"
_REMEDY: Final = "Correct MSH-18 at the sender, or set the charset of the site."


class Decoded(NamedTuple):
    """Text of a message and how it was read: IANA name of the encoding, and whether that is not the declared one."""

    text: str
    charset: str
    fallback: bool


class _Known(NamedTuple):
    """A row of the table: IANA name of the encoding, and what reads it."""

    encoding: str
    codec: str


class _Plan(NamedTuple):
    """How to read by what is declared; ``encoding`` is '' where nothing is."""

    encoding: str
    codec: str
    may_switch: bool  # what the bytes must show all the same
    alternates: bool  # the declaration names sets to switch to, so that HL7's escapes may do it
    fallback: bool  # to switch is more than is declared


@cache
def _table() -> dict[str, _Known]:
    table: dict[str, _Known] = {}
    text = files("bridge.hl7v2").joinpath("charsets.tsv").read_text(encoding="ascii")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, encoding, codec, *spellings = line.split("\t")
        for spelling in (name, encoding, *";".join(spellings).split(";")):
            table.setdefault(_plain(spelling), _Known(encoding, codec))
    table.pop("", None)
    return table


@cache
def _codecs() -> dict[str, str]:
    """The codec of each encoding that :func:`decode` can answer, save those that switch."""
    return {known.encoding: known.codec for known in _table().values() if known.codec not in ("switch", "wide")}


def _plain(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", name.upper())


def encoding_of(name: str) -> str | None:
    """The IANA name of the encoding that table 0211 calls ``name``; None where this reader does not know it."""
    known = _table().get(_plain(name))
    return known.encoding if known is not None else None


def is_known(declared: str) -> bool:
    """Whether messages can be read by what is declared: MSH-18 or a site's ``charset``, repetitions divided by ``~``."""
    try:
        _plan(declared)
    except Unsupported:
        return False
    return True


def is_encoding(declared: str, encoding: str) -> bool:
    """Whether the first of the ``declared`` names says UTF-16 or UTF-32, as ``encoding`` is, whatever its byte order."""
    return bool(encoding) and encoding[:-2] == encoding_of(declared.partition("~")[0])


def is_codec_of(declared: str, codec: str) -> bool:
    """Whether the first of the ``declared`` names is a set that ``codec`` reads."""
    known = _table().get(_plain(declared.partition("~")[0]))
    return known is not None and known.codec == codec


@lru_cache(maxsize=256)
def _plan(declared: str) -> _Plan:
    names = [name.strip() for name in declared.removesuffix(_SWITCHING).split("~")]
    switching = declared.endswith(_SWITCHING)  # what was read so once has no more of HL7's escapes that switch
    alternates = any(names[1:])
    fallback = not (alternates or switching)
    if not names[0]:
        return _Plan(
            "US-ASCII" if alternates else "", "ascii", may_switch=True, alternates=alternates, fallback=fallback
        )
    known = _table().get(_plain(names[0]))
    if known is None:
        raise Unsupported(
            "charset-unsupported",
            "MSH-18 names a character set that is not supported",
            remedy="Use a name of HL7 table 0211, or set the charset of the site.",
        )
    if known.codec == "switch":
        return _Plan("US-ASCII", "ascii", may_switch=True, alternates=True, fallback=False)
    allowed = may_switch(known.codec) if alternates or switching else switches_undeclared(known.codec)
    return _Plan(known.encoding, known.codec, allowed, alternates, fallback)


def decode(raw: bytes, declared: str, escape: bytes = b"\\") -> Decoded:
    r"""Decodes ``raw`` by the names of MSH-18, repetitions divided by ``~``: the first reads it, the others may be switched to.

    Nothing declared: UTF-8 where the bytes are valid UTF-8, else ISO-8859-1, either recorded as fallback unless the bytes
    are ASCII. ASCII declared and bytes above 127 that are valid UTF-8, or UTF-16 declared and the bytes are valid UTF-8:
    read as UTF-8, recorded as fallback (senders declare by default, engines convert). ISO 2022 designations are obeyed
    where MSH-18 names sets to switch to, and among ASCII and JIS X 0201 anyway, then recorded as fallback; ``\C..\`` and
    ``\M..\`` only where it names one.

    Args:
        raw: the message.
        declared: MSH-18, or what the site says.
        escape: the message's escape character.

    Raises:
        Unsupported: ``charset-unsupported``, the first declared name is none that this reader knows.
        Incorrect: ``charset-invalid``, the bytes are not what is declared.
    """
    encoding, codec, may_switch, alternates, fallback = _plan(declared)
    if may_switch and (alternates or 0x1B in raw) and (encoding or raw.isascii()):
        obeyed = escape if alternates else b""
        if switches(raw, obeyed):
            text = _switched(raw, codec, obeyed)
            return Decoded(text, (encoding or "US-ASCII") + _SWITCHING, fallback)
    if codec == "ascii":
        if raw.isascii():
            return Decoded(raw.decode("ascii"), encoding or "UTF-8", fallback=False)
        return _beyond_ascii(raw, encoding)
    if codec == "wide":
        return Decoded(_strict(raw, "utf-8", encoding), "UTF-8", fallback=True)
    return Decoded(_strict(raw, codec, encoding), encoding, fallback=False)


def _beyond_ascii(raw: bytes, declared: str) -> Decoded:
    if declared:
        return Decoded(_strict(raw, "utf-8", declared), "UTF-8", fallback=True)
    try:
        return Decoded(raw.decode("utf-8"), "UTF-8", fallback=True)
    except UnicodeDecodeError:
        return Decoded(raw.decode("latin-1"), "ISO-8859-1", fallback=True)


def _switched(raw: bytes, codec: str, escape: bytes) -> str:
    try:
        return decode_switching(raw, codec, escape)
    except UnicodeDecodeError:
        raise Incorrect(
            "charset-invalid", "the message leaves its first character set for bytes that are not there", remedy=_REMEDY
        ) from None


def _strict(raw: bytes, codec: str, declared: str) -> str:
    try:
        return decode_bytes(raw, codec)
    except UnicodeDecodeError as error:
        start = error.start
    raise Incorrect(
        "charset-invalid",
        f"the message is declared as {declared}, and the byte at offset {start} is not",
        remedy=_REMEDY,
    )


def encode(text: str, encoding: str) -> bytes:
    """``text`` in an encoding that :func:`decode` answered. Raises UnicodeEncodeError for what it cannot say."""
    if encoding.endswith(_SWITCHING):
        return encode_switching(text, _codecs()[encoding.removesuffix(_SWITCHING)])
    return encode_text(text, _codecs().get(encoding, encoding))


def decode_octets(octets: bytes, encoding: str) -> str:
    r"""What the bytes of ``\X..\`` say in a message of that encoding; ISO-8859-1 where they say nothing in it.

    In UTF-16 and UTF-32 they are UTF-8: two bytes are two, not half a character.
    """
    try:
        if encoding.endswith(_SWITCHING):
            return decode_switching(octets, _codecs()[encoding.removesuffix(_SWITCHING)], b"")
        return decode_bytes(octets, "utf-8" if encoding.startswith(_WIDE) else _codecs().get(encoding, encoding))
    except UnicodeDecodeError:
        return octets.decode("latin-1")


_WIDE: Final = ("UTF-16", "UTF-32")
_WIDE_STARTS: Final = {
    f"UTF-{width * 8}{order}": tuple(name.encode(f"UTF-{width * 8}{order}") for name in ("MSH", "FHS", "BHS"))
    for width in (4, 2)
    for order in ("LE", "BE")
}
_FRAMING: Final = "\x0b\x1c\r\n"
_LEAD: Final = _FRAMING + " \t\ufeff"
_FAR: Final = 64


def decode_wide(raw: bytes, *, strict: bool = True) -> tuple[str, str] | None:
    """A message or file in UTF-16 or UTF-32, with or without a byte order mark: its text from MSH (FHS, BHS) on, and the encoding.

    None where it does not begin like one. Without ``strict`` the end may be cut anywhere, and what is wrong is replaced.

    Raises:
        Incorrect: ``charset-invalid``.
    """
    if b"\0" not in raw[:_FAR]:
        return None
    if raw[:1] == b"\x0b" and (len(raw) % 2 or raw.rstrip(b"\r\n").endswith(b"\x1c")):  # framing, one byte wide
        raw = raw[1:].rstrip(b"\r\n").removesuffix(b"\x1c") if raw.rstrip(b"\r\n").endswith(b"\x1c") else raw[1:]
    encoding = next((name for name, starts in _WIDE_STARTS.items() if _begins(raw[:_FAR], name, starts)), None)
    if encoding is None:
        return None
    try:
        text = raw.decode(encoding, "strict" if strict else "replace")
    except UnicodeDecodeError as error:
        raise Incorrect(
            "charset-invalid", f"the message is {encoding}, and the byte at offset {error.start} is not", remedy=_REMEDY
        ) from None
    return text.lstrip(_LEAD).rstrip(_FRAMING), encoding


def _begins(head: bytes, encoding: str, starts: tuple[bytes, ...]) -> bool:
    for start in starts:
        at = head.find(start)
        if at >= 0 and at % (len(start) // 3) == 0 and not head[:at].decode(encoding, "replace").strip(_LEAD):
            return True
    return False
