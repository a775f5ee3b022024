"""Fixtures of the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.store.migrate import migrate
from tests.integration.evidence import Evidence, feed
from tests.integration.hospital import Hospital


@pytest.fixture
def hospital(store_url: str) -> Iterator[Hospital]:
    """A pipeline over an empty store: SQLite always, PostgreSQL where it can be had."""
    made = Hospital(store_url)
    yield made
    made.close()


@pytest.fixture
def hospitals(tmp_path: Path) -> Iterator[Callable[[], Hospital]]:
    """Makes pipelines over empty SQLite stores, for comparing what different orders lead to."""
    made: list[Hospital] = []

    def make() -> Hospital:
        url = f"sqlite:///{tmp_path}/store{len(made)}.db"
        migrate(url)
        made.append(Hospital(url))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def evidence(hospital: Hospital, tmp_path: Path) -> Iterator[Evidence]:
    """The hospital's store with a morning's records in it, a log and a chain; nothing is sequenced yet."""
    feed(hospital)
    made = Evidence(hospital, tmp_path)
    yield made
    made.close()
