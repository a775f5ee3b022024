"""What a transaction of the store promises, on SQLite and on PostgreSQL alike."""

# ruff: noqa: PT012 - what raises may be the end of the block: the commit
from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import psycopg
import pytest
import sqlalchemy as sa

from bridge.errors import BridgeError, Conflict, Fault, Incorrect, Unavailable
from bridge.mapping.operations import IdentityKey
from bridge.store import dead_letters, identity, message_seen, source_control, vault
from bridge.store.database import FOREVER_US, open_database
from bridge.store.dialect import Statement
from bridge.store.rows import SeenKey
from bridge.store.schema import KEYED, match_features, nonce
from bridge.store.schema import message_seen as seen_table

CANARY = "Xylophonist-4711"
SECOND_US = 1_000_000


def name(value: str) -> IdentityKey:
    return IdentityKey("Patient", "urn:oid:1.2.3", "MR", value)


def nonces_stored(database) -> set[bytes]:
    with database.transaction(read_only=True) as txn:
        return {row[0] for row in txn.execute(Statement(sa.select(nonce.c.leaf_id)))}


def test_a_block_that_ends_is_stored_and_one_that_raises_leaves_nothing(database):
    with database.transaction() as txn:
        vault.put_nonces(txn, [(b"kept", b"1")])
    with pytest.raises(ZeroDivisionError), database.transaction() as txn:
        vault.put_nonces(txn, [(b"lost", b"2")])
        _ = 1 // 0

    assert nonces_stored(database) == {b"kept"}


def test_a_read_only_transaction_writes_nothing(database):
    with pytest.raises(BridgeError), database.transaction(read_only=True) as txn:
        vault.put_nonces(txn, [(b"lost", b"2")])

    assert nonces_stored(database) == set()


def test_a_database_opened_for_reading_writes_nothing(database, store_url):
    with (
        open_database(store_url, read_only=True) as reader,
        pytest.raises(BridgeError),
        reader.transaction() as txn,
    ):
        vault.put_nonces(txn, [(b"lost", b"2")])

    assert nonces_stored(database) == set()


def test_a_read_only_transaction_sees_one_snapshot(database, store_url):
    with open_database(store_url) as other, database.transaction(read_only=True) as reader:
        before = source_control.paused(reader)
        with other.transaction() as writer:
            source_control.pause(writer, "feed", "test")

        assert source_control.paused(reader) == before == {}
    with database.transaction(read_only=True) as reader:
        assert set(source_control.paused(reader)) == {"feed"}


