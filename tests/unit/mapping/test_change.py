"""What a message changes in what is known, and what it leaves alone (laws *Change* and *Order*)."""

from __future__ import annotations

from itertools import permutations

import pytest

from tests.unit.mapping.messages import Region, adt, oru, pid, pv1, segment


def obr(status="F", issued="20260301110000"):
    return segment("OBR", f1="1", f2="P1", f3="F1", f4="GLU^Glucose^L", f22=issued, f25=status)


def obx(value, status, time="20260301100000", code="GLU"):
    return segment("OBX", f1="1", f2="NM", f3=f"{code}^^L", f5=value, f11=status, f14=time)


def in_every_order(*raws):
    """Regions that have taken the messages in each order."""
    return [Region().take(*order) for order in permutations(raws)]


def same(regions, resource_type):
    """The one body that all regions have."""
    bodies = [region.one(resource_type) for region in regions]
    assert all(body == bodies[0] for body in bodies[1:])
    return bodies[0]


def test_an_absent_field_keeps_and_a_null_field_clears():
    """A08 with fewer fields keeps the rest; two double quotes clear what they stand for, and only that."""
    full = adt("A04", pid(f5="Moss^Ada~Moss^Addie^^^^^N", f7="19800102", f8="F", f13="01234", f14="05678"), pv1())
    thin = adt("A08", pid(f5="Field^Ada", f13='""'), pv1(), time="20260302120000", control="2")

    patient = same(in_every_order(full, thin), "Patient")

    assert [name["family"] for name in patient["name"]] == ["Field"]
    assert patient["birthDate"] == "1980-01-02"
    assert patient["gender"] == "female"
    assert [(one["value"], one["use"]) for one in patient["telecom"]] == [("05678", "work")]


def test_a_late_message_fills_what_a_newer_one_left_open():
    """A late A01 fills what a newer A08 left open, and replaces nothing that the A08 said."""
    newer = adt("A08", pid(f5="Field^Ada"), pv1(f10="CAR"), time="20260302120000", control="2")
    late = adt("A01", pid(f5="Moss^Ada", f8="F"), pv1(f10="MED", f44="20260301"), time="20260301120000", control="1")
    region = Region().take(newer, late)

    assert region.one("Patient")["name"][0]["family"] == "Field"
    assert region.one("Patient")["gender"] == "female"
    assert region.one("Encounter")["serviceType"] == Region().take(newer).one("Encounter")["serviceType"]
    assert region.one("Encounter")["period"] == {"start": "2026-03-01"}
    assert region.one("Encounter")["status"] == "in-progress"


def test_an_update_after_the_discharge_does_not_reopen():
    """A08 after A03 leaves the stay finished, in every order of arrival."""
    admit = adt("A01", pid(), pv1(f44="202603011100"), time="20260301110000", control="1")
    discharge = adt("A03", pid(), pv1(f45="202603031100"), time="20260303110000", control="2")
    update = adt("A08", pid(), pv1(), time="20260304110000", control="3")

    encounter = same(in_every_order(admit, discharge, update), "Encounter")

    assert encounter["status"] == "finished"
    assert encounter["period"] == {"start": "2026-03-01T11:00:00+00:00", "end": "2026-03-03T11:00:00+00:00"}


def test_a_cancelled_discharge_reopens_and_clears_the_end():
    """A13 clears the end of the stay and puts it back in progress; a later discharge ends it again."""
    discharge = adt("A03", pid(), pv1(f45="202603031100"), time="20260303110000", control="2")
    cancel = adt("A13", pid(), pv1(), time="20260303120000", control="3")
    again = adt("A03", pid(), pv1(f45="202603051100"), time="20260305110000", control="4")

    reopened = same(in_every_order(discharge, cancel), "Encounter")
    ended = same(in_every_order(discharge, cancel, again), "Encounter")

    assert reopened["status"] == "in-progress"
    assert "period" not in reopened
    assert ended["status"] == "finished"
    assert ended["period"] == {"end": "2026-03-05T11:00:00+00:00"}


def test_a_cancelled_admission_is_cancelled_until_a_later_one():
    """A11 cancels what was admitted before it, in every order; a later A01 under the same number counts again."""
    admit = adt("A01", pid(), pv1(), time="20260301110000", control="1")
    cancel = adt("A11", pid(), pv1(), time="20260301120000", control="2")
    again = adt("A01", pid(), pv1(), time="20260301130000", control="3")

    assert same(in_every_order(admit, cancel), "Encounter")["status"] == "cancelled"
    assert same(in_every_order(admit, cancel, again), "Encounter")["status"] == "in-progress"


def test_a_discharge_without_its_time_takes_the_events():
    """Where PV1-45 does not say when the discharge was, EVN-6 does."""
    raw = adt("A03", pid(), pv1()).replace(b"EVN|A03|20260301120000", b"EVN|A03|20260301120000||||202603011145")

    assert Region().take(raw).one("Encounter")["period"] == {"end": "2026-03-01T11:45:00+00:00"}


