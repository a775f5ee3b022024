"""Law *Identity*, from the bytes of messages to stored rows: what one name names stays one, what two name stays two."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from bridge.store.rows import Outcome
from tests.integration.hospital import Hospital, codes, hl7, obr, obx, outcomes, pid, pv1


def orc(placer: str = "", filler: str = "") -> str:
    return f"ORC|RE|{placer}|{filler}".rstrip("|")


def test_one_number_without_authority_at_two_sites_is_two_patients(hospital: Hospital) -> None:
    """An empty authority is the site's own, never a global default."""
    hospital.feed(hl7("ADT^A04", pid("77")), site="north")
    hospital.feed(hl7("ADT^A04", pid("77")), site="south")

    systems = {p["identifier"][0]["system"] for p in hospital.resources("Patient")}
    assert systems == {"urn:test:north", "urn:test:south"}


def test_the_order_of_identifiers_does_not_matter(hospital: Hospital) -> None:
    """PID-3 reordered names the same patient, under the id of the site's primary authority."""
    orders = itertools.permutations(["1^^^NORTH^MR", "A1^^^ARCHIVE^MR", "9^^^NHR^NH"])
    for number, identifiers in enumerate(orders):
        hospital.feed(hl7("ADT^A08", pid("~".join(identifiers)), at=f"2024030112000{number}"))

    assert len(hospital.one("Patient")["identifier"]) == 3


def test_the_first_sight_decides_the_id_for_good(hospitals: Callable[[], Hospital]) -> None:
    """A later message that names the record by a second name reaches it, and its id is that of the primary name."""
    one, other = hospitals(), hospitals()
    both = hl7("ADT^A08", pid("1^^^NORTH^MR~A1^^^ARCHIVE^MR"), at="20240301120001")
    archive = hl7("ADT^A08", pid("A1^^^ARCHIVE^MR", name="Ash^Later"), at="20240301120002")
    one.one_by_one(both, archive)
    other.feed(both)

    assert one.one("Patient")["id"] == other.one("Patient")["id"]
    assert one.one("Patient")["name"][0]["given"] == ["Later"]


def test_two_sites_that_share_an_authority_share_the_record(hospital: Hospital) -> None:
    """The laboratory reports under the north's numbers."""
    hospital.feed(hl7("ADT^A04", pid("1^^^NORTH^MR", name="Ash^Ida")))
    hospital.feed(hl7("ORU^R01", pid("1^^^NORTH^MR", name="ASH^I"), obr(at="20240301120000"), obx()), site="lab")

    patient = hospital.one("Patient")
    assert hospital.one("Observation")["subject"] == {"reference": f"Patient/{patient['id']}"}
    assert patient["name"] == [{"family": "Ash", "given": ["Ida"]}]


def test_an_order_told_by_placer_then_by_both_is_one(hospital: Hospital) -> None:
    """The first message names the placer's number alone; the result names placer and filler: one ServiceRequest."""
    hospital.feed(hl7("ORU^R01", pid(), orc("P1"), obr("P1", "", at="20240301100000", status="P"), obx(status="P")))
    hospital.feed(hl7("ORU^R01", pid(), orc("P1", "F1"), obr("P1", "F1", at="20240301110000"), obx()))
    hospital.feed(hl7("ORU^R01", pid(), orc("", "F1"), obr("", "F1", at="20240301120000"), obx("4.2")))

    numbers = {i["value"] for i in hospital.one("ServiceRequest")["identifier"]}
    assert numbers == {"P1", "F1"}


def test_preliminary_final_corrected_stay_one_observation(hospital: Hospital) -> None:
    """P, F and C of one result are versions of one Observation, whose last word is the corrected one."""
    for number, (status, value) in enumerate([("P", "3.0"), ("F", "4.0"), ("C", "5.0")]):
        at = f"2024030112000{number}"
        hospital.feed(hl7("ORU^R01", pid(), obr(at=at, status=status), obx(value, status=status, at=at), at=at))

    found = hospital.one("Observation")
    assert (found["status"], str(found["valueQuantity"]["value"]), found["meta"]["versionId"]) == (
        "corrected",
        "5.0",
        "3",
    )


@pytest.mark.parametrize("order", list(itertools.permutations("PFC")), ids="".join)
def test_a_result_ends_the_same_in_every_order_of_arrival(
    hospitals: Callable[[], Hospital], order: tuple[str, ...]
) -> None:
    """A final or corrected result is never replaced by a preliminary one, even where all have one time."""
    messages = {
        status: hl7(
            "ORU^R01", pid(), obr(at="20240301120000", status=status), obx(value, status=status), control=status
        )
        for status, value in [("P", "3.0"), ("F", "4.0"), ("C", "5.0")]
    }
    hospital = hospitals()
    hospital.one_by_one(*(messages[status] for status in order))

    found = hospital.one("Observation")
    assert (found["status"], str(found["valueQuantity"]["value"])) == ("corrected", "5.0")


