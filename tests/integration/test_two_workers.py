"""Two workers at one thing that no patient's lock guards, and a message that would take too many locks (PostgreSQL)."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from bridge.pipeline.batch import QUEUE_TOPIC
from bridge.pipeline.queue import QueueIntake
from bridge.record import recorder
from bridge.store import identity, persons, positions
from bridge.store.database import open_database
from bridge.store.migrate import migrate
from bridge.store.rows import Counts, DeadLetterRow, Outcome
from tests.integration.hospital import KEYS, SITES, Hospital, codes, hl7, outcomes, pid
from tests.integration.test_queue import accept, opened, work_off

pytestmark = pytest.mark.ci


def test_a_resource_without_patient_is_made_once_and_nothing_dies(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see no such Observation when they begin; the second one must not fail at the unique name."""
    migrate(database_url)
    sites = {**SITES, "north-2": SITES["north"]}
    first, second = Hospital(database_url, sites), Hospital(database_url, sites)
    told: list[Any] = []

    def observation(day: int) -> dict[str, Any]:
        told_at = {"lastUpdated": f"2024-01-{day:02}T00:00:00Z"}
        return {
            "resourceType": "Observation",
            "id": "o",
            "status": "final",
            "code": {"text": f"{day}"},
            "meta": told_at,
        }

    other = threading.Thread(target=lambda: told.extend(second.feed(observation(2), site="north-2")))
    insert = identity.insert

    def slowly(*arguments: Any) -> None:
        if threading.current_thread() is not other:
            other.start()
            other.join(2)  # waits for the name's lock, or at the unique key
        insert(*arguments)

    monkeypatch.setattr(identity, "insert", slowly)
    assert outcomes(first.feed(observation(1))) == [Outcome.STORED]
    other.join()

    assert outcomes(told) == [Outcome.STORED]
    assert first.one("Observation")["meta"]["versionId"] == "2"
    for hospital in (first, second):
        hospital.close()


def test_a_message_of_too_many_patients_is_a_dead_letter(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the server's lock table, and be retried for ever."""
    migrate(database_url)
    monkeypatch.setattr(recorder, "MOST_LOCKS", 100)
    hospital = Hospital(database_url)
    entries = [{"resource": {"resourceType": "Patient", "id": f"p{n}"}} for n in range(101)]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    before, after = hl7("ADT^A04", pid("1^^^NORTH^MR")), hl7("ADT^A04", pid("2^^^NORTH^MR"))
    verdicts = hospital.feed(before, bundle, after)

    assert outcomes(verdicts) == [Outcome.STORED, Outcome.DEAD, Outcome.STORED]
    assert codes(verdicts) == ["too-many-locks"]
    hospital.close()


def test_a_replay_takes_what_workers_share_in_their_order(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of the queue closes a patient and then counts; a replay that counted first would meet it head-on."""
    migrate(database_url)
    replaying, working = Hospital(database_url), Hospital(database_url)
    accept_broken_consent(replaying)
    [dead] = replaying.rows("dead_letter")
    [person] = [row["person_key"] for row in replaying.rows("person")]
    closed, counted = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with working.database.transaction() as txn:
                persons.advance_consent_version(txn, [person])
                closed.set()
                counted.wait(2)
                positions.recount(txn, "north", QUEUE_TOPIC, 0, Counts(received=1, filtered=1))
        except BaseException as error:  # noqa: BLE001 - the main thread must hear of it
            failed.append(error)

    other = threading.Thread(target=work)
    recount = positions.recount

    def count(txn: Any, *arguments: Any) -> None:
        recount(txn, *arguments)
        if threading.current_thread() is not other:
            counted.set()

    monkeypatch.setattr(positions, "recount", count)
    other.start()
    closed.wait(30)
    prepared = replaying.prepare([hl7("ADT^A08", pid(), at="20240302120000")])[0]
    verdict = replaying.batcher.replay(prepared, DeadLetterRow(**dead), by="officer", reason="test")
    other.join()

    assert failed == []
    assert verdict.error is None
    for hospital in (replaying, working):
        hospital.close()


def accept_broken_consent(hospital: Hospital) -> None:
    """A patient by the queue, and a consent of hers that becomes a dead letter."""
    intake = QueueIntake(open_database(hospital.url), hospital.preparer, KEYS, 10)
    accept(intake, [hospital.raw(hl7("ADT^A08", pid())), hospital.raw(hl7("MFN^M02", pid(), "CON|1|x"))])
    intake.close()
    work_off(opened(hospital))
