"""Reads of whole tables, in order and in pieces, for whoever checks the store as a whole (``fsck``).

All of them belong into one read-only transaction, so that they tell of one moment. Only one stream is open at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from bridge.mapping.operations import IdentityKey
from bridge.store.database import Transaction
from bridge.store.dialect import Statement, constant, either, rows_parameter
from bridge.store.rows import (
    AccessRecord,
    AnchorRow,
    CheckpointRow,
    ConsentStateRow,
    LinkEventRow,
    LinkRow,
    PendingLeaf,
    RawMessageRow,
)
from bridge.store.schema import (
    BIGINT,
    BYTES,
    access_record,
    anchor,
    checkpoint,
    commitment,
    consent_state,
    identity,
    leaf_pending,
    link_event,
    log_subtree,
    person_link,
    raw_message,
    resource,
    resource_index,
    resource_string,
    resource_term,
    resource_version,
)


class ResourceFacts(NamedTuple):
    """A row of ``resource`` without what only searches need."""

    resource_key: int
    type: str
    fhir_id: str
    record_uuid: str
    version: int
    last_updated_us: int
    deleted: bool
    content_digest: bytes
    patient_key: int | None


class IndexRows(NamedTuple):
    """What the search index holds of one resource; ``types`` are those that its rows name."""

    terms: list[int]
    strings: set[tuple[str, str]]
    types: set[str]


class ConsentLeaf(NamedTuple):
    """A consent's state, and the leaf that commits to it; None where there is none."""

    state: ConsentStateRow
    leaf_id: bytes | None


_keys: Final = rows_parameter("keys", key=BIGINT)
_ids: Final = rows_parameter("ids", id=BYTES)
_pairs: Final = rows_parameter("pairs", key=BIGINT, version=BIGINT)
_r, _v = resource.c, resource_version.c

_FACTS: Final = Statement(
    sa.select(*[_r[name] for name in ResourceFacts._fields]).join_from(_keys, resource, _r.resource_key == _keys.c.key)
)
_NOT_CURRENT: Final = Statement(
    sa.select(*[_r[name] for name in ResourceFacts._fields])
    .join_from(
        resource,
        resource_version,
        sa.and_(
            _v.resource_key == _r.resource_key,
            _v.version == _r.version,
            _v.last_updated_us == _r.last_updated_us,
        ),
        isouter=True,
    )
    .where(_v.resource_key.is_(None))
)
_VERSION_LEAVES: Final = Statement(
    sa.select(_v.resource_key, _v.version, _v.leaf_id).join_from(
        _pairs, resource_version, sa.and_(_v.resource_key == _pairs.c.key, _v.version == _pairs.c.version)
    )
)
_EVENTS: Final = Statement(sa.select(link_event).order_by(link_event.c.event_key))
_EVENT_LEAVES: Final = Statement(
    sa.select(link_event.c.event_key, link_event.c.leaf_id).join_from(
        _keys, link_event, link_event.c.event_key == _keys.c.key
    )
)
_of_state: Final = sa.and_(
    commitment.c.kind == constant("consent"),
    commitment.c.subject_key == consent_state.c.consent_key,
    commitment.c.subject_version == consent_state.c.version,
)
_CONSENTS: Final = Statement(
    sa.select(*consent_state.c, commitment.c.leaf_id)
    .join_from(consent_state, commitment, _of_state, isouter=True)
    .order_by(consent_state.c.consent_key)
)
_SHARED_CONSENT_LEAVES: Final = Statement(
    sa.select(commitment.c.subject_key, commitment.c.subject_version)
    .where(commitment.c.kind == constant("consent"))
    .group_by(commitment.c.subject_key, commitment.c.subject_version)
    .having(sa.func.count() > 1)
)
_ACCESSES: Final = Statement(sa.select(access_record))
_ACCESS_LEAVES: Final = Statement(
    sa.select(access_record.c.access_id, access_record.c.leaf_id).join_from(
        _ids, access_record, access_record.c.access_id == _ids.c.id
    )
)
_PENDING: Final = Statement(sa.select(leaf_pending))
_PENDING_BY_ID: Final = Statement(
    sa.select(leaf_pending.c.leaf_id, leaf_pending.c.leaf).join_from(
        _ids, leaf_pending, leaf_pending.c.leaf_id == _ids.c.id
    )
)
_CHECKPOINTS: Final = Statement(
    sa.select(checkpoint)
    .where(checkpoint.c.origin == sa.bindparam("origin"), checkpoint.c.size > sa.bindparam("size"))
    .order_by(checkpoint.c.size)
    .limit(sa.bindparam("count"))
)
_ANCHORS: Final = Statement(
    sa.select(anchor)
    .where(
        anchor.c.log_id == sa.bindparam("log_id"),
        anchor.c.state != constant("lost"),
        sa.or_(
            anchor.c.size > sa.bindparam("size"),
            sa.and_(anchor.c.size == sa.bindparam("size"), anchor.c.anchor_key > sa.bindparam("key")),
        ),
    )
    .order_by(anchor.c.size, anchor.c.anchor_key)
    .limit(sa.bindparam("count"))
)
_SUBTREES: Final = Statement(
    sa.select(sa.func.count()).select_from(log_subtree).where(log_subtree.c.origin == sa.bindparam("origin"))
)
_TERMS: Final = either(
    postgresql=sa.select(
        resource_index.c.resource_key, resource_index.c.type, sa.func.unnest(resource_index.c.terms)
    ).join_from(_keys, resource_index, resource_index.c.resource_key == _keys.c.key),
    sqlite=sa.select(resource_term.c.resource_key, sa.null(), resource_term.c.term).join_from(
        _keys, resource_term, resource_term.c.resource_key == _keys.c.key
    ),
)
_STRINGS: Final = Statement(
    sa.select(resource_string).join_from(_keys, resource_string, resource_string.c.resource_key == _keys.c.key)
)


