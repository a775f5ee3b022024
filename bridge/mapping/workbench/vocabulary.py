"""The codes that messages hold and no table knows: collected while messages are converted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bridge.mapping.tables import Table

if TYPE_CHECKING:
    from bridge.mapping.run import Run

Json = Any

_LONGEST: Final = 64  # characters of a code that are shown: what is longer is no code


@dataclass(slots=True)
class Unmapped:
    """A code that a table does not know.

    Attributes:
        table: the table's name.
        code: as the sender wrote it.
        kept: the table keeps what it does not know, in elements that take any code.
        places: where it was read: ``PID-8``, or ``PID XAD.7`` where a data type's rule reads it.
        messages: how many hold it.
        example: the first of them.
    """

    table: str
    code: str
    kept: bool
    places: set[str]
    messages: int
    example: str

    def described(self) -> dict[str, Json]:
        """As plain data."""
        return {
            "table": self.table,
            "code": self.code,
            "kept": self.kept,
            "places": sorted(self.places),
            "messages": self.messages,
            "example": self.example,
        }


class Collector:
    """Stands in for the tables of a set of rules and remembers what they do not know.

    Rules are to be loaded with :meth:`watched`, and :meth:`begin` called before each message.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Unmapped] = {}
        self._message = ""
        self._seen: set[tuple[str, str]] = set()

    def watched(self, table: Table) -> Table:
        """A table that translates as the given one, and tells this collector what it can't."""
        watched = _Watched(*table)
        watched.collector = self
        return watched

    def begin(self, message: str) -> None:
        """The next message, by the name that examples are told by."""
        self._message = message
        self._seen.clear()

    def missed(self, table: Table, code: str, place: str) -> None:
        """A table was asked for a code that it does not know."""
        code = code[:_LONGEST]
        key = table.name, code
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = Unmapped(table.name, code, table.keep, set(), 0, self._message)
        found.places.add(place)
        if key not in self._seen:
            self._seen.add(key)
            found.messages += 1

    def found(self) -> Iterator[Unmapped]:
        """What was collected, by table, the most frequent first."""
        yield from sorted(self._found.values(), key=lambda one: (one.table, -one.messages, one.code))


class _Watched(Table):
    collector: Collector

    def code(self, text: str, run: Run, place: str) -> str | None:
        self._look(text, run, place)
        return super().code(text, run, place)

    def concept(self, concept: dict[str, Json], run: Run, place: str) -> dict[str, Json] | None:
        codings = concept.get("coding")
        if codings and "code" in codings[0]:
            self._look(codings[0]["code"], run, place)
        return super().concept(concept, run, place)

    def coding(self, coding: dict[str, Json], run: Run, place: str) -> dict[str, Json]:
        self._look(coding.get("code", ""), run, place)
        return super().coding(coding, run, place)

    def _look(self, code: str, run: Run, place: str) -> None:
        if code and code not in self.codes:
            if "-" not in place and run.segment is not None:  # a place in a data type
                place = f"{run.segment.name} {place}"
            self.collector.missed(self, code, place)
