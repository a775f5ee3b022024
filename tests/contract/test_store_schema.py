"""The migrations make exactly the tables that the statements are compiled from."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa

from bridge.errors import Unavailable
from bridge.store import sqlite
from bridge.store.database import open_database, sqlite_path
from bridge.store.dialect import Statement
from bridge.store.failures import TRANSLATED
from bridge.store.migrate import head, migrate, require_current
from bridge.store.partitions import MONTHS_AHEAD, ensure_partitions
from bridge.store.schema import HASH_PARTITIONS, MONTHLY, VERSION_TABLE, metadata, resource_version

DAY_US = 86_400_000_000


def reflected(url: str) -> sa.Inspector:
    path = sqlite_path(url)
    if path is not None:
        return sa.inspect(sa.create_engine("sqlite://", creator=lambda: sqlite.connect(path), poolclass=sa.StaticPool))
    return sa.inspect(
        sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=sa.StaticPool)
    )


@pytest.fixture
def inspector(store_url):
    found = reflected(store_url)
    yield found
    found.engine.dispose()


def our_tables(dialect: str) -> list[sa.Table]:
    return [table for table in metadata.tables.values() if table.info["only"] in (None, dialect)]


def stored_name(table: sa.Table, dialect: str) -> tuple[str, str | None]:
    if table.schema is None or dialect == "postgresql":
        return table.name, table.schema
    return f"{table.schema}_{table.name}", None


def test_columns_keys_and_indexes_are_those_of_the_schema(inspector):
    dialect = inspector.dialect
    for table in our_tables(dialect.name):
        name, schema = stored_name(table, dialect.name)
        columns = [
            (column["name"], column["type"].compile(dialect), column["nullable"])
            for column in inspector.get_columns(name, schema)
        ]
        uniques = [set(each["column_names"]) for each in inspector.get_unique_constraints(name, schema)]
        indexes = {
            index["name"]: index["column_names"]
            for index in inspector.get_indexes(name, schema)
            if not index.get("duplicates_constraint")
        }

        assert columns == [(c.name, c.type.compile(dialect), c.nullable) for c in table.c], name
        assert inspector.get_pk_constraint(name, schema)["constrained_columns"] == [c.name for c in table.primary_key]
        assert uniques == [
            {c.name for c in each.columns} for each in table.constraints if isinstance(each, sa.UniqueConstraint)
        ]
        assert indexes == {index.name: [c.name for c in index.columns] for index in table.indexes}, name


def test_checks_are_those_of_the_schema(inspector):
    for table in our_tables(inspector.dialect.name):
        name, schema = stored_name(table, inspector.dialect.name)
        found = {check["name"] for check in inspector.get_check_constraints(name, schema)}

        assert found == {each.name for each in table.constraints if isinstance(each, sa.CheckConstraint)}, name


def test_there_is_no_table_that_the_schema_does_not_know(inspector):
    known = {stored_name(table, inspector.dialect.name)[0] for table in our_tables(inspector.dialect.name)}
    parts = tuple(f"{name}_" for name in (*MONTHLY, "resource_index", "resource_string"))
    found = {name for name in inspector.get_table_names() if not name.startswith(parts)}

    if inspector.dialect.name == "postgresql":
        assert set(inspector.get_table_names("vault")) == {"nonce", "record_key"}
        known -= {"nonce", "record_key"}
    assert found == known | {VERSION_TABLE}


def test_migrating_again_changes_nothing(database, store_url):
    version = Statement(sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE)))

    migrate(store_url)

    require_current(database)
    with database.transaction(read_only=True) as txn:
        assert txn.execute(version) == [(head(),)]


def test_a_store_of_another_revision_is_refused_with_what_to_do(database, store_url):
    with database.transaction() as txn:
        txn.change(Statement(sa.update(sa.table(VERSION_TABLE, sa.column("version_num"))).values(version_num="0000")))

    with pytest.raises(Unavailable, match=r"schema-outdated.*Run the migrations"):
        require_current(database)


def test_a_database_without_our_tables_is_refused_alike(tmp_path):
    path = tmp_path / "empty.db"
    sqlite.connect(str(path), create=True).close()

    with open_database(f"sqlite:///{path}") as database, pytest.raises(Unavailable, match="schema-outdated"):
        require_current(database)


def test_a_new_sqlite_store_is_readable_by_its_owner_only(tmp_path):
    old = os.umask(0)
    try:
        migrate(f"sqlite:///{tmp_path}/store.db")
    finally:
        os.umask(old)

    assert stat.S_IMODE((tmp_path / "store.db").stat().st_mode) == 0o600


@pytest.mark.ci
def test_two_migrators_at_once_are_as_good_as_one(database_url):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(migrate, [database_url, database_url]))

    with open_database(database_url) as database:
        require_current(database)


@pytest.mark.ci
def test_a_migration_that_fails_leaves_nothing(database_url):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE lease (in_the_way int)")

    with pytest.raises(Exception, match="store-statement"):
        migrate(database_url)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT to_regclass('source_position')").fetchone() == (None,)


@pytest.mark.ci
def test_a_migration_without_the_right_to_make_roles_makes_the_tables(postgres, database_url):
    owner = f"plain_{database_url[-12:]}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {owner} LOGIN")
        connection.execute(f"GRANT ALL ON DATABASE {database_url.rpartition('/')[2]} TO {owner}")
        connection.execute(f"GRANT ALL ON SCHEMA public TO {owner}")
    url = database_url.replace("postgres@", f"{owner}@")

    migrate(url)

    with open_database(url) as database:
        require_current(database)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {owner}")
        connection.execute(f"DROP ROLE {owner}")


@pytest.mark.ci
class TestPartitions:
    @pytest.fixture
    def store_url(self, postgres, migrated_postgres):
        url = postgres.create_database(template=migrated_postgres.rpartition("/")[2])
        yield url
        postgres.drop_database(url)

    def rows_in(self, txn, partition: str) -> int:
        return txn.execute(Statement(sa.select(sa.func.count()).select_from(sa.table(partition))))[0][0]

    def add(self, txn, key: int, time_us: int) -> None:
        txn.insert_rows(resource_version, [(key, 1, time_us, False, b"{}", b"l", None, None)])

    def test_a_row_of_today_stands_in_its_month_and_one_of_long_ago_elsewhere(self, database):
        with database.transaction() as txn:
            self.add(txn, 1, txn.start_us)
            self.add(txn, 2, 0)
            month = datetime.fromtimestamp(txn.start_us / 1e6, UTC)

            assert self.rows_in(txn, f"resource_version_{month:%Y%m}") == 1
            assert self.rows_in(txn, "resource_version_other") == 1

    def test_what_is_made_once_is_not_made_again(self, database):
        with database.transaction() as txn:
            assert ensure_partitions(txn) == []
            made = ensure_partitions(txn, months_ahead=MONTHS_AHEAD + 2)

            assert len(made) == 2 * len(MONTHLY)
            assert ensure_partitions(txn, months_ahead=MONTHS_AHEAD + 2) == []

    def test_partitions_follow_each_other_without_a_gap(self, database):
        with database.transaction() as txn:
            for days in range(0, 31 * MONTHS_AHEAD, 5):
                self.add(txn, days, txn.start_us + days * DAY_US)

            assert self.rows_in(txn, "resource_version_other") == 0

    def test_a_month_of_which_rows_are_elsewhere_gets_no_partition_and_loses_no_row(self, database):
        with database.transaction() as txn:
            later = txn.start_us + 31 * (MONTHS_AHEAD + 3) * DAY_US
            self.add(txn, 1, later)
            made = ensure_partitions(txn, months_ahead=MONTHS_AHEAD + 6)
            month = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=later)

            assert f"resource_version_{month:%Y%m}" not in made
            assert f"raw_message_{month:%Y%m}" in made
            assert self.rows_in(txn, "resource_version") == 1

    def test_a_new_partition_has_the_keys_and_indexes_of_its_table(self, database, store_url):
        inspector = reflected(store_url)
        for table in MONTHLY:
            for name in inspector.get_table_names():
                if name.startswith(f"{table}_"):
                    assert len(inspector.get_indexes(name)) == len(metadata.tables[table].indexes), name
                    assert inspector.get_pk_constraint(name)["constrained_columns"]
        inspector.engine.dispose()

    def test_index_tables_are_spread_by_hash(self, store_url):
        with psycopg.connect(store_url) as connection:
            for table in ("resource_index", "resource_string"):
                children = connection.execute(
                    "SELECT count(*) FROM pg_inherits WHERE inhparent = %s::regclass", [table]
                )
                assert children.fetchone() == (HASH_PARTITIONS,)

    def test_the_vault_is_closed_to_everyone_but_its_role(self, store_url):
        with psycopg.connect(store_url, autocommit=True) as connection:
            stranger = f"stranger_{store_url[-12:]}"
            connection.execute(f"CREATE ROLE {stranger}")
            asked = (
                "SELECT has_schema_privilege(%s, 'vault', 'USAGE'), has_table_privilege(%s, 'vault.nonce', 'SELECT')"
            )
            try:
                assert connection.execute(asked, [stranger, stranger]).fetchone() == (False, False)
                assert connection.execute(asked, ["hiebridge_vault"] * 2).fetchone() == (True, True)
            finally:
                connection.execute(f"DROP ROLE {stranger}")


def test_every_statement_of_the_room_is_accepted(database):
    """PostgreSQL prepares and SQLite explains each statement of each module: none names what is not there."""
    import importlib
    import pkgutil

    import bridge.store

    statements = {}
    for module in pkgutil.iter_modules(bridge.store.__path__):
        if module.name != "migrations":
            found = importlib.import_module(f"bridge.store.{module.name}")
            statements |= {
                (module.name, name): value for name, value in vars(found).items() if isinstance(value, Statement)
            }
    only_postgresql, only_sqlite = {"REPLACE_TERMS", "_EXISTS"}, {"SELECT_TERMS", "_TICK", "_ALLOCATE"}
    unfit = only_sqlite if database.dialect == "postgresql" else only_postgresql
    url_texts = {key: value.compiled(database.dialect).sql for key, value in statements.items() if key[1] not in unfit}

    assert len(url_texts) > 60
    for key, text in url_texts.items():
        with database.transaction() as txn:
            if database.dialect == "sqlite":
                places = [None] * text.count("?")
                txn._connection.execute(f"EXPLAIN {text}", places)
            else:
                numbered = iter(range(1, 1000))
                prepared = "".join(
                    f"${next(numbered)}" if part == "%s" else part for part in _split(text.replace("%%", "%"))
                )
                try:
                    txn._connection.execute(f"PREPARE probe AS {prepared}".encode(), prepare=False)
                    txn._connection.execute(b"DEALLOCATE probe", prepare=False)
                except TRANSLATED as error:
                    pytest.fail(f"{key}: {error}")


def _split(text: str) -> list[str]:
    parts = []
    for piece in text.split("%s"):
        parts += [piece, "%s"]
    return parts[:-1]
