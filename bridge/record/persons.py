"""Persons: which records belong together, kept in step with every change of a Patient (laws of matching).

The persons are the connected components over certain links and asserted merges, so they are a function of the records'
current content and of the assertions made; this module re-decides the neighbourhood of what changed and writes only what
is different. Must run after the transaction has locked the matching keys of the changed records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bridge.errors import Conflict
from bridge.ledger.commitment import LeafKind
from bridge.matching.decide import Candidate, Certainty, components, decide
from bridge.matching.features import Features, keys_of
from bridge.matching.model import Model
from bridge.record.commitments import EVENT_FORM, Commitments
from bridge.record.ids import random_uuid
from bridge.store import persons
from bridge.store.database import Transaction
from bridge.store.rows import LinkEventRow, LinkRow, PersonRow


@dataclass(frozen=True, slots=True)
class ChangedRecord:
    """A Patient whose demographics are new or different.

    Attributes:
        record: its resource key.
        owner: its record UUID, which names it in commitments.
        features: as they are now; None when the Patient was deleted.
        before: keys it had.
        source, time_us, tie: of the change, for the link event.
    """

    record: int
    owner: str
    features: Features | None = field(repr=False)
    before: frozenset[int]
    source: str
    time_us: int
    tie: str


@dataclass(frozen=True, slots=True)
class AssertedMerge:
    """A source says that two of its records are one person's, and which one survives."""

    survivor: int
    subsumed: int
    owner: str
    source: str
    time_us: int
    tie: str


def encode_features(features: Features) -> bytes:
    """The stored form of features: JSON."""
    return json.dumps(
        [features.evidence, features.name, features.birth_date, features.sex, features.phones, features.addresses],
        ensure_ascii=False,
    ).encode()


def decode_features(stored: bytes) -> Features:
    """The features of :func:`encode_features`."""
    evidence, name, birth_date, sex, phones, addresses = json.loads(stored)
    return Features(tuple((s, v) for s, v in evidence), name, birth_date, sex, tuple(phones), tuple(addresses))


@dataclass(slots=True)
class _Neighbourhood:
    """Every record that may change its person, with features, current person, and asserted edges."""

    features: dict[int, Features]
    person_of: dict[int, int]
    asserted: dict[int, list[int]]
    capped: frozenset[int]


_OWN: Final = (None, "own", Certainty.CERTAIN)


def relink(
    txn: Transaction,
    changed: Sequence[ChangedRecord],
    merges: Sequence[AssertedMerge],
    model: Model,
    commitments: Commitments,
) -> list[LinkEventRow]:
    """Writes keys, features, links and link events of what changed; answers the events.

    Raises:
        Conflict: another transaction moved the same persons meanwhile; retry the batch.
    """
    if not changed and not merges:
        return []
    _write_keys(txn, changed, model)
    place = _neighbourhood(txn, changed, merges, model)
    edges, rules = _edges(place, model)
    groups = components(place.features, edges)
    # Whoever of a wholly new person came first founded it alone, in the same batch as the others or in one before.
    founders = {min(group) for group in groups if not group & place.person_of.keys()}
    moved = _assign(txn, place, groups)
    now_us = txn.now_us()
    reasons = _reasons(changed, merges)
    links: list[LinkRow] = []
    events: list[LinkEventRow] = []
    touched: set[int] = set()
    event_keys = iter(txn.allocate("link_event", len(moved) + len(merges)))
    for merge in merges:
        event = _Event(LeafKind.MERGE, merge.survivor, merge.subsumed, None, None, "asserted-merge", Certainty.ASSERTED)
        events.append(_event_row(next(event_keys), event, merge, now_us, commitments))
    for record, (before, after) in sorted(moved.items()):
        other, rule, certainty = rules.get(record, _OWN) if record not in founders else _OWN
        links.append(LinkRow(record, after, certainty, rule, now_us))
        touched.update(person for person in (before, after) if person is not None)
        if before is None and other is None:
            continue  # a first registration is no decision
        kind = LeafKind.LINK if other is not None else LeafKind.UNLINK
        reason = reasons.get(record) or next(iter(reasons.values()))
        event = _Event(kind, record, other, before, after, rule, certainty)
        events.append(_event_row(next(event_keys), event, reason, now_us, commitments))
    persons.write_links(txn, links)
    persons.append_events(txn, events)
    persons.advance_consent_version(txn, touched)
    return events


