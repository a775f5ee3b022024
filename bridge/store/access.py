"""Access records: durable before the first byte leaves, closed when the answer has left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement
from bridge.store.rows import AccessRecord
from bridge.store.schema import access_record as t

_OPEN: Final = Statement(
    sa.select(t)
    .where(t.c.outcome.is_(None), t.c.started_us < sa.bindparam("before"))
    .order_by(t.c.started_us)
    .limit(sa.bindparam("count"))
)


def put(txn: Transaction, records: Sequence[AccessRecord]) -> None:
    """Records accesses, open or closed."""
    txn.insert_rows(t, records)


def close(txn: Transaction, rows: Sequence[tuple[bytes, int, str, int, int | None]]) -> None:
    """Records what came of accesses: (access_id, started_us, outcome, finished_us, HTTP status)."""
    ordered = [(*closing, access_id, started_us) for access_id, started_us, *closing in sorted(rows)]
    txn.update_rows(t, ("access_id", "started_us"), ("outcome", "finished_us", "status"), ordered)


def open_without_outcome(txn: Transaction, before_us: int, limit: int = 1000) -> list[AccessRecord]:
    """Accesses begun before ``before_us`` whose outcome nobody recorded (a crash), oldest first."""
    return [AccessRecord._make(row) for row in txn.execute(_OPEN, {"before": before_us, "count": limit})]
