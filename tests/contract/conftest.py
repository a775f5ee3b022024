"""The store's contract runs on each database: SQLite in the short suite, a real PostgreSQL with the marker ``ci``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.store.database import Database, open_database
from bridge.store.migrate import migrate
from tests.services.postgres import Postgres


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> Iterator[str]:
    """A database with our schema, to be copied; nobody connects to it."""
    url = postgres.create_database()
    migrate(url)
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.ci)])
def store_url(request: pytest.FixtureRequest, tmp_path) -> Iterator[str]:
    """The address of an empty store of the test's own."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/store.db"
        migrate(url)
        yield url
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("migrated_postgres")
    url = postgres.create_database(template=template.rpartition("/")[2])
    yield url
    postgres.drop_database(url)


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    """That store, open."""
    with open_database(store_url) as opened:
        yield opened
