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
_WAITING: Final = Statement(
    sa.select(t.c.destination, sa.func.count(), sa.func.min(t.c.created_us)).group_by(t.c.destination)
)


def put(txn: Transaction, rows: Sequence[tuple[str, str, bytes]], *, not_before_us: int = 0) -> list[int]:
    """Queues (destination, key, payload) in this order; their outbox keys. ``key`` groups what belongs to one thing."""
    keys = txn.allocate("outbox", len(rows))
    now = txn.start_us
    txn.insert_rows(t, [(key, *row, now, 0, not_before_us, None) for key, row in zip(keys, rows, strict=True)])
    return keys


def unsent(txn: Transaction, destination: str, limit: int) -> list[OutboxRow]:
    """Up to ``limit`` that are due and not being sent, oldest first. One dispatcher a destination, by lease."""
    given = {"destination": destination, "now": txn.start_us, "count": limit}
    return [OutboxRow._make(row) for row in txn.execute(_UNSENT, given)]


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