def _without_resource(key: sa.Column[int]) -> sa.Select[Any]:
    return sa.select(key).outerjoin_from(key.table, resource, _r.resource_key == key).where(_r.resource_key.is_(None))


_INDEX_ORPHANS: Final = either(
    postgresql=sa.union(
        _without_resource(resource_index.c.resource_key), _without_resource(resource_string.c.resource_key)
    ),
    sqlite=sa.union(_without_resource(resource_term.c.resource_key), _without_resource(resource_string.c.resource_key)),
)
_NAMES: Final = Statement(sa.select(identity).join_from(_keys, identity, identity.c.resource_key == _keys.c.key))
_DANGLING: Final = Statement(
    sa.select(identity.c.resource_key, sa.func.count())
    .outerjoin_from(identity, resource, _r.resource_key == identity.c.resource_key)
    .where(_r.resource_key.is_(None))
    .group_by(identity.c.resource_key)
    .having(sa.func.count() > 1)
)
_LINKS: Final = Statement(sa.select(person_link).order_by(person_link.c.person_key, person_link.c.record_key))
_WITHOUT_PERSON: Final = Statement(
    sa.select(_r.resource_key)
    .outerjoin_from(resource, person_link, person_link.c.record_key == _r.resource_key)
    .where(_r.type == constant("Patient"), person_link.c.record_key.is_(None))
)
_RAW: Final = Statement(
    sa.select(raw_message).where(raw_message.c.raw_key % sa.bindparam("one_in") == sa.bindparam("rest"))
)


def resource_facts(txn: Transaction, keys: Collection[int]) -> dict[int, ResourceFacts]:
    """Resources by key."""
    return {row[0]: _facts(row) for row in txn.execute(_FACTS, {"keys": set(keys)})} if keys else {}


def index_rows(txn: Transaction, keys: Collection[int]) -> dict[int, IndexRows]:
    """The index rows of resources, by key; a resource without any is left out."""
    found: dict[int, IndexRows] = {}
    if not keys:
        return found
    for key, kind, term in txn.execute(_TERMS, {"keys": set(keys)}):
        rows = found.setdefault(key, IndexRows([], set(), set()))
        rows.terms.append(term)
        if kind is not None:
            rows.types.add(kind)
    for kind, parameter, value, key in txn.execute(_STRINGS, {"keys": set(keys)}):
        rows = found.setdefault(key, IndexRows([], set(), set()))
        rows.strings.add((parameter, value))
        rows.types.add(kind)
    return found


def stream_index_orphans(txn: Transaction, *, chunk: int) -> Iterator[list[int]]:
    """Keys in the search index without a resource."""
    for rows in txn.stream(_INDEX_ORPHANS, {}, chunk):
        yield [row[0] for row in rows]


def names(txn: Transaction, keys: Collection[int]) -> dict[int, list[IdentityKey]]:
    """All names of resources, by key."""
    found: dict[int, list[IdentityKey]] = {}
    for row in txn.execute(_NAMES, {"keys": set(keys)}) if keys else ():
        found.setdefault(row[4], []).append(IdentityKey._make(row[:4]))
    return found


def stream_dangling_names(txn: Transaction, *, chunk: int) -> Iterator[list[tuple[int, int]]]:
    """(key, number of names) of keys that several names lead to and no resource has.

    One name alone may be reserved for something that was referred to and has not come yet.
    """
    for rows in txn.stream(_DANGLING, {}, chunk):
        yield [(row[0], row[1]) for row in rows]


def stream_links(txn: Transaction, *, chunk: int) -> Iterator[list[LinkRow]]:
    """All links of records to persons, by person."""
    for rows in txn.stream(_LINKS, {}, chunk):
        yield [LinkRow._make(row) for row in rows]


