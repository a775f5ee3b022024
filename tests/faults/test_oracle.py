"""The oracle of the fault suites sees what it is there to see."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bridge.keys.files import open_key_file
from bridge.pipeline.sequencer import Sequencer
from bridge.store.database import open_database
from tests.faults.deployments import Bridge, feed
from tests.faults.oracle import Snapshot, differences, outcome_differences, read, violations
from tests.faults.test_shuffle import in_order, pipeline


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bridge:
    """A store that has worked a feed off, with everything numbered and signed."""
    with pipeline(tmp_path_factory.mktemp("oracle") / "whole") as (bridge, work):
        in_order(work, feed(150))
        sequencer: Sequencer = bridge.deployment().sequencer()
        sequencer.step()
        sequencer._database.close()
        work.database.close()
    return bridge


def altered(whole: Bridge, folder: Path, *statements: str) -> Snapshot:
    """What the store holds after ``statements`` behind its back."""
    shutil.copy(str(whole.folder / "store.db"), folder / "store.db")
    with closing(sqlite3.connect(folder / "store.db", isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0
    with open_database(f"sqlite:///{folder}/store.db") as database:
        return read(database, open_key_file(whole.key_file))


def test_a_whole_store_has_nothing_wrong_and_does_not_differ_from_itself(whole: Bridge, tmp_path: Path) -> None:
    """No false alarm."""
    found = altered(whole, tmp_path)

    assert violations(found) == []
    assert differences(found, found) == []
    assert outcome_differences(found, found) == []


FIRST = "(SELECT resource_key FROM resource WHERE type = 'Encounter' AND version > 1 LIMIT 1)"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE source_position SET stored = stored + 1 WHERE source = 'st-olave'",
        "UPDATE source_position SET received = received + 1, stored = stored + 1 WHERE source = 'st-olave'",
        "UPDATE raw_message SET offset = 0 WHERE source = 'st-olave' AND offset = 1",
        "UPDATE raw_message SET state = 'waiting', outcome = NULL WHERE source = 'st-olave' AND offset = 1",
        "DELETE FROM raw_message WHERE source = 'st-olave' AND offset = 1",
        "DELETE FROM dead_letter WHERE dead_key = (SELECT min(dead_key) FROM dead_letter)",
        f"DELETE FROM resource_version WHERE version = 1 AND resource_key = {FIRST}",
        f"UPDATE resource SET version = version + 1 WHERE resource_key = {FIRST}",
        f"UPDATE resource_version SET body = CAST(body || ' ' AS BLOB) WHERE version = 1 AND resource_key = {FIRST}",
        f"UPDATE resource_version SET version = 99 WHERE version = 1 AND resource_key = {FIRST}",
        "DELETE FROM commitment WHERE leaf_id = (SELECT leaf_id FROM log_leaf WHERE leaf_index = 7)",
        "DELETE FROM log_leaf WHERE leaf_index = 7",
        "DELETE FROM log_leaf WHERE leaf_index = (SELECT max(leaf_index) FROM log_leaf)",
        "INSERT INTO log_leaf SELECT origin, leaf_index + 100000, x'00', leaf, leaf_hash FROM log_leaf LIMIT 1",
        "INSERT INTO leaf_pending SELECT leaf_id, leaf, 'link', 1 FROM log_leaf WHERE leaf_index = 7",
        "UPDATE log_leaf SET leaf_hash = x'00' WHERE leaf_index = 7",
        "UPDATE log_state SET size = size + 1",
        "UPDATE checkpoint SET size = size - 1",
        "DELETE FROM checkpoint",
        "DELETE FROM vault_nonce WHERE leaf_id = (SELECT leaf_id FROM log_leaf WHERE leaf_index = 7)",
        "DELETE FROM link_event WHERE event_key = (SELECT min(event_key) FROM link_event)",
        "UPDATE identity SET resource_key = 999999 WHERE resource_type = 'Patient'",
    ],
)
def test_what_is_wrong_with_a_store_is_seen(whole: Bridge, tmp_path: Path, statement: str) -> None:
    """One change behind the store's back: something lost, doubled, altered or miscounted."""
    assert violations(altered(whole, tmp_path, statement)) != []


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE resource_version SET body = CAST(replace(body, 'status', 'state') AS BLOB) WHERE resource_key = {FIRST}",
        "DELETE FROM identity WHERE value = (SELECT min(value) FROM identity)",
        "UPDATE person_link SET person_key = (SELECT min(person_key) FROM person_link)",
        "DELETE FROM resource WHERE resource_key = (SELECT max(resource_key) FROM resource)",
    ],
)
def test_other_content_is_seen(whole: Bridge, tmp_path: Path, statement: str) -> None:
    """Resources, names and persons that are not those of the undisturbed store."""
    undisturbed = altered(whole, tmp_path)

    assert differences(undisturbed, altered(whole, tmp_path, statement)) != []


def test_another_outcome_is_seen(whole: Bridge, tmp_path: Path) -> None:
    """A message that was stored counts as a duplicate, or the other way round; sent again or not."""
    undisturbed = altered(whole, tmp_path)
    doubled = altered(whole, tmp_path, "UPDATE raw_message SET outcome = 'stored' WHERE outcome = 'duplicate'")
    lost = altered(whole, tmp_path, "UPDATE raw_message SET outcome = 'duplicate' WHERE outcome = 'stored'")

    for other in (doubled, lost):
        assert outcome_differences(undisturbed, other) != []
        assert outcome_differences(undisturbed, other, sent_again=True) != []
