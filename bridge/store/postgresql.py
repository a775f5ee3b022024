"""The store in PostgreSQL, by psycopg 3: binary parameters and results, prepared statements, COPY."""

# ruff: noqa: D102 - the docstrings stand in bridge.store.database
from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg.adapt import AdaptersMap, Buffer, Dumper
from psycopg.pq import Format, TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper

from bridge.errors import BridgeError, Fault, Unavailable
from bridge.store import arrays, failures
from bridge.store import dialect as d
from bridge.store.database import NO_PARAMETERS, Database, Transaction
from bridge.store.dialect import DialectName, Row, Statement
from bridge.store.schema import KEY_BLOCK, KEYED, resource_index

WRITER_NAME: Final = "hiebridge"
READER_NAME: Final = "hiebridge-read"
CONNECT_OPTIONS: Final[Mapping[str, Any]] = {"autocommit": True, "prepare_threshold": 0, "connect_timeout": 10}
# A refused row would stand in the server's log as DETAIL or CONTEXT. Where this role may not say so, the operator does.
_QUIET: Final = "SELECT set_config('log_error_verbosity', 'terse', false) WHERE has_parameter_privilege('log_error_verbosity', 'SET')"
_QUIET_SINCE: Final = 150000
_SESSION: Final = (
    "SET jit = off",
    "SET TimeZone = 'UTC'",
    "SET lock_timeout = '30s'",
    "SET idle_in_transaction_session_timeout = '60s'",
)
_COPY_FROM_ROWS: Final = 16  # below, one prepared INSERT a row, pipelined, is faster (measured)
PREPARED_MAX: Final = 500
_MICROSECONDS: Final = "(extract(epoch FROM {}) * 1000000)::bigint"
START: Final = f"SELECT {_MICROSECONDS.format('transaction_timestamp()')}"
CLOCK: Final = f"SELECT {_MICROSECONDS.format('clock_timestamp()')}"
# The own session's xact_start is when this statement arrived. A session that this scan misses reads clock_timestamp()
# after it, and so writes a later time: a transaction makes its start public before its first statement runs.
HORIZON: Final = (
    f"SELECT min({_MICROSECONDS.format('xact_start')}) FROM pg_stat_activity WHERE pid = pg_backend_pid() OR ("  # noqa: S608 - constants
    "datname = current_database() AND backend_type = 'client backend' AND xact_start IS NOT NULL"
    f" AND application_name <> '{READER_NAME}')"
)
_LOCK: Final = "SELECT count(pg_advisory_xact_lock(1212761426, slot::int)) FROM unnest(%s::bigint[]) AS slot"
_BLOCKS: Final = "SELECT nextval(%s::text::regclass) FROM generate_series(1, %s::bigint)"


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: arrays.PostgresArray) -> Buffer:
        return obj.data


class _Int8ArrayDumper(_ArrayDumper):
    oid = arrays.ARRAY_OF[arrays.INT8]

    def dump(self, obj: arrays.PostgresArray | Sequence[int]) -> Buffer:
        return obj.data if isinstance(obj, arrays.PostgresArray) else arrays.int8_array_data(obj)


class _TextArrayDumper(_ArrayDumper):
    oid = arrays.ARRAY_OF[arrays.TEXT]


class _ByteaArrayDumper(_ArrayDumper):
    oid = arrays.ARRAY_OF[arrays.BYTEA]


class _BoolArrayDumper(_ArrayDumper):
    oid = arrays.ARRAY_OF[arrays.BOOL]


def adapt(adapters: AdaptersMap) -> None:
    """Every int travels as int8 (one prepared statement whatever the value), arrays in our binary form."""
    adapters.register_dumper(int, Int8BinaryDumper)
    adapters.register_dumper(tuple, _Int8ArrayDumper)
    adapters.register_dumper(arrays.Int8Array, _Int8ArrayDumper)
    adapters.register_dumper(arrays.TextArray, _TextArrayDumper)
    adapters.register_dumper(arrays.ByteaArray, _ByteaArrayDumper)
    adapters.register_dumper(arrays.BoolArray, _BoolArrayDumper)