def test_two_requests_under_one_placer_number_are_two_reports(hospital: Hospital) -> None:
    """The code of OBR-4 tells them apart."""
    panel = (obr("P1", "", "K^Potassium^L"), obx(), obr("P1", "", "NA^Sodium^L"), obx("140", "NA^Sodium^L"))
    hospital.feed(hl7("ORU^R01", pid(), *panel))

    assert {r["code"]["coding"][0]["code"] for r in hospital.resources("DiagnosticReport")} == {"K", "NA"}
    assert len(hospital.resources("Observation")) == 2


@pytest.mark.parametrize(
    ("event", "segments"),
    [
        ("ADT^A08", (pid("1^^^SOUTH^MR"),)),
        ("ADT^A40", (pid("1^^^SOUTH^MR"), "MRG|2^^^SOUTH^MR")),
        ("ADT^A40", (pid("1^^^NORTH^MR"), "MRG|2^^^SOUTH^MR")),
        ("ADT^A40", (pid("1^^^SOUTH^MR"), "MRG|2^^^NORTH^MR")),
    ],
    ids=["update", "merge", "merge-foreign-subsumed", "merge-foreign-survivor"],
)
def test_an_authority_that_the_site_may_not_use_is_refused(
    hospital: Hospital, event: str, segments: tuple[str, ...]
) -> None:
    """The north may neither change nor merge records by the south's numbers: a dead letter, and nothing changes."""
    for number in ("1", "2"):
        hospital.feed(hl7("ADT^A04", pid(f"{number}^^^NORTH^MR", name=f"Ash^N{number}")), site="north")
        hospital.feed(hl7("ADT^A04", pid(f"{number}^^^SOUTH^MR", name=f"Ash^S{number}")), site="south")
    before = hospital.picture()

    verdicts = hospital.feed(hl7(event, *segments), site="north")

    assert outcomes(verdicts) == [Outcome.DEAD]
    assert codes(verdicts) == ["foreign-authority"]
    assert hospital.picture() == before


# merges

FIRST = hl7("ADT^A04", pid("1^^^NORTH^MR", name="Ash^Ida"), pv1("V1"), at="20240301090000", control="first")
SECOND = hl7("ADT^A04", pid("2^^^NORTH^MR", name="Ash^Ina"), pv1("V2"), at="20240301091000", control="second")
MERGE = hl7("ADT^A40", pid("1^^^NORTH^MR", name="Ash^Ida"), "MRG|2^^^NORTH^MR", at="20240301100000", control="merge")
LATE = hl7("ORU^R01", pid("2^^^NORTH^MR"), obr(at="20240301110000"), obx(), at="20240301110000", control="late")
UPDATE = hl7("ADT^A08", pid("2^^^NORTH^MR", name="Ash^Irene"), at="20240301120000", control="update")


def links_of(patient: dict[str, Any]) -> list[tuple[str, str]]:
    return [(link["type"], link["other"]["reference"]) for link in patient.get("link", [])]


def assert_merged(hospital: Hospital) -> None:
    survivor, subsumed = hospital.patient("1"), hospital.patient("2")
    assert links_of(subsumed) == [("replaced-by", f"Patient/{survivor['id']}")]
    assert subsumed["active"] is False
    assert links_of(survivor) == [("replaces", f"Patient/{subsumed['id']}")]
    assert survivor.get("active") is not False
    assert hospital.persons() == [{"1", "2"}]


def test_a_merge_leaves_the_old_record_inactive_and_replaced(hospital: Hospital) -> None:
    """Both answer under their own ids, stored references are not rewritten, and the two are one person."""
    hospital.one_by_one(FIRST, SECOND, MERGE, LATE)

    assert_merged(hospital)
    subsumed = hospital.patient("2")
    assert hospital.one("Observation")["subject"] == {"reference": f"Patient/{subsumed['id']}"}
    [event] = [row for row in hospital.rows("link_event") if row["kind"] == "merge"]
    assert (event["record_key"], event["other_key"]) == (
        hospital.key_of(hospital.patient("1")),
        hospital.key_of(subsumed),
    )
    assert event["leaf_id"] in {row["leaf_id"] for row in hospital.rows("leaf_pending")}


@pytest.mark.parametrize("batched", [False, True], ids=["one-by-one", "one-batch"])
def test_a_merge_takes_effect_in_every_order_of_arrival(hospitals: Callable[[], Hospital], batched: bool) -> None:
    """Before its records are known, between their messages, after everything: always the same resources and person."""
    messages = (FIRST, SECOND, MERGE, LATE, UPDATE)
    pictures = []
    for order in itertools.islice(itertools.permutations(range(5)), 0, None, 3):
        hospital = hospitals()
        (hospital.feed if batched else hospital.one_by_one)(*(messages[number] for number in order))
        pictures.append(hospital.picture())
        assert_merged(hospital)
        hospital.close()

    assert all(picture == pictures[0] for picture in pictures)
    assert "Irene" in str(pictures[0])