def test_a_transaction_inside_another_is_a_fault(database):
    with database.transaction(), pytest.raises(Fault, match="nested"), database.transaction():
        pass


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize(
    ("culprit", "why"),
    [
        ((f"{CANARY}\0", "c", b"d", 1, 1), "U+0000"),
        ((f"{CANARY}\ud800", "c", b"d", 1, 1), "not Unicode"),
        ((CANARY, "c", b"d", 2**63, 1), "a number beyond 64 bits"),
        ((CANARY, None, b"d", 1, 1), "a missing value"),
        (("taken", "c", b"d", 1, 1), "a key that is there already"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_value_the_database_refuses_is_a_data_error_that_names_no_value(database, rows, culprit, why):
    good = [(f"{CANARY} {number}", "c", b"d", 1, 1) for number in range(rows - 1)]
    with database.transaction() as txn:
        txn.insert_rows(seen_table, [("taken", "c", b"d", 1, 1)])

    with pytest.raises(Incorrect) as caught, database.transaction() as txn:
        txn.insert_rows(seen_table, [*good, culprit])

    assert caught.value.code == "data-error"
    assert CANARY not in repr(caught.value) + str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    with database.transaction() as txn:
        assert not message_seen.known(txn, [SeenKey(*row[:3]) for row in good])


@pytest.mark.parametrize("bad", ["A\0B", "A\ud800"])
def test_a_look_up_never_takes_a_text_for_its_beginning(database, bad):
    with database.transaction() as txn:
        identity.insert(txn, [(name("A"), 1)])

    with pytest.raises(Incorrect), database.transaction() as txn:
        identity.lookup(txn, [name(bad)])


@pytest.mark.parametrize("odd", ["\\u0000", 'quote"', "back\\slash", "ümläut", "\x7f\x01", "🏥", "", "null", "%s ?"])
def test_odd_texts_are_found_as_they_were_stored(database, odd):
    with database.transaction() as txn:
        identity.insert(txn, [(name(odd), 7), (name("other"), 8)])

        assert identity.lookup(txn, [name(odd), name("absent")]) == {name(odd): 7}
        assert identity.names_of(txn, 7) == [name(odd)]


def test_upsert_replaces_by_key_and_inserts_the_rest(database):
    with database.transaction() as txn:
        txn.upsert_rows(match_features, [(1, b"old"), (2, b"kept")])
        txn.upsert_rows(match_features, [(3, b"new"), (1, b"replaced")])

        rows = txn.execute(Statement(sa.select(match_features).order_by(match_features.c.record_key)))
    assert rows == [(1, b"replaced"), (2, b"kept"), (3, b"new")]


def test_update_says_how_many_rows_it_changed(database):
    with database.transaction() as txn:
        txn.upsert_rows(match_features, [(1, b"a"), (2, b"b")])

        changed = txn.update_rows(match_features, ("record_key",), ("features",), [(b"x", 1), (b"y", 2), (b"z", 3)])

        assert changed == 2
        assert txn.execute(Statement(sa.select(match_features.c.features).order_by("record_key"))) == [(b"x",), (b"y",)]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1000])
def test_insert_stores_every_row_however_many(database, count):
    rows = [(number.to_bytes(16, "big"), b"n" * 32) for number in range(count)]
    with database.transaction() as txn:
        vault.put_nonces(txn, rows)

        assert vault.nonces(txn, [row[0] for row in rows]) == dict(rows)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_stream_yields_what_execute_would(database, chunk):
    with database.transaction() as txn:
        txn.insert_rows(match_features, [(number, bytes([number])) for number in range(100)])
        query = Statement(sa.select(match_features).order_by(match_features.c.record_key))

        streamed = list(txn.stream(query, {}, chunk))

        assert [row for rows in streamed for row in rows] == txn.execute(query)
        assert max(map(len, streamed)) <= chunk


def test_keys_never_repeat_across_connections_and_rollbacks(database, store_url):
    given: list[int] = []
    with open_database(store_url) as other:
        for number, count in enumerate([1, 5, 600, 0, 511, 2, 1100]):
            rolled_back = number % 3 == 2
            with pytest.raises(ZeroDivisionError) if rolled_back else nullcontext(), other.transaction() as txn:
                theirs = txn.allocate("resource", count)
                _ = 1 // (not rolled_back)
            with database.transaction() as txn:
                mine = txn.allocate("resource", count)
            given += mine if rolled_back else [*theirs, *mine]

            assert len(mine) == count
            assert mine == sorted(mine)
    assert len(set(given)) == len(given)
    assert min(given) >= 1


def test_every_keyed_table_has_keys_and_no_other(database):
    with database.transaction() as txn:
        assert all(txn.allocate(table, 1) for table in KEYED)
    with pytest.raises(Fault), database.transaction() as txn:
        txn.allocate("identity", 1)


def test_now_is_fixed_later_than_the_start_and_ascends_from_commit_to_commit(database):
    before = time.time_ns() // 1000
    times = []
    for _ in range(20):
        with database.transaction() as txn:
            txn.lock([1])
            now = txn.now_us()

            assert before <= txn.start_us < now == txn.now_us()
            times.append(now)
    assert times == sorted(set(times))


def test_now_ascends_whoever_commits(database, store_url):
    def writer(_: int) -> list[int]:
        times = []
        with open_database(store_url) as mine:
            for _ in range(10):
                with mine.transaction() as txn:
                    txn.lock([1])
                    times.append(txn.now_us())
                    order.append(times[-1])  # appended while the lock is held, so in commit order
        return times

    order: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(writer, range(4)))

    assert len(order) == 40
    assert order == sorted(order)


