"""Law *Change* and law *Order*, from the bytes of messages to stored rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.hospital import Hospital, hl7, obr, obx, pid, pv1

FULL = {"address": "1 Road^^Town^^AB1", "phone": "^^PH^^^^0201234567", "sex": "F"}


def at(minute: int) -> str:
    return f"2024030112{minute:02}00"


def admit(minute: int = 0, **fields: str) -> bytes:
    return hl7("ADT^A01", pid(**(FULL | fields)), pv1(start="20240301110000", place="W1"), at=at(minute))


def test_an_update_with_fewer_fields_keeps_the_rest(hospital: Hospital) -> None:
    """Absent keeps, HL7 null clears."""
    hospital.feed(admit())
    hospital.feed(hl7("ADT^A08", pid(name="Ash^Irene", birth="", phone='""'), at=at(1)))

    patient = hospital.one("Patient")
    assert patient["name"] == [{"family": "Ash", "given": ["Irene"]}]
    assert (patient["gender"], patient["birthDate"]) == ("female", "1970-01-02")
    assert patient["address"][0]["city"] == "Town"
    assert "telecom" not in patient


def test_an_update_after_the_discharge_does_not_reopen(hospital: Hospital) -> None:
    """A08 is about the person: the encounter stays finished, though its PV1 says inpatient without an end."""
    hospital.feed(admit())
    hospital.feed(hl7("ADT^A03", pid(), pv1(start="20240301110000", end="20240301123000"), at=at(30)))
    hospital.feed(hl7("ADT^A08", pid(name="Ash^Irene"), pv1(start="20240301110000"), at=at(40)))

    encounter = hospital.one("Encounter")
    assert encounter["status"] == "finished"
    assert encounter["period"]["end"] == "2024-03-01T12:30:00+00:00"


def test_a_late_admission_does_not_reopen(hospital: Hospital) -> None:
    """A01 that arrives after the A03 it precedes fills what is open and moves no status backwards."""
    hospital.feed(hl7("ADT^A03", pid(), pv1(end="20240301123000"), at=at(30)))
    hospital.feed(admit())

    encounter = hospital.one("Encounter")
    assert encounter["status"] == "finished"
    assert encounter["period"] == {"start": "2024-03-01T11:00:00+00:00", "end": "2024-03-01T12:30:00+00:00"}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_cancelled_discharge_reopens_and_clears_the_end(
    hospitals: Callable[[], Hospital], order: tuple[int, ...]
) -> None:
    """A13 moves the status back and clears the end, in every order of arrival."""
    messages = [
        admit(),
        hl7("ADT^A03", pid(), pv1(start="20240301110000", end="20240301123000"), at=at(30)),
        hl7("ADT^A13", pid(), pv1(start="20240301110000"), at=at(40)),
    ]
    hospital = hospitals()
    hospital.one_by_one(*(messages[number] for number in order))

    encounter = hospital.one("Encounter")
    assert encounter["status"] == "in-progress"
    assert encounter["period"] == {"start": "2024-03-01T11:00:00+00:00"}


def test_a_late_admission_fills_what_a_newer_update_left_open(hospital: Hospital) -> None:
    """The newer name stays, everything that only the older message tells comes in."""
    hospital.feed(hl7("ADT^A08", pid(name="Ash^Irene", birth=""), at=at(30)))
    hospital.feed(admit())

    patient = hospital.one("Patient")
    assert patient["name"] == [{"family": "Ash", "given": ["Irene"]}]
    assert patient["birthDate"] == "1970-01-02"
    assert patient["telecom"][0]["value"] == "0201234567"


@pytest.mark.parametrize("first", ["adt", "oru"])
@pytest.mark.parametrize("minute", [0, 50], ids=["older", "newer"])
def test_a_result_with_a_thin_pid_changes_no_demographics(hospital: Hospital, first: str, minute: int) -> None:
    """Whether it comes before or after the registration, and whichever is newer: ORU creates a patient and no more."""
    thin = hl7("ORU^R01", pid(name="ASH^I", birth="1970"), obr(at=at(minute)), obx(), at=at(minute))
    hospital.one_by_one(*((admit(20), thin) if first == "adt" else (thin, admit(20))))

    patient = hospital.one("Patient")
    assert patient["name"] == [{"family": "Ash", "given": ["Ida"]}]
    assert patient["birthDate"] == "1970-01-02"
    assert patient["address"][0]["city"] == "Town"
    assert hospital.one("Observation")["subject"]["reference"] == f"Patient/{patient['id']}"


def test_a_result_alone_makes_a_patient(hospital: Hospital) -> None:
    """What it tells is shown until an ADT message is known."""
    hospital.feed(hl7("ORU^R01", pid(name="ASH^I"), obr(at=at(0)), obx()))

    assert hospital.one("Patient")["name"] == [{"family": "ASH", "given": ["I"]}]


@pytest.mark.parametrize(
    ("local", "shown"),
    [
        ("20240331003000", "2024-03-31T00:30:00+00:00"),  # before the gap
        ("20240331023000", "2024-03-31T02:30:00+01:00"),  # after it
        ("20241027003000", "2024-10-27T00:30:00+01:00"),  # before the overlap
        ("20241027023000", "2024-10-27T02:30:00+00:00"),  # after it
        ("20240331013000+0200", "2024-03-31T01:30:00+02:00"),  # an offset of its own
    ],
)
def test_local_times_around_daylight_saving(hospital: Hospital, local: str, shown: str) -> None:
    """Times without an offset take the site's zone with the offset in force then."""
    hospital.feed(hl7("ADT^A01", pid(), pv1(start=local)))

    assert hospital.one("Encounter")["period"]["start"] == shown


