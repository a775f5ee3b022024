"""The store in one SQLite file: WAL, every commit synced, one writer at a time, as many readers as there are connections."""

# ruff: noqa: D102 - the docstrings stand in bridge.store.database
from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from bridge.errors import BridgeError, Conflict, Fault, Unavailable
from bridge.store import dialect as d
from bridge.store import failures
from bridge.store.database import FOREVER_US, NO_PARAMETERS, Database, Transaction
from bridge.store.dialect import DialectName, Row, Statement
from bridge.store.schema import KEYED, key_counter, resource_term, store_clock

BUSY_SECONDS: Final = 30.0
_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -65536",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA wal_autocheckpoint = 4000",
)

_tick_insert = sa.dialects.sqlite.insert(store_clock).values(only_row=1, last_us=sa.bindparam("wall"))
_TICK: Final = Statement(
    _tick_insert.on_conflict_do_update(
        index_elements=["only_row"],
        set_={"last_us": sa.func.max(store_clock.c.last_us + 1, _tick_insert.excluded.last_us)},
    ).returning(store_clock.c.last_us)
)
_counter_insert = sa.dialects.sqlite.insert(key_counter).values(
    name=sa.bindparam("name"), next_key=sa.bindparam("after")
)
_ALLOCATE: Final = Statement(
    _counter_insert.on_conflict_do_update(
        index_elements=["name"],
        set_={"next_key": key_counter.c.next_key + sa.bindparam("count", type_=sa.BigInteger())},
    ).returning(key_counter.c.next_key)
)


def wall_us() -> int:
    """The machine's clock, µs since the epoch."""
    return time.time_ns() // 1000


class FairLock:
    """A lock that is given in the order of asking: a busy worker must not starve the access records."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, timeout_seconds: float) -> bool:
        """Whether the lock was had in time."""
        with self._mutex:
            if not self._held:
                self._held = True
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(timeout_seconds):
            return True
        with self._mutex:
            if turn.is_set():
                return True
            self._waiting.remove(turn)
            return False

    def release(self) -> None:
        """Hands the lock to whoever has waited longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False


_writers: dict[str, FairLock] = {}
_writers_mutex = threading.Lock()


def _writer_lock(path: str) -> FairLock:
    with _writers_mutex:
        return _writers.setdefault(os.path.realpath(path), FairLock())


def connect(path: str, *, create: bool = False, read_only: bool = False) -> sqlite3.Connection:
    """A connection for any thread, one at a time, in autocommit.

    Args:
        path: the file.
        create: make the file, readable by its owner only, if it is not there.
        read_only: refuse to write.
    """
    if create:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
        cached_statements=512,
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        connection.create_function("from_hex", 1, _from_hex, deterministic=True)
    except BaseException:
        connection.close()
        raise
    return connection


def _from_hex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