def test_writers_wait_for_each_other_instead_of_failing(database, store_url):
    def writer(number: int) -> None:
        with open_database(store_url) as mine:
            for turn in range(10):
                with mine.transaction() as txn:
                    vault.put_nonces(txn, [(bytes([number, turn]), b"n")])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(writer, range(6)))

    assert len(nonces_stored(database)) == 60


def test_whoever_polls_up_to_the_horizon_misses_nothing(database, store_url):
    """Writers commit out of the order of their times; a reader that never goes back still sees every row."""
    stop = threading.Event()
    written: list[list[int]] = []

    def writer(number: int) -> None:
        mine: list[int] = []
        chance = random.Random(number)
        with open_database(store_url) as own:
            while not stop.is_set():
                with own.transaction() as txn:
                    (key,) = txn.allocate("raw_message", 1)
                    txn.insert_rows(seen_table, [("s", str(key), b"", key, txn.now_us())])
                    time.sleep(chance.random() * 0.01)
                mine.append(key)
        written.append(mine)

    query = Statement(
        sa.select(seen_table.c.raw_key).where(
            seen_table.c.recorded_us > sa.bindparam("since"), seen_table.c.recorded_us <= sa.bindparam("until")
        )
    )
    seen: list[int] = []
    since = 0

    def poll() -> None:
        nonlocal since
        until = min(database.visible_horizon_us(), 2**62)
        with database.transaction(read_only=True) as txn:
            newest = txn.execute(Statement(sa.select(sa.func.max(seen_table.c.recorded_us))))[0][0] or 0
            seen.extend(row[0] for row in txn.execute(query, {"since": since, "until": until}))
        since = max(since, min(until, newest))

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        poll()
    stop.set()
    for thread in threads:
        thread.join()
    poll()

    everything = sorted(key for keys in written for key in keys)
    assert len(everything) > 50
    assert sorted(seen) == everything


def test_an_address_of_no_known_form_is_refused():
    for address in ("mysql://host/db", "sqlite:///", "store.db", ""):
        with pytest.raises(Incorrect, match="store-address"):
            open_database(address)


def test_a_sqlite_store_that_is_not_there_is_unavailable_and_not_made(tmp_path):
    path = tmp_path / "absent.db"
    with (
        open_database(f"sqlite:///{path}") as database,
        pytest.raises(Unavailable, match="store-absent"),
        database.transaction(),
    ):
        pass

    assert not path.exists()


