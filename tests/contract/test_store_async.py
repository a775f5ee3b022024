"""What the store promises an event loop, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
import pytest
import sqlalchemy as sa

from bridge.errors import BridgeError, Incorrect, Unavailable
from bridge.store import source_control, vault
from bridge.store.async_database import AsyncTransaction, open_async_database
from bridge.store.database import FOREVER_US, open_database
from bridge.store.dialect import Statement, rows_parameter
from bridge.store.migrate import migrate
from bridge.store.schema import BYTES, nonce

ALL = Statement(sa.select(nonce.c.leaf_id).order_by(nonce.c.leaf_id))
_ids = rows_parameter("ids", leaf_id=BYTES)
SOME = Statement(sa.select(nonce.c.nonce).join_from(_ids, nonce, nonce.c.leaf_id == _ids.c.leaf_id))


def put(*leaf_ids: bytes):
    return lambda txn: vault.put_nonces(txn, [(leaf_id, leaf_id * 2) for leaf_id in leaf_ids])


async def stored(txn: AsyncTransaction) -> list[bytes]:
    return [row[0] for row in await txn.execute(ALL)]


def test_what_was_written_is_read(store_url):
    async def scenario():
        async with open_async_database(store_url) as store:
            assert await store.write(lambda txn: put(b"a", b"b")(txn) or 17) == 17
            async with store.read() as txn:
                assert txn.dialect in store_url
                assert await stored(txn) == [b"a", b"b"]
                assert await txn.execute(SOME, {"ids": [b"b", b"c"]}) == [(b"bb",)]

    asyncio.run(scenario())


def test_a_read_sees_one_snapshot(store_url):
    async def scenario():
        async with open_async_database(store_url) as store:
            async with store.read() as txn:
                assert await stored(txn) == []
                await store.write(put(b"a"))

                assert await stored(txn) == []
            async with store.read() as txn:
                assert await stored(txn) == [b"a"]

    asyncio.run(scenario())


def test_a_read_never_writes(store_url):
    delete = Statement(sa.delete(nonce))

    async def scenario():
        async with open_async_database(store_url) as store:
            await store.write(put(b"a"))
            with pytest.raises(BridgeError):
                async with store.read() as txn:
                    await txn.execute(delete)
            async with store.read() as txn:
                assert await stored(txn) == [b"a"]

    asyncio.run(scenario())


def test_a_write_that_fails_leaves_nothing_and_the_next_one_works(store_url):
    async def scenario():
        async with open_async_database(store_url) as store:
            with pytest.raises(Incorrect):
                await store.write(put(b"a", b"b", b"a"))
            await store.write(put(b"c"))
            async with store.read() as txn:
                assert await stored(txn) == [b"c"]

    asyncio.run(scenario())


def test_more_readers_than_connections_wait_for_each_other(store_url):
    async def scenario():
        async with open_async_database(store_url, connections=3) as store:
            await store.write(put(b"a"))

            async def reader(number: int) -> list[bytes]:
                async with store.read() as txn:
                    first = await stored(txn)
                    await asyncio.sleep(0.001 * (number % 3))
                    assert await stored(txn) == first
                    return first

            assert await asyncio.gather(*(reader(number) for number in range(60))) == [[b"a"]] * 60

    asyncio.run(scenario())


def test_a_refused_value_is_a_data_error_and_spoils_no_other_read(store_url):
    paused = Statement(sa.select(sa.bindparam("text", type_=sa.Text())))

    async def scenario():
        async with open_async_database(store_url, connections=1) as store:
            for _ in range(3):
                with pytest.raises(Incorrect, match="data-error"):
                    async with store.read() as txn:
                        await txn.execute(paused, {"text": "\ud800"})
            async with store.read() as txn:
                assert await txn.execute(paused, {"text": "x"}) == [("x",)]

    asyncio.run(scenario())


def test_a_cancelled_read_leaves_its_connection_fit_for_the_next(store_url):
    if store_url.startswith("sqlite"):
        numbers = (
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100000000) SELECT max(x) FROM n"
        )
    else:
        numbers = "SELECT pg_sleep(60)"
    slow = Statement(sa.text(numbers))

    async def scenario():
        async with open_async_database(store_url, connections=1) as store:
            await store.write(put(b"a"))

            async def reader() -> None:
                async with store.read() as txn:
                    await txn.execute(slow)

            for _ in range(2):
                task = asyncio.create_task(reader())
                await asyncio.sleep(0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, 20)
            async with store.read() as txn:
                assert await stored(txn) == [b"a"]

    asyncio.run(scenario())


def test_writes_happen_one_after_the_other(store_url):
    async def scenario():
        running = 0

        def write(txn) -> int:
            nonlocal running
            running += 1
            source_control.pause(txn, "feed", "test")
            alone = running
            running -= 1
            return alone

        async with open_async_database(store_url) as store:
            assert set(await asyncio.gather(*(store.write(write) for _ in range(20)))) == {1}

    asyncio.run(scenario())


def test_closing_waits_for_what_is_being_written(store_url):
    async def scenario():
        store = open_async_database(store_url)
        await store.open()
        writing = asyncio.create_task(store.write(put(b"a")))
        await asyncio.sleep(0)
        await store.close()
        await writing

    asyncio.run(scenario())

    with open_database(store_url) as database, database.transaction() as txn:
        assert vault.nonces(txn, [b"a"])


def test_a_store_that_is_not_there_is_unavailable(tmp_path):
    async def scenario(url: str) -> None:
        store = open_async_database(url)
        await store.open()
        try:
            with pytest.raises(Unavailable):
                async with store.read() as txn:
                    await stored(txn)
            with pytest.raises(Unavailable):
                await store.write(put(b"a"))
        finally:
            await store.close()

    asyncio.run(scenario(f"sqlite:///{tmp_path}/absent.db"))


def test_sqlite_has_no_horizon(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    migrate(url)

    async def scenario() -> int:
        async with open_async_database(url) as store:
            return await store.visible_horizon_us()

    assert asyncio.run(scenario()) == FOREVER_US


@pytest.mark.ci
class TestPostgresql:
    """What only a server shows."""

    @pytest.fixture
    def store_url(self, postgres, migrated_postgres):
        url = postgres.create_database(template=migrated_postgres.rpartition("/")[2])
        yield url
        postgres.drop_database(url)

    def test_the_horizon_stands_at_the_oldest_writer_and_ignores_readers(self, store_url):
        async def scenario():
            async with open_async_database(store_url) as store, store.read() as reading:
                await stored(reading)
                with open_database(store_url) as writer, writer.transaction() as txn:
                    assert await store.visible_horizon_us() == txn.start_us < txn.now_us()
                    now = txn.now_us()
                assert await store.visible_horizon_us() > now

        asyncio.run(scenario())

    def test_reads_and_writes_go_on_after_every_session_was_ended(self, store_url):
        async def scenario():
            async with open_async_database(store_url, connections=4) as store:

                async def reader() -> list[bytes]:
                    async with store.read() as txn:
                        return await stored(txn)

                await store.write(put(b"a"))
                await asyncio.gather(*(reader() for _ in range(8)))
                with psycopg.connect(store_url, autocommit=True) as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                assert await asyncio.gather(*(reader() for _ in range(8))) == [[b"a"]] * 8
                await store.write(put(b"b"))
                assert await reader() == [b"a", b"b"]

        asyncio.run(scenario())

    def test_a_server_that_stops_in_a_read_makes_it_unavailable(self, store_url):
        async def scenario():
            async with open_async_database(store_url) as store:
                with contextlib.suppress(Unavailable):
                    async with store.read() as txn:
                        await stored(txn)
                        with psycopg.connect(store_url, autocommit=True) as connection:
                            connection.execute(
                                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                            )
                        with pytest.raises(Unavailable):
                            await stored(txn)
                async with store.read() as txn:
                    assert await stored(txn) == []

        asyncio.run(scenario())
