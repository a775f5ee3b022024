r"""Switching between character sets inside a message: ISO 2022, and the escapes ``\C..\`` and ``\M..\``.

A designation puts a set into the left (21 to 7E) or right (A0 to FF) half of the bytes that follow, up to the next
designation or the end of the segment, where the first set of MSH-18 is back. Source: HL7 v2.9 chapter 2.7.3, table 0356
(``ISO 2022-1994``, ``2.3``), ISO/IEC 2022.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final, NamedTuple

from bridge.hl7v2.codecs import JIS_X_0201, decode_bytes, encode_text

_ESC: Final = b"\x1b"
_ASCII: Final = "ascii"


class _Set(NamedTuple):
    """A designation: its bytes after ESC, its kind (1, 2, 3 left; R right), what reads it."""

    sequence: bytes
    kind: str
    codec: str


@cache
def _sets() -> dict[bytes, _Set]:
    text = files("bridge.hl7v2").joinpath("designations.tsv").read_text(encoding="ascii")
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return {(sequence := bytes.fromhex(row[0])): _Set(sequence, row[1], row[2]) for row in rows}


@cache
def _right() -> dict[str, _Set]:
    return {known.codec: known for known in _sets().values() if known.kind == "R"}


def may_switch(codec: str) -> bool:
    """Whether a message whose first set ``codec`` reads can leave it and come back."""
    return codec == _ASCII or codec in _right()


def switches_undeclared(codec: str) -> bool:
    """Whether ESC switches even where nobody said so: among ASCII and the Japanese set of one byte it means nothing else."""
    return codec in (_ASCII, JIS_X_0201)


@lru_cache(maxsize=64)
def _designations(escape: bytes) -> re.Pattern[bytes]:
    """ESC with a known designation, or its HL7 escape where ``escape`` is given; or a segment's end."""
    longest_first = sorted(_sets(), key=len, reverse=True)
    forms = [re.escape(_ESC) + b"(" + b"|".join(map(re.escape, longest_first)) + b")"]
    if escape:
        mark = re.escape(escape)
        digits = b"|".join(sequence.hex().encode() for sequence in longest_first)
        forms.append(mark + b"[CM](?i:(" + digits + b"))" + mark)
    else:
        forms.append(b"(?!)()")
    forms.append(b"[\r\n]+")
    return re.compile(b"|".join(forms))


def switches(raw: bytes, escape: bytes) -> bool:
    """Whether ``raw`` holds a known designation; as an HL7 escape too, where its ``escape`` character is given."""
    return any(match.lastindex for match in _designations(escape).finditer(raw))


def decode_switching(raw: bytes, base: str, escape: bytes) -> str:
    """The text of a message that switches; ``base`` reads what no designation rules. Raises UnicodeDecodeError."""
    sets = _sets()
    left: _Set | None = None
    right = base
    bare = False  # the left half was designated by ESC: until the next, an escape character is half of another
    found: list[str] = []
    position = 0
    for match in _designations(escape).finditer(raw):
        if bare and match[2] and left is not None:
            continue
        found.append(_decoded(raw[position : match.start()], left, right))
        position = match.end()
        sequence = match[1] or (bytes.fromhex(match[2].decode()) if match[2] else b"")
        if not sequence:
            left, right = None, base
            found.append(match[0].decode(_ASCII))
            continue
        known = sets[sequence]
        if known.kind == "R":
            right = known.codec
        else:
            left = None if known.codec == _ASCII else known
            bare = match[1] is not None
    found.append(_decoded(raw[position:], left, right))
    return "".join(found)


_RUNS: Final = re.compile(rb"([\x21-\x7e]+)|([\x80-\xff]+)|[\x00-\x20\x7f]+")


def _decoded(octets: bytes, left: _Set | None, right: str) -> str:
    if left is None:
        return decode_bytes(octets, right)
    found: list[str] = []
    for match in _RUNS.finditer(octets):
        if match[1]:
            found.append(_from_left(match[1], left))
        else:
            found.append(decode_bytes(match[0], right))
    return "".join(found)


_TO_RIGHT: Final = bytes(b | 0x80 if 0x21 <= b <= 0x7E else b for b in range(0x100))
_TO_LEFT: Final = bytes(b & 0x7F for b in range(0x100))


def _from_left(octets: bytes, known: _Set) -> str:
    shifted = octets.translate(_TO_RIGHT)
    if known.kind == "3":
        shifted = b"".join([b"\x8f" + shifted[index : index + 2] for index in range(0, len(shifted), 2)])
    return decode_bytes(shifted, known.codec)


def encode_switching(text: str, base: str) -> bytes:
    """``text`` in ``base`` as far as that goes, the rest by designations, which end with each segment.

    Raises UnicodeEncodeError for what no known set has.
    """
    found = bytearray()
    left: _Set | None = None
    right = base
    for index, character in enumerate(text):
        if character < "\x80":
            if left is not None:
                found += _BACK
                left = None
            if character in "\r\n":
                right = base
            found += character.encode(_ASCII)
            continue
        place = _place(character, base)
        if place is None:
            raise UnicodeEncodeError("iso2022", text, index, index + 1, "in no known set")
        known, octets = place
        if known.kind == "R":
            if right != known.codec:
                found += _ESC + known.sequence
                right = known.codec
        elif left is not known:
            found += _ESC + known.sequence
            left = known
        found += octets
    if left is not None:
        found += _BACK
    return bytes(found)


_BACK: Final = _ESC + b"(B"


@lru_cache(maxsize=8192)
def _place(character: str, base: str) -> tuple[_Set, bytes] | None:
    """The set that holds a character beyond ASCII, ``base`` before all others, and its bytes there."""
    sets = [known for known in _sets().values() if known.codec != _ASCII]
    if base in _right():
        sets.insert(0, _right()[base])
    for known in sets:
        try:
            octets = encode_text(character, known.codec)
        except UnicodeEncodeError:
            continue
        if known.kind == "R":
            return known, octets
        if known.kind == "3" and octets[0] == 0x8F:
            return known, octets[1:].translate(_TO_LEFT)
        if len(octets) == int(known.kind) and min(octets) >= 0xA1:
            return known, octets.translate(_TO_LEFT)
    return None
