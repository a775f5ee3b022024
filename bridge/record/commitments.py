"""Commitments of one transaction: leaves, their contexts and nonces, and the record keys that salt them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from secrets import token_bytes

from bridge.errors import Conflict, Forbidden, Incorrect
from bridge.keys.mac import hmac_sha256
from bridge.keys.ports import KeyWrapper, WrappedKey
from bridge.ledger.commitment import Context, LeafKind, commit, derive_salt, leaf_data, new_record_key
from bridge.record.ids import uuid_text
from bridge.store import leaves, vault
from bridge.store.database import Transaction
from bridge.store.rows import CommitmentRow, PendingLeaf, RecordKeyRow

RESOURCE_FORM = "application/fhir+json"
EVENT_FORM = "application/json"


def organization_owner(organization: str, identity_key: bytes) -> str:
    """The owner UUID of the key that salts commitments in which no patient is named."""
    message = b"hie-bridge/organization/v1\x00" + organization.encode()
    return uuid_text(hmac_sha256(identity_key, message)[:16], version=8)


class RecordKeys:
    """Unwrapped record keys (``K_p``) of the owners one thread works on: the latest few thousand, about half a kilobyte each."""

    def __init__(self, wrapper: KeyWrapper, limit: int = 4_000) -> None:
        self._wrapper = wrapper
        self._limit = limit
        self._keys: dict[str, tuple[bytes, bytes]] = {}  # owner -> (wrapped key, key)

    def load(self, txn: Transaction, owners: Collection[str]) -> Mapping[str, bytes]:
        """Keys of all ``owners``; those not there yet are made and stored.

        Raises:
            Forbidden: ``record-key-destroyed``, an owner's key was erased: nothing can be recorded for it.
            Conflict: ``record-key-taken``, another process made the first key of the same owner meanwhile: retry.
        """
        # A cached key counts only beside the row it came from: erasure in another process must hold at once, and a key of
        # a transaction that was rolled back may have been replaced by another process's.
        rows = vault.record_keys(txn, owners)
        keys: dict[str, bytes] = {}
        cached: dict[str, tuple[bytes, bytes]] = {}
        fresh: list[RecordKeyRow] = []
        for owner in sorted(owners):
            row = rows.get(owner)
            if row is None:
                key = new_record_key()
                wrapping = self._wrapper.wrap(key)
                wrapped = wrapping.wrapped
                fresh.append(RecordKeyRow(owner, wrapped, wrapping.key_id, txn.now_us()))
            elif row.destroyed_us is not None:
                raise Forbidden(
                    "record-key-destroyed",
                    "The key of a record was erased.",
                    remedy="Nothing can be recorded for an erased record.",
                )
            else:
                wrapped = row.wrapped_key
                known = self._keys.get(owner)
                key = (
                    known[1] if known and known[0] == wrapped else self._wrapper.unwrap(WrappedKey(row.key_id, wrapped))
                )
            keys[owner] = key
            cached[owner] = wrapped, key
        if fresh:
            _put(txn, fresh)
        if len(self._keys) + len(keys) > self._limit:
            self._keys.clear()
        self._keys.update(cached)
        return keys


def _put(txn: Transaction, rows: list[RecordKeyRow]) -> None:
    try:
        vault.put_record_keys(txn, rows)
    except Incorrect as error:
        # Nothing of a message is in these rows: only another process's key for the same owner can be in the way.
        raise Conflict(
            "record-key-taken", "Another process made the same key.", remedy="The transaction is retried."
        ) from error


class Commitments:
    """Gathers the leaves of one transaction and writes them together."""

    def __init__(self, origin: str, now_us: int) -> None:
        self._origin = origin
        self._now_us = now_us
        self._ids: list[bytes] = []
        self._items: list[tuple[bytes, Context, str, bytes, int | None, int | None]] = []

    def add(
        self,
        kind: LeafKind,
        record_uuid: str,
        version: int,
        content: bytes,
        *,
        owner: str,
        form: str = RESOURCE_FORM,
        subject_key: int | None = None,
        subject_version: int | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> bytes:
        """Notes one leaf about ``content`` and answers its 16-byte id."""
        if not self._ids:
            self._ids = leaves.new_leaf_ids(64, self._now_us)[::-1]
        leaf_id = self._ids.pop()
        context = Context(kind, self._origin, record_uuid, version, form, extra or {})
        self._items.append((leaf_id, context, owner, content, subject_key, subject_version))
        return leaf_id

    @property
    def owners(self) -> set[str]:
        """Whose keys will be needed."""
        return {owner for _, _, owner, _, _, _ in self._items}

    def write(self, txn: Transaction, keys: RecordKeys) -> dict[bytes, bytes]:
        """Computes the commitments and inserts leaves, contexts and nonces; answers leaf id → commitment (32 bytes)."""
        if not self._items:
            return {}
        committed: dict[bytes, bytes] = {}
        record_keys = keys.load(txn, self.owners)
        now_us = self._now_us
        nonces = token_bytes(32 * len(self._items))
        pending: list[PendingLeaf] = []
        rows: list[CommitmentRow] = []
        vaulted: list[tuple[bytes, bytes]] = []
        for number, (leaf_id, context, owner, content, subject_key, subject_version) in enumerate(self._items):
            nonce = nonces[32 * number : 32 * number + 32]
            encoded = context.encode()
            commitment = commit(derive_salt(record_keys[owner], nonce), encoded, content)
            committed[leaf_id] = commitment
            pending.append(PendingLeaf(leaf_id, leaf_data(commitment), context.kind, now_us))
            rows.append(CommitmentRow(leaf_id, context.kind, encoded, owner, subject_key, subject_version))
            vaulted.append((leaf_id, nonce))
        leaves.put_pending(txn, pending)
        leaves.put_commitments(txn, rows)
        vault.put_nonces(txn, vaulted)
        self._items.clear()
        return committed