def stream_without_person(txn: Transaction, *, chunk: int) -> Iterator[list[int]]:
    """Keys of Patients that are linked to no person."""
    for rows in txn.stream(_WITHOUT_PERSON, {}, chunk):
        yield [row[0] for row in rows]


def stream_raw_messages(txn: Transaction, *, one_in: int, rest: int, chunk: int) -> Iterator[list[RawMessageRow]]:
    """Raw messages whose key leaves ``rest`` when divided by ``one_in``, in no order."""
    for rows in txn.stream(_RAW, {"one_in": one_in, "rest": rest}, chunk):
        yield [RawMessageRow._make(row) for row in rows]


def stream_without_current_version(txn: Transaction, *, chunk: int) -> Iterator[list[ResourceFacts]]:
    """Resources whose current version is not in ``resource_version``."""
    for rows in txn.stream(_NOT_CURRENT, {}, chunk):
        yield [_facts(row) for row in rows]


def version_leaves(txn: Transaction, pairs: Collection[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """The leaf id of each (resource key, version) that is there."""
    if not pairs:
        return {}
    return {(key, version): leaf for key, version, leaf in txn.execute(_VERSION_LEAVES, {"pairs": set(pairs)})}


def stream_link_events(txn: Transaction, *, chunk: int) -> Iterator[list[LinkEventRow]]:
    """All link events."""
    for rows in txn.stream(_EVENTS, {}, chunk):
        yield [LinkEventRow._make(row) for row in rows]


def link_event_leaves(txn: Transaction, event_keys: Collection[int]) -> dict[int, bytes]:
    """The leaf id of each link event that is there."""
    return dict(txn.execute(_EVENT_LEAVES, {"keys": set(event_keys)})) if event_keys else {}


def stream_consents(txn: Transaction, *, chunk: int) -> Iterator[list[ConsentLeaf]]:
    """All consent states, each with the leaf of its version."""
    for rows in txn.stream(_CONSENTS, {}, chunk):
        yield [ConsentLeaf(ConsentStateRow._make(row[:-1]), row[-1]) for row in rows]


def stream_shared_consent_leaves(txn: Transaction, *, chunk: int) -> Iterator[list[tuple[int | None, int | None]]]:
    """(consent key, version) of consent states that more than one leaf says it is about."""
    for rows in txn.stream(_SHARED_CONSENT_LEAVES, {}, chunk):
        yield [(row[0], row[1]) for row in rows]


def stream_accesses(txn: Transaction, *, chunk: int) -> Iterator[list[AccessRecord]]:
    """All access records, in no order."""
    for rows in txn.stream(_ACCESSES, {}, chunk):
        yield [AccessRecord._make(row) for row in rows]


def access_leaves(txn: Transaction, access_ids: Collection[bytes]) -> dict[bytes, bytes]:
    """The leaf id of each access record that is there."""
    return dict(txn.execute(_ACCESS_LEAVES, {"ids": set(access_ids)})) if access_ids else {}


def stream_pending(txn: Transaction, *, chunk: int) -> Iterator[list[PendingLeaf]]:
    """All leaves that wait for their index."""
    for rows in txn.stream(_PENDING, {}, chunk):
        yield [PendingLeaf._make(row) for row in rows]


def pending_by_id(txn: Transaction, leaf_ids: Collection[bytes]) -> dict[bytes, bytes]:
    """Leaf data of those that wait for their index, by leaf id."""
    return dict(txn.execute(_PENDING_BY_ID, {"ids": set(leaf_ids)})) if leaf_ids else {}


def checkpoints(txn: Transaction, origin: str, *, page: int = 1000) -> Iterator[CheckpointRow]:
    """All checkpoints of a log by size; other statements may run in between."""
    size = -1
    while rows := txn.execute(_CHECKPOINTS, {"origin": origin, "size": size, "count": page}):
        for row in rows:
            yield CheckpointRow._make(row)
        size = rows[-1][1]


def anchors(txn: Transaction, log_id: bytes, *, page: int = 1000) -> Iterator[AnchorRow]:
    """All anchors of a log that are not lost, by size; other statements may run in between."""
    size, key = -1, -1
    while rows := txn.execute(_ANCHORS, {"log_id": log_id, "size": size, "key": key, "count": page}):
        last = AnchorRow._make(rows[-1])
        for row in rows:
            yield AnchorRow._make(row)
        size, key = last.size, last.anchor_key


def subtree_count(txn: Transaction, origin: str) -> int:
    """How many complete subtrees of a log are stored."""
    number: int = txn.execute(_SUBTREES, {"origin": origin})[0][0]
    return number


def _facts(row: tuple[Any, ...]) -> ResourceFacts:
    return ResourceFacts._make((*row[:6], bool(row[6]), *row[7:]))
