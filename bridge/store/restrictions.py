"""Patients closed to all but emergency access, because a consent of theirs could not be understood."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, constant, rows_parameter
from bridge.store.rows import RestrictionRow
from bridge.store.schema import BIGINT, BYTES, resource
from bridge.store.schema import restriction as t

_open: Final = t.c.state == constant("open")
_keys: Final = rows_parameter("keys", key=BIGINT)
_OPEN_FOR: Final = Statement(
    sa.select(t).join_from(_keys, t, t.c.patient_key == _keys.c.key).where(_open).order_by(t.c.restriction_key)
)
_OF_DEAD_LETTERS: Final = Statement(
    sa.select(t).join_from(_keys, t, t.c.dead_key == _keys.c.key).order_by(t.c.restriction_key)
)
_LIST_OPEN: Final = Statement(
    sa.select(t, resource.c.fhir_id)
    .outerjoin_from(t, resource, sa.and_(resource.c.resource_key == t.c.patient_key, resource.c.type == "Patient"))
    .where(_open, t.c.restriction_key < sa.bindparam("before"))
    .order_by(t.c.restriction_key.desc())
    .limit(sa.bindparam("count"))
)
_GET: Final = Statement(sa.select(t).where(t.c.restriction_key == sa.bindparam("key")))
_LATEST: Final = 2**63 - 1
_LIFT: Final = Statement(
    sa.update(t)
    .values(state="lifted", lifted_us=sa.bindparam("now"), lifted_by=sa.bindparam("by"), reason=sa.bindparam("reason_"))
    .where(t.c.restriction_key.in_(sa.select(_keys.c.key)), _open)
)
_macs: Final = rows_parameter("macs", identity_mac=BYTES)
_BY_IDENTITY: Final = Statement(
    sa.select(t)
    .join_from(_macs, t, t.c.identity_mac == _macs.c.identity_mac)
    .where(_open)
    .order_by(t.c.restriction_key)
)
_MOVE: Final = Statement(
    sa.update(t).values(patient_key=sa.bindparam("after")).where(t.c.patient_key == sa.bindparam("before"))
)


def add(txn: Transaction, rows: Sequence[RestrictionRow]) -> None:
    """Closes patients, each by its resource key or, until that is known, by the keyed digest of an identifier."""
    txn.insert_rows(t, rows)


def open_for(txn: Transaction, patient_keys: Collection[int]) -> dict[int, list[RestrictionRow]]:
    """The open restrictions of each patient record; an empty list where there are none."""
    found: dict[int, list[RestrictionRow]] = {key: [] for key in patient_keys}
    if found:
        for row in txn.execute(_OPEN_FOR, {"keys": list(found)}):
            found[row[1]].append(RestrictionRow._make(row))
    return found


def of_dead_letters(txn: Transaction, dead_keys: Collection[int]) -> list[RestrictionRow]:
    """All restrictions that came with these dead letters, lifted ones included."""
    if not dead_keys:
        return []
    return [RestrictionRow._make(row) for row in txn.execute(_OF_DEAD_LETTERS, {"keys": set(dead_keys)})]


def list_open(
    txn: Transaction, *, before_key: int = _LATEST, limit: int = 100
) -> list[tuple[RestrictionRow, str | None]]:
    """Open ones below ``before_key``, greatest key first, each with the FHIR id of its Patient if that one is stored."""
    rows = txn.execute(_LIST_OPEN, {"before": before_key, "count": limit})
    return [(RestrictionRow._make(row[:-1]), row[-1]) for row in rows]


def get(txn: Transaction, restriction_key: int) -> RestrictionRow | None:
    """One restriction, open or lifted."""
    rows = txn.execute(_GET, {"key": restriction_key})
    return RestrictionRow._make(rows[0]) if rows else None


def lift(txn: Transaction, restriction_keys: Collection[int], *, lifted_by: str, reason: str) -> int:
    """Lifts those that are open; how many they were."""
    if not restriction_keys:
        return 0
    given = {"keys": set(restriction_keys), "now": txn.start_us, "by": lifted_by, "reason_": reason}
    return txn.change(_LIFT, given)


def move(txn: Transaction, moved: Mapping[int, int]) -> None:
    """Gives the restrictions of one patient to another, by their resource keys."""
    for before, after in moved.items():
        txn.change(_MOVE, {"before": before, "after": after})


def open_by_identity(txn: Transaction, macs: Collection[bytes]) -> list[RestrictionRow]:
    """Open ones that waited, or wait, for these digests of identifiers."""
    return [RestrictionRow._make(row) for row in txn.execute(_BY_IDENTITY, {"macs": set(macs)})] if macs else []


def give(txn: Transaction, patients: Mapping[int, int]) -> None:
    """Ties restrictions to the patients who turn out to be meant: restriction key → patient key."""
    txn.update_rows(t, ("restriction_key",), ("patient_key",), [(v, k) for k, v in sorted(patients.items())])
