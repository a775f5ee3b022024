"""Which messages have had their effect: (sender, control id, digest)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, rows_parameter
from bridge.store.rows import SeenKey
from bridge.store.schema import BYTES, TEXT
from bridge.store.schema import message_seen as t

_keys: Final = rows_parameter("keys", sender=TEXT, control_id=TEXT, digest=BYTES)
_KNOWN: Final = Statement(
    sa.select(t.c.sender, t.c.control_id, t.c.digest).join_from(
        _keys, t, sa.and_(*[t.c[name] == _keys.c[name] for name in SeenKey._fields])
    )
)


def known(txn: Transaction, keys: Iterable[SeenKey]) -> set[SeenKey]:
    """Those of ``keys`` that are recorded."""
    wanted = set(keys)
    return {SeenKey._make(row) for row in txn.execute(_KNOWN, {"keys": wanted})} if wanted else set()


def insert(txn: Transaction, rows: Sequence[tuple[str, str, bytes, int, int]]) -> None:
    """Records (sender, control_id, digest, raw_key, recorded_us); one recorded already keeps its first row."""
    if rows:
        txn.insert_rows(t, rows, ignore_existing=True)
