"""Search terms: what is looked up in the index stands there as a 64-bit hash or as normalized text.

A term may stand for more than one value (hashes collide, and a code is also filed without its system), so an index answer
is always checked again on the body (:mod:`bridge.fhir.search.match`).
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from hashlib import blake2b
from typing import Final

_SEPARATOR: Final = "\x1f"
_from_bytes: Final = int.from_bytes
MAX_STRING: Final = 128  # normalized text longer than this is cut in the index and asked for by its beginning


def term(kind: str, parameter: str, value: str) -> int:
    """The signed 64-bit term of one indexed value.

    Args:
        kind: resource type.
        parameter: name of the search parameter.
        value: ``code``, ``system|code`` or ``system|`` of a token; ``Type/id`` of a reference.
    """
    text = f"{kind}{_SEPARATOR}{parameter}{_SEPARATOR}{value}"
    return _from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True)


# Codes recur without end, identifiers never: only codes are worth remembering.
cached_term: Final = lru_cache(maxsize=16384)(term)


@lru_cache(maxsize=8192)
def normalize(text: str) -> str:
    """Folds case, accents and space, as search.html#string asks ("case and accent-insensitive")."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(text.casefold().replace("\0", " ").split())[:MAX_STRING]
