"""Writes HL7 v2 in the ER7 encoding: fields, segments, messages and acknowledgements.

Source: HL7 v2.9 chapter 2.6 and 2.7 (encoding and escaping), 2.9.2 (original mode acknowledgement), 2.14.1 (ACK), 2.14.8
(MSA), 2.14.5 (ERR), table 0008 (acknowledgement code), table 0357 (error code).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from bridge.errors import BridgeError
from bridge.hl7v2.charset import decode, decode_wide, encode
from bridge.hl7v2.message import DEFAULT_DELIMITERS, NULL, Delimiters, Message, Null, read_msh, without_framing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

Value: TypeAlias = str | Null | None
Component: TypeAlias = "Value | tuple[Value, ...]"
Repetition: TypeAlias = "Value | tuple[Component, ...]"
Field: TypeAlias = "Repetition | list[Repetition]"


def escape(text: str, delimiters: Delimiters = DEFAULT_DELIMITERS) -> str:
    r"""Escapes ``text``, so that reading it back gives the same; control characters as ``\Xhh\``.

    The value of two double quotes, which would read as null, is written in hexadecimal.
    """
    if text == '""':
        return f"{delimiters.escape}X2222{delimiters.escape}"
    pattern, replacements = _escapes(delimiters)
    return pattern.sub(lambda match: replacements[match[0]], text)


@lru_cache(maxsize=64)
def _escapes(delimiters: Delimiters) -> tuple[re.Pattern[str], dict[str, str]]:
    mark = delimiters.escape
    letters = {
        delimiters.field: "F",
        delimiters.component: "S",
        delimiters.subcomponent: "T",
        delimiters.repetition: "R",
        delimiters.escape: "E",
    }
    if delimiters.truncation:
        letters[delimiters.truncation] = "P"
    for code in (*range(0x20), 0x7F):
        letters[chr(code)] = f"X{code:02X}"
    replacements = {character: f"{mark}{letter}{mark}" for character, letter in letters.items()}
    return re.compile("[" + "".join(map(re.escape, letters)) + "]"), replacements


def write_field(field: Field, delimiters: Delimiters = DEFAULT_DELIMITERS) -> str:
    """A field from its values: a list holds repetitions, a tuple components, a tuple within it subcomponents.

    Strings are escaped, NULL is written as two double quotes, None and '' as nothing; empty positions at the end are left
    out.
    """
    if isinstance(field, list):
        return delimiters.repetition.join([write_field(repetition, delimiters) for repetition in field])
    if isinstance(field, tuple):
        components = [
            _joined([_value(part, delimiters) for part in component], delimiters.subcomponent)
            if isinstance(component, tuple)
            else _value(component, delimiters)
            for component in field
        ]
        return _joined(components, delimiters.component)
    return _value(field, delimiters)


def _value(value: Value, delimiters: Delimiters) -> str:
    if value is None:
        return ""
    return '""' if value is NULL else escape(value, delimiters)


def _joined(parts: list[str], delimiter: str) -> str:
    while parts and not parts[-1]:
        parts.pop()
    return delimiter.join(parts)


def write_segment(name: str, fields: Sequence[Field], delimiters: Delimiters = DEFAULT_DELIMITERS) -> str:
    """A segment without its end; ``fields`` begin at field 1, for MSH at MSH-3 (MSH-1 and MSH-2 are the delimiters)."""
    written = [write_field(field, delimiters) for field in fields]
    if name == "MSH":
        written.insert(0, delimiters.encoding_characters)
    return _joined([name, *written], delimiters.field)


def write_message(segments: Iterable[str], charset: str = "UTF-8") -> bytes:
    """The bytes of a message: each segment ended by CR. Raises UnicodeEncodeError for what ``charset`` cannot say."""
    return encode("".join([segment + "\r" for segment in segments]), charset)


def write(message: Message) -> bytes:
    r"""A message that was read, in its own delimiters and the encoding it was read in, each segment ended by CR.

    Line breaks inside fields, which ER7 cannot hold, become ``\X0A\``; ESC in a message that switches character sets
    ``\X1B\``.
    """
    mark = message.delimiters.escape
    replacements = {0x0A: f"{mark}X0A{mark}"}
    if message.charset.endswith("ISO-2022"):
        replacements[0x1B] = f"{mark}X1B{mark}"
    return write_message([segment.text.translate(replacements) for segment in message.segments], message.charset)


class AckCode(StrEnum):
    """Table 0008, original mode."""

    ACCEPT = "AA"
    ERROR = "AE"
    REJECT = "AR"


@dataclass(frozen=True, slots=True)
class AckError:
    """What an acknowledgement says of a refusal.

    Attributes:
        code: kebab-case cause, without health data.
        hl7_code: table 0357; 207 = application error.
        text: table 0357's words for it.
    """

    code: str
    hl7_code: str = "207"
    text: str = "Application error"


def acknowledge(
    raw: bytes,
    code: AckCode,
    *,
    control_id: str,
    now: datetime,
    error: AckError | None = None,
) -> bytes:
    """An original mode acknowledgement of ``raw``, which need not be readable: what its header holds is echoed.

    Applications and facilities are swapped; version, processing id, event (from 2.3.1) and control id echoed as they were
    written, in the sender's delimiters and encoding. A header that cannot be read gives default delimiters, version 2.5.1 and an empty
    MSA-2.

    Args:
        raw: what was received, or as much of its beginning as was kept.
        code: MSA-1.
        control_id: MSH-10 of the acknowledgement.
        now: MSH-7, aware.
        error: for ERR (and MSA-3 before 2.7).
    """
    delimiters, charset, fields = _header_fields(raw)

    def echoed(number: int, default: str = "") -> str:
        return fields[number] if number < len(fields) and fields[number] else default

    version = echoed(12, "2.5.1")
    number = _version_number(version)
    component = delimiters.component
    event = echoed(9).partition(component)[2].partition(component)[0]
    kind = component.join(("ACK", event, "ACK")) if event and number >= (2, 3, 1) else "ACK"
    msh = ["MSH", delimiters.encoding_characters, echoed(5), echoed(6), echoed(3), echoed(4)]
    msh += [now.strftime("%Y%m%d%H%M%S%z"), "", kind, escape(control_id, delimiters), echoed(11, "P"), version]
    if charset != "US-ASCII" and echoed(18):
        msh += ["", "", "", "", "", echoed(18)]
    msa = ["MSA", code.value, echoed(10)]
    segments = [msh, msa]
    if error is not None:
        if number < (2, 7):
            msa.append(escape(error.code, delimiters))
        segments.append(_err(error, number, delimiters))
    return write_message([_joined(segment, delimiters.field) for segment in segments], charset)


def _err(error: AckError, version: tuple[int, ...], delimiters: Delimiters) -> list[str]:
    if version >= (2, 5):
        condition = write_field((error.hl7_code, error.text, "HL70357"), delimiters)
        return ["ERR", "", "", condition, "E", "", "", "", escape(error.code, delimiters)]
    return ["ERR", write_field((None, None, None, (error.hl7_code, error.text, "HL70357")), delimiters)]


_CONTROLS: Final = dict.fromkeys(range(0x20))
_KEPT: Final = 16_384  # no real MSH is longer


def _header_fields(raw: bytes) -> tuple[Delimiters, str, list[str]]:
    """Delimiters, encoding and raw MSH fields by HL7's number, of whatever can be read."""
    head = without_framing(raw[:_KEPT])
    try:
        delimiters, declared = read_msh(head)
    except BridgeError:
        return DEFAULT_DELIMITERS, "US-ASCII", []
    line = re.split(rb"[\r\n]", head, maxsplit=1)[0]
    wide = decode_wide(raw[:_KEPT], strict=False)
    try:
        text, charset, _ = decode(line, "UTF-8" if wide else declared, delimiters.escape.encode("latin-1"))
    except BridgeError:
        text, charset = line.decode("latin-1"), "ISO-8859-1"
    fields = ["MSH", delimiters.field, *text.translate(_CONTROLS).split(delimiters.field)[1:]]
    return delimiters, wide[1] if wide else charset, fields


def _version_number(version: str) -> tuple[int, ...]:
    digits = re.match(r"[0-9]{1,3}(?:\.[0-9]{1,3}){0,2}", version)
    return tuple(map(int, digits[0].split("."))) if digits else (2, 5, 1)