def test_sqlite_has_no_horizon(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/store.db") as database:
        assert database.visible_horizon_us() == FOREVER_US


def test_a_postgresql_server_that_is_not_there_is_unavailable():
    with (
        open_database("postgresql://nobody@127.0.0.1:1/none") as database,
        pytest.raises(Unavailable) as caught,
        database.transaction(),
    ):
        pass

    assert caught.value.transient


@pytest.mark.ci
class TestPostgresql:
    """What only a server shows."""

    @pytest.fixture
    def store_url(self, request, postgres, migrated_postgres):
        url = postgres.create_database(template=migrated_postgres.rpartition("/")[2])
        yield url
        postgres.drop_database(url)

    @staticmethod
    def end_sessions(url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def test_a_connection_lost_while_idle_is_replaced_unseen(self, database, store_url):
        with database.transaction() as txn:
            vault.put_nonces(txn, [(b"one", b"1")])
        self.end_sessions(store_url)

        with database.transaction() as txn:
            vault.put_nonces(txn, [(b"two", b"2")])
        assert nonces_stored(database) == {b"one", b"two"}

    def test_a_connection_lost_in_a_transaction_is_unavailable_and_the_next_one_works(self, database, store_url):
        with pytest.raises(Unavailable, match="store-unavailable"), database.transaction() as txn:
            vault.put_nonces(txn, [(b"one", b"1")])
            self.end_sessions(store_url)
            vault.put_nonces(txn, [(b"two", b"2")])

        assert nonces_stored(database) == set()

    def test_a_connection_lost_at_the_commit_says_that_nobody_knows(self, database, store_url):
        with pytest.raises(Unavailable, match="commit-unknown"), database.transaction() as txn:
            vault.put_nonces(txn, [(b"one", b"1")])
            self.end_sessions(store_url)

        assert nonces_stored(database) == set()

    def test_a_restarted_server_is_found_again(self, database, postgres):
        with database.transaction() as txn:
            vault.put_nonces(txn, [(b"one", b"1")])
        postgres.stop()
        try:
            with pytest.raises(Unavailable), database.transaction():
                pass
        finally:
            postgres.start()

        assert nonces_stored(database) == {b"one"}

    def test_a_swallowed_error_does_not_commit_the_rest(self, database):
        with pytest.raises(Unavailable), database.transaction() as txn:
            vault.put_nonces(txn, [(b"one", b"1")])
            with pytest.raises(Incorrect):
                vault.put_nonces(txn, [(b"one", b"1")])

        assert nonces_stored(database) == set()

    @pytest.mark.parametrize("rows", [1, 40])
    def test_the_server_s_log_never_holds_a_refused_value(self, database, postgres, rows):
        """Its DETAIL and CONTEXT lines would: the key that exists, the failing row, the line of the COPY."""
        for culprit in ((CANARY, CANARY, b"d", 1, 1), (f"{CANARY}\0", "c", b"d", 1, 1), (CANARY, None, b"d", 1, 1)):
            with pytest.raises(Incorrect), database.transaction() as txn:
                txn.insert_rows(seen_table, [culprit] * max(rows, 2))

        said = postgres.log_text()
        assert "duplicate key value" in said
        assert CANARY not in said

    def test_locks_hold_others_off_until_the_end_and_only_on_shared_slots(self, database, store_url):
        entered = threading.Event()

        def other() -> None:
            with open_database(store_url) as mine:
                with mine.transaction() as txn:
                    txn.lock([1, 2])
                with mine.transaction() as txn:
                    txn.lock([9, 5, 5])
                    entered.set()

        with database.transaction() as txn:
            txn.lock([5, 6])
            thread = threading.Thread(target=other)
            thread.start()
            waited = _until(lambda: self._waiting(store_url))

            assert waited
            assert not entered.is_set()
        thread.join(10)
        assert entered.is_set()

    @staticmethod
    def _waiting(url: str) -> bool:
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            return bool(rows.fetchall())

    def test_locks_in_any_order_never_deadlock(self, store_url):
        def writer(number: int) -> int:
            chance = random.Random(number)
            done = 0
            with open_database(store_url) as mine:
                for _ in range(30):
                    with mine.transaction() as txn:
                        txn.lock(chance.sample(range(40), 20))
                        done += 1
            return done

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(writer, range(4))) == 120

    def test_a_deadlock_is_a_conflict(self, database, store_url):
        """Locks taken in two steps can meet each other: the loser is told to retry."""
        met = threading.Barrier(2)

        def writer(slots: list[int]) -> str:
            with open_database(store_url) as mine:
                try:
                    with mine.transaction() as txn:
                        txn.lock(slots[:1])
                        met.wait(10)
                        txn.lock(slots[1:])
                except Conflict as error:
                    return error.code
            return "stored"

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(writer, [[1, 2], [2, 1]])) == ["store-conflict", "stored"]

    def test_the_horizon_stands_at_the_oldest_writer_and_ignores_readers(self, database, store_url):
        with open_database(store_url) as other, open_database(store_url, read_only=True) as reader:
            with reader.transaction() as reading:
                start_of_reading = reading.start_us
                with other.transaction() as txn:
                    now = txn.now_us()

                    assert start_of_reading < database.visible_horizon_us() == txn.start_us < now
            assert database.visible_horizon_us() > now


def _until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_page_of_dead_letters_takes_absent_filters(database):
    with database.transaction() as txn:
        assert dead_letters.list_letters(txn) == []
