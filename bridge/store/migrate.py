"""Bringing a store to the schema of this program, and telling whether it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from bridge.errors import BridgeError, Unavailable
from bridge.store import failures, sqlite
from bridge.store.database import Database, open_database, sqlite_path
from bridge.store.dialect import Statement
from bridge.store.partitions import ensure_partitions
from bridge.store.schema import VERSION_TABLE

_SCRIPTS: Final = Path(__file__).parent / "migrations"
# One migrator at a time, and none that blocks the road: what can't get its locks soon is to be tried again.
_SETTINGS: Final = "-c lock_timeout=10s -c statement_timeout=15min -c idle_in_transaction_session_timeout=5min"
_ONE_MIGRATOR: Final = "SELECT pg_advisory_xact_lock(1212761426, -1)"
_VERSION: Final = Statement(sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE)))


def head() -> str:
    """The schema revision of this program."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def migrate(url: str) -> None:
    """Brings the store at ``url`` to :func:`head`, creating it if need be, in one transaction; then makes partitions.

    Raises:
        Unavailable, Conflict: not reached, or its locks were not to be had; nothing was changed.
    """
    engine = sa.create_engine(
        "sqlite://" if sqlite_path(url) else "postgresql+psycopg://",
        creator=lambda: _connect(url),
        poolclass=sa.NullPool,
    )
    failure: BridgeError | None = None
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if sqlite_path(url) else _ONE_MIGRATOR)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except sa.exc.DBAPIError as error:
        failure = failures.translate(error.orig) if isinstance(error.orig, failures.TRANSLATED) else _unexpected()
    except failures.TRANSLATED as error:
        failure = failures.translate(error)
    if failure:
        raise failure
    with open_database(url) as database, database.transaction() as txn:
        ensure_partitions(txn)


def require_current(database: Database) -> None:
    """Raises Unavailable ``schema-outdated`` unless the store has the schema of this program."""
    wanted = head()
    try:
        with database.transaction(read_only=True) as txn:
            found = [version for (version,) in txn.execute(_VERSION)]
    except BridgeError as error:
        if error.transient and error.code != "schema-outdated":
            raise
        found = []
    if found != [wanted]:
        raise Unavailable(
            "schema-outdated",
            f"the store's schema is {found[0] if found else 'not there'}, this program's is {wanted}",
            remedy="Run the migrations of this version: hiebridge migrate.",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def _connect(url: str) -> Any:
    path = sqlite_path(url)
    if path is not None:
        return sqlite.connect(path, create=True)
    return psycopg.connect(url, options=_SETTINGS, connect_timeout=10)


def _unexpected() -> BridgeError:
    return failures.wrong_type()
