"""The vault: the nonces and wrapped keys without which no commitment can be opened (law *Commitment*)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, rows_parameter
from bridge.store.rows import RecordKeyRow
from bridge.store.schema import BYTES, TEXT, nonce, record_key

_ids: Final = rows_parameter("ids", leaf_id=BYTES)
_NONCES: Final = Statement(sa.select(nonce).join_from(_ids, nonce, nonce.c.leaf_id == _ids.c.leaf_id))
_owners: Final = rows_parameter("owners", owner_uuid=TEXT)
_KEYS: Final = Statement(
    sa.select(record_key).join_from(_owners, record_key, record_key.c.owner_uuid == _owners.c.owner_uuid)
)


def put_nonces(txn: Transaction, rows: Sequence[tuple[bytes, bytes]]) -> None:
    """Stores (leaf id, 32-byte n_r)."""
    txn.insert_rows(nonce, rows)


def nonces(txn: Transaction, leaf_ids: Collection[bytes]) -> dict[bytes, bytes]:
    """The nonces that are still there, by leaf id."""
    return dict(txn.execute(_NONCES, {"ids": set(leaf_ids)})) if leaf_ids else {}


def put_record_keys(txn: Transaction, rows: Sequence[RecordKeyRow]) -> None:
    """Stores new wrapped record keys; Incorrect ``data-error`` if an owner has one: a key is never replaced."""
    txn.insert_rows(record_key, rows)


def record_keys(txn: Transaction, owner_uuids: Collection[str]) -> dict[str, RecordKeyRow]:
    """Wrapped record keys by owner, destroyed ones included."""
    if not owner_uuids:
        return {}
    return {row[0]: RecordKeyRow._make(row) for row in txn.execute(_KEYS, {"owners": set(owner_uuids)})}
