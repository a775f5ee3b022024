"""What a message tells about a patient beside visits, orders and results: its names, and how it changes."""

from __future__ import annotations

import itertools

import pytest

from bridge.mapping.operations import CLEARED
from tests.unit.mapping.messages import Region, adt, converted, every, message, only, pid, pv1, segment

NUT = segment("AL1", f1="1", f2="FA", f3="256349002^Peanut^SCT", f4="SV")


def keys(conversion, resource_type):
    return [key for one in every(conversion, resource_type) for key in one.target.keys]


def units(operation):
    return {unit.path: unit.value for unit in operation.units}


def siu(event, *segments, **fields):
    return message(f"SIU^{event}", segment("SCH", **{"f1": "P1^EHR", "f2": "F1^LAB", **fields}), *segments)


def vxu(*orders, **changes):
    return message("VXU^V04", pid(), *orders, **changes)


def test_a_thing_with_a_number_is_named_by_it():
    """The sender's own number outlives a change of code, place and set id."""
    one = converted(adt("A08", pid(), pv1(), segment("DG1", f1="1", f3="I10^^I10", f20="DX1^EHR")))
    two = converted(adt("A08", pid(), segment("DG1", f1="2", f3="I11^^I10", f20="DX1^EHR"), control="2"))

    assert keys(one, "Condition") == keys(two, "Condition")
    assert keys(one, "Condition")[0].value == "DX1|EHR"


def test_a_thing_without_a_number_is_named_by_patient_and_code_whatever_its_set_id():
    """The same allergy in another message, place and order is the same resource."""
    one = converted(adt("A01", pid(), pv1(), NUT, segment("AL1", f1="2", f3="^Pollen")))
    two = converted(adt("A08", pid(), segment("AL1", f1="1", f3="^Pollen"), NUT.replace("|1|", "|2|", 1), control="2"))

    assert sorted(keys(one, "AllergyIntolerance")) == sorted(keys(two, "AllergyIntolerance"))
    assert len(set(keys(one, "AllergyIntolerance"))) == 2


def test_a_thing_that_tells_neither_is_named_by_its_set_id_and_reported():
    """The sender learns that a later message may mean another thing by it."""
    conversion = converted(adt("A01", pid(), pv1(), segment("AL1", f1="7", f2="FA")))

    assert keys(conversion, "AllergyIntolerance")[0].value.endswith("|7")
    assert "item-without-identity" in {report.code for report in conversion.reports}


def test_a_diagnosis_belongs_to_its_visit():
    """Two visits with one diagnosis have a Condition each; without a visit it is the patient's."""
    diagnosis = segment("DG1", f1="1", f3="I10^^I10")
    found = [
        keys(converted(adt("A01", pid(), *visit, diagnosis)), "Condition")[0]
        for visit in ([pv1("V1")], [pv1("V2")], [segment("PV1", f2="O")])
    ]

    assert len(set(found)) == 3
    assert found[2].identifier_type.startswith("Patient/")


def test_a_relative_is_named_by_name_and_relation_not_by_place():
    """Relatives that change places in the list keep their resources."""
    george = segment("NK1", f1="1", f2="Ash^George", f3="SPO")
    ida = segment("NK1", f1="2", f2="Ash^Ida", f3="CHD")
    one = converted(adt("A01", pid(), george, ida, pv1()))
    two = converted(adt("A08", pid(), ida.replace("|2|", "|1|"), george.replace("|1|", "|2|"), control="2"))

    assert set(keys(one, "RelatedPerson")) == set(keys(two, "RelatedPerson"))
    assert len(set(keys(one, "RelatedPerson"))) == 2


@pytest.mark.parametrize("role", ["EMR", "E", "F", "I", "S"])
def test_an_employer_or_insurer_is_no_relative(role):
    """NK1 of an organisation is a contact alone."""
    conversion = converted(adt("A01", pid(), segment("NK1", f1="1", f2="Works", f3=role), pv1()))

    assert every(conversion, "RelatedPerson") == []
    assert "contact" in units(only(conversion, "Patient"))


def test_a_vaccination_without_an_order_is_named_by_vaccine_and_day():
    """9999 is what registries write for no order: it names nothing, and is not kept."""
    history = [
        part
        for vaccine in ("03", "08")
        for part in (segment("ORC", f1="RE", f3="9999^IIS"), segment("RXA", f3="20200101", f5=f"{vaccine}^^CVX"))
    ]
    found = every(converted(vxu(*history)), "Immunization")

    assert len({one.target for one in found}) == 2
    assert all("9999" not in str(one) for one in found)


