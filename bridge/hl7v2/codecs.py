"""Codecs by name: Python's own, and the two sets of HL7 table 0211 that Python does not read.

``jis-x-0201`` is JIS X 0201 in eight bits, its left half as ASCII (the delimiters 5C and 7E stay what they are);
``cns-11643`` is CNS 11643-1992 as EUC-TW, planes 1 to 7.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Final

JIS_X_0201: Final = "jis-x-0201"
CNS_11643: Final = "cns-11643"


def decode_bytes(octets: bytes, codec: str) -> str:
    """``octets`` as text. Raises UnicodeDecodeError."""
    own = _DECODERS.get(codec)
    return own(octets) if own is not None else octets.decode(codec)


def encode_text(text: str, codec: str) -> bytes:
    """``text`` as bytes. Raises UnicodeEncodeError."""
    own = _ENCODERS.get(codec)
    return own(text) if own is not None else text.encode(codec)


_KATAKANA: Final = "".join(map(chr, range(0xFF61, 0xFFA0)))
_UNDEFINED: Final = "\ufffe"  # charmap_decode's word for a byte that says nothing
_JIS_DECODING: Final = "".join(map(chr, range(0x80))) + _UNDEFINED * 33 + _KATAKANA + _UNDEFINED * 32
_JIS_ENCODING: Final = codecs.charmap_build(_JIS_DECODING)


def _decode_jis(octets: bytes) -> str:
    return codecs.charmap_decode(octets, "strict", _JIS_DECODING)[0]


def _encode_jis(text: str) -> bytes:
    return codecs.charmap_encode(text, "strict", _JIS_ENCODING)[0]


_EUC_TW: Final = re.compile(rb"[\x00-\x7f]+|\x8e[\xa1-\xa7][\xa1-\xfe]{2}|[\xa1-\xfe]{2}")


def _decode_cns(octets: bytes) -> str:
    known = _cns_decoding()
    found: list[str] = []
    end = 0
    for match in _EUC_TW.finditer(octets):
        if match.start() != end:
            break
        part = match[0]
        if part[0] < 0x80:
            found.append(part.decode("ascii"))
        elif (character := known.get(part)) is not None:
            found.append(character)
        else:
            break
        end = match.end()
    if end < len(octets):
        raise UnicodeDecodeError(CNS_11643, octets, end, end + 1, "no character of CNS 11643")
    return "".join(found)


def _encode_cns(text: str) -> bytes:
    known = _cns_encoding()
    found = bytearray()
    for index, character in enumerate(text):
        octets = character.encode("ascii") if character.isascii() else known.get(character)
        if octets is None:
            raise UnicodeEncodeError(CNS_11643, text, index, index + 1, "no character of CNS 11643")
        found += octets
    return bytes(found)


@cache
def _cns_decoding() -> dict[bytes, str]:
    table: dict[bytes, str] = {}
    text = files("bridge.hl7v2").joinpath("cns11643.tsv").read_text(encoding="utf-8")
    for line in text.splitlines()[1:]:
        place, characters = line.split("\t")
        plane, row = int(place[0]), int(place[1:], 16) | 0x80
        for column, character in enumerate(characters, 0xA1):
            if character == ".":
                continue
            table[bytes((0x8E, 0xA0 + plane, row, column))] = character
            if plane == 1:
                table[bytes((row, column))] = character
    return table


@cache
def _cns_encoding() -> dict[str, bytes]:
    """The shortest bytes of each character, of the lowest plane that has it."""
    table: dict[str, bytes] = {}
    for octets, character in _cns_decoding().items():
        known = table.get(character)
        if known is None or len(octets) < len(known):
            table[character] = octets
    return table


_DECODERS: Final[dict[str, Callable[[bytes], str]]] = {JIS_X_0201: _decode_jis, CNS_11643: _decode_cns}
_ENCODERS: Final[dict[str, Callable[[str], bytes]]] = {JIS_X_0201: _encode_jis, CNS_11643: _encode_cns}
