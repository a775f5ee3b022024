"""What the databases' errors mean, in one place. Their texts may hold values, so none of it is passed on."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Mapping
from typing import Final

import psycopg

from bridge.errors import BridgeError, Conflict, Fault, Incorrect, Unavailable

TRANSLATED: Final = (
    psycopg.Error,
    sqlite3.Error,
    sqlite3.Warning,
    OverflowError,
    UnicodeError,
    struct.error,
)
"""What the drivers raise; :func:`translate` says what it means."""


def data_error(what: str) -> Incorrect:
    """The database refuses, or would silently change, a value of ours. ``what`` names structure, never values."""
    return Incorrect("data-error", f"the store refused a value: {what}", remedy="Look at the message that brought it.")


def wrong_type() -> Fault:
    """A value of a type that its column does not have."""
    return Fault("store-statement", "a statement got a value of the wrong type", remedy="Please report it.")


def translate(error: Exception) -> BridgeError:
    """The closed category of a driver's error. The driver's text may hold values, so none of it is passed on."""
    if isinstance(error, psycopg.Error):
        return _translate_postgresql(error)
    if isinstance(error, sqlite3.Error):
        return _translate_sqlite(error)
    if isinstance(error, UnicodeError):
        return data_error("a text that is not Unicode")
    return data_error("a number outside 64 bits")


def _unavailable(what: str, remedy: str = "Retried when it is back.") -> Unavailable:
    return Unavailable("store-unavailable", f"the database {what}", remedy=remedy)


def _not_ours() -> Unavailable:
    """What no message can mend and an operator can: it must hold the feed up, and make no dead letters of it."""
    return Unavailable(
        "schema-outdated",
        "the database lacks tables, columns or rights that this version needs",
        remedy="Run the migrations of this version; check the rights of its role.",
    )


_POSTGRESQL_CLASSES: Final[Mapping[str, Callable[[], BridgeError]]] = {
    "08": lambda: _unavailable("connection was lost"),
    "53": lambda: _unavailable("is out of disk, memory or connections", "Free or raise that limit."),
    "57": lambda: _unavailable("is stopping, or cancelled the statement (time-out)"),
    "58": lambda: _unavailable("reports an input/output error", "Look at the database server's log."),
    "40": lambda: Conflict("store-conflict", "the transaction met another one", remedy="Retry it."),
    "55": lambda: Conflict("store-conflict", "a lock was not to be had in time", remedy="Retry it."),
    "XX": lambda: _unavailable("reports an internal error, or corruption", "Look at the database server's log."),
}
_POSTGRESQL_STATES: Final[Mapping[str, Callable[[], BridgeError]]] = {
    "25006": lambda: _unavailable("is read-only", "Connect to the primary server."),
    "25P03": lambda: _unavailable("ended a transaction that took too long"),
    "25P04": lambda: _unavailable("ended a transaction that took too long"),
    "3F000": _not_ours,
    "42501": _not_ours,
    "42703": _not_ours,
    "42883": _not_ours,
    "42P01": _not_ours,
    "54000": lambda: data_error("it is too large"),  # for a row of an index, say
}


def _translate_postgresql(error: psycopg.Error) -> BridgeError:
    state = error.sqlstate
    if state is None:
        if isinstance(error, psycopg.DataError):
            return data_error("U+0000 in a text, or a number outside its range")
        if isinstance(error, psycopg.ProgrammingError | psycopg.NotSupportedError):
            return wrong_type()
        return _unavailable("connection was lost")
    if state[:2] in {"22", "23"}:
        names = (error.diag.table_name, error.diag.constraint_name or error.diag.column_name)
        return data_error(f"SQLSTATE {state} {'.'.join(filter(None, names))}".strip())
    known = _POSTGRESQL_STATES.get(state) or _POSTGRESQL_CLASSES.get(state[:2])
    return known() if known else _statement_fault(f"SQLSTATE {state}")


_SQLITE_CODES: Final[Mapping[int, Callable[[], BridgeError]]] = {
    sqlite3.SQLITE_BUSY: lambda: Conflict("store-conflict", "the database file is locked", remedy="Retry."),
    sqlite3.SQLITE_LOCKED: lambda: Conflict("store-conflict", "a table is locked", remedy="Retry."),
    sqlite3.SQLITE_FULL: lambda: _unavailable("is out of disk", "Free disk space."),
    sqlite3.SQLITE_IOERR: lambda: _unavailable("reports an input/output error", "Look at the disk."),
    sqlite3.SQLITE_CANTOPEN: lambda: _unavailable(
        "file can't be opened", "Create it with the migrations; check its rights."
    ),
    sqlite3.SQLITE_READONLY: lambda: _unavailable("file is read-only", "Check its rights."),
    sqlite3.SQLITE_NOMEM: lambda: _unavailable("is out of memory", "Free memory."),
    sqlite3.SQLITE_PROTOCOL: lambda: Conflict("store-conflict", "the database file is locked", remedy="Retry."),
    sqlite3.SQLITE_CORRUPT: lambda: _unavailable("file is damaged", "Restore it from a backup."),
    sqlite3.SQLITE_NOTADB: lambda: _unavailable("file is damaged", "Restore it from a backup."),
    sqlite3.SQLITE_CONSTRAINT: lambda: data_error("a constraint"),
    sqlite3.SQLITE_TOOBIG: lambda: data_error("it is too large"),
    sqlite3.SQLITE_MISMATCH: lambda: data_error("its type"),
}


def _translate_sqlite(error: sqlite3.Error) -> BridgeError:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return data_error("it is too large") if isinstance(error, sqlite3.DataError) else wrong_type()
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such "):  # names of tables and columns, never values
        return _not_ours()
    known = _SQLITE_CODES.get(code & 0xFF)
    return known() if known else _statement_fault(f"SQLite error {code}")


def _statement_fault(what: str) -> Fault:
    return Fault(
        "store-statement", f"the database refused a statement: {what}", remedy="Run the migrations, or report it."
    )
