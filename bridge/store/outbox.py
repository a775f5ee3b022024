"""What is to be sent elsewhere, written with the change that causes it; dispatchers delete what was acknowledged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, rows_parameter
from bridge.store.rows import OutboxRow
from bridge.store.schema import BIGINT, TEXT
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
_DUE: Final = Statement(
    sa.select(t)
    .where(t.c.destination == sa.bindparam("destination"), t.c.next_us <= sa.bindparam("now"))
    .order_by(t.c.next_us, t.c.outbox_key)
    .limit(sa.bindparam("count"))
)
_names: Final = rows_parameter("names", key=TEXT)
_QUEUES: Final = Statement(
    sa.select(t.c.key, t.c.outbox_key, t.c.next_us)
    .where(t.c.destination == sa.bindparam("destination"), t.c.key.in_(sa.select(_names.c.key)))
    .order_by(t.c.key, t.c.created_us, t.c.outbox_key)
)
_RELEASE: Final = Statement(
    sa.update(t)
    .values(next_us=t.c.created_us)
    .where(
        t.c.destination == sa.bindparam("destination_"),
        t.c.key == sa.bindparam("key_"),
        t.c.next_us == NEVER_US,
        t.c.attempts == sa.literal_column("0"),
    )
)
_later: Final = rows_parameter("later", outbox_key=BIGINT, next_us=BIGINT, tried=BIGINT)
_DEFER: Final = Statement(
    sa.update(t)
    .values(next_us=_later.c.next_us, attempts=t.c.attempts + _later.c.tried)
    .where(t.c.outbox_key == _later.c.outbox_key)
)
_ASIDE: Final = Statement(
    sa.select(t)
    .where(
        t.c.destination == sa.bindparam("destination"), t.c.next_us == NEVER_US, t.c.attempts > sa.literal_column("0")
    )
    .order_by(t.c.outbox_key)
    .limit(sa.bindparam("count"))
)
_GET: Final = Statement(sa.select(t).where(t.c.outbox_key == sa.bindparam("outbox_key")).with_for_update())
_tried: Final = t.c.attempts > sa.literal_column("0")
_STANDING: Final = Statement(
    sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(sa.case((sa.and_(t.c.next_us == NEVER_US, _tried), 1), else_=0)), 0),
        sa.func.min(
            sa.case(
                (sa.or_(t.c.next_us <= sa.bindparam("now"), sa.and_(_tried, t.c.next_us < NEVER_US)), t.c.created_us),
            )
        ),
    ).where(t.c.destination == sa.bindparam("destination"))
)
_WAITING: Final = Statement(
    sa.select(t.c.destination, sa.func.count(), sa.func.min(t.c.created_us)).group_by(t.c.destination)
)


class OutboxStanding(NamedTuple):
    """What a destination has before it: entries in all, how many of them were set aside, and the oldest that is due (µs).

    What failed and is to be tried again counts as due; what waits behind others, or for another reason, does not.
    """

    number: int
    aside: int
    oldest_us: int | None


class Turn(NamedTuple):
    """What may be sent now, in order within each key; and what waits behind others, as :func:`defer` takes it."""

    rows: list[OutboxRow]
    behind: list[tuple[int, int, int]]


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


def due(txn: Transaction, destination: str, limit: int) -> Turn:
    """Up to ``limit`` of what is due: of each key a beginning of what waits for it, so that nothing overtakes.

    For destinations whose entries are put by :func:`put_dated`. One dispatcher a destination, by lease. It defers what is
    behind others until those are due, or a few patients who wait would stand before all who do not.
    """
    found = txn.execute(_DUE, {"destination": destination, "now": txn.now_us(), "count": limit})
    rows = {row[0]: OutboxRow._make(row) for row in found}
    queues = (
        txn.execute(_QUEUES, {"destination": destination, "names": {row.key for row in rows.values()}}) if rows else []
    )
    behind: list[tuple[int, int, int]] = []
    waits: dict[str, int] = {}  # key → when the first that is not in this turn will be due
    for key, outbox_key, next_us in queues:
        if outbox_key not in rows:
            waits.setdefault(key, next_us)
        elif key in waits:
            until = max(waits[key], rows.pop(outbox_key).next_us + 1)
            behind.append((outbox_key, min(until, NEVER_US), 0))
    return Turn(sorted(rows.values(), key=lambda row: (row.created_us, row.outbox_key)), behind)


def defer(txn: Transaction, rows: Collection[tuple[int, int, int]]) -> None:
    """Lets entries wait: (outbox_key, until when in µs or :data:`NEVER_US`, attempts to be added)."""
    if rows:
        txn.change(_DEFER, {"later": list(rows)})


def release(txn: Transaction, destination: str, key: str) -> None:
    """Lets what waited behind an entry that was set aside be due again."""
    txn.change(_RELEASE, {"destination_": destination, "key_": key})


def aside(txn: Transaction, destination: str, limit: int) -> list[OutboxRow]:
    """Up to ``limit`` entries that were set aside."""
    return [OutboxRow._make(row) for row in txn.execute(_ASIDE, {"destination": destination, "count": limit})]


def hold(txn: Transaction, outbox_key: int) -> OutboxRow | None:
    """An entry, which nobody else changes before this transaction ends; None if there is none."""
    rows = txn.execute(_GET, {"outbox_key": outbox_key})
    return OutboxRow._make(rows[0]) if rows else None


def standing(txn: Transaction, destination: str) -> OutboxStanding:
    """What a destination has before it."""
    [row] = txn.execute(_STANDING, {"destination": destination, "now": txn.now_us()})
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
