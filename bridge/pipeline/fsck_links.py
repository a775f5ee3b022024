"""Holds the persons that records are linked to against the link events, which have leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bridge.ledger.commitment import LeafKind
from bridge.pipeline.findings import Finding, Tally
from bridge.store import persons, scans
from bridge.store.database import Transaction
from bridge.store.rows import LinkEventRow

CHUNK: Final = 1_000


class LinkCheck:
    """One pass over all links in the order of persons, and one over what has none. Memory does not grow with them.

    Args:
        tally: counts what was checked.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def run(self, txn: Transaction) -> Iterator[Finding]:
        """A record's last link event says whose it is; without any it founded its person, which only one can."""
        founded: int | None = None
        for chunk in scans.stream_links(txn, chunk=CHUNK):
            last = _last_events(txn, {row.record_key for row in chunk})
            for row in chunk:
                event = last.get(row.record_key)
                if event is not None:
                    if (event.person_to, event.rule, event.certainty) != (row.person_key, row.rule, row.certainty):
                        yield _at(row.record_key, "link-differs", "its link is not what its last link event says")
                elif row.person_key == founded:
                    yield _at(row.record_key, "link-unexplained", "no link event says how it came to its person")
                else:
                    founded = row.person_key
            self._tally.checked["links"] += len(chunk)
        for unlinked in scans.stream_without_person(txn, chunk=CHUNK):
            for key in unlinked:
                yield _at(key, "link-missing", "a Patient belongs to no person")


def _last_events(txn: Transaction, records: set[int]) -> dict[int, LinkEventRow]:
    """The last event by which each record moved. Events are decided under locks, so in the order of their times."""
    found: dict[int, LinkEventRow] = {}
    for event in sorted(persons.events(txn, records), key=lambda event: (event.decided_us, event.event_key)):
        if event.kind != LeafKind.MERGE:
            found[event.record_key] = event
    return found


def _at(key: int, code: str, words: str) -> Finding:
    return Finding("person_link", code, words, place=f"resource key {key}")