def test_a_merge_told_twice_shows_once(hospital: Hospital) -> None:
    """The same message is a duplicate; another message that says the same is an assertion of its own, and shows nothing new."""
    hospital.one_by_one(FIRST, SECOND, MERGE)
    before = {kind: hospital.resources(kind) for kind in ("Patient", "Encounter")}
    repeated = MERGE.replace(b"|merge|", b"|merge2|").replace(b"20240301100000", b"20240301101500")

    assert outcomes(hospital.one_by_one(MERGE, repeated)) == [Outcome.DUPLICATE, Outcome.STORED]
    assert {kind: hospital.resources(kind) for kind in ("Patient", "Encounter")} == before
    assert len([row for row in hospital.rows("link_event") if row["kind"] == "merge"]) == 2
    assert_merged(hospital)


def test_a_chain_of_merges_is_one_person(hospital: Hospital) -> None:
    """3 into 2, then 2 into 1: each shows who replaced it, and all three are one person."""
    third = hl7("ADT^A04", pid("3^^^NORTH^MR", name="Ash^Iva"), at="20240301092000")
    into_second = hl7(
        "ADT^A40", pid("2^^^NORTH^MR", name="Ash^Ina"), "MRG|3^^^NORTH^MR", at="20240301093000", control="earlier"
    )
    hospital.one_by_one(FIRST, SECOND, third, MERGE, into_second)

    one, two, three = (hospital.patient(number) for number in "123")
    assert links_of(three) == [("replaced-by", f"Patient/{two['id']}")]
    assert ("replaced-by", f"Patient/{one['id']}") in links_of(two)
    assert hospital.persons() == [{"1", "2", "3"}]


def test_a_merge_the_other_way_round_turns_it_over(hospital: Hospital) -> None:
    """The later assertion decides, whichever arrives first."""
    reverse = hl7(
        "ADT^A40", pid("2^^^NORTH^MR", name="Ash^Ina"), "MRG|1^^^NORTH^MR", at="20240301130000", control="reverse"
    )
    hospital.one_by_one(FIRST, SECOND, reverse, MERGE)

    one, two = hospital.patient("1"), hospital.patient("2")
    assert links_of(one) == [("replaced-by", f"Patient/{two['id']}")]
    assert two.get("active") is not False


@pytest.mark.parametrize(
    "named", [{}, {"identifier": [{"system": "urn:test:north", "value": "77"}]}], ids=["by-id", "by-number"]
)
def test_a_resource_that_came_before_its_patient_is_the_patients(hospital: Hospital, named: dict[str, Any]) -> None:
    """Reference and compartment hold whatever the order, also where the Patient then has a number of its own."""
    observation = {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"text": "Potassium"},
        "subject": {"reference": "Patient/p1"},
    }
    hospital.feed(observation)
    hospital.feed({"resourceType": "Patient", "id": "p1", "birthDate": "1970-01-02", **named})
    hospital.feed({**observation, "id": "o2"})

    [patient] = [row for row in hospital.rows("resource") if row["type"] == "Patient"]
    compartments = [row["patient_key"] for row in hospital.rows("resource") if row["type"] == "Observation"]
    assert compartments == [patient["resource_key"]] * 2
    assert {o["subject"]["reference"] for o in hospital.resources("Observation")} == {f"Patient/{patient['fhir_id']}"}


def test_a_name_that_was_waited_for_may_turn_out_to_be_a_known_patients(hospital: Hospital) -> None:
    """What hung on the name, a restriction above all, is the known patient's from then on."""
    hospital.feed(hl7("ADT^A01", pid("77^^^NORTH^MR"), pv1()))
    reference = {"reference": "Patient/p1"}
    hospital.feed(
        {"resourceType": "Observation", "id": "o1", "status": "final", "code": {"text": "K"}, "subject": reference}
    )
    hospital.feed(
        {"resourceType": "Consent", "id": "c1", "status": "active", "patient": reference, "provision": {"type": "?"}}
    )
    named = {"identifier": [{"system": "urn:test:north", "type": {"coding": [{"code": "MR"}]}, "value": "77"}]}
    hospital.feed({"resourceType": "Patient", "id": "p1", **named})

    [patient] = [row for row in hospital.rows("resource") if row["type"] == "Patient"]
    [observation] = [row for row in hospital.rows("resource") if row["type"] == "Observation"]
    assert observation["patient_key"] == patient["resource_key"]
    assert {row["patient_key"] for row in hospital.rows("restriction")} == {patient["resource_key"]}
