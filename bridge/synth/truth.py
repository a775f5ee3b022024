"""The truth about a feed, for scoring: who is who, what was merged, what should have become of each message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bridge.synth.events import Event, Outcome
from bridge.synth.people import Registration
from bridge.synth.tables import tables


class Identity(NamedTuple):
    """A record of a person; ``authority`` as named in the site's file, also where the messages leave it empty."""

    site: str
    authority: str
    identifier: str


@dataclass(frozen=True, slots=True)
class Merge:
    """An A40 of the feed: ``subsumed`` ends in ``survivor``; both are records of ``person``."""

    person: int
    survivor: Identity
    subsumed: Identity
    event_time: int


@dataclass(frozen=True, slots=True)
class Truth:
    """What is so, for scoring: who is who, what was merged, and what should have become of each message.

    Attributes:
        people: the records that covered messages tell of, by person.
        national: number in the region's own numbering of those people that some message tells it of.
        merges: in event order.
        counts: messages by outcome and kind.
        systems: FHIR identifier system of each authority.
    """

    people: dict[int, list[Identity]] = field(default_factory=dict)
    national: dict[int, str] = field(default_factory=dict)
    merges: list[Merge] = field(default_factory=list)
    counts: dict[Outcome, Counter[str]] = field(default_factory=lambda: {outcome: Counter() for outcome in Outcome})
    systems: dict[str, str] = field(default_factory=dict)

    def total(self, outcome: Outcome) -> int:
        """How many messages should end so."""
        return self.counts[outcome].total()

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values; persons are named by their number."""
        return {
            "people": [
                {"person": person, "national": self.national.get(person), "records": [i._asdict() for i in records]}
                for person, records in self.people.items()
            ],
            "merges": [
                {
                    "person": merge.person,
                    "survivor": merge.survivor._asdict(),
                    "subsumed": merge.subsumed._asdict(),
                    "event_time": merge.event_time,
                }
                for merge in self.merges
            ],
            "counts": {outcome.value: dict(sorted(kinds.items())) for outcome, kinds in self.counts.items()},
            "systems": self.systems,
        }


def identity_of(record: Registration) -> Identity:
    """The name of a record in the truth."""
    return Identity(record.facility.site, record.facility.authority, record.identifier)


def truth_of(events: Iterable[Event]) -> Truth:
    """The truth about a run of events."""
    truth = Truth()
    national = tables().national
    truth.systems[national.name] = f"urn:oid:{national.oid}"
    for facility in tables().hospitals:
        truth.systems[facility.authority] = f"urn:oid:{facility.oid}"
    for event in events:
        truth.counts[event.outcome][event.kind] += 1
        if event.outcome is not Outcome.STORED:
            continue
        person, identity = event.registration.person, identity_of(event.registration)
        records = truth.people.setdefault(person, [])
        if identity not in records:
            records.append(identity)
        if event.national and not event.thin:
            truth.national[person] = event.national
        if event.subsumed is not None:
            truth.merges.append(Merge(person, identity, identity_of(event.subsumed), event.time * 1_000_000))
    return truth