def test_placer_and_filler_name_one_appointment():
    """Whoever names it, by either number, means the same."""
    both = only(converted(siu("S12", pid())), "Appointment").target.keys

    assert {key.identifier_type for key in both} == {"placer", "filler"}
    assert only(converted(siu("S13", pid(), f1="")), "Appointment").target.keys[0] in both


@pytest.mark.parametrize(
    ("event", "status"),
    [
        *((f"S{number}", "booked") for number in (12, 13, 14, 18, 19, 20, 21, 22, 23, 24)),
        ("S15", "cancelled"),
        ("S16", "cancelled"),
        ("S17", "entered-in-error"),
        ("S26", "noshow"),
    ],
)
def test_the_scheduling_event_tells_the_status(event, status):
    """An appointment that is cancelled, deleted or missed says so, whatever SCH-25 repeats."""
    assert units(only(converted(siu(event, pid())), "Appointment"))["status"] == status


def test_the_filler_status_is_said_better_by_sch_25():
    """A booking that waits is no booking yet."""
    assert units(only(converted(siu("S12", pid(), f25="Waitlist")), "Appointment"))["status"] == "waitlist"


@pytest.mark.parametrize(
    ("start", "amount", "unit", "end"),
    [
        ("20260401090000", "30", "min", "2026-04-01T09:30:00+01:00"),
        ("20260401090000", "2", "HR", "2026-04-01T11:00:00+01:00"),
        ("20260401090000", "45", "", "2026-04-01T09:45:00+01:00"),
        ("20260401090000", "30", "visits", None),
        ("20260401090000", "-5", "min", None),
        ("20260401090000", "1e9", "d", None),
        ("20260401", "30", "min", None),
    ],
)
def test_an_end_is_worked_out_from_start_and_duration(start, amount, unit, end):
    """Only where all three are understood; else the end is told to be unknown."""
    service = segment("AIS", f1="1", f3="X^Visit", f4=start, f7=amount, f8=unit)
    found = units(only(converted(siu("S12", pid(), "RGS|1", service)), "Appointment"))

    assert found.get("end") == end
    assert end is not None or "end[x]" in found


def test_a_message_may_create_a_patient_and_never_changes_one():
    """Only person and visit events change a known patient (law Change)."""
    for raw in (
        siu("S12", pid()),
        vxu(),
        message("MDM^T02", "EVN|T02", pid(), pv1(), "TXA|1|DS"),
        message("ORM^O01", pid(), "ORC|NW|1"),
        message("OML^O21", pid(), "ORC|NW|1", "OBR|1|1"),
    ):
        assert only(converted(raw), "Patient").reach == "create-only"


@pytest.mark.parametrize(
    ("event", "status"),
    [("A05", "planned"), ("A14", "planned"), ("A06", "in-progress"), ("A07", "in-progress"), ("A01", "in-progress")],
)
def test_the_visit_event_tells_how_far_the_visit_is(event, status):
    """Pre-admissions are planned; those that change the class are under way."""
    assert units(only(converted(adt(event, pid(), pv1())), "Encounter"))["status"] == status


@pytest.mark.parametrize("event", ["A09", "A10", "A28", "A31"])
def test_events_that_say_nothing_of_the_status_leave_it(event):
    """Tracking a patient, and adding or updating a person, only fill what is missing."""
    kinds = {unit.path: unit.kind.value for unit in only(converted(adt(event, pid(), pv1())), "Encounter").units}

    assert kinds["status"] == "fill"


def test_two_patients_who_swap_beds_keep_their_visits_apart():
    """A17 names two patients, each with a visit and a bed of their own."""
    conversion = converted(adt("A17", pid("1^^^NORTH"), pv1("V1", f3="W^1^A"), pid("2^^^NORTH"), pv1("V2", f3="W^1^B")))
    visits = {
        one.target.keys[0].value: units(one)["subject"]["reference"].target for one in every(conversion, "Encounter")
    }

    assert visits["V1"].keys[0].value == "1"
    assert visits["V2"].keys[0].value == "2"


