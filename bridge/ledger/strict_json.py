"""JSON from strangers, read strictly: no doubled or unknown members, every member of its type, depth and size bounded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.errors import Incorrect
from bridge.ledger.encoding import base64_decode, hex_decode

MAX_BYTES: Final = 64 * 2**20
MAX_DEPTH: Final = 32
_NESTING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)  # linear in any text


def parse_json(text: str | bytes) -> Any:
    """The value; integers only as integers, no NaN, no member twice.

    Raises:
        Incorrect: ``json-malformed``.
    """
    if len(text) > MAX_BYTES:
        raise Incorrect("json-malformed", f"the document is larger than {MAX_BYTES} bytes")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        _check_depth(text)
        return json.loads(text, object_pairs_hook=_unique, parse_float=_refuse, parse_constant=_refuse)
    except ValueError as error:
        place = f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise Incorrect("json-malformed", f"the document is not JSON of the expected form{place}") from None


def _check_depth(text: str) -> None:
    """Refuses deep nesting before the parser recurses: its own limit is whatever the process set, up to the C stack."""
    depth = 0
    for token in _NESTING.finditer(text):
        mark = token[0]
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Incorrect("json-malformed", f"the document is nested deeper than {MAX_DEPTH} levels")
        elif mark in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError
    return value


def _refuse(_: str) -> Any:
    raise ValueError


@dataclass(slots=True)
class StrictObject:
    """A JSON object whose members are taken out one by one; :meth:`finish` refuses what is left.

    Each accessor raises Incorrect ``member-malformed`` where the member is absent or of another type.
    """

    place: str
    _members: dict[str, Any]
    _taken: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, value: object, place: str) -> StrictObject:
        """Takes the object at ``place`` of the document."""
        if not isinstance(value, dict):
            raise _malformed(place, "is not an object")
        return cls(place, value)

    def has(self, name: str) -> bool:
        """Whether an optional member is there."""
        return name in self._members

    def _take(self, name: str, kind: type) -> Any:
        value = self._members.get(name)
        if type(value) is not kind:
            raise _malformed(f"{self.place}.{name}", "is absent or not of its type")
        self._taken.add(name)
        return value

    def text(self, name: str) -> str:
        """A string."""
        value: str = self._take(name, str)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _malformed(f"{self.place}.{name}", "holds half a surrogate pair") from None
        return value

    def integer(self, name: str) -> int:
        """A whole number from 0 to 2**63 - 1."""
        value: int = self._take(name, int)
        if not 0 <= value < 1 << 63:
            raise _malformed(f"{self.place}.{name}", "is out of range")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value: bool = self._take(name, bool)
        return value

    def array(self, name: str, limit: int = 1000) -> list[Any]:
        """An array of at most ``limit`` values."""
        value: list[Any] = self._take(name, list)
        if len(value) > limit:
            raise _malformed(f"{self.place}.{name}", "has too many items")
        return value

    def object(self, name: str) -> StrictObject:
        """An object within."""
        return StrictObject.of(self._take(name, dict), f"{self.place}.{name}")

    def raw(self, name: str) -> dict[str, Any]:
        """An object that someone else reads."""
        value: dict[str, Any] = self._take(name, dict)
        return value

    def base64(self, name: str) -> bytes:
        """Bytes in canonical base64."""
        return _decoded(base64_decode(self.text(name)), f"{self.place}.{name}", "base64")

    def hex(self, name: str) -> bytes:
        """Bytes in lower-case hex."""
        return _decoded(hex_decode(self.text(name)), f"{self.place}.{name}", "lower-case hex")

    def base64_array(self, name: str, limit: int = 1000) -> list[bytes]:
        """An array of bytes in canonical base64."""
        return [
            _decoded(base64_decode(item) if isinstance(item, str) else None, f"{self.place}.{name}[{at}]", "base64")
            for at, item in enumerate(self.array(name, limit))
        ]

    def hex_array(self, name: str, limit: int = 1000) -> list[bytes]:
        """An array of bytes in lower-case hex."""
        return [
            _decoded(
                hex_decode(item) if isinstance(item, str) else None, f"{self.place}.{name}[{at}]", "lower-case hex"
            )
            for at, item in enumerate(self.array(name, limit))
        ]

    def finish(self) -> None:
        """Refuses members that nobody took."""
        if len(self._taken) != len(self._members):
            raise _malformed(self.place, "has members that are not known here")


def _decoded(value: bytes | None, place: str, form: str) -> bytes:
    if value is None:
        raise _malformed(place, f"is not {form}")
    return value


def _malformed(place: str, why: str) -> Incorrect:
    return Incorrect("member-malformed", f"{place} {why}")
