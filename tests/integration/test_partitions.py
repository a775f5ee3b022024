"""The anchor service keeps months ahead of the rows: at its start and daily, one process of many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.errors import Unavailable
from bridge.pipeline import anchoring
from bridge.pipeline.anchoring import Anchorer
from bridge.store.database import Database, Transaction, open_database
from bridge.store.dialect import Statement
from bridge.store.migrate import migrate
from bridge.store.partitions import ensure_partitions
from bridge.telemetry.stop import Stop
from tests.contract.chain_harness import local_harness
from tests.integration.test_anchoring import ORIGIN


class Clock:
    """The monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Making:
    """In place of what makes partitions: counts, and fails at will."""

    def __init__(self) -> None:
        self.calls = 0
        self.failing = False

    def __call__(self, txn: Transaction) -> list[str]:
        self.calls += 1
        if self.failing:
            raise Unavailable("schema-outdated", "No right to.")
        return ensure_partitions(txn)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The anchor service's."""
    made = Clock()
    monkeypatch.setattr(anchoring, "time", made)
    return made


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Making:
    """What the anchor service calls."""
    made = Making()
    monkeypatch.setattr(anchoring, "ensure_partitions", made)
    return made


@pytest.fixture
def anchorers(store_url: str, store: Database, tmp_path: Path) -> Iterator[list[Anchorer]]:
    """Two processes of one deployment."""
    backend = local_harness(tmp_path).open()
    databases = [open_database(store_url) for _ in range(2)]
    yield [Anchorer(database, backend, ORIGIN, f"process-{n}") for n, database in enumerate(databases)]
    backend.close()
    for database in databases:
        database.close()


def test_partitions_are_made_at_the_start_and_daily(anchorers: list[Anchorer], clock: Clock, making: Making) -> None:
    """Not at every round."""
    for hours in (0, 1, 22.9, 0.2, 1):
        clock.now += hours * 3600
        anchorers[0].keep_partitions()
    assert making.calls == 2


def test_only_the_holder_of_the_lease_makes_them(anchorers: list[Anchorer], clock: Clock, making: Making) -> None:
    """Another one looks again, in case the lease comes to it."""
    anchorers[0].keep_partitions()
    anchorers[1].keep_partitions()
    assert making.calls == 1
    assert clock.now == 1000.0


def test_a_store_that_refuses_them_ends_nothing(anchorers: list[Anchorer], clock: Clock, making: Making) -> None:
    """It is tried again soon, not at every round: the rows have a place meanwhile."""
    making.failing = True
    anchorers[0].keep_partitions()
    clock.now += 1
    anchorers[0].keep_partitions()
    assert making.calls == 1

    making.failing = False
    for seconds in (60, 3600):
        clock.now += seconds
        anchorers[0].keep_partitions()
    assert making.calls == 2


def test_the_service_makes_them_by_itself(
    anchorers: list[Anchorer], making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As part of its rounds."""
    stop = Stop()
    monkeypatch.setattr(anchorers[0], "measure", stop.set)

    anchorers[0].run(stop)

    assert making.calls == 1


@pytest.mark.ci
def test_a_month_that_lacks_its_partition_gets_it(database_url: str, tmp_path: Path) -> None:
    """On PostgreSQL, as if months had gone by since the migration."""
    migrate(database_url)
    with open_database(database_url) as database:
        names = Statement(
            sa.text("SELECT relname::text FROM pg_class WHERE relname ~ '^raw_message_[0-9]{6}$' ORDER BY 1")
        )
        with database.transaction() as txn:
            before = [name for (name,) in txn.execute(names)]
            txn.change(Statement(sa.text(f"DROP TABLE {before[-1]}")))
        backend = local_harness(tmp_path).open()
        Anchorer(database, backend, ORIGIN, "one").keep_partitions()
        backend.close()
        with database.transaction(read_only=True) as txn:
            assert [name for (name,) in txn.execute(names)] == before
