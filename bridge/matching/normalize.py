"""Normal forms of the demographics that matching compares."""

from __future__ import annotations

import re
import unicodedata

_LETTERS = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"\D+")
# Letters that NFKD does not take apart.
_FOLD = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ß": "ss", "þ": "th", "ð": "d", "ı": "i"})  # noqa: RUF001 - that letter is meant


def fold(text: str) -> str:
    """``text`` without case, diacritics and punctuation, single-spaced: ``"O'Brien-Müller"`` → ``"o brien muller"``."""
    if text.isascii():
        folded = text.lower()
    else:
        # Decomposed before folding, for letters that have a case only then, and after, for what folding composes.
        lower = unicodedata.normalize("NFKD", text).casefold().translate(_FOLD)
        decomposed = unicodedata.normalize("NFKD", lower)
        folded = "".join(c for c in decomposed if not unicodedata.combining(c))
    return _LETTERS.sub(" ", folded).strip()


def name(family: str, given: str) -> str:
    """One text for family and first given name; empty unless both are there."""
    left, right = fold(family).replace(" ", ""), fold(given)
    return f"{left} {right.split(' ')[0]}" if left and right else ""


def phone(text: str) -> str:
    """The last nine digits, which survive prefixes and trunk zeros; empty for anything shorter than seven digits."""
    digits = _DIGITS.sub("", text)
    return digits[-9:] if len(digits) >= 7 else ""


def address(line: str, postal_code: str) -> str:
    """First address line and postal code; empty unless both are there."""
    street, code = fold(line), fold(postal_code).replace(" ", "")
    return f"{street}|{code}" if street and code else ""
