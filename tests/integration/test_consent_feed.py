"""Consents by feed: understood, they are in force with the commit; not understood, they close their patient with it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from bridge.errors import BridgeError, Unavailable
from bridge.pipeline.batch import CONSENT_ALARM, lift_restrictions
from bridge.pipeline.replay import resolve
from bridge.record.consents import CHAIN_DESTINATION, ConsentPayload
from bridge.store import alarms, dead_letters, source_control
from bridge.store.rows import Outcome
from tests.integration.hospital import Hospital, codes, hl7, obr, obx, outcomes, pid
from tests.integration.test_batch import assert_adds_up, replay

PATIENT = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [{"system": "urn:test:north", "value": "1", "type": {"coding": [{"code": "MR"}]}}],
    "name": [{"family": "Ash", "given": ["Ida"]}],
}
VALUED_CON = "CON|1|001^Confidentiality^L"


def consent(kind: str = "deny", **elements: Any) -> dict[str, Any]:
    return {
        "resourceType": "Consent",
        "id": "c1",
        "meta": {"lastUpdated": elements.pop("at", "2024-03-01T12:00:00Z")},
        "status": "active",
        "scope": {"coding": [{"code": "patient-privacy"}]},
        "category": [{"coding": [{"code": "59284-0"}]}],
        "patient": {"reference": "Patient/p1"},
        "provision": {"type": kind},
        **elements,
    }


def restricted(hospital: Hospital) -> list[str]:
    """First identifiers of the Patients that are closed."""
    number = {hospital.key_of(p): p["identifier"][0]["value"] for p in hospital.resources("Patient")}
    return sorted(
        {
            number[row["patient_key"]]
            for row in hospital.rows("restriction")
            if row["state"] == "open" and row["patient_key"]
        }
    )


def words(hospital: Hospital) -> list[ConsentPayload]:
    rows = [row for row in hospital.rows("outbox") if row["destination"] == CHAIN_DESTINATION]
    return [msgspec.json.decode(row["payload"], type=ConsentPayload) for row in rows]


def paused(hospital: Hospital) -> set[str]:
    with hospital.database.transaction(read_only=True) as txn:
        return set(source_control.paused(txn))


def alarmed(hospital: Hospital) -> list[tuple[str, str]]:
    with hospital.database.transaction(read_only=True) as txn:
        return [(alarm.code, alarm.subject) for alarm in alarms.active(txn)]


# understood


def test_resource_state_and_outbox_change_together(hospital: Hospital) -> None:
    """One commit holds the Consent, what decisions read, the word for the chain, its leaf, and the new consent version."""
    hospital.feed(PATIENT)
    [before] = [row["consent_version"] for row in hospital.rows("person")]
    hospital.feed(consent())

    [state] = hospital.rows("consent_state")
    patient = hospital.one("Patient")
    assert hospital.one("Consent")["patient"] == {"reference": f"Patient/{patient['id']}"}
    assert (state["status"], state["patient_key"], state["version"]) == ("active", hospital.key_of(patient), 1)
    [word] = words(hospital)
    assert (word.handle, word.granted, word.version) == (state["handle"], False, 1)
    assert "consent" in {row["kind"] for row in hospital.rows("leaf_pending")}
    [after] = [row["consent_version"] for row in hospital.rows("person")]
    assert after > before


def test_a_crash_before_the_commit_leaves_none_of_them(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resource, state and outbox are one transaction."""
    from bridge.pipeline import batch

    hospital.feed(PATIENT)

    def crash(name: str) -> None:
        hospital.stop.set()
        raise Unavailable("crash", name)

    monkeypatch.setattr(batch, "failpoint", crash)
    assert hospital.feed(consent()) == []

    assert (hospital.resources("Consent"), hospital.rows("consent_state"), words(hospital)) == ([], [], [])


def test_a_revocation_cancels_the_grant_that_was_not_sent(hospital: Hospital) -> None:
    """Grant, revocation, new grant: the revocation keeps the handle and is last under it, the new grant takes another."""
    hospital.feed(PATIENT)
    hospital.feed(consent("permit"))
    [granted] = words(hospital)
    assert granted.granted
    hospital.feed(consent("permit", status="inactive", at="2024-03-02T12:00:00Z"))
    [revoked] = words(hospital)
    assert (revoked.handle, revoked.granted) == (granted.handle, False)
    assert hospital.rows("consent_state")[0]["status"] == "revoked"
    hospital.feed(consent("permit", at="2024-03-03T12:00:00Z"))

    handles = {(word.handle, word.granted) for word in words(hospital)}
    assert (granted.handle, False) in handles
    [new] = [handle for handle, is_granted in handles if is_granted]
    assert new != granted.handle
    assert hospital.rows("consent_state")[0]["handle"] == new


