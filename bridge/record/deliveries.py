"""What sinks are to be given: rows in the outbox, written by the transaction that makes what they tell of.

A row names a version of a resource, whose bytes are stored once, where they are served from; so the outbox holds no body. A
link or consent event is told by what it says, in FHIR ids and without anything of a message. Rows go under the patient, so
that a dispatcher keeps each patient's order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bridge.fhir.json import dumps, loads_stored
from bridge.fhir.references import parse_reference, patient_of
from bridge.fhir.types import format_instant
from bridge.record.consents import Projected
from bridge.record.work import Entry, Work
from bridge.store import outbox, persons, resources
from bridge.store.database import Transaction
from bridge.store.rows import LinkEventRow, ResourceRow, ResourceWrite

RESOURCE: Final = "resource"
LINK: Final = "link"
CONSENT: Final = "consent"

# Of one transaction, what others refer to goes first, so that a receiver that checks references finds it: shared resources, then
# Patients, then each patient's own together.
_SHARED: Final = ("Organization", "Location", "Practitioner", "Patient")
_LAST: Final = ("DiagnosticReport", "Provenance")
_FIRST: Final = ("Encounter", "ServiceRequest", "Specimen")


@dataclass(frozen=True, slots=True)
class Route:
    """What goes to one sink.

    Attributes:
        sink: its name.
        kinds: of :data:`RESOURCE`, :data:`LINK`, :data:`CONSENT`.
        types: resource types; empty = all.
    """

    sink: str
    kinds: frozenset[str]
    types: frozenset[str] = frozenset()

    @property
    def destination(self) -> str:
        """Its name in the outbox."""
        return destination(self.sink)

    def takes(self, resource_type: str) -> bool:
        """Whether resources of this type go there."""
        return RESOURCE in self.kinds and (not self.types or resource_type in self.types)


class VersionDue(msgspec.Struct, frozen=True, array_like=True, tag_field="of", tag="version"):
    """A version of a resource is to be delivered; ``patient`` is the resource key of its Patient."""

    resource_key: int
    version: int
    at_us: int
    type: str
    id: str
    patient: int | None


class EventDue(msgspec.Struct, frozen=True, array_like=True, tag_field="of", tag="event"):
    """A link or consent event is to be delivered; ``content`` is its JSON, ``id`` its own name."""

    kind: str
    id: str
    at_us: int
    content: msgspec.Raw
    patient: int | None


Due = VersionDue | EventDue
_encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Due).decode


def destination(sink: str) -> str:
    """A sink's name in the outbox."""
    return f"sink.{sink}"


def queue(
    txn: Transaction,
    routes: Sequence[Route],
    work: Work,
    writes: Sequence[ResourceWrite],
    linked: Sequence[LinkEventRow],
    projected: Sequence[Projected],
) -> None:
    """Writes a row for each sink and each thing that it is to be given.

    Args:
        txn: after its locks.
        routes: the configured sinks.
        work: the batch.
        writes: of ``work.changed()``, in the same order.
        linked: link events of the batch.
        projected: consents whose state changed.
    """
    due: list[tuple[str, str, str, bytes]] = []  # kind, type, key, payload
    taken = [
        (_key(entry), entry, write)
        for entry, write in zip(work.changed(), writes, strict=True)
        if any(route.takes(entry.type) for route in routes)
    ]
    taken.sort(key=lambda one: _place(one[1].type, one[0]))
    for key, entry, write in taken:
        due += [(RESOURCE, entry.type, key, payload) for payload in _versions(entry, write)]
    wanted = frozenset[str]().union(*(route.kinds for route in routes))
    if linked and LINK in wanted:
        due += _links(txn, linked)
    if projected and CONSENT in wanted:
        due += _consents(txn, projected, work)
    now_us = txn.now_us()
    rows = [
        (route.destination, key, payload, now_us)
        for route in routes
        for kind, resource_type, key, payload in due
        if (route.takes(resource_type) if kind == RESOURCE else kind in route.kinds)
    ]
    outbox.put_dated(txn, rows)


