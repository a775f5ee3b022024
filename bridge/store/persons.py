"""Persons, the links of records to them, and what matching needs to find and compare records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, first_of_each, rows_parameter
from bridge.store.rows import LinkEventRow, LinkRow, MatchKeyRow, PersonRow
from bridge.store.schema import BIGINT, link_event, match_features, match_key, person, person_link

_keys: Final = rows_parameter("keys", key=BIGINT)
_PERSONS: Final = Statement(sa.select(person).join_from(_keys, person, person.c.person_key == _keys.c.key))
_LINKS: Final = Statement(sa.select(person_link).join_from(_keys, person_link, person_link.c.record_key == _keys.c.key))
_MEMBERS: Final = Statement(
    sa.select(person_link)
    .join_from(_keys, person_link, person_link.c.person_key == _keys.c.key)
    .order_by(person_link.c.record_key)
)
_EVENTS: Final = Statement(
    sa.select(link_event)
    .where(
        sa.or_(link_event.c.record_key.in_(sa.select(_keys.c.key)), link_event.c.other_key.in_(sa.select(_keys.c.key)))
    )
    .order_by(link_event.c.time_us, link_event.c.tie, link_event.c.event_key)
)
_FEATURES: Final = Statement(
    sa.select(match_features).join_from(_keys, match_features, match_features.c.record_key == _keys.c.key)
)
_KEYS_OF: Final = Statement(sa.select(match_key).join_from(_keys, match_key, match_key.c.record_key == _keys.c.key))
_gone: Final = rows_parameter("gone", hash=BIGINT, record_key=BIGINT)
_DELETE_KEYS: Final = Statement(
    sa.delete(match_key).where(
        sa.tuple_(match_key.c.hash, match_key.c.record_key).in_(sa.select(_gone.c.hash, _gone.c.record_key))
    )
)
_CANDIDATES: Final = first_of_each(match_key.c.hash, match_key.c.record_key, keys="hashes", limit="cap")
_LOCKED: Final = Statement(
    sa.select(person.c.person_key)
    .where(person.c.person_key.in_(sa.select(_keys.c.key)))
    .order_by(person.c.person_key)
    .with_for_update()
)
_ADVANCE: Final = Statement(
    sa.update(person)
    .values(consent_version=person.c.consent_version + 1)
    .where(person.c.person_key.in_(sa.select(_keys.c.key)))
)


def create(txn: Transaction, rows: Sequence[PersonRow]) -> None:
    """New persons."""
    txn.insert_rows(person, rows)


def load(txn: Transaction, person_keys: Collection[int]) -> dict[int, PersonRow]:
    """Persons by key."""
    if not person_keys:
        return {}
    return {row[0]: PersonRow._make(row) for row in txn.execute(_PERSONS, {"keys": set(person_keys)})}


def links(txn: Transaction, record_keys: Collection[int]) -> dict[int, LinkRow]:
    """The link of each record that has one."""
    if not record_keys:
        return {}
    return {row[0]: LinkRow._make(row) for row in txn.execute(_LINKS, {"keys": set(record_keys)})}


def members(txn: Transaction, person_keys: Collection[int]) -> dict[int, list[LinkRow]]:
    """All links of each person, by record key; a person without records has an empty list."""
    found: dict[int, list[LinkRow]] = {key: [] for key in person_keys}
    if found:
        for row in txn.execute(_MEMBERS, {"keys": list(found)}):
            found[row[1]].append(LinkRow._make(row))
    return found


def write_links(txn: Transaction, rows: Sequence[LinkRow]) -> None:
    """Links records to persons; a record linked already moves. At most one row a record."""
    txn.upsert_rows(person_link, rows)


def advance_consent_version(txn: Transaction, person_keys: Collection[int]) -> None:
    """Says that what these persons' consents permit may have changed: a link or a consent of theirs did."""
    if person_keys:
        given = {"keys": set(person_keys)}
        txn.execute(_LOCKED, given)
        txn.change(_ADVANCE, given)


def lock(txn: Transaction, person_keys: Collection[int]) -> None:
    """Holds the rows of persons, in key order, so that nobody else moves their records before this transaction ends."""
    if person_keys:
        txn.execute(_LOCKED, {"keys": set(person_keys)})


def append_events(txn: Transaction, rows: Sequence[LinkEventRow]) -> None:
    """Appends link events."""
    txn.insert_rows(link_event, rows)


def events(txn: Transaction, record_keys: Collection[int]) -> list[LinkEventRow]:
    """All events that name any of these records, in event order (time, tie, then as decided)."""
    if not record_keys:
        return []
    return [LinkEventRow._make(row) for row in txn.execute(_EVENTS, {"keys": set(record_keys)})]


def candidates(txn: Transaction, hashes: Collection[int], cap: int) -> dict[int, list[int]]:
    """Records by blocking key: at most ``cap + 1`` each, so that more than ``cap`` says that the cap cut."""
    found: dict[int, list[int]] = defaultdict(list)
    if hashes:
        for hash_, record_key in txn.execute(_CANDIDATES, {"hashes": set(hashes), "cap": cap + 1}):
            found[hash_].append(record_key)
    return dict(found)


def keys_of(txn: Transaction, record_keys: Collection[int]) -> dict[int, list[MatchKeyRow]]:
    """The blocking keys of records (their old ones, for law *Locks*)."""
    found: dict[int, list[MatchKeyRow]] = {key: [] for key in record_keys}
    if found:
        for row in txn.execute(_KEYS_OF, {"keys": list(found)}):
            found[row[1]].append(MatchKeyRow._make(row))
    return found


def write_keys(txn: Transaction, keys: Mapping[int, Collection[tuple[int, str]]]) -> None:
    """Makes these the blocking keys (hash, kind) of records; what is equal is not written."""
    if not keys:
        return
    stored = {row for rows in keys_of(txn, keys).values() for row in rows}
    kinds = {(hash_, record): kind for record, pairs in keys.items() for hash_, kind in pairs}
    wanted = {MatchKeyRow(hash_, record, kind) for (hash_, record), kind in kinds.items()}
    gone = stored - wanted
    if gone:
        txn.change(_DELETE_KEYS, {"gone": {row[:2] for row in gone}})
    txn.insert_rows(match_key, sorted(wanted - stored))


def features(txn: Transaction, record_keys: Collection[int]) -> dict[int, bytes]:
    """What matching compares, as JSON bytes, by record."""
    if not record_keys:
        return {}
    return dict(txn.execute(_FEATURES, {"keys": set(record_keys)}))


def write_features(txn: Transaction, rows: Sequence[tuple[int, bytes]]) -> None:
    """Stores (record key, JSON bytes), replacing what was there."""
    txn.upsert_rows(match_features, rows)