def test_an_older_consent_does_not_undo_a_newer_one(hospital: Hospital) -> None:
    """A grant that arrives after the revocation it precedes changes nothing."""
    hospital.feed(PATIENT)
    hospital.feed(consent("permit", status="inactive", at="2024-03-02T12:00:00Z"))
    before = hospital.rows("consent_state"), words(hospital)

    assert outcomes(hospital.feed(consent("permit", at="2024-03-01T12:00:00Z"))) == [Outcome.SUPERSEDED]
    assert (hospital.rows("consent_state"), words(hospital)) == before


# not understood

BROKEN = [
    (json.dumps(consent())[:-30].encode(), "json-invalid"),
    (json.dumps(consent(status="whatever")).encode(), "consent-status-unknown"),
    (
        json.dumps(consent(provision={"type": "permit", "securityLabel": [{"code": "R"}]})).encode(),
        "consent-element-unsupported",
    ),
    (json.dumps(consent(provision={"type": "permit", "actor": "me"})).encode(), "consent-malformed"),
    (json.dumps(consent(status="")).encode(), "fhir-invalid"),
]


@pytest.mark.parametrize(("content", "code"), BROKEN, ids=[code for _, code in BROKEN])
def test_a_consent_that_is_not_understood_closes_its_patient(hospital: Hospital, content: bytes, code: str) -> None:
    """In the transaction of its dead letter, whatever stage it fails at; its neighbours in the batch are stored."""
    other = {**PATIENT, "id": "p2", "identifier": [{"system": "urn:test:north", "value": "2"}]}
    hospital.feed(PATIENT)
    verdicts = hospital.feed(content, other)

    assert outcomes(verdicts) == [Outcome.DEAD, Outcome.STORED]
    assert codes(verdicts) == [code]
    assert restricted(hospital) == ["1"]
    [dead] = hospital.rows("dead_letter")
    assert {row["dead_key"] for row in hospital.rows("restriction")} == {dead["dead_key"]}
    assert alarmed(hospital) == []
    assert_adds_up(hospital)