def _write_keys(txn: Transaction, changed: Sequence[ChangedRecord], model: Model) -> None:
    keys = {r.record: list(keys_of(r.features, model).items()) if r.features else [] for r in changed}
    persons.write_keys(txn, keys)
    persons.write_features(txn, [(r.record, encode_features(r.features or Features())) for r in changed])


def _neighbourhood(
    txn: Transaction, changed: Sequence[ChangedRecord], merges: Sequence[AssertedMerge], model: Model
) -> _Neighbourhood:
    seeds = {r.record for r in changed} | {key for merge in merges for key in (merge.survivor, merge.subsumed)}
    hashes = _keys_changed(changed, model)
    # A key that these changes may have brought over the cap, or back under it, is decided anew for all who share it:
    # otherwise whoever came before the cap would stay linked by it.
    within = model.key_cap + len(changed)
    shared = persons.candidates(txn, hashes, within)
    capped = _over(shared, model.key_cap)
    reached = seeds.union(*(sharing for sharing in shared.values() if len(sharing) <= within))
    person_of = {record: link.person_key for record, link in persons.links(txn, reached).items()}
    if person_of:
        person_of = _members(txn, reached, set(person_of.values()))
    everyone = set(person_of) | reached
    features = {record: decode_features(stored) for record, stored in persons.features(txn, everyone).items()}
    others = {key for record in everyone - seeds if record in features for key in keys_of(features[record], model)}
    capped |= _over(persons.candidates(txn, others - hashes, model.key_cap), model.key_cap)
    asserted: dict[int, list[int]] = {}
    for event in persons.events(txn, everyone) if person_of else ():
        if event.kind == LeafKind.MERGE and event.other_key is not None:
            asserted.setdefault(event.record_key, []).append(event.other_key)
    for merge in merges:
        asserted.setdefault(merge.survivor, []).append(merge.subsumed)
    for record in everyone:
        features.setdefault(record, Features())
    return _Neighbourhood(features, person_of, asserted, frozenset(capped))


def _keys_changed(changed: Sequence[ChangedRecord], model: Model) -> set[int]:
    """Every key that a changed record has, or had."""
    now = {key for record in changed if record.features for key in keys_of(record.features, model)}
    return now.union(*(record.before for record in changed))


def _over(shared: Mapping[int, Sequence[int]], cap: int) -> set[int]:
    return {key for key, sharing in shared.items() if len(sharing) > cap}


def _members(txn: Transaction, reached: set[int], at_hand: set[int]) -> dict[int, int]:
    """The person of every member of the persons ``at_hand``, whose rows are held from here on."""
    persons.lock(txn, at_hand)
    members = persons.members(txn, at_hand)
    now = {link.record_key: person for person, links in members.items() for link in links}
    moved = persons.links(txn, reached - now.keys())
    if moved:
        raise Conflict("persons-moved", "Another transaction linked the same persons.", remedy="The batch is retried.")
    return now


