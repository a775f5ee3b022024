"""Writes HL7 v2 in the ER7 encoding: fields, segments, messages.

Source: HL7 v2.9 chapter 2.6 and 2.7 (encoding and escaping).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from bridge.hl7v2.charset import encode
from bridge.hl7v2.message import DEFAULT_DELIMITERS, NULL, Delimiters, Message, Null

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
            joined([_value(part, delimiters) for part in component], delimiters.subcomponent)
            if isinstance(component, tuple)
            else _value(component, delimiters)
            for component in field
        ]
        return joined(components, delimiters.component)
    return _value(field, delimiters)


def _value(value: Value, delimiters: Delimiters) -> str:
    if value is None:
        return ""
    return '""' if value is NULL else escape(value, delimiters)


def joined(parts: list[str], delimiter: str) -> str:
    """Written parts with a delimiter between them; empty ones at the end are left out, of ``parts`` too."""
    while parts and not parts[-1]:
        parts.pop()
    return delimiter.join(parts)


def write_segment(name: str, fields: Sequence[Field], delimiters: Delimiters = DEFAULT_DELIMITERS) -> str:
    """A segment without its end; ``fields`` begin at field 1, for MSH at MSH-3 (MSH-1 and MSH-2 are the delimiters)."""
    written = [write_field(field, delimiters) for field in fields]
    if name == "MSH":
        written.insert(0, delimiters.encoding_characters)
    return joined([name, *written], delimiters.field)


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
