"""The delimiters of a message, and the two things done with them: splitting and unescaping.

Source: HL7 v2.9 chapter 2.5.4 (delimiters) and 2.7 (escape sequences).
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from bridge.errors import Incorrect


@dataclass(frozen=True, slots=True)
class Delimiters:
    """What MSH-1 and MSH-2 declare, one character each; ``truncation`` is empty before 2.7 (not declared).

    ``charset`` is the encoding of the message (IANA name), which hexadecimal escapes are read in.
    """

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    truncation: str = ""
    charset: str = "UTF-8"

    @property
    def encoding_characters(self) -> str:
        """MSH-2 as it is written."""
        return self.component + self.repetition + self.escape + self.subcomponent + self.truncation


DEFAULT_DELIMITERS: Final = Delimiters()
PUNCTUATION: Final = frozenset(string.punctuation) - {'"'}
"""What may delimit; two quotation marks say null."""
_REMEDY: Final = r"Send MSH|^~\& or other distinct punctuation."


@lru_cache(maxsize=64)
def declared_delimiters(field: str, encoding_characters: str, charset: str) -> Delimiters:
    """The delimiters that MSH-1 and MSH-2 declare, in a message encoded in ``charset`` (IANA name).

    Missing encoding characters are the usual ones; a doubled escape character counts once.

    Raises:
        Incorrect: ``delimiters-invalid``, they are not distinct punctuation, or are too many.
    """
    if len(encoding_characters) > 4 and encoding_characters[2] == encoding_characters[3]:
        encoding_characters = encoding_characters[:3] + encoding_characters[4:]
    encoding_characters += "^~\\&"[len(encoding_characters) :]
    used = field + encoding_characters
    if len(used) > 6 or len(set(used)) != len(used) or not PUNCTUATION.issuperset(used):
        raise Incorrect("delimiters-invalid", "MSH-1 and MSH-2 are not four to six distinct delimiters", remedy=_REMEDY)
    component, repetition, escape, subcomponent = tuple(encoding_characters[:4])
    return Delimiters(field, component, repetition, escape, subcomponent, encoding_characters[4:], charset)


def split_repetitions(text: str, delimiters: Delimiters) -> list[str]:
    """The repetitions of a raw field; one empty string for an empty field."""
    return text.split(delimiters.repetition)


def split_components(text: str, delimiters: Delimiters) -> list[str]:
    """The components of one raw repetition."""
    return text.split(delimiters.component)


def split_subcomponents(text: str, delimiters: Delimiters) -> list[str]:
    """The subcomponents of one raw component."""
    return text.split(delimiters.subcomponent)


def unescape(text: str, delimiters: Delimiters) -> str:
    r"""Replaces escape sequences (chapter 2.7) by what they stand for.

    ``\F\ \S\ \T\ \R\ \E\`` and ``\P\`` (where a truncation character is declared) become the delimiters, ``\Xhh…\`` the
    bytes in the message's encoding (ISO-8859-1 where they are none of its), ``\H\`` and ``\N\`` (highlighting) nothing,
    ``\.br\`` and ``\.spN\`` line feeds, ``\.skN\`` spaces, the other formatting commands nothing. Whatever else stands
    between escape characters is kept as it is.
    """
    if delimiters.escape not in text:
        return text
    pattern, replacements = _escapes(delimiters)

    def replace(match: re.Match[str]) -> str:
        body = match[1]
        plain = replacements.get(body)
        if plain is not None:
            return plain
        if body[0] == "X":
            return _hexadecimal(body[1:], delimiters.charset)
        command, count = body[1:3], body[3:].strip()
        if command in ("br", "sp"):
            return "\n" * min(int(count or 1), 100)
        return " " * min(int(count or 1), 100) if command == "sk" else ""

    return pattern.sub(replace, text)


@lru_cache(maxsize=64)
def _escapes(delimiters: Delimiters) -> tuple[re.Pattern[str], dict[str, str]]:
    replacements = {
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent,
        "R": delimiters.repetition,
        "E": delimiters.escape,
        "H": "",
        "N": "",
    }
    if delimiters.truncation:
        replacements["P"] = delimiters.truncation
    letters = "".join(replacements)
    mark = re.escape(delimiters.escape)
    body = rf"[{letters}]|X(?:[0-9A-Fa-f]{{2}})+|\.(?:br|sp|sk|fi|nf|in|ti|ce)[ ]?[+-]?[0-9]{{0,3}}"
    return re.compile(f"{mark}({body}){mark}"), replacements


def _hexadecimal(digits: str, charset: str) -> str:
    octets = bytes.fromhex(digits)
    try:
        return octets.decode(charset)
    except UnicodeDecodeError:
        return octets.decode("latin-1")