def _edges(
    place: _Neighbourhood, model: Model
) -> tuple[dict[int, list[int]], dict[int, tuple[int | None, str, Certainty]]]:
    """Edges between the neighbours, and for each linked record its strongest edge: (other record, rule, certainty)."""
    by_key: dict[int, list[int]] = {}
    for record, features in place.features.items():
        for key in keys_of(features, model):
            by_key.setdefault(key, []).append(record)
    sharing: dict[int, set[int]] = {}
    for records in by_key.values():
        for record in records:
            sharing.setdefault(record, set()).update(records)
    edges: dict[int, list[int]] = {record: list(others) for record, others in place.asserted.items()}
    rules: dict[int, tuple[int | None, str, Certainty]] = {}
    for record, others in sorted(sharing.items()):
        candidates = [Candidate(other, place.features[other]) for other in sorted(others - {record})]
        if not candidates:
            continue
        decision = decide(place.features[record], candidates, model, place.capped)
        edges.setdefault(record, []).extend(link.record for link in decision.links)
        if decision.links:
            first = next((link for link in decision.links if link.record < record), decision.links[0])
            rules[record] = (first.record, first.rule, first.certainty)
    for left, merged in place.asserted.items():
        for right in merged:
            rules[left] = (right, "asserted-merge", Certainty.ASSERTED)
            rules[right] = (left, "asserted-merge", Certainty.ASSERTED)
    return edges, rules


def _assign(
    txn: Transaction, place: _Neighbourhood, groups: Sequence[frozenset[int]]
) -> dict[int, tuple[int | None, int]]:
    """Gives each group a person; answers the records whose person is new or another: record → (before, after)."""
    taken: set[int] = set()
    persons_of_groups: list[int | None] = []
    for group in groups:
        known = sorted({place.person_of[record] for record in group if record in place.person_of} - taken)
        chosen = known[0] if known else None
        if chosen is not None:
            taken.add(chosen)
        persons_of_groups.append(chosen)
    fresh = iter(txn.allocate("person", persons_of_groups.count(None)))
    created: list[PersonRow] = []
    moved: dict[int, tuple[int | None, int]] = {}
    for group, chosen in zip(groups, persons_of_groups, strict=True):
        person = chosen
        if person is None:
            person = next(fresh)
            created.append(PersonRow(person, random_uuid(), 1, txn.now_us()))
        for record in group:
            before = place.person_of.get(record)
            if before != person:
                moved[record] = (before, person)
    persons.create(txn, created)
    return moved


@dataclass(frozen=True, slots=True)
class _Event:
    kind: LeafKind
    record: int
    other: int | None
    person_from: int | None
    person_to: int | None
    rule: str
    certainty: Certainty


def _reasons(
    changed: Sequence[ChangedRecord], merges: Sequence[AssertedMerge]
) -> dict[int, ChangedRecord | AssertedMerge]:
    reasons: dict[int, ChangedRecord | AssertedMerge] = {record.record: record for record in changed}
    for merge in merges:
        reasons[merge.survivor] = reasons[merge.subsumed] = merge
    return reasons


def _event_row(
    event_key: int, event: _Event, reason: ChangedRecord | AssertedMerge, now_us: int, commitments: Commitments
) -> LinkEventRow:
    row = LinkEventRow(
        event_key,
        str(event.kind),
        event.record,
        event.other,
        event.person_from,
        event.person_to,
        reason.time_us,
        reason.tie,
        reason.source,
        event.rule,
        str(event.certainty),
        now_us,
        b"",
    )
    leaf_id = commitments.add(
        event.kind, random_uuid(), 1, event_bytes(row), owner=reason.owner, form=EVENT_FORM, subject_key=event_key
    )
    return row._replace(leaf_id=leaf_id)


def event_bytes(row: LinkEventRow) -> bytes:
    """The bytes that a link event's leaf commits to, made anew from its row by ``fsck``: all of it but its key and leaf."""
    event = {
        "certainty": row.certainty,
        "decided": row.decided_us,
        "from": row.person_from,
        "kind": row.kind,
        "other": row.other_key,
        "record": row.record_key,
        "rule": row.rule,
        "source": row.source,
        "tie": row.tie,
        "time": row.time_us,
        "to": row.person_to,
    }
    return json.dumps(event, separators=(",", ":"), sort_keys=True).encode()
