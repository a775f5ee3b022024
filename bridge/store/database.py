"""Opening the store, and the transaction that everything in this room works in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Self

import sqlalchemy as sa

from bridge.errors import Incorrect
from bridge.store.dialect import DialectName, Row, Statement

NO_PARAMETERS: Final[Mapping[str, Any]] = {}
FOREVER_US: Final = 2**63 - 1
"""Later than every time: the horizon of a store whose commits appear in the order of their times."""


class Transaction(ABC):
    """One transaction. Not thread-safe; dead once its ``with`` block has ended. There are no savepoints (law *Batch*).

    Every method raises Unavailable or Conflict (transient: the transaction is lost, start again), Incorrect ``data-error``
    (a value or a constraint) or Fault. After an error nothing but leaving the block is of use.
    """

    dialect: DialectName

    @property
    @abstractmethod
    def start_us(self) -> int:
        """When the transaction began, by the database's clock; no other moment of it is earlier."""

    @abstractmethod
    def now_us(self) -> int:
        """The time to write as ``last_updated_us`` and the like: fixed by the first call, and later than ``start_us``.

        Call it after :meth:`lock`: then two transactions that change one resource get times in the order of their commits
        (as far as the database server's clock goes forward). On SQLite times are unique and ascend from commit to commit.
        """

    @abstractmethod
    def execute(self, statement: Statement, parameters: Mapping[str, Any] = NO_PARAMETERS) -> list[Row]:
        """Runs one statement; its rows, or none."""

    @abstractmethod
    def change(self, statement: Statement, parameters: Mapping[str, Any] = NO_PARAMETERS) -> int:
        """Runs one statement that changes rows and returns none; how many it changed."""

    @abstractmethod
    def stream(self, statement: Statement, parameters: Mapping[str, Any], chunk: int) -> Iterator[list[Row]]:
        """Runs one query and yields its rows in lists of up to ``chunk``, without holding them all."""

    @abstractmethod
    def insert_rows(
        self,
        table: sa.Table,
        rows: Sequence[Sequence[Any]],
        columns: Sequence[str] | None = None,
        *,
        ignore_existing: bool = False,
    ) -> None:
        """Inserts rows of values in the order of ``columns`` (None: all columns of the table, in its order)."""

    @abstractmethod
    def upsert_rows(self, table: sa.Table, rows: Sequence[Sequence[Any]]) -> None:
        """Inserts whole rows in key order, replacing those of equal primary key. Keys must not repeat within ``rows``."""

    @abstractmethod
    def update_rows(
        self, table: sa.Table, keys: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> int:
        """Sets ``columns`` where ``keys`` match; each row holds the values of ``columns``, then of ``keys``. Rows changed."""

    @abstractmethod
    def insert_terms(self, rows: Sequence[tuple[int, str, tuple[int, ...]]]) -> None:
        """Indexes new resources: (resource key, type, ascending 64-bit terms)."""

    @abstractmethod
    def replace_terms(self, rows: Sequence[tuple[int, str, tuple[int, ...]]]) -> None:
        """Makes these the terms of known resources; what is equal is not written."""

    @abstractmethod
    def lock(self, slots: Iterable[int]) -> None:
        """Waits for, and holds to the end of the transaction, one lock a slot (0 ≤ slot < 2³¹), in one statement.

        Taken in ascending order, so that two callers never wait for each other. On SQLite a writer is alone anyway.
        """

    @abstractmethod
    def allocate(self, name: str, count: int) -> list[int]:
        """``count`` fresh surrogate keys for table ``name`` (one of ``schema.KEYED``), ascending, perhaps with gaps."""


class Database(ABC):
    """One connection to the store, for one thread at a time (a second one waits). It reconnects by itself.

    A connection that is lost makes the transaction raise Unavailable; the next transaction gets a new connection.
    """

    dialect: DialectName

    @abstractmethod
    def transaction(self, *, read_only: bool = False) -> AbstractContextManager[Transaction]:
        """A transaction: committed when the block ends, rolled back when it raises.

        ``read_only`` sees one snapshot throughout and takes no write lock. Without it, SQLite writes one at a time
        (``BEGIN IMMEDIATE``), PostgreSQL reads what is committed as it goes (``READ COMMITTED``).

        Raises:
            Unavailable: ``commit-unknown`` when the connection broke at the commit itself: it may have happened.
            Fault: a transaction is open in this thread already.
        """

    @abstractmethod
    def visible_horizon_us(self) -> int:
        """Up to when everything is committed: later ``last_updated_us`` may still get company (law *Versions and bytes*).

        Read it *before* the transaction that reads versions; then leave out what is later than it. On PostgreSQL it is the
        start of the oldest transaction of this database that may write, as far as this role sees them (all roles of a
        deployment use one database role, or one granted ``pg_read_all_stats``); on SQLite :data:`FOREVER_US`.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the connection; idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_database(url: str, *, read_only: bool = False) -> Database:
    """Opens the store at ``url``: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``postgresql://…`` (libpq's form).

    Connects at the first transaction. ``read_only`` is for long readers (``fsck``, ``prove``): they may not write, and
    they do not hold back :meth:`Database.visible_horizon_us`.

    Raises:
        Incorrect: the address is of no known form.
    """
    path = sqlite_path(url)
    if path is not None:
        from bridge.store.sqlite import SqliteDatabase  # noqa: PLC0415 - only the driver that is used

        return SqliteDatabase(path, read_only=read_only)
    from bridge.store.postgresql import PostgresqlDatabase  # noqa: PLC0415 - only the driver that is used

    return PostgresqlDatabase(url, read_only=read_only)


def sqlite_path(url: str) -> str | None:
    """The file of a ``sqlite:///`` address; None for a PostgreSQL address; Incorrect for any other."""
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        return url.removeprefix("sqlite:///")
    if url.startswith(("postgresql://", "postgres://")):
        return None
    raise Incorrect(
        "store-address",
        "the store's address has no known form",
        remedy="Use sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
    )
