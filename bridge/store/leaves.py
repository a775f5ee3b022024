"""Leaves, from commitment to log: pending leaves, the log with its subtrees and heads, and what each leaf commits to.

Writers only insert into ``leaf_pending``; the holder of the sequencer's lease moves them into the log (law *Sequencer*).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, rows_parameter
from bridge.store.rows import CheckpointRow, CommitmentRow, LogLeaf, LogState, PendingLeaf
from bridge.store.schema import BIGINT, BYTES, checkpoint, commitment, leaf_pending, log_leaf, log_state, log_subtree

_TIME_BYTES: Final = 6
_RANDOM_BYTES: Final = 10

_ids: Final = rows_parameter("ids", leaf_id=BYTES)
_oldest: Final = (
    sa.select(leaf_pending.c.leaf_id)
    .order_by(leaf_pending.c.created_us, leaf_pending.c.leaf_id)
    .limit(sa.bindparam("count"))
)
_TAKE: Final = Statement(sa.delete(leaf_pending).where(leaf_pending.c.leaf_id.in_(_oldest)).returning(*leaf_pending.c))
_PENDING: Final = Statement(
    sa.select(sa.func.count(), sa.func.min(leaf_pending.c.created_us)).select_from(leaf_pending)
)
_STATE: Final = Statement(sa.select(log_state).where(log_state.c.origin == sa.bindparam("origin")))
_BY_ID: Final = Statement(sa.select(log_leaf).join_from(_ids, log_leaf, log_leaf.c.leaf_id == _ids.c.leaf_id))
_in_log: Final = sa.and_(
    log_leaf.c.origin == sa.bindparam("origin"),
    log_leaf.c.leaf_index >= sa.bindparam("start"),
    log_leaf.c.leaf_index < sa.bindparam("end"),
)
_RANGE: Final = Statement(sa.select(log_leaf).where(_in_log).order_by(log_leaf.c.leaf_index))
_HASHES: Final = Statement(sa.select(log_leaf.c.leaf_hash).where(_in_log).order_by(log_leaf.c.leaf_index))
_nodes: Final = rows_parameter("nodes", level=BIGINT, node_index=BIGINT)
_SUBTREES: Final = Statement(
    sa.select(log_subtree.c.level, log_subtree.c.node_index, log_subtree.c.hash).join_from(
        _nodes,
        log_subtree,
        sa.and_(
            log_subtree.c.origin == sa.bindparam("origin"),
            log_subtree.c.level == _nodes.c.level,
            log_subtree.c.node_index == _nodes.c.node_index,
        ),
    )
)
_heads: Final = sa.select(checkpoint).where(
    checkpoint.c.origin == sa.bindparam("origin"), checkpoint.c.size >= sa.bindparam("size")
)
_COVERING: Final = Statement(_heads.order_by(checkpoint.c.size).limit(1))
_LATEST: Final = Statement(
    sa.select(checkpoint)
    .where(checkpoint.c.origin == sa.bindparam("origin"))
    .order_by(checkpoint.c.size.desc())
    .limit(1)
)
_COMMITMENTS: Final = Statement(
    sa.select(commitment).join_from(_ids, commitment, commitment.c.leaf_id == _ids.c.leaf_id)
)


def new_leaf_ids(count: int, now_us: int) -> list[bytes]:
    """Fresh 16-byte leaf ids: 6 bytes of milliseconds, then 10 random bytes.

    Ids that begin with the time keep inserts at the end of the trees that hold them; wholly random ones would touch, and
    after each PostgreSQL checkpoint log in full, a page for every leaf. They are never shown outside the store.
    """
    time = (now_us // 1000).to_bytes(_TIME_BYTES, "big")
    random = os.urandom(_RANDOM_BYTES * count)
    return [time + random[start : start + _RANDOM_BYTES] for start in range(0, len(random), _RANDOM_BYTES)]


def put_pending(txn: Transaction, rows: Sequence[PendingLeaf]) -> None:
    """Hands leaves to the sequencer."""
    txn.insert_rows(leaf_pending, rows)


def take_pending(txn: Transaction, limit: int = 10_000) -> list[PendingLeaf]:
    """Takes up to ``limit`` pending leaves that this transaction can see, oldest first, out of the queue."""
    rows = [PendingLeaf._make(row) for row in txn.execute(_TAKE, {"count": limit})]
    rows.sort(key=lambda row: (row.created_us, row.leaf_id))
    return rows


def pending(txn: Transaction) -> tuple[int, int | None]:
    """How many leaves wait, and since when the oldest does (µs)."""
    number, oldest = txn.execute(_PENDING)[0]
    return number, oldest


def state(txn: Transaction, origin: str) -> LogState | None:
    """The head of a log; None before its first leaf."""
    rows = txn.execute(_STATE, {"origin": origin})
    return LogState._make(rows[0]) if rows else None


def set_state(txn: Transaction, head: LogState) -> None:
    """Writes the head of a log."""
    txn.upsert_rows(log_state, [head])


def append(txn: Transaction, rows: Sequence[LogLeaf]) -> None:
    """Appends leaves; Incorrect ``data-error`` if an index or a leaf is there already."""
    txn.insert_rows(log_leaf, rows)


def leaves_by_id(txn: Transaction, leaf_ids: Collection[bytes]) -> dict[bytes, LogLeaf]:
    """Those of the leaves that have an index."""
    if not leaf_ids:
        return {}
    return {row[2]: LogLeaf._make(row) for row in txn.execute(_BY_ID, {"ids": set(leaf_ids)})}


def stream_leaves(
    txn: Transaction, origin: str, start: int, end: int, *, chunk: int = 10_000
) -> Iterator[list[LogLeaf]]:
    """The leaves with start ≤ index < end, in order."""
    for rows in txn.stream(_RANGE, {"origin": origin, "start": start, "end": end}, chunk):
        yield [LogLeaf._make(row) for row in rows]


def leaf_hashes(txn: Transaction, origin: str, start: int, end: int) -> list[bytes]:
    """The leaf hashes with start ≤ index < end, in order."""
    return [row[0] for row in txn.execute(_HASHES, {"origin": origin, "start": start, "end": end})]


def write_subtrees(txn: Transaction, origin: str, rows: Sequence[tuple[int, int, bytes]]) -> None:
    """Stores (level, node index, hash) of subtrees that have become complete."""
    txn.insert_rows(log_subtree, [(origin, *row) for row in rows])


def subtrees(txn: Transaction, origin: str, nodes: Collection[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """The hashes of complete subtrees by (level, node index); level 0 is :func:`leaf_hashes`."""
    if not nodes:
        return {}
    rows = txn.execute(_SUBTREES, {"origin": origin, "nodes": set(nodes)})
    return {(level, node_index): hash_ for level, node_index, hash_ in rows}


def put_checkpoint(txn: Transaction, row: CheckpointRow) -> None:
    """Stores a signed checkpoint; one of the same size is replaced (signed again after a key rotation)."""
    txn.upsert_rows(checkpoint, [row])


def checkpoint_covering(txn: Transaction, origin: str, size: int) -> CheckpointRow | None:
    """The smallest checkpoint of at least ``size`` leaves."""
    rows = txn.execute(_COVERING, {"origin": origin, "size": size})
    return CheckpointRow._make(rows[0]) if rows else None


def latest_checkpoint(txn: Transaction, origin: str) -> CheckpointRow | None:
    """The greatest checkpoint."""
    rows = txn.execute(_LATEST, {"origin": origin})
    return CheckpointRow._make(rows[0]) if rows else None


def put_commitments(txn: Transaction, rows: Sequence[CommitmentRow]) -> None:
    """Stores what leaves commit to."""
    txn.insert_rows(commitment, rows)


def commitments(txn: Transaction, leaf_ids: Collection[bytes]) -> dict[bytes, CommitmentRow]:
    """What leaves commit to, by leaf id."""
    if not leaf_ids:
        return {}
    return {row[0]: CommitmentRow._make(row) for row in txn.execute(_COMMITMENTS, {"ids": set(leaf_ids)})}