def requeue(txn: Transaction, route: Route, rows: Iterable[ResourceRow]) -> int:
    """Queues the current version of resources under the time it was made; how many of them the sink takes.

    For a sink that came later than what is stored, or that lost it. ``rows`` are held by this transaction, so that a newer
    version, which bears a later time, is delivered after these.
    """
    queued = []
    for row in rows:
        if not route.takes(row.type):
            continue
        due = VersionDue(row.resource_key, row.version, row.last_updated_us, row.type, row.fhir_id, _of(row))
        key = _compartment(row.type, row.fhir_id, None if row.deleted else loads_stored(row.body))
        queued.append((_place(row.type, key), (route.destination, key, _encode(due), row.last_updated_us)))
    queued.sort(key=lambda one: one[0])
    outbox.put_dated(txn, [row for _, row in queued])
    return len(queued)


def _place(resource_type: str, key: str) -> tuple[int, str, int]:
    """Where a resource goes among those of its transaction."""
    if resource_type in _SHARED:
        return _SHARED.index(resource_type), "", 0
    rank = _FIRST.index(resource_type) - len(_FIRST) if resource_type in _FIRST else 0
    return len(_SHARED), key, _LAST.index(resource_type) + 1 if resource_type in _LAST else rank


def _of(row: ResourceRow) -> int | None:
    return row.resource_key if row.type == "Patient" else row.patient_key


def _versions(entry: Entry, write: ResourceWrite) -> Iterator[bytes]:
    patient = _of(write.row)
    for version in write.versions:
        yield _encode(
            VersionDue(entry.key, version.version, version.last_updated_us, entry.type, entry.fhir_id, patient)
        )


def _key(entry: Entry) -> str:
    body = next((draft.body for draft in reversed(entry.drafts) if draft.body is not None), None)
    if body is None and entry.loaded is not None:
        body = entry.loaded.body
    return _compartment(entry.type, entry.fhir_id, body)


def _compartment(resource_type: str, fhir_id: str, body: Mapping[str, Any] | None) -> str:
    """Under what a resource goes: its patient, or else itself. Always an id of ours, never words of a message."""
    reference = patient_of(body) if body is not None and resource_type != "Patient" else None
    target = parse_reference(reference) if reference else None
    return str(target) if target is not None else f"{resource_type}/{fhir_id}"


def _links(txn: Transaction, events: Sequence[LinkEventRow]) -> Iterator[tuple[str, str, str, bytes]]:
    records = {key for event in events for key in (event.record_key, event.other_key) if key is not None}
    names = {key: f"Patient/{fhir_id}" for key, (_, fhir_id) in resources.names(txn, records).items()}
    people = {key for event in events for key in (event.person_from, event.person_to) if key is not None}
    uuids = {key: row.person_uuid for key, row in persons.load(txn, people).items()}
    for event in events:
        said = {
            "event": event.kind,
            "patient": names[event.record_key],
            "other": names.get(event.other_key) if event.other_key is not None else None,
            "person_before": uuids.get(event.person_from) if event.person_from is not None else None,
            "person": uuids.get(event.person_to) if event.person_to is not None else None,
            "rule": event.rule,
            "certainty": event.certainty,
            "decided": format_instant(event.decided_us),
        }
        yield _event(LINK, f"link/{event.event_key}", event.decided_us, said, event.record_key)


def _consents(txn: Transaction, projected: Sequence[Projected], work: Work) -> Iterator[tuple[str, str, str, bytes]]:
    names = resources.names(txn, _keys_of(projected))
    for item in projected:
        row = item.row
        consent = work.entries[row.consent_key].fhir_id
        said = {
            "event": "consent",
            "patient": f"Patient/{names[row.patient_key][1]}",
            "consent": f"Consent/{consent}",
            "version": row.version,
            "status": row.status,
            "granted": item.granted,
            "not_after": None if row.not_after_us is None else format_instant(row.not_after_us),
            "updated": format_instant(row.updated_us),
        }
        yield _event(CONSENT, f"consent/{consent}/{row.version}", row.updated_us, said, row.patient_key)


def _keys_of(projected: Sequence[Projected]) -> Collection[int]:
    return {item.row.patient_key for item in projected}


def _event(kind: str, event_id: str, at_us: int, said: Mapping[str, Any], patient: int) -> tuple[str, str, str, bytes]:
    content = {name: value for name, value in said.items() if value is not None}
    return kind, "", content["patient"], _encode(EventDue(kind, event_id, at_us, msgspec.Raw(dumps(content)), patient))
