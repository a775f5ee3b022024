"""The identity table: every name of a resource, many to one (law *Identity*)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import sqlalchemy as sa

from bridge.mapping.operations import IdentityKey
from bridge.store.database import Transaction
from bridge.store.dialect import Statement, rows_parameter
from bridge.store.schema import TEXT
from bridge.store.schema import identity as t

_keys: Final = rows_parameter("keys", resource_type=TEXT, namespace=TEXT, identifier_type=TEXT, value=TEXT)
_LOOKUP: Final = Statement(
    sa.select(t).join_from(_keys, t, sa.and_(*[t.c[name] == _keys.c[name] for name in IdentityKey._fields]))
)
_ANY_TYPE: Final = Statement(
    sa.select(*_keys.c, t.c.resource_key).join_from(
        _keys, t, sa.and_(*[t.c[name] == _keys.c[name] for name in ("resource_type", "namespace", "value")])
    )
)
_NAMES: Final = Statement(sa.select(t).where(t.c.resource_key == sa.bindparam("key")))


def lookup(txn: Transaction, keys: Iterable[IdentityKey]) -> dict[IdentityKey, int]:
    """The resource keys of those names that are known."""
    wanted = set(keys)
    if not wanted:
        return {}
    return {IdentityKey._make(row[:4]): row[4] for row in txn.execute(_LOOKUP, {"keys": wanted})}


def lookup_any_type(txn: Transaction, keys: Iterable[IdentityKey]) -> dict[IdentityKey, set[int]]:
    """As :func:`lookup`, whatever type of identifier the names are known under; reads all names of their namespaces."""
    wanted = set(keys)
    found: dict[IdentityKey, set[int]] = {}
    for row in txn.execute(_ANY_TYPE, {"keys": wanted}) if wanted else ():
        found.setdefault(IdentityKey._make(row[:4]), set()).add(row[4])
    return found


def insert(txn: Transaction, rows: Sequence[tuple[IdentityKey, int]]) -> None:
    """Records new names; Incorrect ``data-error`` if one is taken."""
    txn.insert_rows(t, [(*key, resource_key) for key, resource_key in rows])


def put(txn: Transaction, rows: Sequence[tuple[IdentityKey, int]]) -> None:
    """Records names, replacing what they named before."""
    txn.upsert_rows(t, [(*key, resource_key) for key, resource_key in rows])


def names_of(txn: Transaction, resource_key: int) -> list[IdentityKey]:
    """All names of one resource."""
    return [IdentityKey._make(row[:4]) for row in txn.execute(_NAMES, {"key": resource_key})]
