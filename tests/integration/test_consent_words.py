"""What the chain will be told of a consent, and restrictions that meet a patient who is only just introduced."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from bridge.store import dead_letters
from bridge.store.rows import Outcome
from tests.integration.hospital import Hospital, hl7, outcomes, pid

PATIENT = {
    "resourceType": "Patient",
    "id": "p",
    "identifier": [{"system": "urn:test:north", "value": "1"}],
    "meta": {"lastUpdated": "2024-01-01T00:00:00Z"},
}


def consent(kind: str, day: int, status: str = "active") -> dict[str, Any]:
    return {
        "resourceType": "Consent",
        "id": "c",
        "status": status,
        "patient": {"reference": "Patient/p"},
        "provision": {"type": kind},
        "meta": {"lastUpdated": f"2024-01-{day:02}T00:00:00Z"},
    }


def words(hospital: Hospital) -> dict[str, list[bool]]:
    """What waits for the chain: whether each word is a grant, by handle."""
    told: dict[str, list[bool]] = {}
    for row in hospital.rows("outbox"):
        payload = json.loads(row["payload"])
        told.setdefault(payload["handle"], []).append(payload["granted"])
    return told


@pytest.mark.parametrize(
    "before", [consent("deny", 1), consent("permit", 1, "inactive"), consent("permit", 1, "draft")]
)
def test_a_grant_never_takes_a_handle_that_was_revoked(hospital: Hospital, before: dict[str, Any]) -> None:
    """Revoked is absorbing: under the old handle the grant would never come into force (law *Chain port*)."""
    hospital.one_by_one(PATIENT, before, consent("permit", 2))

    assert sorted(words(hospital).values()) == [[False], [True]]


def test_a_change_of_a_grant_keeps_its_handle(hospital: Hospital) -> None:
    """And a second refusal keeps the handle that is revoked already."""
    changed = consent("permit", 2)
    changed["provision"]["period"] = {"end": "2030-01-01"}
    hospital.one_by_one(PATIENT, consent("permit", 1), changed)
    assert list(words(hospital).values()) == [[True]]

    hospital.one_by_one(consent("deny", 3), consent("deny", 4, "inactive"))
    assert list(words(hospital).values()) == [[False]]


def test_a_patient_is_restricted_for_one_reason_once(hospital: Hospital) -> None:
    """However many messages bring the segment that no mapping covers."""
    for day in range(1, 4):
        hospital.feed(hl7("ADT^A08", pid(), "CON|1|X", at=f"202403{day:02}120000"))

    assert [row["code"] for row in hospital.rows("restriction")] == ["consent-segment-unmapped"]


@pytest.mark.ci
def test_a_patient_introduced_while_a_consent_fails_is_closed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers at once: the one that restricts knows no such patient, the one that introduces her no restriction.

    Without a lock on her name both would commit, and she would be open (law *Consent never fails open*).
    """
    from bridge.store.migrate import migrate

    migrate(database_url)
    restricting, introducing = Hospital(database_url), Hospital(database_url)
    told: list[Outcome] = []
    other = threading.Thread(
        target=lambda: told.extend(outcomes(introducing.feed(hl7("ADT^A04", pid("77^^^NORTH^MR")), site="lab")))
    )
    insert = dead_letters.insert

    def slowly(*arguments: Any) -> None:
        other.start()
        other.join(2)  # waits for the name's lock, or else is done by then
        insert(*arguments)

    monkeypatch.setattr(dead_letters, "insert", slowly)
    failing = hl7("ADT^A04", "PID|1||77^^^NORTH^MR~8^^^ELSEWHERE^MR", "CON|1|X").replace(b"ADT^A04", b"MFN^M02")
    assert outcomes(restricting.feed(failing)) == [Outcome.DEAD]
    other.join()

    assert told == [Outcome.STORED]
    restricted = {row["patient_key"] for row in restricting.rows("restriction") if row["state"] == "open"}
    assert restricting.key_of(restricting.patient("77")) in restricted
    for hospital in (restricting, introducing):
        hospital.close()
