"""No message stops the feed: whatever is in it, it ends as a dead letter and its neighbours are stored (promise P8).

Each of these once got past its own stage and broke the batch's transaction, or the writing of its own dead letter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.pipeline.batch import Item
from bridge.record import recorder
from bridge.store.dialect import Statement
from bridge.store.rows import Outcome
from bridge.telemetry.stop import Stop
from tests.integration.hospital import Hospital, codes, hl7, outcomes, pid, pv1


def neighbour(number: int) -> bytes:
    return hl7("ADT^A04", pid(f"{number}^^^NORTH^MR"), pv1(f"V{number}"))


def patient(**elements: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": "p", **elements}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param({"resourceType": "Medication", "id": "m"}, "type-not-stored", id="type"),
        pytest.param(patient(name=[{"family": 5, "given": {"a": 1}}]), "fhir-invalid", id="given-an-object"),
        pytest.param(patient(name=[{"use": ["old"], "family": "x"}]), "fhir-invalid", id="use-a-list"),
        pytest.param(patient(telecom=[{"system": ["phone"], "value": "1"}]), "fhir-invalid", id="system-a-list"),
        pytest.param(patient(address=[{"line": {"a": "b"}}]), "fhir-invalid", id="line-an-object"),
        pytest.param(hl7("ADT^A04", "PID|1||1\0^^^NORTH^MR||A^B", "CON|1|x"), "zero-character", id="consent-of-zero"),
        pytest.param(
            b'{"resourceType":"Consent","id":"c","patient":{"identifier":{"system":"urn:test:north","value":"a\\u0000"}}}',
            "json-invalid",
            id="consent-of-escaped-zero",
        ),
        pytest.param(
            b'{"resourceType":"Consent","id":"c","patient":{"identifier":{"system":"urn:test:north","value":"\\ud800"}}}',
            "json-invalid",
            id="consent-of-half-a-character",
        ),
        pytest.param(
            b"MSH|^~\\&|A\0|B|C|D|20240301||ADT^A\0001|9|P|2.5\rPID|1||1\r", "data-error", id="zeros-in-the-header"
        ),
    ],
)
def test_it_is_a_dead_letter_and_its_neighbours_are_stored(
    hospital: Hospital, content: bytes | dict[str, Any], code: str
) -> None:
    """In a batch of three, and the next batch goes on from there."""
    verdicts = hospital.feed(neighbour(1), content, neighbour(2))

    assert outcomes(verdicts) == [Outcome.STORED, Outcome.DEAD, Outcome.STORED]
    assert codes(verdicts) == [code]
    assert outcomes(hospital.feed(neighbour(3))) == [Outcome.STORED]
    row = hospital.position()
    assert (row.received, row.stored, row.dead, row.next_offset) == (4, 3, 1, 4)


def test_a_message_that_breaks_the_recording_of_its_batch_is_found(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that nobody expected, after the messages' own stages: halving finds whose it is."""
    features_of = recorder.features_of

    def broken(resource: Mapping[str, Any], *others: Any) -> Any:
        if resource.get("birthDate") == "1999-09-09":
            raise TypeError("1999-09-09")
        return features_of(resource, *others)

    monkeypatch.setattr(recorder, "features_of", broken)
    verdicts = hospital.feed(neighbour(1), patient(birthDate="1999-09-09"), neighbour(2))

    assert outcomes(verdicts) == [Outcome.STORED, Outcome.DEAD, Outcome.STORED]
    assert codes(verdicts) == ["record-failed"]
    assert "1999" not in str(hospital.rows("dead_letter"))


def test_a_consent_of_a_name_that_nobody_can_have_pauses_its_source(hospital: Hospital) -> None:
    """Nobody can be closed for it, so somebody must look."""
    items, place = hospital.items([neighbour(1)])
    prepared = hospital.preparer.prepare(hospital.raw(b"garbage\rCON|1|x\r", key=b"north|a\0"))
    verdicts = hospital.store([*items, Item(prepared, offset=place.expected + 1)], place)

    assert outcomes(verdicts) == [Outcome.STORED, Outcome.DEAD]
    assert [alarm["code"] for alarm in hospital.rows("alarm")] == ["consent-without-patient"]
    assert [row["source"] for row in hospital.rows("source_control")] == ["north"]


def test_a_missing_table_holds_the_feed_up_and_kills_no_message(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's mistake, not the messages': they are stored once it is mended, and nothing is a dead letter."""

    def rename(old: str, new: str) -> None:
        with hospital.database.transaction() as txn:
            txn.change(Statement(sa.text(f"ALTER TABLE {old} RENAME TO {new}")))

    class Mended(Stop):
        def wait(self, timeout_seconds: float | None = None) -> bool:
            assert outcomes_so_far(hospital) == 0
            rename("elsewhere", "resource_string")
            return False

    rename("resource_string", "elsewhere")
    monkeypatch.setattr(hospital, "stop", Mended())
    verdicts = hospital.feed(*(neighbour(number) for number in range(3)))

    assert outcomes(verdicts) == [Outcome.STORED] * 3


def outcomes_so_far(hospital: Hospital) -> int:
    return hospital.position().received


@pytest.mark.parametrize(
    "content",
    [
        b"MSH|^~\\&|A|B|C|D|20240301||SMITH^JOHN|9\0|P|2.5\rPID|1||1\r",
        b"received by fax\rSMI, JOHN born 1970\rJOHN;\r",
        hl7("ADT^A04", pid("7^^^ELSEWHERE^MR", name="X^Y"), "NTE|1||allergies:\nSMI, JOHN\n"),
        b'{"resourceType":"SMITH JOHN"}',
    ],
)
def test_a_dead_letter_shows_no_text_of_a_message_as_its_event_or_structure(hospital: Hospital, content: bytes) -> None:
    """Fields may be shifted, and lines of free text may begin like segments (promise P7)."""
    assert outcomes(hospital.feed(content)) == [Outcome.DEAD]

    [dead] = hospital.rows("dead_letter")
    shown = json.dumps([dead["event"], dead["structure"], dead["message"]])
    assert "SMI" not in shown
    assert "JOHN" not in shown
