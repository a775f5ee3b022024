"""Messages that could not be stored: why, and what an operator did about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, constant
from bridge.store.rows import DeadLetterRow, DeadState
from bridge.store.schema import dead_letter as t

_BEFORE: Final = sa.and_(
    t.c.dead_key < sa.bindparam("before"),
    sa.or_(sa.bindparam("state", type_=sa.Text()).is_(None), t.c.state == sa.bindparam("state")),
    sa.or_(sa.bindparam("source", type_=sa.Text()).is_(None), t.c.source == sa.bindparam("source")),
)
_LIST: Final = Statement(sa.select(t).where(_BEFORE).order_by(t.c.dead_key.desc()).limit(sa.bindparam("count")))
_GET: Final = Statement(sa.select(t).where(t.c.dead_key == sa.bindparam("key")))
_CLOSE: Final = Statement(
    sa.update(t)
    .values(
        state=sa.bindparam("state"),
        closed_us=sa.bindparam("now"),
        closed_by=sa.bindparam("by"),
        reason=sa.bindparam("reason"),
    )
    .where(t.c.dead_key == sa.bindparam("key"), t.c.state == constant("open"))
)
_COUNTS: Final = Statement(sa.select(t.c.source, t.c.state, sa.func.count()).group_by(t.c.source, t.c.state))
_LATEST: Final = 2**63 - 1


def insert(txn: Transaction, rows: Sequence[DeadLetterRow]) -> None:
    """Records new dead letters."""
    txn.insert_rows(t, rows)


def list_letters(
    txn: Transaction,
    *,
    state: DeadState | None = None,
    source: str | None = None,
    before_key: int = _LATEST,
    limit: int = 100,
) -> list[DeadLetterRow]:
    """Dead letters below ``before_key``, greatest key first; a page for people, not a cursor that sees everything."""
    given = {"before": before_key, "state": state, "source": source, "count": limit}
    return [DeadLetterRow._make(row) for row in txn.execute(_LIST, given)]


def get(txn: Transaction, dead_key: int) -> DeadLetterRow | None:
    """One dead letter."""
    rows = txn.execute(_GET, {"key": dead_key})
    return DeadLetterRow._make(rows[0]) if rows else None


def close(txn: Transaction, dead_key: int, *, state: DeadState, closed_by: str, reason: str) -> bool:
    """Closes an open dead letter; False if it is not open (someone else was faster)."""
    given = {"key": dead_key, "state": state, "now": txn.start_us, "by": closed_by, "reason": reason}
    return txn.change(_CLOSE, given) == 1


def counts(txn: Transaction) -> dict[tuple[str, str], int]:
    """How many, by (source, state)."""
    return {(source, state): number for source, state, number in txn.execute(_COUNTS)}
