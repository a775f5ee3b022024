"""What is to be sent elsewhere, written with the change that causes it; dispatchers delete what was acknowledged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, rows_parameter
from bridge.store.rows import OutboxRow
from bridge.store.schema import BIGINT
from bridge.store.schema import outbox as t

NEVER_US: Final = 2**63 - 1
"""When an entry that was set aside is due."""


class OutboxCount(NamedTuple):
    """How much waits for a destination, and since when the oldest does (µs)."""

    destination: str
    number: int
    oldest_us: int


_UNSENT: Final = Statement(
    sa.select(t)
    .where(t.c.destination == sa.bindparam("destination"), t.c.next_us <= sa.bindparam("now"), t.c.sending.is_(None))
    .order_by(t.c.outbox_key)
    .limit(sa.bindparam("count"))
)
_SENDING: Final = Statement(
    sa.select(t.c.sending)
    .where(t.c.destination == sa.bindparam("destination"), t.c.sending.is_not(None))
    .order_by(t.c.outbox_key)
)
_keys: Final = rows_parameter("keys", outbox_key=BIGINT)
_DELETE: Final = Statement(sa.delete(t).where(t.c.outbox_key.in_(sa.select(_keys.c.outbox_key))))
_CANCEL: Final = Statement(
    sa.delete(t).where(
        t.c.destination == sa.bindparam("destination"),
        t.c.key == sa.bindparam("key"),
        t.c.attempts == sa.literal_column("0"),
        t.c.sending.is_(None),
    )
)
_MARK: Final = Statement(
    sa.update(t)
    .values(attempts=t.c.attempts + 1, sending=sa.bindparam("prepared"))
    .where(t.c.outbox_key.in_(sa.select(_keys.c.outbox_key)))
)
_carried: Final = sa.and_(t.c.destination == sa.bindparam("destination"), t.c.sending == sa.bindparam("prepared"))
_SENT: Final = Statement(sa.delete(t).where(_carried))
_NOT_SENT: Final = Statement(sa.update(t).values(sending=sa.null()).where(_carried))
_earlier: Final = t.alias("earlier")
# A later entry of a key may overtake none before it: neither one that waits for its time nor one that was set aside.
_overtakes: Final = sa.exists().where(
    _earlier.c.destination == t.c.destination,
    _earlier.c.key == t.c.key,
    sa.or_(
        _earlier.c.created_us < t.c.created_us,
        sa.and_(_earlier.c.created_us == t.c.created_us, _earlier.c.outbox_key < t.c.outbox_key),
    ),
    _earlier.c.next_us > t.c.next_us,
)
_DUE: Final = Statement(
    sa.select(t)
    .where(t.c.destination == sa.bindparam("destination"), t.c.next_us <= sa.bindparam("now"), ~_overtakes)
    .order_by(t.c.next_us, t.c.created_us, t.c.outbox_key)
    .limit(sa.bindparam("count"))
)
_later: Final = rows_parameter("later", outbox_key=BIGINT, next_us=BIGINT, tried=BIGINT)
_DEFER: Final = Statement(
    sa.update(t)
    .values(next_us=_later.c.next_us, attempts=t.c.attempts + _later.c.tried)
    .where(t.c.outbox_key == _later.c.outbox_key)
)
_ASIDE: Final = Statement(
    sa.select(t)
    .where(t.c.destination == sa.bindparam("destination"), t.c.next_us == NEVER_US)
    .order_by(t.c.outbox_key)
    .limit(sa.bindparam("count"))
)
_GET: Final = Statement(sa.select(t).where(t.c.outbox_key == sa.bindparam("outbox_key")).with_for_update())
_STANDING: Final = Statement(
    sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(sa.case((t.c.next_us == NEVER_US, 1), else_=0)), 0),
        sa.func.min(sa.case((sa.and_(t.c.attempts > sa.literal_column("0"), t.c.next_us < NEVER_US), t.c.created_us))),
    ).where(t.c.destination == sa.bindparam("destination"))
)
_WAITING: Final = Statement(
    sa.select(t.c.destination, sa.func.count(), sa.func.min(t.c.created_us)).group_by(t.c.destination)
)


class OutboxStanding(NamedTuple):
    """What a destination has before it: entries in all, how many were set aside, and the oldest that failed and waits (µs)."""

    number: int
    aside: int
    failing_us: int | None


def put(txn: Transaction, rows: Sequence[tuple[str, str, bytes]], *, not_before_us: int = 0) -> list[int]:
    """Queues (destination, key, payload) in this order; their outbox keys. ``key`` groups what belongs to one thing."""
    keys = txn.allocate("outbox", len(rows))
    now = txn.start_us
    txn.insert_rows(t, [(key, *row, now, 0, not_before_us, None) for key, row in zip(keys, rows, strict=True)])
    return keys


def put_dated(txn: Transaction, rows: Sequence[tuple[str, str, bytes, int]]) -> None:
    """Queues (destination, key, payload, time in µs) for :func:`due`, which keeps a key's order by time, then as put here.

    The time is ``now_us`` of a transaction that held the key's locks before it asked: what waits for one another (a
    patient's) is then in the order of its commits. By outbox_key it would not be: processes take keys in blocks.
    """
    if rows:
        keys = txn.allocate("outbox", len(rows))
        txn.insert_rows(t, [(key, *row, 0, row[-1], None) for key, row in zip(keys, rows, strict=True)])


def unsent(txn: Transaction, destination: str, limit: int) -> list[OutboxRow]:
    """Up to ``limit`` that are due and not being sent, oldest first. One dispatcher a destination, by lease."""
    given = {"destination": destination, "now": txn.start_us, "count": limit}
    return [OutboxRow._make(row) for row in txn.execute(_UNSENT, given)]


def due(txn: Transaction, destination: str, limit: int) -> list[OutboxRow]:
    """Up to ``limit`` that may be sent now, in order within each key: none of which an earlier one of its key waits.

    For destinations whose entries are put by :func:`put_dated`. One dispatcher a destination, by lease.
    """
    given = {"destination": destination, "now": txn.now_us(), "count": limit}
    rows = [OutboxRow._make(row) for row in txn.execute(_DUE, given)]
    return sorted(rows, key=lambda row: (row.created_us, row.outbox_key))


def defer(txn: Transaction, rows: Collection[tuple[int, int, int]]) -> None:
    """Lets entries wait: (outbox_key, until when in µs or :data:`NEVER_US`, attempts to be added)."""
    if rows:
        txn.change(_DEFER, {"later": list(rows)})


def aside(txn: Transaction, destination: str, limit: int) -> list[OutboxRow]:
    """Up to ``limit`` entries that were set aside."""
    return [OutboxRow._make(row) for row in txn.execute(_ASIDE, {"destination": destination, "count": limit})]


def hold(txn: Transaction, outbox_key: int) -> OutboxRow | None:
    """An entry, which nobody else changes before this transaction ends; None if there is none."""
    rows = txn.execute(_GET, {"outbox_key": outbox_key})
    return OutboxRow._make(rows[0]) if rows else None


def standing(txn: Transaction, destination: str) -> OutboxStanding:
    """What a destination has before it."""
    [row] = txn.execute(_STANDING, {"destination": destination})
    return OutboxStanding._make(row)


def sending(txn: Transaction, destination: str) -> list[bytes]:
    """The prepared transactions that are being sent, oldest first, each once."""
    return list(dict.fromkeys(row[0] for row in txn.execute(_SENDING, {"destination": destination})))


def mark_sending(txn: Transaction, outbox_keys: Collection[int], prepared: bytes) -> None:
    """Ties entries to the prepared transaction that will carry them, before it is sent."""
    txn.change(_MARK, {"keys": set(outbox_keys), "prepared": prepared})


def sent(txn: Transaction, destination: str, prepared: bytes) -> int:
    """Forgets the entries that a prepared transaction has carried for good; how many they were."""
    return txn.change(_SENT, {"destination": destination, "prepared": prepared})


def not_sent(txn: Transaction, destination: str, prepared: bytes) -> int:
    """Lets the entries of a lost prepared transaction wait again; how many they were."""
    return txn.change(_NOT_SENT, {"destination": destination, "prepared": prepared})


def delete(txn: Transaction, outbox_keys: Collection[int]) -> None:
    """Forgets what was acknowledged."""
    if outbox_keys:
        txn.change(_DELETE, {"keys": set(outbox_keys)})


def cancel(txn: Transaction, destination: str, key: str) -> int:
    """Removes what waits under ``key`` and was never tried (a revocation cancels its unsent grant); how many it was."""
    return txn.change(_CANCEL, {"destination": destination, "key": key})


def waiting(txn: Transaction) -> list[OutboxCount]:
    """What waits, by destination."""
    return [OutboxCount._make(row) for row in txn.execute(_WAITING)]