def session_settings(server_version: int, *, read_only: bool) -> list[str]:
    """What every session of ours is told after it connects. ``server_version`` as libpq says it: 150004."""
    settings = [*_SESSION]
    if server_version >= _QUIET_SINCE:
        settings.append(_QUIET)
    if read_only:
        settings.append("SET default_transaction_read_only = on")
    return settings


class PostgresqlTransaction(Transaction):
    """See :class:`Transaction`."""

    dialect: DialectName = "postgresql"

    def __init__(self, database: PostgresqlDatabase, connection: psycopg.Connection[Row]) -> None:
        self._database = database
        self._connection = connection
        self._cursor = connection.cursor(binary=True)
        self._start_us = 0
        self._now_us = 0

    @property
    def start_us(self) -> int:
        if not self._start_us:
            self._start_us = self._text(START)[0][0]
        return self._start_us

    def now_us(self) -> int:
        if not self._now_us:
            self._now_us = max(self._text(CLOCK)[0][0], self.start_us + 1)
        return self._now_us

    def _text(self, text: str, arguments: Sequence[Any] = ()) -> list[Row]:
        try:
            return self._cursor.execute(text, arguments).fetchall()
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        raise failure

    def execute(self, statement: Statement, parameters: Mapping[str, Any] = NO_PARAMETERS) -> list[Row]:
        cursor = self._run(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def change(self, statement: Statement, parameters: Mapping[str, Any] = NO_PARAMETERS) -> int:
        return self._run(statement, parameters).rowcount

    def _run(self, statement: Statement, parameters: Mapping[str, Any]) -> psycopg.Cursor[Row]:
        compiled = statement.compiled("postgresql")
        try:
            return self._cursor.execute(compiled.sql, compiled.arguments(parameters))
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        raise failure

    def stream(self, statement: Statement, parameters: Mapping[str, Any], chunk: int) -> Iterator[list[Row]]:
        compiled = statement.compiled("postgresql")
        failure: BridgeError | None = None
        try:
            with self._connection.cursor("stream", binary=True) as cursor:
                cursor.execute(compiled.sql, compiled.arguments(parameters))
                while rows := cursor.fetchmany(chunk):
                    yield rows
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        if failure:
            raise failure

    def insert_rows(
        self,
        table: sa.Table,
        rows: Sequence[Sequence[Any]],
        columns: Sequence[str] | None = None,
        *,
        ignore_existing: bool = False,
    ) -> None:
        if not rows:
            return
        names = table.c.keys() if columns is None else columns
        if ignore_existing:
            keys = [column.name for column in table.primary_key]
            self.change(d.set_insert(table, names, keys=keys, replace=False), {"v": rows})
            return
        try:
            if len(rows) < _COPY_FROM_ROWS:
                self._cursor.executemany(d.insert_text(table, names, "postgresql"), rows)
            else:
                with self._cursor.copy(d.copy_text(table, names)) as copy:
                    copy.set_types([d.oid_of(table.c[name].type) for name in names])
                    write = copy.write_row
                    for row in rows:
                        write(row)
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        else:
            return
        raise failure

    def upsert_rows(self, table: sa.Table, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            keys = [column.name for column in table.primary_key]
            self.change(d.set_insert(table, table.c.keys(), keys=keys, replace=True), {"v": rows})

    def update_rows(
        self, table: sa.Table, keys: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> int:
        return self.change(d.set_update(table, keys, columns), {"v": rows}) if rows else 0

    def insert_terms(self, rows: Sequence[tuple[int, str, tuple[int, ...]]]) -> None:
        self.insert_rows(resource_index, rows)

    def replace_terms(self, rows: Sequence[tuple[int, str, tuple[int, ...]]]) -> None:
        if rows:
            # unnest would flatten arrays of arrays, so each row's array travels as its literal
            self.change(d.REPLACE_TERMS, {"v": [(key, f"{{{','.join(map(str, terms))}}}") for key, _, terms in rows]})

    def lock(self, slots: Iterable[int]) -> None:
        self._text(_LOCK, (arrays.Int8Array(arrays.int8_array_data(sorted(set(slots)))),))
        self._now_us = 0

    def allocate(self, name: str, count: int) -> list[int]:
        if name not in KEYED:
            raise Fault("store-statement", f"no keys are given out for {name}", remedy="Please report it.")
        held = self._database.keys.setdefault(name, [])
        if len(held) < count:
            blocks = -(-(count - len(held)) // KEY_BLOCK)
            for (first,) in self._text(_BLOCKS, (f"{name}_block", blocks)):
                held.extend(range(first, first + KEY_BLOCK))
        given = held[:count]
        del held[:count]
        return given


class PostgresqlDatabase(Database):
    """See :class:`Database`."""

    dialect: DialectName = "postgresql"

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url = url
        self._only_reads = read_only
        self._connection: psycopg.Connection[Row] | None = None
        self._turn = threading.RLock()
        self._open = False
        self.keys: dict[str, list[int]] = {}
        """Surrogate keys taken from the sequences and not given out yet; sequences never take back, so rollbacks don't matter."""

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        with self._turn:
            if self._open:
                raise Fault("nested-transaction", "a transaction is open already", remedy="Please report it.")
            begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if read_only or self._only_reads else "BEGIN"
            connection = self._begun(begin)
            self._open = True
            try:
                yield PostgresqlTransaction(self, connection)
                self._commit(connection)
            except BaseException:
                self._roll_back(connection)
                raise
            finally:
                self._open = False

    def _begun(self, begin: str) -> psycopg.Connection[Row]:
        """A connection in a new transaction; one that broke while it was idle is replaced unseen."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.execute(begin)
                return self._connection
            self._discard()
        try:
            self._connection = self._connected()
            self._connection.execute(begin)
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
        else:
            return self._connection
        self._discard()
        raise failure

    def _connected(self) -> psycopg.Connection[Row]:
        name = READER_NAME if self._only_reads else WRITER_NAME
        connection = psycopg.connect(self._url, application_name=name, **CONNECT_OPTIONS)
        connection.prepared_max = PREPARED_MAX
        adapt(connection.adapters)
        for setting in session_settings(connection.info.server_version, read_only=self._only_reads):
            connection.execute(setting, prepare=False)
        return connection

    @staticmethod
    def _commit(connection: psycopg.Connection[Row]) -> None:
        try:
            # COMMIT of a failed transaction would say ROLLBACK and raise nothing
            failed = connection.info.transaction_status is not TransactionStatus.INTRANS
            if not failed:
                connection.execute("COMMIT")
        except failures.TRANSLATED as error:
            failure = failures.translate(error)
            if connection.closed or connection.broken:
                failure = Unavailable(
                    "commit-unknown",
                    "the connection broke at the commit: it may have happened",
                    remedy="Read the state again before retrying.",
                )
        else:
            if not failed:
                return
            failure = Unavailable("store-unavailable", "the transaction was lost before its commit", remedy="Retry it.")
        raise failure

    def _roll_back(self, connection: psycopg.Connection[Row]) -> None:
        with suppress(psycopg.Error):
            if not connection.closed and connection.info.transaction_status is not TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        if connection.closed or connection.info.transaction_status is not TransactionStatus.IDLE:
            self._discard()

    def _discard(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def visible_horizon_us(self) -> int:
        with self._turn:
            if self._open:
                raise Fault(
                    "nested-transaction", "the horizon is read before a transaction", remedy="Please report it."
                )
            connection = self._begun("SELECT 1")
            try:
                row = connection.execute(HORIZON).fetchone()
            except failures.TRANSLATED as error:
                failure = failures.translate(error)
            else:
                assert row is not None
                return int(row[0])
            self._discard()
            raise failure

    def close(self) -> None:
        with self._turn:
            self._discard()
