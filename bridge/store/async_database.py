"""The store for the API's event loop: snapshots to read in, and one thread that writes.

PostgreSQL: a pool of asynchronous connections. SQLite: a pool of reading connections, each statement run in a thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from bridge.errors import Unavailable
from bridge.store import failures, postgresql, sqlite
from bridge.store.database import FOREVER_US, NO_PARAMETERS, Database, Transaction, open_database, sqlite_path
from bridge.store.dialect import DialectName, Row, Statement

T = TypeVar("T")
DEFAULT_CONNECTIONS: Final = 8
_WAIT_SECONDS: Final = 5.0


class AsyncTransaction(Protocol):
    """A read-only snapshot of the store."""

    dialect: DialectName

    async def execute(self, statement: Statement, parameters: Mapping[str, Any] = NO_PARAMETERS) -> list[Row]:
        """Runs one statement; its rows. Raises as :meth:`bridge.store.database.Transaction.execute`."""
        ...


class AsyncDatabase(ABC):
    """The store as an event loop sees it; belongs to the loop that opened it.

    Args:
        writer: where :meth:`write` writes; used by one thread of this object alone, and closed by it.
    """

    def __init__(self, writer: Database) -> None:
        self._writer = writer
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store-writer")

    @abstractmethod
    async def open(self) -> None:
        """Begins to connect; a database that does not answer yet is waited for by :meth:`read`, up to 5 s."""

    @abstractmethod
    def read(self) -> AbstractAsyncContextManager[AsyncTransaction]:
        """One snapshot for the length of the block, which begins with its first statement.

        Raises:
            Unavailable: no connection was to be had, or it was lost.
        """

    @abstractmethod
    async def visible_horizon_us(self) -> int:
        """See :meth:`bridge.store.database.Database.visible_horizon_us`; call it before :meth:`read`."""

    async def write(self, function: Callable[[Transaction], T]) -> T:
        """Runs ``function`` in a transaction of its own on the one writing thread; returns once it is committed.

        A caller that is cancelled does not take the write back.
        """
        return await asyncio.wrap_future(self._submit(function))

    def _submit(self, function: Callable[[Transaction], T]) -> Future[T]:
        def transact() -> T:
            with self._writer.transaction() as txn:
                return function(txn)

        return self._writing.submit(transact)

    async def close(self) -> None:
        """Waits for what is being written, then closes all connections."""
        await asyncio.to_thread(self._writing.shutdown)
        self._writer.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def open_async_database(url: str, *, connections: int = DEFAULT_CONNECTIONS) -> AsyncDatabase:
    """The store at ``url`` (see :func:`bridge.store.database.open_database`) with up to ``connections`` readers."""
    path = sqlite_path(url)
    if path is not None:
        return _AsyncSqlite(path, open_database(url), connections)
    return _AsyncPostgresql(url, open_database(url), connections)


_Connection = psycopg.AsyncConnection[Row]


class _AsyncPostgresql(AsyncDatabase):
    def __init__(self, url: str, writer: Database, connections: int) -> None:
        super().__init__(writer)
        options = {**postgresql.CONNECT_OPTIONS, "autocommit": False, "application_name": postgresql.READER_NAME}
        self._pool: AsyncConnectionPool[_Connection] = AsyncConnectionPool(
            url,
            kwargs=options,
            min_size=1,
            max_size=connections,
            open=False,
            configure=_configure,
            timeout=_WAIT_SECONDS,
        )
        self._connections = connections

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await super().close()
        await self._pool.close()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncTransaction]:
        txn = _PostgresqlSnapshot(self._pool, self._connections)
        try:
            yield txn
        finally:
            await txn.end()

    async def visible_horizon_us(self) -> int:
        txn = _PostgresqlSnapshot(self._pool, self._connections)
        try:
            rows = await txn.run(postgresql.HORIZON, ())
        finally:
            await txn.end()
        return int(rows[0][0])


async def _configure(connection: _Connection) -> None:
    postgresql.adapt(connection.adapters)
    connection.prepared_max = postgresql.PREPARED_MAX
    for setting in postgresql.session_settings(connection.info.server_version, read_only=True):
        await connection.execute(setting, prepare=False)
    await connection.commit()
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)


class _PostgresqlSnapshot:
    dialect: DialectName = "postgresql"

    def __init__(self, pool: AsyncConnectionPool[_Connection], connections: int) -> None:
        self._pool = pool
        self._tries = connections + 1  # after a restart of the server each pooled connection may be stale
        self._connection: _Connection | None = None

    async def execute(self, statement: Statement, parameters: Mapping[str, Any] = NO_PARAMETERS) -> list[Row]:
        compiled = statement.compiled("postgresql")
        try:
            arguments = compiled.arguments(parameters)
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        else:
            return await self.run(compiled.sql, arguments)
        raise failure

    async def run(self, text: str, arguments: Any) -> list[Row]:
        while True:
            fresh = self._connection is None
            try:
                if self._connection is None:
                    self._connection = await self._pool.getconn()
                cursor = self._connection.cursor(binary=True)
                await cursor.execute(text, arguments)
                return await cursor.fetchall()
            except failures.TRANSLATED as error:
                failure = failures.translate(error)
            self._tries -= 1
            if not fresh or not self._tries or self._connection is None or not self._connection.closed:
                break
            await self.end()
        raise failure

    async def end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            with suppress(psycopg.Error):
                if connection.info.transaction_status is not TransactionStatus.ACTIVE:  # else the pool discards it
                    await connection.rollback()
        finally:
            await self._pool.putconn(connection)


class _AsyncSqlite(AsyncDatabase):
    def __init__(self, path: str, writer: Database, connections: int) -> None:
        super().__init__(writer)
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._places = asyncio.Semaphore(connections)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="store-reader")

    async def open(self) -> None:
        """Nothing to wait for: connections are made when they are needed."""

    async def close(self) -> None:
        await super().close()
        await asyncio.to_thread(self._threads.shutdown)
        while self._idle:
            self._idle.pop().close()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncTransaction]:
        async with self._places:
            connection = self._idle.pop() if self._idle else self._connected()
            txn = _SqliteSnapshot(connection, self._threads)
            try:
                yield txn
            finally:
                await txn.end()
                self._idle.append(connection)

    def _connected(self) -> sqlite3.Connection:
        if not Path(self._path).is_file():
            raise Unavailable("store-absent", "the store's file is not there", remedy="Create it with the migrations.")
        try:
            return sqlite.connect(self._path, read_only=True)
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        raise failure

    async def visible_horizon_us(self) -> int:
        return FOREVER_US


class _SqliteSnapshot:
    dialect: DialectName = "sqlite"

    def __init__(self, connection: sqlite3.Connection, threads: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._threads = threads
        self._running: Future[list[Row]] | None = None

    async def execute(self, statement: Statement, parameters: Mapping[str, Any] = NO_PARAMETERS) -> list[Row]:
        self._running = self._threads.submit(self._run, statement, parameters)
        return await asyncio.shield(asyncio.wrap_future(self._running))

    def _run(self, statement: Statement, parameters: Mapping[str, Any]) -> list[Row]:
        compiled = statement.compiled("sqlite")
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN")
            return self._connection.execute(compiled.sql, compiled.arguments(parameters)).fetchall()
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        raise failure

    async def end(self) -> None:
        running = self._running
        if running is not None and not running.done():  # the caller was cancelled: its thread must leave the connection
            self._connection.interrupt()
            with suppress(BaseException):
                await asyncio.shield(asyncio.wrap_future(running))
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
