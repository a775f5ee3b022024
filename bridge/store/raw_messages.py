"""Raw messages, encrypted: the copy that is kept, and the embedded queue of sources without Kafka."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import LIMIT_CLAIMS, RELEASE_CLAIMS, Statement, claimed, constant, rows_parameter
from bridge.store.rows import RawMessageRow, RawState
from bridge.store.schema import BIGINT, TEXT
from bridge.store.schema import raw_message as t


class RawCount(NamedTuple):
    """How many raw messages of a source stand where."""

    source: str
    state: str
    outcome: str | None
    number: int


_keys: Final = rows_parameter("keys", raw_key=BIGINT, received_us=BIGINT)
_sources: Final = rows_parameter("sources", source=TEXT)
_oldest: Final = (
    sa.select(t)
    .where(t.c.state == constant("waiting"), t.c.source.in_(sa.select(_sources.c.source)))
    .order_by(t.c.received_us, t.c.raw_key)
    .limit(sa.bindparam("within"))
    .subquery("oldest")
)
# The limit within keeps the claims to the oldest, in their order; the limit around it ends them at the last one needed.
_CLAIM: Final = Statement(sa.select(_oldest).where(claimed(_oldest.c.raw_key)).limit(sa.bindparam("count")))
_CLAIM_WITHIN: Final = 16  # times as many as are wanted: so many workers may be at it
CLAIM_IDLE = "60s"  # as long as an open transaction may be idle
_HOLD: Final = Statement(
    sa.select(t.c.raw_key)
    .where(
        sa.tuple_(t.c.raw_key, t.c.received_us).in_(sa.select(_keys.c.raw_key, _keys.c.received_us)),
        t.c.state == constant("waiting"),
    )
    .order_by(t.c.raw_key)
    .with_for_update(skip_locked=True)
)
_TRIED: Final = Statement(
    sa.update(t)
    .values(attempts=t.c.attempts + 1)
    .where(
        sa.tuple_(t.c.raw_key, t.c.received_us).in_(sa.select(_keys.c.raw_key, _keys.c.received_us)),
    )
)
_GET: Final = Statement(
    sa.select(t).where(t.c.raw_key == sa.bindparam("key"), t.c.received_us == sa.bindparam("received"))
)
_SETTLED: Final = Statement(
    sa.select(t.c.raw_key, t.c.state).where(
        sa.tuple_(t.c.raw_key, t.c.received_us).in_(sa.select(_keys.c.raw_key, _keys.c.received_us)),
        t.c.state != constant("waiting"),
    )
)
_WAITING_BY_SOURCE: Final = Statement(
    sa.select(t.c.source, sa.func.count()).where(t.c.state == constant("waiting")).group_by(t.c.source)
)
_COUNTS: Final = Statement(
    sa.select(t.c.source, t.c.state, t.c.outcome, sa.func.count()).group_by(t.c.source, t.c.state, t.c.outcome)
)


def insert(txn: Transaction, rows: Sequence[RawMessageRow]) -> None:
    """Keeps new raw messages."""
    txn.insert_rows(t, rows)


def waiting(txn: Transaction, limit: int, sources: Collection[str]) -> list[RawMessageRow]:
    """Up to ``limit`` waiting messages of ``sources``, oldest first, without those that another session claims.

    They are claimed for this session, beyond the transaction, until :func:`release` or the session's end: nobody else sees
    them. A claim saves work and is no promise: only :func:`hold_waiting` says that a message still waits. A session that
    says nothing for :data:`CLAIM_IDLE` is ended by the server.
    """
    given = {"count": limit, "within": limit * _CLAIM_WITHIN, "sources": set(sources)}
    rows = [RawMessageRow._make(row) for row in txn.execute(_CLAIM, given)]
    if rows:
        txn.execute(LIMIT_CLAIMS, {"idle": CLAIM_IDLE})
    return rows


def release(txn: Transaction) -> None:
    """Gives back all that this session claimed by :func:`waiting`; what is not done can be claimed again."""
    txn.execute(RELEASE_CLAIMS)


def hold_waiting(txn: Transaction, keys: Collection[tuple[int, int]]) -> set[int]:
    """Holds those of the (raw_key, received_us) that still wait and that nobody else holds; their raw keys.

    Finish them in the same transaction, or they wait again.
    """
    if not keys:
        return set()
    held = {row[0] for row in txn.execute(_HOLD, {"keys": set(keys)})}
    txn.change(_TRIED, {"keys": [key for key in keys if key[0] in held]})
    return held


def settled(txn: Transaction, keys: Collection[tuple[int, int]]) -> dict[int, RawState]:
    """The state of those of the (raw_key, received_us) that wait no longer, by raw key."""
    return {key: RawState(state) for key, state in txn.execute(_SETTLED, {"keys": set(keys)})} if keys else {}


def finish(txn: Transaction, rows: Sequence[tuple[int, int, str, str | None]]) -> None:
    """Sets (raw_key, received_us, state, outcome)."""
    ordered = [(state, outcome, raw_key, received_us) for raw_key, received_us, state, outcome in sorted(rows)]
    txn.update_rows(t, ("raw_key", "received_us"), ("state", "outcome"), ordered)


def describe(
    txn: Transaction, rows: Sequence[tuple[int, int, str | None, str | None, bytes | None, int | None]]
) -> None:
    """Sets what only parsing shows: (raw_key, received_us, sender, control_id, digest, owner_key)."""
    ordered = [(*found, raw_key, received_us) for raw_key, received_us, *found in sorted(rows, key=lambda row: row[:2])]
    txn.update_rows(t, ("raw_key", "received_us"), ("sender", "control_id", "digest", "owner_key"), ordered)


def get(txn: Transaction, raw_key: int, received_us: int) -> RawMessageRow | None:
    """One raw message."""
    rows = txn.execute(_GET, {"key": raw_key, "received": received_us})
    return RawMessageRow._make(rows[0]) if rows else None


def waiting_by_source(txn: Transaction) -> dict[str, int]:
    """How many messages wait, by source."""
    return {row[0]: row[1] for row in txn.execute(_WAITING_BY_SOURCE)}


def counts(txn: Transaction) -> list[RawCount]:
    """How many stand where, by source (reads the whole table)."""
    return [RawCount._make(row) for row in txn.execute(_COUNTS)]
