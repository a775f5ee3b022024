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
from bridge.hl7v2.charset import decode_octets


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
    bytes in the message's encoding (ISO-8859-1 where they are none of its), ``\H\`` and ``\N\`` (highlighting) nothing.
    Formatting commands (2.7.6): ``\.br\``, ``\.spN\`` and ``\.ce\`` end the line, ``\.skN\`` are blanks, ``\.inN\`` and
    ``\.tiN\`` at the beginning of a line are blanks there (``\.inN\`` of all lines that follow), ``\.fi\`` and ``\.nf\``
    nothing. Whatever else stands between escape characters, ``\Z…\`` among it, is kept as it is; ``\C..\`` and ``\M..\``
    of a message that declares sets to switch to are gone since it was decoded.
    """
    if delimiters.escape not in text:
        return text
    pattern, replacements = _escapes(delimiters)
    if delimiters.escape + "." in text:
        return pattern.sub(_Layout(replacements, delimiters.charset).replace, text)

    def replace(match: re.Match[str]) -> str:
        body = match[1]
        plain = replacements.get(body)
        return plain if plain is not None else decode_octets(bytes.fromhex(body[1:]), delimiters.charset)

    return pattern.sub(replace, text)


_MOST: Final = 100  # lines or blanks by one command: none multiplies the text beyond that


class _Layout:
    """Lays formatted text out, from one command to the next."""

    __slots__ = ("_charset", "_line_start", "_margin", "_replacements")

    def __init__(self, replacements: dict[str, str], charset: str) -> None:
        self._replacements = replacements
        self._charset = charset
        self._margin = 0
        self._line_start = 0  # where the text goes on after a line's end, if nothing has been printed since

    def replace(self, match: re.Match[str]) -> str:
        """What stands for one escape sequence; to be called for all of a text, in order."""
        body = match[1]
        plain = self._replacements.get(body)
        if plain is not None:
            return plain
        if body[0] == "X":
            return decode_octets(bytes.fromhex(body[1:]), self._charset)
        number = body[3:].strip()
        count = min(int(number.rstrip("+-") or 1), _MOST)
        if body[1:3] == "in":
            before, self._margin = self._margin, max(0, count + self._margin if number[:1] in _SIGNS else count)
            self._margin = min(self._margin, _MOST)
            count = self._margin - before
        return self._laid_out(body[1:3], count, match)

    def _laid_out(self, command: str, count: int, match: re.Match[str]) -> str:
        fresh = match.start() == self._line_start
        if command in ("br", "sp") or (command == "ce" and not fresh):
            self._line_start = match.end()
            return "\n" * (count if command == "sp" else 1) + " " * self._margin
        if command == "sk":
            return " " * count
        if not fresh:
            return ""
        self._line_start = match.end()
        return " " * count if command in ("in", "ti") else ""


_SIGNS: Final = frozenset("+-")


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
    body = rf"[{letters}]|X(?:[0-9A-Fa-f]{{2}})++|\.(?:br|sp|sk|fi|nf|in|ti|ce)[ ]?[+-]?[0-9]{{0,3}}"
    return re.compile(f"{mark}({body}){mark}"), replacements