def test_a_diagnosis_is_told_on_the_visit_with_its_condition():
    """Encounter.diagnosis refers to the Condition; a deleted one is gone from the visit and marked."""
    parts = (segment("DG1", f1="1", f3="I10^^I10", f6="A", f15="1"), segment("DG1", f1="2", f3="E11^^I10", f21="D"))
    conversion = converted(adt("A01", pid(), pv1(), *parts))
    (diagnosis,) = units(only(conversion, "Encounter"))["diagnosis"]
    kept, deleted = every(conversion, "Condition")

    assert diagnosis["condition"]["reference"].target == kept.target
    assert diagnosis["rank"] == 1
    assert units(deleted)["verificationStatus"]["coding"][0]["code"] == "entered-in-error"
    assert "verificationStatus" not in units(kept)


def test_a_null_clears_what_the_diagnosis_said():
    """HL7 null clears, absent keeps."""
    conversion = converted(adt("A08", pid(), pv1(), segment("DG1", f1="1", f3="I10^^I10", f5='""')))

    assert units(only(conversion, "Condition"))["onset[x]"] is CLEARED


def test_several_segments_make_one_dosage():
    """RXO, RXR and TQ1 tell dose, route and time of one instruction."""
    conversion = converted(
        message(
            "ORM^O01",
            pid(),
            segment("ORC", f1="NW", f2="1"),
            segment("TQ1", f1="1", f7="20260301"),
            segment("RXO", f1="1^Drug", f2="5", f4="mg^mg^UCUM"),
            segment("RXR", f1="PO^^HL70162"),
        )
    )
    (dosage,) = units(only(conversion, "MedicationRequest"))["dosageInstruction#+dose"]

    assert dosage["doseAndRate"][0]["doseQuantity"]["code"] == "mg"
    assert dosage["route"]["coding"][0]["code"] == "PO"
    assert dosage["timing"]["repeat"]["boundsPeriod"]["start"] == "2026-03-01"
    assert every(conversion, "ServiceRequest") == []


def test_a_care_team_is_made_only_where_someone_is_in_it():
    """A patient's general practitioner is no team; another role makes one."""
    alone = converted(adt("A01", pid(), "ROL|1|AD|PP^^HL70443|9^Roe", pv1()))
    team = converted(adt("A01", pid(), "ROL|1|AD|AT^^HL70443|9^Roe", pv1()))

    assert every(alone, "CareTeam") == []
    assert units(only(team, "CareTeam"))["participant"][0]["member"]["display"] == "Roe"


def test_every_resource_of_a_patient_refers_to_the_patient():
    """What is in no compartment would be outside the patient's consents (provenance: by its targets)."""
    full = adt(
        "A01",
        pid(f18="ACC1", f21="M1"),
        "ROL|1|AD|AT^^HL70443|9^Roe",
        "NK1|1|Ash^Ida|CHD",
        pv1(f20="SELF"),
        NUT,
        "IAM|1|DA|^Aspirin",
        "DG1|1||I10^^I10",
        "PR1|1||80146002^^SCT",
        "IN1|1|PPO|INS1|Shield",
    )
    patient = only(converted(full), "Patient").target
    found = {
        one.target.resource_type: repr(patient) in repr(one.units)
        for one in converted(full).operations
        if one.target.resource_type not in ("Patient", "Practitioner", "Organization", "Location")
    }

    assert len(found) == 9
    assert all(found.values()), found


MORNING = (
    adt("A01", pid(), pv1(), NUT, "DG1|1||I10^^I10|||A", time="20260301080000", control="1"),
    adt(
        "A08",
        pid(),
        pv1(),
        NUT.replace("|SV", "|MO"),
        "DG1|1||I10^^I10||20260228|F",
        time="20260301090000",
        control="2",
    ),
    siu("S12", pid(), f11="^^^20260401090000^20260401093000").replace(b"120000||SIU", b"100000||SIU"),
    siu("S15", pid()).replace(b"120000||SIU", b"110000||SIU"),
)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_any_order_of_delivery_gives_the_same_resources(order):
    """Law Order, for allergies, diagnoses and appointments too: what was said last is in force."""
    region = Region()
    for number in order:
        region.take(MORNING[number])
    appointment = region.one("Appointment")

    assert region.one("AllergyIntolerance")["reaction"][0]["severity"] == "moderate"
    assert region.one("Condition")["onsetDateTime"] == "2026-02-28"
    assert appointment["status"] == "cancelled"
    assert appointment["start"] == "2026-04-01T09:00:00+01:00"
