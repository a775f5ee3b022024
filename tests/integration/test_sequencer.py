"""The sequencer: every committed leaf once, only committed heads signed, by one signer that never contradicts itself."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import Forbidden
from bridge.keys.ed25519 import Ed25519Signer
from bridge.ledger.checkpoint import open_checkpoint
from bridge.ledger.merkle import hash_leaf, verify_consistency, verify_inclusion
from bridge.ledger.note import VerifierKey
from bridge.ledger.watermark import FileWatermark
from bridge.pipeline import sequencer as sequencer_module
from bridge.pipeline.sequencer import SIGNING_ALARM, Sequencer, tree_reader
from bridge.store import alarms, leaves
from bridge.store.database import Database, open_database
from bridge.store.rows import PendingLeaf
from bridge.telemetry.stop import Stop

ORIGIN = "log.test.example/hie"
SIGNER = Ed25519Signer(ORIGIN, bytes(32))
KEY = VerifierKey(ORIGIN, SIGNER.public_key())


@pytest.fixture
def make(store_url: str, tmp_path: Path) -> Iterator[object]:
    """Makes sequencers over one store, each with a connection and a holder name of its own."""
    opened: list[Database] = []

    def sequencer(holder: str = "one", lease_seconds: float = 10) -> Sequencer:
        opened.append(open_database(store_url))
        watermark = FileWatermark(tmp_path / "watermark.json", ORIGIN)
        return Sequencer(
            opened[-1], SIGNER, watermark, holder, checkpoint_interval_seconds=0, lease_seconds=lease_seconds
        )

    yield sequencer
    for database in opened:
        database.close()


def put(store: Database, count: int) -> list[bytes]:
    data = [b"\x01" + secrets.token_bytes(32) for _ in range(count)]
    with store.transaction() as txn:
        now_us = txn.now_us()
        ids = leaves.new_leaf_ids(count, now_us)
        leaves.put_pending(
            txn, [PendingLeaf(i, leaf, "record-version", now_us) for i, leaf in zip(ids, data, strict=True)]
        )
    return data


def signed(store: Database) -> list[object]:
    with store.transaction(read_only=True) as txn:
        state = leaves.state(txn, ORIGIN)
        newest = leaves.latest_checkpoint(txn, ORIGIN)
    assert state is not None
    return [state, newest]


def test_every_leaf_is_included_in_a_signed_head_and_heads_extend_each_other(store: Database, make) -> None:
    """Inclusion and consistency hold from the stored hashes, over several rounds."""
    sequencer = make()
    put_so_far: list[bytes] = []
    checkpoints = []
    for count in (1, 7, 300, 5):
        put_so_far += put(store, count)
        sequencer.step()
        checkpoints.append(open_checkpoint(signed(store)[1].note, KEY))

    with store.transaction(read_only=True) as txn:
        reader = tree_reader(txn, ORIGIN)
        head = checkpoints[-1].head
        found = leaves.leaf_hashes(txn, ORIGIN, 0, head.size)
        for index, leaf_hash in enumerate(found):
            verify_inclusion(leaf_hash, index, head.size, reader.inclusion(index, head.size), head.root)
        for old in checkpoints:
            verify_consistency(old.head, head, reader.consistency(old.head.size, head.size))
    assert sorted(found) == sorted(hash_leaf(leaf) for leaf in put_so_far)


@pytest.mark.ci
def test_transactions_that_commit_out_of_order_lose_nothing(database_url: str, tmp_path: Path) -> None:
    """A leaf inserted early and committed late is numbered when it is seen; there is no cursor to pass it."""
    from bridge.store.migrate import migrate

    migrate(database_url)
    early, late, own = (open_database(database_url) for _ in range(3))
    sequencer = Sequencer(own, SIGNER, FileWatermark(tmp_path / "w", ORIGIN), "one", checkpoint_interval_seconds=0)
    with early.transaction() as txn:
        ids = leaves.new_leaf_ids(1, txn.now_us())
        leaves.put_pending(txn, [PendingLeaf(ids[0], b"\x01" + bytes(32), "record-version", txn.now_us())])
        put(late, 3)
        sequencer.step()
        assert signed(late)[0].size == 3
    sequencer.step()

    assert signed(late)[0].size == 4
    for database in (early, late, own):
        database.close()


def test_a_holder_stopped_past_its_lease_numbers_and_signs_nothing(store: Database, make) -> None:
    """When it wakes it still believes in its lease; the epoch in the database does not."""
    stopped, successor = make("stopped", lease_seconds=0.05), make("successor", lease_seconds=30)
    put(store, 2)
    stopped.step()
    time.sleep(0.1)
    successor.step()
    put(store, 3)
    before = signed(store)

    # Past the check of its own clock, as a process is that was stopped inside a round:
    stopped._number()
    stopped._sign()

    assert signed(store) == before
    successor.step()
    assert signed(store)[1].size == 5


def test_a_clock_that_is_set_back_does_not_stop_the_log(store: Database, make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lost the lease asks for it again, whatever the wall clock now says of when it was to end."""
    first, second = make("first", lease_seconds=0.05), make("second")
    put(store, 2)
    first.step()
    time.sleep(0.1)
    second.step()
    second._release()
    put(store, 3)

    hour_ago = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr("bridge.pipeline.sequencer.time.time_ns", lambda: hour_ago)
    if store.dialect == "sqlite":  # whose clock is this one
        monkeypatch.setattr("bridge.store.sqlite.wall_us", lambda: hour_ago // 1000 + 3_600_000_000)
    first.step()

    assert signed(store)[1].size == 5


def test_a_crash_between_numbering_and_signing_costs_only_time(store: Database, make) -> None:
    """The next sequencer signs the committed head; the watermark agrees."""
    put(store, 4)
    crashed = make("crashed", lease_seconds=0.05)
    assert crashed._hold_lease()
    crashed._number()
    time.sleep(0.1)

    make("next").step()

    assert signed(store)[1].size == 4


@pytest.mark.parametrize("kept", ["older", "none"])
def test_a_restored_database_is_not_signed_for(tmp_path: Path, kept: str) -> None:
    """Yesterday's copy is behind the watermark, or its watermark is missing: signing stops with an alarm that says so."""
    from bridge.store.migrate import migrate

    path = tmp_path / "store.db"
    migrate(f"sqlite:///{path}")
    database = open_database(f"sqlite:///{path}")
    watermark = FileWatermark(tmp_path / "w", ORIGIN)
    put(database, 3)
    Sequencer(database, SIGNER, watermark, "a", checkpoint_interval_seconds=0, lease_seconds=0.01).step()
    database.close()
    shutil.copy(path, tmp_path / "yesterday.db")
    database = open_database(f"sqlite:///{path}")
    put(database, 3)
    Sequencer(database, SIGNER, watermark, "a", checkpoint_interval_seconds=0, lease_seconds=0.01).step()
    database.close()
    if kept == "none":
        (tmp_path / "w").unlink()

    restored = open_database(f"sqlite:///{tmp_path}/yesterday.db")
    time.sleep(0.05)
    put(restored, 5)
    sequencer = Sequencer(restored, SIGNER, watermark, "b", checkpoint_interval_seconds=0)
    with pytest.raises(Forbidden) as caught:
        sequencer.step()
    sequencer._alarm(caught.value)

    assert caught.value.code in {"head-behind-watermark", "head-beside-watermark", "watermark-missing"}
    with restored.transaction(read_only=True) as txn:
        assert [alarm.code for alarm in alarms.active(txn)] == [SIGNING_ALARM]
        assert leaves.latest_checkpoint(txn, ORIGIN).size == 3
    restored.close()


def test_stopping_signs_what_is_numbered_and_gives_the_lease_back(store: Database, make) -> None:
    """So that a successor need not wait."""
    put(store, 2)
    stop = Stop()
    stop.set()
    make("first").run(stop)

    second = make("second")
    assert second._hold_lease()
    assert signed(store)[1].size == 2


def test_a_stop_is_obeyed_while_signing_is_stopped(store: Database, make, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the pause after a refusal is: the role ends with the others."""
    monkeypatch.setattr(sequencer_module, "_ALARMED_PAUSE_SECONDS", 3600.0)
    sequencer, stop, refused = make(lease_seconds=7200), Stop(), threading.Event()

    def refuse() -> None:
        refused.set()
        raise Forbidden("head-behind-watermark", "The head is older than what was signed.")

    monkeypatch.setattr(sequencer, "step", refuse)
    role = threading.Thread(target=sequencer.run, args=(stop,), daemon=True)
    role.start()
    assert refused.wait(30)
    stop.set()
    role.join(30)

    assert not role.is_alive()
