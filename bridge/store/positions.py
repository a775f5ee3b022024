"""How far each partition of a source has been worked, and what became of its messages (law *Position*)."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, insert
from bridge.store.rows import Counts, Position, PositionRow
from bridge.store.schema import source_position as t

_COUNTS: Final = Counts._fields
_HERE: Final = sa.and_(
    t.c.source == sa.bindparam("source"),
    t.c.topic_id == sa.bindparam("topic_id"),
    t.c.partition == sa.bindparam("partition_"),
)
_ADDED: Final = {name: t.c[name] + sa.bindparam(name, type_=sa.BigInteger()) for name in _COUNTS}

_CLAIM: Final = Statement(
    insert(t)
    .values(
        source=sa.bindparam("source"),
        topic_id=sa.bindparam("topic_id"),
        partition=sa.bindparam("partition_"),
        next_offset=0,
        epoch=1,
        updated_us=sa.bindparam("now"),
    )
    .on_conflict_do_update(
        index_elements=["source", "topic_id", "partition"],
        set_={"epoch": t.c.epoch + 1, "updated_us": sa.bindparam("now")},
    )
    .returning(t.c.next_offset, t.c.epoch)
)
_HELD: Final = Statement(
    sa.select(t.c.next_offset)
    .where(_HERE, t.c.next_offset == sa.bindparam("expected"), t.c.epoch == sa.bindparam("mine"))
    .with_for_update()
)
_FIND: Final = Statement(sa.select(t.c.next_offset, t.c.epoch).where(_HERE))
_RESET: Final = Statement(
    sa.update(t)
    .values(next_offset=sa.bindparam("after"), updated_us=sa.bindparam("now"))
    .where(_HERE, t.c.epoch == sa.bindparam("mine"))
)
_ADVANCE: Final = Statement(
    sa.update(t)
    .values(next_offset=sa.bindparam("after"), updated_us=sa.bindparam("now"), **_ADDED)
    .where(_HERE, t.c.next_offset == sa.bindparam("expected"), t.c.epoch == sa.bindparam("mine"))
)
_RECOUNT: Final = Statement(sa.update(t).values(updated_us=sa.bindparam("now"), **_ADDED).where(_HERE))
_ALL: Final = Statement(sa.select(t).order_by(t.c.source, t.c.topic_id, t.c.partition))


def claim(txn: Transaction, source: str, topic_id: str, partition: int) -> Position:
    """Takes a partition over: a new epoch, in which only its holder's :func:`advance` succeeds. Creates it at offset 0."""
    given = {"source": source, "topic_id": topic_id, "partition_": partition, "now": txn.start_us}
    return Position(*txn.execute(_CLAIM, given)[0])


def hold(txn: Transaction, source: str, topic_id: str, partition: int, *, expected: int, epoch: int) -> bool:
    """Whether a position stands where its holder left it; if so nobody else moves it before this transaction ends."""
    given = {"source": source, "topic_id": topic_id, "partition_": partition, "expected": expected, "mine": epoch}
    return bool(txn.execute(_HELD, given))


def find(txn: Transaction, source: str, topic_id: str, partition: int) -> Position | None:
    """Where a partition stands, whoever holds it; None if nobody ever claimed it."""
    rows = txn.execute(_FIND, {"source": source, "topic_id": topic_id, "partition_": partition})
    return Position(*rows[0]) if rows else None


def reset(txn: Transaction, source: str, topic_id: str, partition: int, *, epoch: int, next_offset: int) -> bool:
    """Moves a position without anything having been read; False if someone else has claimed it."""
    given = {"source": source, "topic_id": topic_id, "partition_": partition, "mine": epoch}
    return txn.change(_RESET, {**given, "after": next_offset, "now": txn.start_us}) == 1


def advance(
    txn: Transaction,
    source: str,
    topic_id: str,
    partition: int,
    *,
    expected: int,
    epoch: int,
    next_offset: int,
    counts: Counts,
) -> bool:
    """Moves a position and adds to its totals; False if someone else has moved or claimed it (then abort the batch)."""
    given = {
        "source": source,
        "topic_id": topic_id,
        "partition_": partition,
        "expected": expected,
        "mine": epoch,
        "after": next_offset,
        "now": txn.start_us,
        **counts._asdict(),
    }
    return txn.change(_ADVANCE, given) == 1


def recount(txn: Transaction, source: str, topic_id: str, partition: int, counts: Counts) -> None:
    """Adds ``counts`` (which may be negative: a replay moves one from dead to stored) without moving the position."""
    given = {"source": source, "topic_id": topic_id, "partition_": partition, "now": txn.start_us, **counts._asdict()}
    txn.change(_RECOUNT, given)


def all_positions(txn: Transaction) -> list[PositionRow]:
    """Every position with its totals."""
    return [PositionRow._make(row) for row in txn.execute(_ALL)]