def test_dead_letter_and_restriction_are_one_transaction(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the dead letter is not written, the patient is not closed either, and the message waits."""
    hospital.feed(PATIENT)

    def refuse(*_: Any) -> None:
        hospital.stop.set()
        raise Unavailable("gone", "Gone.")

    monkeypatch.setattr(dead_letters, "insert", refuse)
    assert hospital.feed(BROKEN[0][0]) == []

    assert hospital.rows("restriction") == []
    assert hospital.position().received == 1


def test_a_patient_who_is_not_known_yet_is_closed_from_the_first_message_on(hospital: Hospital) -> None:
    """The restriction waits under a keyed digest of the name, and holds when the patient comes."""
    verdicts = hospital.feed(consent())
    assert codes(verdicts) == ["consent-patient-unknown"]
    assert all(row["patient_key"] is None for row in hospital.rows("restriction"))
    assert "p1" not in str(hospital.rows("restriction"))
    hospital.feed(PATIENT)

    assert restricted(hospital) == ["1"]


@pytest.mark.parametrize("segment", [VALUED_CON, "ARV|1|A|VIP^^L"], ids=["CON", "ARV"])
def test_a_consent_segment_that_no_mapping_covers_closes_its_patient(hospital: Hospital, segment: str) -> None:
    """The message itself is stored; an empty segment says nothing and closes nobody."""
    hospital.feed(hl7("ADT^A08", pid("2^^^NORTH^MR"), segment.split("|", maxsplit=1)[0] + "||"))
    assert restricted(hospital) == []

    assert outcomes(hospital.feed(hl7("ADT^A08", pid(), segment))) == [Outcome.STORED]
    assert restricted(hospital) == ["1"]
    assert codes(hospital.feed(hl7("ADT^A08", pid("3^^^NORTH^MR", name="Oak^Eve")))) == []
    assert restricted(hospital) == ["1"]


@pytest.mark.parametrize(
    ("event", "identifiers"),
    [
        ("MFN^M02", "1^^^NORTH^MR"),
        ("MFN^M02", "1"),
        ("MFN^M02", "8^^^ELSEWHERE^MR~1^^^NORTH^MR"),
        ("MFN^M02", "1^^^NORTH"),
        ("ADT^A40", "1^^^NORTH^MR"),
    ],
    ids=["named", "default-authority", "second-repetition", "without-type", "merge-without-mrg"],
)
def test_a_failed_message_with_a_consent_closes_its_patient(hospital: Hospital, event: str, identifiers: str) -> None:
    """The tolerant scan finds the patient that the reader did not get to."""
    hospital.feed(hl7("ADT^A08", pid()))
    verdicts = hospital.feed(hl7(event, pid(identifiers), VALUED_CON))

    assert outcomes(verdicts) == [Outcome.DEAD]
    assert restricted(hospital) == ["1"]
    assert paused(hospital) == set()


def test_the_type_of_an_identifier_does_not_hide_its_patient(hospital: Hospital) -> None:
    """Where the site's file names no types, the failed message may write another one, or none."""
    hospital.feed(hl7("ADT^A08", pid("1^^^CLINIC^MR")), site="clinic")
    hospital.feed(hl7("MFN^M02", pid("1^^^CLINIC"), VALUED_CON), site="clinic")

    assert restricted(hospital) == ["1"]


def test_who_comes_by_a_name_of_another_type_is_closed_like_who_was_there(hospital: Hospital) -> None:
    """The failed message names a number and not of what type it is: whoever bears it may be meant."""
    hospital.feed(hl7("MFN^M02", pid("1^^^CLINIC"), VALUED_CON), site="clinic")
    both = [hl7("ADT^A08", pid(f"1^^^CLINIC^{kind}", name=f"Oak^{kind}")) for kind in ("MR", "PI")]
    hospital.feed(*both, site="clinic")
    hospital.feed(hl7("ADT^A08", pid("1^^^CLINIC^XX", name="Elm^Ole")), site="clinic")
    hospital.feed(hl7("ADT^A08", pid("2^^^CLINIC^MR", name="Elm^Eve")), site="clinic")

    closed = {row["patient_key"] for row in hospital.rows("restriction") if row["state"] == "open"}
    patients = {hospital.key_of(p): p["identifier"][0]["value"] for p in hospital.resources("Patient")}
    assert closed == {key for key, value in patients.items() if value == "1"}
    assert len(closed) == 3


def test_a_sender_with_delimiters_of_its_own_is_scanned_by_them(hospital: Hospital) -> None:
    """MSH says what separates components and repetitions."""
    hospital.feed(hl7("ADT^A08", pid()))
    content = b"MSH|$%\\#|PAS|F|HIE|HIE|20240301||MFN$M02|9|P|2.5\rPID|1||8$$$ELSEWHERE%1$$$NORTH\rCON|1|x\r"
    assert outcomes(hospital.feed(content)) == [Outcome.DEAD]

    assert restricted(hospital) == ["1"]


def test_a_patient_known_by_evidence_alone_is_closed_too(hospital: Hospital) -> None:
    """Their record hangs on the national number."""
    hospital.feed(hl7("ADT^A08", pid("9^^^NHR^NH")))
    hospital.feed(hl7("MFN^M02", pid("9^^^NHR^NH"), VALUED_CON))

    assert restricted(hospital) == ["9"]


def test_the_key_of_the_message_names_the_patient_where_nothing_else_does(hospital: Hospital) -> None:
    """A Kafka key of the form ``site|identifier``."""
    hospital.feed(hl7("ADT^A08", pid()))
    items, place = hospital.items([b""])
    from dataclasses import replace

    broken = hospital.preparer.prepare(hospital.raw(hl7("MFN^M02", VALUED_CON), key=b"north|1"))
    hospital.store([replace(items[0], prepared=broken)], place)

    assert restricted(hospital) == ["1"]


@pytest.mark.parametrize(
    "content",
    [
        hl7("MFN^M02", VALUED_CON),
        hl7("ADT^A08", pid(""), VALUED_CON),
        b'{"resourceType": "Consent", "status": "act',
        json.dumps(consent(patient={"display": "someone"})).encode(),
    ],
    ids=["no-pid", "empty-pid", "json", "no-reference"],
)
def test_a_consent_of_nobody_raises_the_alarm_and_pauses_the_source(hospital: Hospital, content: bytes) -> None:
    """Somebody's consent is not in force and nobody can be closed for it: an operator must look before more comes in."""
    assert outcomes(hospital.feed(content)) == [Outcome.DEAD]

    assert paused(hospital) == {"north"}
    assert alarmed(hospital) == [(CONSENT_ALARM, "north")]


DELETED = {"request": {"method": "DELETE", "url": "Consent?patient=p1"}}


@pytest.mark.parametrize("more", [[], [{"resource": {**PATIENT, "id": "p2"}}]], ids=["alone", "beside-another"])
def test_a_failed_deletion_of_a_consent_says_not_whose_it_is(hospital: Hospital, more: list[Any]) -> None:
    """What it permits would go on to be permitted; others whom the Bundle names are not those whom it is about."""
    hospital.feed(PATIENT)
    verdicts = hospital.feed({"resourceType": "Bundle", "type": "transaction", "entry": [DELETED, *more]})

    assert codes(verdicts) == ["fhir-invalid"]
    assert paused(hospital) == {"north"}


def test_a_consent_that_names_too_many_harms_no_other_message(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes those it names without a lock for each, which the server has not, and so raises the alarm as well."""
    locked: list[int] = []
    lock = hospital.recorder.hold_names

    def held(txn: Any, names: Any) -> None:
        locked.append(len(names))
        lock(txn, names)

    monkeypatch.setattr(hospital.recorder, "hold_names", held)
    hospital.feed(PATIENT)
    some, many = (
        b'{"resourceType":"Consent","x":[' + b",".join(b'{"reference":"Patient/p%d"}' % n for n in range(count))
        for count in (1500, 2001)
    )
    verdicts = hospital.feed(some, some + b",", many, hl7("ADT^A08", pid("3^^^NORTH^MR")))

    assert outcomes(verdicts) == [Outcome.DEAD] * 3 + [Outcome.STORED]
    assert restricted(hospital) == ["1"]
    assert locked == [1500, 1500]
    assert paused(hospital) == {"north"}


# lifting


def test_resolving_the_dead_letter_lifts_its_restriction_alone(hospital: Hospital) -> None:
    """An operator who has settled one consent says nothing about another."""
    hospital.feed(PATIENT)
    hospital.feed(BROKEN[0][0], BROKEN[1][0])
    first, second = hospital.rows("dead_letter")
    with hospital.database.transaction() as txn:
        assert lift_restrictions(txn, first["dead_key"], "officer", "asked the patient") == 1
    assert restricted(hospital) == ["1"]
    with hospital.database.transaction() as txn:
        lift_restrictions(txn, second["dead_key"], "officer", "asked the patient")

    assert restricted(hospital) == []
    assert {(row["lifted_by"], row["reason"]) for row in hospital.rows("restriction")} == {
        ("officer", "asked the patient")
    }


def consent_version(hospital: Hospital) -> int:
    [version] = [row["consent_version"] for row in hospital.rows("person")]
    return int(version)


def test_closing_and_opening_a_patient_advance_the_consent_version(hospital: Hospital) -> None:
    """Whoever remembers what was permitted asks again: after the dead letter, and after it is resolved or replayed."""
    hospital.feed(PATIENT)
    known = consent_version(hospital)
    hospital.feed(BROKEN[0][0], BROKEN[1][0])
    closed = consent_version(hospital)
    assert closed > known

    first, second = hospital.rows("dead_letter")
    resolve(hospital.database, first["dead_key"], by="officer", reason="asked the patient")
    resolved = consent_version(hospital)
    assert resolved > closed
    # another one, which says nothing of consents: what advances the version is the lifting alone
    assert replay(hospital, second["dead_key"], hl7("ORU^R01", pid(), obr(), obx())).outcome is Outcome.STORED
    assert consent_version(hospital) > resolved


def test_a_patient_who_is_closed_when_she_comes_under_another_name_is_told(hospital: Hospital) -> None:
    """A restriction that waited for a name finds a patient who was here all the time."""
    hospital.feed(hl7("ADT^A08", pid()))
    hospital.feed(hl7("MFN^M02", pid("77^^^ARCHIVE^MR"), VALUED_CON))
    assert restricted(hospital) == []
    before = consent_version(hospital)

    hospital.feed(hl7("ADT^A08", pid("1^^^NORTH^MR~77^^^ARCHIVE^MR"), at="20240302120000"))

    assert restricted(hospital) == ["1"]
    assert consent_version(hospital) > before


def test_a_successful_replay_lifts_the_restriction(hospital: Hospital) -> None:
    """The consent came before its patient; replayed, it is in force and the patient is open to what it permits."""
    hospital.feed(consent("permit"))
    hospital.feed(PATIENT)
    assert restricted(hospital) == ["1"]
    [dead] = hospital.rows("dead_letter")

    verdict = replay(hospital, dead["dead_key"], json.dumps(consent("permit")).encode())

    assert verdict.outcome is Outcome.STORED
    assert restricted(hospital) == []
    assert [row["status"] for row in hospital.rows("consent_state")] == ["active"]
    assert_adds_up(hospital)


def test_a_replay_that_fails_leaves_the_patient_closed(hospital: Hospital) -> None:
    """Nothing was understood, nothing is opened."""
    hospital.feed(PATIENT)
    hospital.feed(BROKEN[1][0])
    [dead] = hospital.rows("dead_letter")

    assert isinstance(replay(hospital, dead["dead_key"], BROKEN[1][0]).error, BridgeError)
    assert restricted(hospital) == ["1"]


def test_names_in_restrictions_are_keyed_digests(hospital: Hospital) -> None:
    """An identifier that waits for its patient cannot be guessed from the row without the deployment's key."""
    from hashlib import sha256

    hospital.feed(hl7("MFN^M02", pid("123456^^^NORTH^MR"), VALUED_CON))
    macs = [row["identity_mac"] for row in hospital.rows("restriction")]

    assert macs
    assert all(len(mac) == 32 for mac in macs)
    for guess in (b"123456", b"urn:test:north|123456", b"urn:test:north123456"):
        assert sha256(guess).digest() not in macs
