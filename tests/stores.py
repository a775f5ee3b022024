"""A fresh, migrated store for a test: SQLite always, PostgreSQL where it can be had (marker ``ci``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.store.database import Database, open_database
from bridge.store.migrate import migrate

STORES = [pytest.param("sqlite", id="sqlite"), pytest.param("postgresql", id="postgresql", marks=pytest.mark.ci)]


def store_address(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """The address of a fresh, migrated store of that kind."""
    url: str = request.getfixturevalue("database_url") if kind == "postgresql" else f"sqlite:///{folder}/store.db"
    migrate(url)
    return url


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a fresh store; the test runs once for each kind."""
    return store_address(request.param, tmp_path, request)


@pytest.fixture
def store(store_url: str) -> Iterator[Database]:
    """A connection to a fresh store."""
    with open_database(store_url) as database:
        yield database
