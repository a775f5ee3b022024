"""Salts of stored commitments: from the vault's nonces and the wrapped keys of records, without making any."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from bridge.errors import Incorrect, Unavailable
from bridge.keys.ports import KeyWrapper, WrappedKey
from bridge.ledger.commitment import KEY_SIZE, derive_salt
from bridge.store import vault
from bridge.store.database import Transaction
from bridge.store.rows import CommitmentRow, RecordKeyRow


class Unopenable(StrEnum):
    """Why a commitment has no salt any more."""

    ERASED = "erased"  # its record key was destroyed on purpose: it says so, and is not there
    NONCE_MISSING = "nonce-missing"
    KEY_MISSING = "record-key-missing"
    KEY_UNREADABLE = "record-key-unreadable"


class Salts:
    """Derives salts; keeps the ``limit`` record keys last unwrapped."""

    def __init__(self, wrapper: KeyWrapper, limit: int = 20_000) -> None:
        self._wrapper = wrapper
        self._limit = limit
        self._keys: dict[bytes, bytes] = {}

    def of(self, txn: Transaction, rows: Collection[CommitmentRow]) -> dict[bytes, bytes | Unopenable]:
        """The salt of each commitment (32 bytes) by leaf id, or why there is none.

        Raises:
            Unavailable: a key service does not answer.
        """
        nonces = vault.nonces(txn, {row.leaf_id for row in rows})
        owners = vault.record_keys(txn, {row.owner_uuid for row in rows})
        keys = {owner: self._key(row) for owner, row in owners.items()}
        found: dict[bytes, bytes | Unopenable] = {}
        for row in rows:
            key, nonce = keys.get(row.owner_uuid, Unopenable.KEY_MISSING), nonces.get(row.leaf_id)
            if isinstance(key, Unopenable):
                found[row.leaf_id] = key
            elif nonce is None or len(nonce) != KEY_SIZE:
                found[row.leaf_id] = Unopenable.NONCE_MISSING
            else:
                found[row.leaf_id] = derive_salt(key, nonce)
        return found

    def _key(self, row: RecordKeyRow) -> bytes | Unopenable:
        if row.destroyed_us is not None and not row.wrapped_key:
            return Unopenable.ERASED
        key = self._keys.get(row.wrapped_key)
        if key is None:
            try:
                key = self._wrapper.unwrap(WrappedKey(row.key_id, row.wrapped_key))
            except Incorrect:
                return Unopenable.KEY_UNREADABLE
            except Unavailable as error:
                if error.code != "wrapping-key-unknown":
                    raise
                return Unopenable.KEY_UNREADABLE
            if len(self._keys) >= self._limit:
                self._keys.clear()
            self._keys[row.wrapped_key] = key
        return key
