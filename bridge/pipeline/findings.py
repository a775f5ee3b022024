"""What a check of the whole store says: where something differs, and never what it holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.errors import BridgeError

UNREADABLE: Final = (
    BridgeError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)
"""What readers of the bridge's own bytes raise for bytes that it never wrote; a check goes on after it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was recorded.

    Attributes:
        table: the table whose row differs or is missing.
        code: stable kebab-case name of what differs.
        message: the same in words.
        resource: ``Patient/…``, where the row belongs to one.
        version: of that resource.
        place: the row, where it belongs to none: ``leaf 17``, ``checkpoint of 40 leaves``, ``link event 3``.
    """

    table: str
    code: str
    message: str
    resource: str | None = None
    version: int | None = None
    place: str = ""

    def __str__(self) -> str:
        version = f" version {self.version}" if self.version is not None else ""
        where = f"{self.resource}{version}" if self.resource else self.place
        return f"{self.table} {where}: {self.message} [{self.code}]"

    def to_json(self) -> dict[str, Any]:
        """For programs; members that say nothing are left out."""
        members = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in members.items() if value not in {None, ""}}


@dataclass(slots=True)
class Tally:
    """How much was checked so far, by kind of row."""

    checked: Counter[str] = field(default_factory=Counter)