class SqliteTransaction(Transaction):
    """See :class:`Transaction`."""

    dialect: DialectName = "sqlite"

    def __init__(self, connection: sqlite3.Connection, *, read_only: bool) -> None:
        self._connection = connection
        self._read_only = read_only
        self._start_us = wall_us()
        self._now_us = 0

    @property
    def start_us(self) -> int:
        return self._start_us

    def now_us(self) -> int:
        if not self._now_us:
            wall = max(wall_us(), self._start_us + 1)
            self._now_us = wall if self._read_only else self.execute(_TICK, {"wall": wall})[0][0]
        return self._now_us

    def execute(self, statement: Statement, parameters: Mapping[str, Any] = NO_PARAMETERS) -> list[Row]:
        return self._run(statement, parameters).fetchall()

    def change(self, statement: Statement, parameters: Mapping[str, Any] = NO_PARAMETERS) -> int:
        return self._run(statement, parameters).rowcount

    def _run(self, statement: Statement, parameters: Mapping[str, Any]) -> sqlite3.Cursor:
        compiled = statement.compiled("sqlite")
        try:
            return self._connection.execute(compiled.sql, compiled.arguments(parameters))
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        raise failure

    def stream(self, statement: Statement, parameters: Mapping[str, Any], chunk: int) -> Iterator[list[Row]]:
        cursor = self._run(statement, parameters)
        while True:
            failure: BridgeError | None = None
            try:
                rows = cursor.fetchmany(chunk)
            except failures.TRANSLATED as error:
                failure = failures.translate(error)
            if failure:
                raise failure
            if not rows:
                return
            yield rows

    def insert_rows(
        self,
        table: sa.Table,
        rows: Sequence[Sequence[Any]],
        columns: Sequence[str] | None = None,
        *,
        ignore_existing: bool = False,
    ) -> None:
        names = table.c.keys() if columns is None else columns
        self._many(d.insert_text(table, names, "sqlite", ignore_existing=ignore_existing), rows)

    def upsert_rows(self, table: sa.Table, rows: Sequence[Sequence[Any]]) -> None:
        keys = [column.name for column in table.primary_key]
        self._many(d.upsert_text(table, table.c.keys(), keys), rows)

    def update_rows(
        self, table: sa.Table, keys: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> int:
        return self._many(d.update_text(table, keys, columns), rows)

    def _many(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        if not rows:
            return 0
        for row in rows:
            for value in row:
                if isinstance(value, str) and "\0" in value:  # SQLite would keep it, and cut it in functions
                    raise failures.data_error("U+0000 in a text")
        try:
            return self._connection.executemany(text, rows).rowcount
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        raise failure

    def insert_terms(self, rows: Sequence[tuple[int, str, tuple[int, ...]]]) -> None:
        self.insert_rows(resource_term, [(term, key) for key, _, terms in rows for term in terms])

    def replace_terms(self, rows: Sequence[tuple[int, str, tuple[int, ...]]]) -> None:
        if not rows:
            return
        stored = set(self.execute(d.SELECT_TERMS, {"keys": [key for key, _, _ in rows]}))
        wanted = {(term, key) for key, _, terms in rows for term in terms}
        self._many(d.DELETE_TERM, sorted(stored - wanted))
        self.insert_rows(resource_term, sorted(wanted - stored))

    def lock(self, slots: Iterable[int]) -> None:
        """Nothing to do: ``BEGIN IMMEDIATE`` holds the one write lock."""

    def allocate(self, name: str, count: int) -> list[int]:
        if name not in KEYED:
            raise Fault("store-statement", f"no keys are given out for {name}", remedy="Please report it.")
        after = self.execute(_ALLOCATE, {"name": name, "after": count + 1, "count": count})[0][0]
        return list(range(after - count, after))


class SqliteDatabase(Database):
    """See :class:`Database`. Writers of one process queue in order; those of other processes are waited for 30 s."""

    dialect: DialectName = "sqlite"

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self._path = path
        self._only_reads = read_only
        self._connection: sqlite3.Connection | None = None
        self._turn = threading.RLock()
        self._open = False

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        with self._turn:
            if self._open:
                raise Fault("nested-transaction", "a transaction is open already", remedy="Please report it.")
            self._open = True
            try:
                if read_only or self._only_reads:
                    yield from self._transact("BEGIN", read_only=True)
                else:
                    yield from self._write()
            finally:
                self._open = False

    def _write(self) -> Iterator[Transaction]:
        writers = _writer_lock(self._path)
        if not writers.acquire(BUSY_SECONDS):
            raise Conflict("store-conflict", "the writers before this one took too long", remedy="Retry.")
        try:
            yield from self._transact("BEGIN IMMEDIATE", read_only=False)
        finally:
            writers.release()

    def _transact(self, begin: str, *, read_only: bool) -> Iterator[Transaction]:
        connection = self._connected()
        if read_only:
            self._say(connection, "PRAGMA query_only = ON")
        try:
            self._say(connection, begin)
            yield SqliteTransaction(connection, read_only=read_only)
            self._say(connection, "COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        finally:
            if read_only and not self._only_reads:
                self._say(connection, "PRAGMA query_only = OFF")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            if not Path(self._path).is_file():
                raise Unavailable(
                    "store-absent", "the store's file is not there", remedy="Create it with the migrations."
                )
            try:
                self._connection = connect(self._path, read_only=self._only_reads)
            except failures.TRANSLATED as error:
                failure = failures.translate(error)
            else:
                return self._connection
            raise failure
        return self._connection

    @staticmethod
    def _say(connection: sqlite3.Connection, text: str) -> None:
        try:
            connection.execute(text)
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        else:
            return
        raise failure

    def visible_horizon_us(self) -> int:
        return FOREVER_US

    def close(self) -> None:
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