def test_a_result_changes_no_demographics():
    """An ORU with a thin PID changes nothing of a patient that an ADT has told, whether it comes before or after."""
    admission = adt("A01", pid(f5="Moss^Ada", f8="F", f13="01234"), pv1(), control="1")
    result = oru(obr(), obx("5.4", "F"), patient=pid(f5="MOSS"), time="20260305120000", control="9")

    patient = same(in_every_order(admission, result), "Patient")

    assert patient == Region().take(admission).one("Patient")


def test_the_earliest_result_makes_an_unknown_patient():
    """While only results are known, the earliest one's content is the patient's, whatever the order."""
    first = oru(obr(), obx("5.4", "F"), patient=pid(f5="Moss^Ada"), time="20260301120000", control="1")
    second = oru(obr(), obx("5.5", "F"), patient=pid(f5="Moos^Ada", f8="F"), time="20260302120000", control="2")

    patient = same(in_every_order(first, second), "Patient")

    assert patient["name"][0]["family"] == "Moss"
    assert "gender" not in patient


def test_preliminary_final_and_corrected_are_one_observation():
    """P, F and C of one result are one Observation with the corrected value, in every order, at one observed time."""
    preliminary = oru(obr("P"), obx("5.0", "P"), time="20260301110000", control="1")
    final = oru(obr(), obx("5.40", "F"), time="20260301120000", control="2")
    corrected = oru(obr("C"), obx("5.45", "C"), time="20260301130000", control="3")

    regions = in_every_order(preliminary, final, corrected)
    observation = same(regions, "Observation")

    assert observation["status"] == "corrected"
    assert str(observation["valueQuantity"]["value"]) == "5.45"
    assert same(in_every_order(preliminary, final), "Observation")["status"] == "final"


def test_a_later_preliminary_result_never_replaces_a_final_one():
    """Even a preliminary result with a later time stays behind a final one."""
    final = oru(obr(), obx("5.40", "F"), time="20260301120000", control="1")
    late = oru(obr("P", "20260309110000"), obx("6", "P", "20260309"), control="2")

    observation = same(in_every_order(final, late), "Observation")

    assert observation["status"] == "final"
    assert str(observation["valueQuantity"]["value"]) == "5.40"


def test_next_of_kin_are_replaced_as_a_group():
    """A message with NK1 replaces the site's contacts; one without keeps them; all null removes them."""
    kin = adt(
        "A04", pid(), segment("NK1", f1="1", f2="Moss^Bo"), segment("NK1", f1="2", f2="Moss^Cy"), pv1(), control="1"
    )
    other = adt("A08", pid(), segment("NK1", f1="1", f2="Moss^Di"), pv1(), time="20260302120000", control="2")
    none = adt("A08", pid(), pv1(), time="20260303120000", control="3")
    null = adt("A08", pid(), segment("NK1", f1="1", f2='""'), pv1(), time="20260304120000", control="4")

    assert len(Region().take(kin).one("Patient")["contact"]) == 2
    contacts = same(in_every_order(kin, other, none), "Patient")["contact"]
    assert [contact["name"]["given"] for contact in contacts] == [["Di"]]
    assert "contact" not in same(in_every_order(kin, null), "Patient")


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("20260329013000", "2026-03-29T02:30:00+01:00"),  # the clocks leap over it
        ("20261025013000", "2026-10-25T01:30:00+01:00"),  # they pass it twice: the first passage
        ("20260701120000", "2026-07-01T12:00:00+01:00"),
        ("20260701120000-0500", "2026-07-01T12:00:00-05:00"),
    ],
)
def test_times_take_the_sites_zone(local, expected):
    """A time without offset is the site's, also where daylight saving begins and ends; a written offset stays."""
    region = Region().take(adt("A01", pid(), pv1(f44=local)))

    assert region.one("Encounter")["period"]["start"] == expected


def test_two_messages_of_one_time_have_an_order_too():
    """Messages of the same time are ordered by their sequence number, whatever the order of arrival."""
    first = adt("A08", pid(f5="Moss^Ada"), pv1(), control="9", sequence="1")
    second = adt("A08", pid(f5="Field^Ada"), pv1(), control="8", sequence="2")

    assert same(in_every_order(first, second), "Patient")["name"][0]["family"] == "Field"


def test_a_message_without_a_time_only_fills():
    """What tells no time ranks behind what does, and still fills what is open."""
    timeless = adt("A08", pid(f5="Old^Ada", f8="F"), pv1(), time="", evn=" ", control="1")
    timed = adt("A08", pid(f5="Moss^Ada"), pv1(), control="2")

    patient = same(in_every_order(timeless, timed), "Patient")

    assert patient["name"][0]["family"] == "Moss"
    assert patient["gender"] == "female"
