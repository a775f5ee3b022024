"""Leases: what only one may do at a time, fenced by an epoch that grows with every holder."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, insert
from bridge.store.rows import Lease
from bridge.store.schema import lease as t

_new = insert(t).values(
    name=sa.bindparam("name"), holder=sa.bindparam("holder"), epoch=1, expires_us=sa.bindparam("expires")
)
_ACQUIRE: Final = Statement(
    _new.on_conflict_do_update(
        index_elements=["name"],
        set_={"holder": _new.excluded.holder, "epoch": t.c.epoch + 1, "expires_us": _new.excluded.expires_us},
        where=sa.or_(t.c.expires_us <= sa.bindparam("now"), t.c.holder == _new.excluded.holder),
    ).returning(*t.c)
)
_mine: Final = sa.and_(
    t.c.name == sa.bindparam("name_"), t.c.holder == sa.bindparam("holder_"), t.c.epoch == sa.bindparam("epoch_")
)
_RENEW: Final = Statement(sa.update(t).values(expires_us=sa.bindparam("expires")).where(_mine))
_CHECK: Final = Statement(sa.select(t.c.name).where(_mine).with_for_update())
_GET: Final = Statement(sa.select(t).where(t.c.name == sa.bindparam("name")))


def acquire(txn: Transaction, name: str, holder: str, ttl_us: int) -> Lease | None:
    """Takes a lease that is free, expired, or held under the same name already; None if someone else holds it.

    Args:
        txn: a transaction of its own.
        name: what may be done.
        holder: unique for each process start.
        ttl_us: how long without renewal, by the database's clock.
    """
    now = txn.now_us()
    rows = txn.execute(_ACQUIRE, {"name": name, "holder": holder, "expires": now + ttl_us, "now": now})
    return Lease._make(rows[0]) if rows else None


def renew(txn: Transaction, held: Lease, ttl_us: int) -> Lease | None:
    """Holds a lease longer, also one that expired and that nobody took; None if someone has taken it."""
    expires = txn.now_us() + ttl_us
    return held._replace(expires_us=expires) if txn.change(_RENEW, {**_names(held), "expires": expires}) else None


def check(txn: Transaction, held: Lease) -> bool:
    """Whether ``held`` is still in force. If so nobody can take it before this transaction ends (the row is locked)."""
    return bool(txn.execute(_CHECK, _names(held)))


def release(txn: Transaction, held: Lease) -> None:
    """Gives a lease up, if it is still held."""
    txn.change(_RENEW, {**_names(held), "expires": 0})


def get(txn: Transaction, name: str) -> Lease | None:
    """Who holds, or held, a lease."""
    rows = txn.execute(_GET, {"name": name})
    return Lease._make(rows[0]) if rows else None


def _names(held: Lease) -> dict[str, object]:
    return {"name_": held.name, "holder_": held.holder, "epoch_": held.epoch}
