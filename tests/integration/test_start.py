"""Roles at their start: an operator hears of a store that is not ready; one that is only away is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.cli import serving
from bridge.cli.deployment import open_deployment
from bridge.cli.main import run
from bridge.config.load import load_settings
from bridge.errors import BridgeError, Conflict, Unavailable
from bridge.pipeline.queue import QueueWorker
from bridge.store import migrate, positions
from bridge.store.database import Database, Transaction
from bridge.telemetry.stop import Stop
from tests.integration.hospital import KEYS, Hospital
from tests.integration.test_commands import CONFIGURATION, SITE


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """Of a deployment whose store is an empty file."""
    (tmp_path / "north.yaml").write_text(SITE % "")
    (tmp_path / "bridge.db").touch()
    path = tmp_path / "bridge.yaml"
    path.write_text(CONFIGURATION)
    assert run(["--config", str(path), "keys", "init", str(tmp_path / "keys.json")]) == 0
    return path


@pytest.mark.parametrize("role", ["work", "anchor", "serve", "listen"])
def test_no_role_starts_on_a_store_that_is_not_migrated(
    configuration: Path, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error says what to run."""
    assert run(["--config", str(configuration), role]) == 7

    said = capsys.readouterr().err
    assert "schema-outdated" in said
    assert "hiebridge migrate" in said


def test_no_role_makes_up_a_store_that_is_not_there(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Waiting would not bring it either."""
    (configuration.parent / "bridge.db").unlink()

    assert run(["--config", str(configuration), "work"]) == 7
    assert "store-absent" in capsys.readouterr().err
    assert not (configuration.parent / "bridge.db").exists()


@pytest.mark.parametrize("error", [Unavailable("store-unavailable", "Away."), Conflict("store-conflict", "Locked.")])
def test_a_store_that_is_away_at_the_start_is_waited_for(
    configuration: Path, monkeypatch: pytest.MonkeyPatch, error: BridgeError
) -> None:
    """However long; then its schema is looked at."""
    refusals, looked = iter(range(3)), []

    def reluctant(database: Database) -> None:
        if next(refusals, None) is not None:
            raise error
        looked.append(True)
        migrate.require_current(database)

    monkeypatch.setattr(serving, "_RETRY_SECONDS", 0)
    monkeypatch.setattr(serving, "require_current", reluctant)
    deployment = open_deployment(load_settings(configuration, {}))

    with pytest.raises(Unavailable, match="schema-outdated"):
        serving.check_store(deployment)
    assert looked == [True]


def test_the_worker_of_the_queue_waits_for_a_store_that_is_away_at_its_start(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens its totals once the store is back, and works."""
    worker = QueueWorker(hospital.preparer, hospital.batcher, KEYS, hospital.database, ["north"])
    stop, refusals = Stop(), iter(range(2))
    transaction, work_once = hospital.database.transaction, worker.work_once

    @contextmanager
    def reluctant(*, read_only: bool = False) -> Iterator[Transaction]:
        if next(refusals, None) is not None:
            raise Unavailable("store-unavailable", "Away.")
        with transaction(read_only=read_only) as txn:
            yield txn

    def last(asked: Stop) -> bool:
        stop.set()
        return work_once(asked)

    monkeypatch.setattr(hospital.database, "transaction", reluctant)
    monkeypatch.setattr(worker, "work_once", last)

    worker.run(stop)

    with hospital.database.transaction(read_only=True) as txn:
        assert [row.source for row in positions.all_positions(txn)] == ["north"]
