"""The loss ledger: what became of every valued element of a message (mapped, dropped by a named rule, unmapped)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from bridge.hl7v2.message import valued_elements
from bridge.mapping.operations import Fate, LedgerEntry
from bridge.mapping.places import Cover, union

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bridge.hl7v2.delimiters import Delimiters
    from bridge.hl7v2.message import Segment

Fired = list[tuple[str, tuple[tuple[int, Cover], ...]]]

_HEADER: Final = "MSH"


class Ledger:
    """Counts, and with ``explain`` lists, the elements of one message."""

    __slots__ = (
        "_component",
        "_leaves",
        "_ordinals",
        "_repetition",
        "_split",
        "_subcomponent",
        "dropped",
        "entries",
        "mapped",
        "unmapped",
    )

    def __init__(self, delimiters: Delimiters, *, explain: bool) -> None:
        self.mapped = 0
        self.dropped = 0
        self.unmapped = 0
        self.entries: list[LedgerEntry] | None = [] if explain else None
        self._component = delimiters.component
        self._subcomponent = delimiters.subcomponent
        self._repetition = delimiters.repetition
        self._leaves, self._split = _patterns(delimiters)
        self._ordinals: dict[str, int] = {}

    def add(self, segment: Segment, fired: Fired, drops: Mapping[int, str]) -> None:  # noqa: C901, PLR0912 - hot path: calls would cost more than they tell
        """Books one segment, of which the rules in ``fired`` made something."""
        if self.entries is not None:
            self._list(segment, fired, drops)
            return
        read: dict[int, Cover] = {}
        for _, covers in fired:
            for index, cover in covers:
                known = read.get(index)
                read[index] = cover if known is None or known is cover else _union(known, cover)
        leaves, split = self._leaves, self._split
        mapped = dropped = unmapped = 0
        fields = segment.fields
        first = 1
        if segment.name == _HEADER:  # the delimiters themselves
            first = 3
            dropped = 2
        for index in range(first, len(fields)):
            raw = fields[index]
            if not raw:
                continue
            found = read.get(index)
            composite = not raw.isalnum() and split(raw) is not None  # most fields are plain words or numbers
            if found is None:
                count = len(leaves(raw)) if composite else 1
                if index in drops:
                    dropped += count
                else:
                    unmapped += count
            elif not composite:
                if found.parts is None or 1 in found.parts:
                    mapped += 1
                else:
                    unmapped += 1
            elif found.parts is None and found.every:
                mapped += len(leaves(raw))
            else:
                count = len(leaves(raw))
                covered = self._covered(raw, found)
                mapped += covered
                unmapped += count - covered
        self.mapped += mapped
        self.dropped += dropped
        self.unmapped += unmapped

    def _covered(self, raw: str, cover: Cover) -> int:
        parts = cover.parts
        component, subcomponent = self._component, self._subcomponent
        count = 0
        repetitions = raw.split(self._repetition) if self._repetition in raw else (raw,)
        for repetition in repetitions:
            if parts is None:
                count += len(self._leaves(repetition))
            elif component not in repetition and subcomponent not in repetition:
                if repetition and 1 in parts:
                    count += 1
            else:
                for number, text in enumerate(repetition.split(component), 1):
                    if not text:
                        continue
                    inner = parts.get(number)
                    if inner is None:
                        continue
                    if subcomponent not in text:
                        count += 1 if inner.parts is None or 1 in inner.parts else 0
                    else:
                        subs = inner.parts
                        count += sum(
                            1
                            for sub, piece in enumerate(text.split(subcomponent), 1)
                            if piece and (subs is None or sub in subs)
                        )
            if not cover.every:
                break
        return count

    def _list(self, segment: Segment, fired: Fired, drops: Mapping[int, str]) -> None:
        assert self.entries is not None
        ordinal = self._ordinals[segment.name] = self._ordinals.get(segment.name, 0) + 1
        for element in valued_elements(segment):
            place = f"{segment.name}[{ordinal}]-{element.field}[{element.repetition}].{element.component}"
            if element.subcomponent > 1:
                place += f".{element.subcomponent}"
            if segment.name == _HEADER and element.field <= 2:
                self._book(LedgerEntry(place, Fate.DROPPED, "segments/MSH.yaml#delimiters"))
                continue
            rule = next(
                (
                    name
                    for name, covers in fired
                    for index, cover in covers
                    if index == element.field
                    and (cover.every or element.repetition == 1)
                    and cover.reads(element.component, element.subcomponent)
                ),
                None,
            )
            if rule is not None:
                self._book(LedgerEntry(place, Fate.MAPPED, rule))
            elif element.field in drops and not any(
                index == element.field for _, covers in fired for index, _ in covers
            ):
                self._book(LedgerEntry(place, Fate.DROPPED, drops[element.field]))
            else:
                self._book(LedgerEntry(place, Fate.UNMAPPED))

    def _book(self, entry: LedgerEntry) -> None:
        assert self.entries is not None
        self.entries.append(entry)
        if entry.fate is Fate.MAPPED:
            self.mapped += 1
        elif entry.fate is Fate.DROPPED:
            self.dropped += 1
        else:
            self.unmapped += 1


_unions: dict[tuple[int, int], tuple[Cover, Cover, Cover]] = {}


def _union(left: Cover, right: Cover) -> Cover:
    """What either reads. Covers belong to rules and live as long as they do; their unions are remembered."""
    key = (id(left), id(right))
    known = _unions.get(key)
    if known is None or known[0] is not left or known[1] is not right:
        if len(_unions) > 10_000:
            _unions.clear()
        known = _unions[key] = (left, right, union((left, right)))
    return known[2]


@lru_cache(maxsize=64)
def _patterns(delimiters: Delimiters) -> tuple[Any, Any]:
    characters = re.escape(delimiters.component + delimiters.repetition + delimiters.subcomponent)
    return re.compile(f"[^{characters}]+").findall, re.compile(f"[{characters}]").search
