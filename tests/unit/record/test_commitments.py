"""Leaves of a transaction open with what is stored beside them, and with nothing less."""

from __future__ import annotations

import threading
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from bridge.errors import Conflict, Forbidden, Unavailable
from bridge.ledger.commitment import LeafKind, commit, derive_salt, leaf_data
from bridge.record.commitments import Commitments, RecordKeys, organization_owner
from bridge.store import leaves, schema, vault
from bridge.store.database import Database, open_database
from bridge.store.dialect import Statement
from tests.integration.hospital import KEYS

OWNER, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
ORIGIN = "log.test.example/hie"


def load(store: Database, keys: RecordKeys, *owners: str) -> dict[str, bytes]:
    with store.transaction() as txn:
        return dict(keys.load(txn, owners))


def test_every_leaf_opens_with_its_own_nonce_and_its_owners_key(store: Database) -> None:
    """Commitment, leaf, context and nonce are written together; equal contents do not look alike."""
    keys = RecordKeys(KEYS)
    with store.transaction() as txn:
        gathered = Commitments(ORIGIN, txn.now_us())
        ids = [
            gathered.add(LeafKind.RECORD_VERSION, OWNER, 1, b"same", owner=owner, subject_key=9, subject_version=1)
            for owner in (OWNER, OWNER, OTHER)
        ]
        assert gathered.owners == {OWNER, OTHER}
        committed = gathered.write(txn, keys)
        assert gathered.write(txn, keys) == {}
    with store.transaction(read_only=True) as txn:
        nonces = vault.nonces(txn, ids)
        contexts = {row.leaf_id: row for row in leaves.commitments(txn, ids).values()}
        pending, _ = leaves.pending(txn)

    assert pending == 3
    assert len(set(committed.values())) == 3
    of = load(store, keys, OWNER, OTHER)
    for leaf_id, owner in zip(ids, (OWNER, OWNER, OTHER), strict=True):
        salt = derive_salt(of[owner], nonces[leaf_id])
        assert committed[leaf_id] == commit(salt, contexts[leaf_id].context, b"same")
        assert len(leaf_data(committed[leaf_id])) == 33


def test_an_owners_key_is_made_once(store: Database) -> None:
    """Another process, without the key in its memory, gets the same one from the store."""
    first = load(store, RecordKeys(KEYS), OWNER)

    assert load(store, RecordKeys(KEYS), OWNER) == first
    assert load(store, RecordKeys(KEYS), OTHER) != first


def test_a_key_that_was_rolled_back_is_not_used_again(store: Database) -> None:
    """Another process may have made the owner's key since: what counts is the row."""
    mine, theirs = RecordKeys(KEYS), RecordKeys(KEYS)

    def roll_back() -> None:
        with store.transaction() as txn:
            mine.load(txn, [OWNER])
            raise Unavailable("gone", "Gone.")

    with pytest.raises(Unavailable):
        roll_back()
    kept = load(store, theirs, OWNER)

    assert load(store, mine, OWNER) == kept


def test_an_erased_key_is_refused_though_it_is_still_in_memory(store: Database) -> None:
    """Erasure by another process holds at once."""
    keys = RecordKeys(KEYS)
    load(store, keys, OWNER)
    erased = sa.update(schema.record_key).values(destroyed_us=1)
    with store.transaction() as txn:
        txn.change(Statement(erased), {})

    with pytest.raises(Forbidden) as caught:
        load(store, keys, OWNER)
    assert caught.value.code == "record-key-destroyed"


@pytest.mark.ci
def test_two_processes_that_make_one_key_at_once_need_a_retry_and_no_more(database_url: str) -> None:
    """The later one is told to try again, never that its message is at fault."""
    from bridge.store.migrate import migrate

    migrate(database_url)
    one, two = open_database(database_url), open_database(database_url)
    told: list[BaseException] = []

    def second() -> None:
        try:
            load(two, RecordKeys(KEYS), OWNER)
        except Conflict as conflict:
            told.append(conflict)

    with one.transaction() as txn:
        kept = dict(RecordKeys(KEYS).load(txn, [OWNER]))
        thread = threading.Thread(target=second)
        thread.start()
        with psycopg.connect(database_url, autocommit=True) as watching:
            while not watching.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
                assert thread.is_alive()
    thread.join()

    assert [error.code for error in told if isinstance(error, Conflict)] == ["record-key-taken"]
    assert load(two, RecordKeys(KEYS), OWNER) == kept
    one.close()
    two.close()


def test_memory_is_bounded(store: Database) -> None:
    """The keys that are kept unwrapped are no more than the limit."""
    keys = RecordKeys(KEYS, limit=3)
    for number in range(10):
        load(store, keys, f"{number:08}-1111-4111-8111-111111111111")

    assert len(keys._keys) <= 3


def test_an_organization_has_one_owner_that_nobody_guesses() -> None:
    """A UUID from its name and the deployment's key."""
    made = organization_owner("north", b"k" * 32)

    assert UUID(made).version == 8
    assert made == organization_owner("north", b"k" * 32)
    assert len({made, organization_owner("south", b"k" * 32), organization_owner("north", b"o" * 32)}) == 3
