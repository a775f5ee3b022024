"""FHIR JSON to dicts and back: decimals keep their digits, hostile input is refused by name.

FHIR R4 (json.html) forbids nothing that RFC 8259 allows save duplicate names and empty values, but gives decimals a
precision (datatypes.html#decimal: "0.010 is regarded as different to 0.01"), so numbers with a fraction or an exponent
become :class:`decimal.Decimal`. Their digits survive a round trip; their spelling may not (``1e5`` is written ``1E+5``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, cast

import msgspec

from bridge.errors import Incorrect

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 1_000_000
_MAX_DECIMAL_CHARACTERS: Final = 128
_MAX_EXPONENT: Final = 400

# In valid JSON a quote stands only around strings, so matching strings from the left finds every one of them.
_STRING_AND_COLON: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"([ \t\r\n]*:)?', re.DOTALL)

# The decoder recurses on the C stack and trusts the interpreter's recursion limit, which other libraries raise for the
# whole process (importing web3 sets 100,000): a bomb would then end the process. So many levels fit on any stack.
_SAFE_LEVELS: Final = 1000
_BRACKET: Final = re.compile(rb"[\[\]{}]")


def _decimal(text: str) -> Decimal:
    if len(text) > _MAX_DECIMAL_CHARACTERS:
        raise ValueError
    value = Decimal(text)
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > _MAX_EXPONENT:
        raise ValueError
    return value


_decoder: Final = msgspec.json.Decoder(float_hook=_decimal)
_encoder: Final = msgspec.json.Encoder(decimal_format="number")
_stored_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)


def loads(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Parses one JSON object that came from outside.

    Args:
        data: UTF-8 JSON text without byte order mark.
        max_bytes: longest text taken.
        max_depth: deepest nesting taken.

    Returns:
        The object; numbers are ``int`` or ``Decimal``.

    Raises:
        Incorrect: ``json-invalid`` (not one JSON object, a name twice in one object, U+0000, a number out of all bounds),
            ``json-too-large``, ``json-too-deep``.
    """
    brackets = data.count(b"[") + data.count(b"{")
    if len(data) > max_bytes or data.count(b",") + brackets > MAX_VALUES:
        raise Incorrect("json-too-large", "the JSON text is larger than the limit", remedy="Send it in smaller parts.")
    if brackets > _SAFE_LEVELS and _depth(data) > max_depth:
        raise _too_deep()
    try:
        value = _decoder.decode(data)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation, ValueError):
        raise _invalid("the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise _invalid("the body is not a JSON object")
    names = _count_names(value, max_depth, refuse_nul=b"\\u0000" in data)
    if sum(1 for colon in _STRING_AND_COLON.findall(data) if colon) != names:
        raise _invalid("a name stands twice in one JSON object")
    return value


def _depth(data: bytes) -> int:
    """Deepest nesting of brackets outside strings; right as far as the text is valid JSON."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING_AND_COLON.sub(b"", data)):
        if bracket in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _count_names(value: dict[str, Any], max_depth: int, *, refuse_nul: bool) -> int:
    """Number of object members at every level; refuses what is nested too deep."""
    names = 0
    level: list[Any] = [value]
    for _ in range(max_depth):
        deeper: list[Any] = []
        for node in level:
            if type(node) is dict:
                names += len(node)
                if refuse_nul and any("\0" in name for name in node):
                    raise _invalid("a text contains U+0000")
                children = node.values()
            else:
                children = node
            for child in children:
                kind = type(child)
                if kind is dict or kind is list:
                    deeper.append(child)
                elif refuse_nul and kind is str and "\0" in child:
                    raise _invalid("a text contains U+0000")
        if not deeper:
            return names
        level = deeper
    raise _too_deep()


def _invalid(message: str) -> Incorrect:
    return Incorrect("json-invalid", message, remedy="Send one UTF-8 JSON object as RFC 8259 defines it.")


def _too_deep() -> Incorrect:
    return Incorrect("json-too-deep", "the JSON text is nested deeper than the limit", remedy="Flatten it.")


def loads_stored(data: bytes) -> dict[str, Any]:
    """Parses a body of our own store (written by :func:`dumps`), without the checks that foreign input needs."""
    return cast("dict[str, Any]", _stored_decoder.decode(data))


def dumps(value: Mapping[str, Any]) -> bytes:
    """Writes compact UTF-8 JSON in insertion order; equal values in equal order give equal bytes.

    Raises:
        TypeError: a value is of a type that JSON does not have.
    """
    return _encoder.encode(value)