def test_a_local_time_that_never_was_is_moved_over_the_gap_and_reported(hospital: Hospital) -> None:
    """01:30 on the last Sunday of March is read as 02:30 summer time: the same instant that the clocks would have shown."""
    [prepared] = hospital.prepare([hl7("ADT^A01", pid(), pv1(start="20240331013000"))])
    hospital.feed(hl7("ADT^A01", pid(), pv1(start="20240331013000")))

    assert prepared.conversion is not None
    assert "time-in-gap" in {report.code for report in prepared.conversion.reports}
    assert hospital.one("Encounter")["period"]["start"] == "2024-03-31T02:30:00+01:00"


def test_a_local_time_that_was_twice_is_the_first(hospital: Hospital) -> None:
    """01:30 on the last Sunday of October is taken as summer time."""
    hospital.feed(hl7("ADT^A01", pid(), pv1(start="20241027013000")))

    assert hospital.one("Encounter")["period"]["start"] == "2024-10-27T01:30:00+01:00"


def test_events_around_the_overlap_keep_the_order_of_their_instants(hospitals: Callable[[], Hospital]) -> None:
    """Offsets decide which is newer, not wall clocks: 01:10+00:00 is after 01:50+01:00."""
    summer = hl7("ADT^A08", pid(name="Ash^Summer"), at="20241027015000+0100")
    winter = hl7("ADT^A08", pid(name="Ash^Winter"), at="20241027011000+0000")
    for order in ((summer, winter), (winter, summer)):
        hospital = hospitals()
        hospital.one_by_one(*order)

        assert hospital.one("Patient")["name"][0]["given"] == ["Winter"]


def test_versions_count_without_holes_and_only_changes_count(hospital: Hospital) -> None:
    """A message that tells nothing new makes no version, no leaf; several changes in one batch make a version each."""
    hospital.feed(admit(), hl7("ADT^A08", pid(name="Ash^B"), at=at(1)), hl7("ADT^A08", pid(name="Ash^C"), at=at(2)))
    hospital.feed(hl7("ADT^A08", pid(name="Ash^C"), at=at(3)))

    patient = hospital.key_of(hospital.one("Patient"))
    versions = [row for row in hospital.rows("resource_version") if row["resource_key"] == patient]
    assert [row["version"] for row in versions] == [1, 2, 3]
    leaves = {row["leaf_id"] for row in hospital.rows("leaf_pending")}
    assert {row["leaf_id"] for row in versions} <= leaves
    made_by = [row["raw_key"] for row in versions]
    assert made_by == sorted(set(made_by))


def test_every_version_has_one_commitment_and_it_opens(hospital: Hospital) -> None:
    """Leaf, context, nonce and record key belong together: the commitment is made anew from what is stored."""
    from bridge.keys.ports import WrappedKey
    from bridge.ledger.commitment import commit, derive_salt, leaf_data
    from tests.integration.hospital import KEYS

    hospital.feed(admit(), hl7("ORU^R01", pid(), obr(at=at(1)), obx()))
    hospital.feed(hl7("ADT^A08", pid(name="Ash^B"), at=at(2)))

    contexts = {row["leaf_id"]: row for row in hospital.rows("commitment")}
    nonces = {row["leaf_id"]: row["nonce"] for row in hospital.rows(_table("nonce"))}
    keys = {
        row["owner_uuid"]: KEYS.unwrap(WrappedKey(row["key_id"], row["wrapped_key"]))
        for row in hospital.rows(_table("record_key"))
    }
    pending = {row["leaf_id"]: row["leaf"] for row in hospital.rows("leaf_pending")}
    versions = hospital.rows("resource_version")
    for row in versions:
        made: dict[str, Any] = contexts[row["leaf_id"]]
        salt = derive_salt(keys[made["owner_uuid"]], nonces[row["leaf_id"]])
        assert leaf_data(commit(salt, made["context"], row["body"])) == pending[row["leaf_id"]]
    assert len({row["leaf_id"] for row in versions}) == len(versions)


def _table(name: str) -> str:
    from bridge.store import schema

    [found] = [table.key for table in schema.metadata.tables.values() if table.name.removeprefix("vault_") == name]
    return found
