"""SQLite's writers queue in order, whoever asks how often."""

from __future__ import annotations

import threading
import time

import pytest

from bridge.errors import Conflict
from bridge.store import sqlite
from bridge.store.database import open_database
from bridge.store.migrate import migrate
from bridge.store.sqlite import FairLock


def wait_for(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_lock_is_given_in_the_order_of_asking():
    lock, order = FairLock(), []
    assert lock.acquire(1)

    def asker(number: int) -> None:
        assert lock.acquire(10)
        order.append(number)
        lock.release()

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=asker, args=(number,)))
        threads[-1].start()
        wait_for(lambda number=number: len(lock._waiting) == number + 1)
    lock.release()
    for thread in threads:
        thread.join(10)

    assert order == list(range(8))


def test_a_holder_who_asks_again_waits_behind_those_who_waited():
    lock, order = FairLock(), []
    assert lock.acquire(1)

    def other() -> None:
        assert lock.acquire(10)
        order.append("other")
        lock.release()

    thread = threading.Thread(target=other)
    thread.start()
    wait_for(lambda: lock._waiting)
    lock.release()
    assert lock.acquire(10)
    order.append("holder")
    lock.release()
    thread.join(10)

    assert order == ["other", "holder"]


def test_who_gave_up_waiting_is_passed_over():
    lock = FairLock()
    assert lock.acquire(1)

    assert not lock.acquire(0.01)
    lock.release()
    assert lock.acquire(0)


def test_the_store_s_paths_name_one_lock_however_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "store.db")

    locks = {
        id(sqlite._writer_lock(path)) for path in ("store.db", str(tmp_path / "store.db"), "link.db", "./store.db")
    }
    assert len(locks) == 1


def test_a_writer_of_another_process_that_takes_too_long_is_a_conflict(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    path = tmp_path / "store.db"
    migrate(f"sqlite:///{path}")
    foreign = sqlite.connect(str(path))
    foreign.execute("BEGIN IMMEDIATE")

    with open_database(f"sqlite:///{path}") as database:
        with pytest.raises(Conflict, match="store-conflict"), database.transaction():
            pass
        foreign.execute("ROLLBACK")
        foreign.close()
        with database.transaction() as txn:
            assert txn.now_us()


def test_times_ascend_even_if_the_machine_s_clock_goes_back(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/store.db"
    migrate(url)
    times = []
    for clock in (2_000_000_000_000_000, 1_000_000_000_000_000, 1_000_000_000_000_000):
        monkeypatch.setattr(sqlite, "wall_us", lambda clock=clock: clock)
        with open_database(url) as database, database.transaction() as txn:
            times.append(txn.now_us())

    assert times == sorted(set(times))


def test_every_commit_is_synced(tmp_path):
    path = tmp_path / "store.db"
    connection = sqlite.connect(str(path), create=True)

    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
