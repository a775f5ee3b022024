"""Log heads on their way to a chain, and on it."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, constant
from bridge.store.rows import AnchorRow
from bridge.store.schema import anchor as t

_of: Final = sa.and_(t.c.backend == sa.bindparam("backend"), t.c.log_id == sa.bindparam("log_id"))
_settled: Final = t.c.state.in_([constant("included"), constant("final")])
_UNSETTLED: Final = Statement(
    sa.select(t)
    .where(
        t.c.backend == sa.bindparam("backend"),
        t.c.state.in_([constant("prepared"), constant("sent"), constant("included")]),
    )
    .order_by(t.c.anchor_key)
)
_LATEST: Final = Statement(
    sa.select(t).where(_of, t.c.state != constant("lost")).order_by(t.c.size.desc(), t.c.anchor_key.desc()).limit(1)
)
_COVERING: Final = Statement(
    sa.select(t).where(_of, _settled, t.c.size >= sa.bindparam("size")).order_by(t.c.size, t.c.anchor_key).limit(1)
)
_HELD: Final = Statement(sa.select(t).where(_of, _settled).order_by(t.c.size.desc(), t.c.anchor_key.desc()).limit(1))


def write(txn: Transaction, row: AnchorRow) -> None:
    """Stores an anchor as it now stands."""
    txn.upsert_rows(t, [row])


def unsettled(txn: Transaction, backend: str) -> list[AnchorRow]:
    """Those that are neither final nor lost, oldest first."""
    return [AnchorRow._make(row) for row in txn.execute(_UNSETTLED, {"backend": backend})]


def latest(txn: Transaction, backend: str, log_id: bytes) -> AnchorRow | None:
    """The anchor of the greatest size that is not lost."""
    rows = txn.execute(_LATEST, {"backend": backend, "log_id": log_id})
    return AnchorRow._make(rows[0]) if rows else None


def held(txn: Transaction, backend: str, log_id: bytes) -> AnchorRow | None:
    """The included or final anchor of the greatest size: what the chain was last known to hold."""
    rows = txn.execute(_HELD, {"backend": backend, "log_id": log_id})
    return AnchorRow._make(rows[0]) if rows else None


def covering(txn: Transaction, backend: str, log_id: bytes, size: int) -> AnchorRow | None:
    """The smallest included or final anchor of at least ``size`` leaves."""
    rows = txn.execute(_COVERING, {"backend": backend, "log_id": log_id, "size": size})
    return AnchorRow._make(rows[0]) if rows else None
