"""Merges that sources assert, and how they show in Patient resources whatever order they arrive in.

Source: HL7 v2.9 chapter 3 (A40), FHIR R4 Patient.link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bridge.ledger.commitment import LeafKind
from bridge.mapping.apply import with_merges
from bridge.store.rows import LinkEventRow

Json = Any


class MergeEvent(NamedTuple):
    """``survivor`` replaces ``subsumed`` from ``time_us`` on; ``tie`` orders assertions of one microsecond."""

    survivor: int
    subsumed: int
    time_us: int
    tie: str
    source: str


def merges_among(events: Iterable[LinkEventRow]) -> list[MergeEvent]:
    """The merge assertions among stored link events."""
    return [
        MergeEvent(event.record_key, event.other_key, event.time_us, event.tie, event.source)
        for event in events
        if event.kind == LeafKind.MERGE and event.other_key is not None
    ]


class Merges:
    """The merge assertions that touch the records of a batch."""

    def __init__(self) -> None:
        self._of: dict[int, set[MergeEvent]] = {}

    def add(self, event: MergeEvent) -> set[int]:
        """Adds an assertion; answers the records whose links may now show differently."""
        touched = {event.survivor, event.subsumed}
        for record in (event.survivor, event.subsumed):
            self._of.setdefault(record, set()).add(event)
            # A later merge of one side decides what an earlier one of the other side still shows.
            touched.update(other for known in self._of[record] for other in (known.survivor, known.subsumed))
        return touched

    def add_all(self, events: Iterable[MergeEvent]) -> None:
        """Adds assertions loaded from the store."""
        for event in events:
            self.add(event)

    def knows(self, event: MergeEvent) -> bool:
        """Whether the same assertion has been made."""
        return event in self._of.get(event.survivor, ())

    def replaced_by(self, record: int, ids: Mapping[int, str]) -> int | None:
        """The record that replaces this one: the latest assertion about it decides, None if it survived that one.

        Of assertions of one moment (two groups of one message, say) the FHIR ids decide: keys depend on who came first.
        """
        events = self._of.get(record)
        if not events:
            return None

        def order(event: MergeEvent) -> tuple[int, str, str, str]:
            return event.time_us, event.tie, ids.get(event.survivor, ""), ids.get(event.subsumed, "")

        latest = max(events, key=order)
        return latest.survivor if latest.subsumed == record else None

    def replaces(self, record: int, ids: Mapping[int, str]) -> list[int]:
        """The records that this one replaces, in key order."""
        subsumed = {event.subsumed for event in self._of.get(record, ()) if event.survivor == record}
        return sorted(other for other in subsumed if self.replaced_by(other, ids) == record)

    def concern(self, record: int) -> bool:
        """Whether any assertion is about the record."""
        return record in self._of

    def shown(self, record: int, body: Mapping[str, Json], ids: Mapping[int, str]) -> Mapping[str, Json]:
        """The body with ``active`` and ``link`` as the assertions want them.

        Args:
            record: resource key of the Patient.
            body: its content as its units make it.
            ids: FHIR ids of the Patients at hand.
        """
        replacing = self.replaced_by(record, ids)
        return with_merges(
            body,
            replaced_by=[ids[replacing]] if replacing is not None and replacing in ids else [],
            replaces=[ids[other] for other in self.replaces(record, ids) if other in ids],
        )
