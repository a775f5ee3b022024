"""Which identifiers name which resource (law *Identity*)."""

from __future__ import annotations

import pytest

from bridge.config.site import Authority, Sender
from bridge.errors import Forbidden, Incorrect
from bridge.mapping.operations import Merge
from tests.unit.mapping.messages import Region, adt, converted, every, only, oru, pid, pv1, segment, site

OBX = segment("OBX", f1="1", f2="NM", f3="GLU^^L", f5="5.4", f11="F")


def key(raw, at=None):
    """The primary name of the message's patient."""
    return converted(raw, at).patient.keys[0]


def obr(placer="", filler="", code="GLU", number="1"):
    return segment("OBR", f1=number, f2=placer, f3=filler, f4=f"{code}^^L", f25="F")


def test_the_order_of_identifiers_does_not_matter():
    """PID-3 reordered names the same patient, by the site's first record authority."""
    one = adt("A01", pid("7^^^REGION^MR~100^^^NORTH^MR~9^^^NHS"), pv1())
    other = adt("A01", pid("9^^^NHS~100^^^NORTH^MR~7^^^REGION^MR"), pv1())

    assert converted(one).patient == converted(other).patient
    assert [name.namespace for name in converted(one).patient.keys] == ["urn:north:mrn", "urn:region"]


def test_evidence_never_names_a_known_patient():
    """Identifiers for matching only are in the resource, and in no name, unless there is nothing else."""
    assert all(
        name.namespace != "urn:nhs" for name in converted(adt("A01", pid("100^^^NORTH~9^^^NHS"), pv1())).patient.keys
    )

    alone = key(adt("A01", pid("9^^^NHS"), pv1()))
    assert alone.namespace == "urn:hie-bridge:site:north"
    assert alone != key(adt("A01", pid("9^^^NHS"), pv1()), site("south"))


def test_an_empty_authority_is_the_sites_own():
    """The same number without authority at two sites is two patients; with the site's authority written out, one."""
    bare = adt("A01", pid("100"), pv1())

    assert key(bare) != key(bare, site("south"))
    assert key(bare) == key(adt("A01", pid("100^^^NORTH"), pv1()))
    assert Region().take(bare).one("Patient")["identifier"] == [{"value": "100", "system": "urn:north:mrn"}]


def test_sites_that_share_an_authority_share_its_patients():
    """The same number of one authority is one patient at both sites."""
    raw = adt("A01", pid("7^^^REGION^MR"), pv1())

    assert key(raw) == key(raw, site("south"))


def test_an_unlisted_authority_is_kept_and_names_nothing():
    """Its identifiers stand in the resource and are reported; alone they are refused."""
    conversion = converted(adt("A01", pid("100^^^NORTH~5^^^ELSEWHERE"), pv1()))

    assert len(conversion.patient.keys) == 1
    assert {"value": "5", "assigner": {"display": "ELSEWHERE"}} in only(conversion, "Patient").units[0].value
    assert "authority-unlisted" in {report.code for report in conversion.reports}
    with pytest.raises(Incorrect) as raised:
        converted(adt("A08", pid("5^^^ELSEWHERE"), pv1()))
    assert raised.value.code == "foreign-authority"


def test_an_authority_issues_only_its_types():
    """An identifier of another type by a listed authority is like one of an unlisted authority."""
    narrow = site(authorities=(Authority(name="NORTH", system="urn:n", use="record", types=("MR",)),))

    assert key(adt("A01", pid("1^^^NORTH"), pv1()), narrow).identifier_type == "MR"
    with pytest.raises(Incorrect) as raised:
        converted(adt("A01", pid("1^^^NORTH^SS"), pv1()), narrow)
    assert raised.value.code == "foreign-authority"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (adt("A01", pid(""), pv1()), "patient-without-identifier"),
        (adt("A01", pid('""'), pv1()), "patient-without-identifier"),
        (adt("A01", pid("^^^NORTH"), pv1()), "patient-without-identifier"),
        (adt("A01"), "patient-without-identifier"),
        (adt("A99", pid(), pv1()), "unknown-event"),
        (adt("A40", pid(), "MRG|100^^^NORTH^MR"), "merge-with-itself"),
        (adt("A40", pid(), "MRG|5^^^ELSEWHERE"), "foreign-authority"),
        (adt("A40", pid(), 'MRG|""'), "merge-without-identifier"),
        (adt("A40", pid()), "merge-without-identifier"),
    ],
)
def test_what_cannot_be_named_is_refused(raw, code):
    """A message that does not say whom it is about is refused by name, without a word from its content."""
    with pytest.raises(Incorrect) as raised:
        converted(raw)

    assert raised.value.code == code
    assert "ELSEWHERE" not in str(raised.value)


def test_only_allowed_senders_are_heard():
    """MSH-3 and MSH-4 are checked where the site's file names them."""
    raw = adt("A01", pid(), pv1())

    assert converted(raw, site(sender=Sender(applications=("APP",), facilities=("FAC",))))
    with pytest.raises(Forbidden) as raised:
        converted(raw, site(sender=Sender(applications=("OTHER",))))
    assert raised.value.code == "sender-not-allowed"


def test_a_merge_names_survivor_and_subsumed():
    """A40: PID survives, MRG is subsumed; the subsumed record exists from then on, and an ADT about it still counts."""
    conversion = converted(adt("A40", pid("200^^^NORTH^MR"), "MRG|100^^^NORTH^MR||||||Moss^Ada"))
    merge = next(one for one in conversion.operations if isinstance(one, Merge))

    assert merge.survivor == conversion.patient
    assert merge.subsumed.keys[0].value == "100"
    assert [one.target for one in every(conversion, "Patient")] == [merge.survivor, merge.subsumed]


def test_a_visit_is_named_by_its_number_within_the_site():
    """PV1-19 names the visit; without it patient and admission time do; without both there is none, and it is reported."""
    numbered = adt("A01", pid(), pv1("V1", f44="20260301"))
    elsewhere = adt("A01", pid("7^^^REGION"), pv1("V1"))

    assert only(converted(numbered), "Encounter").target == only(converted(elsewhere), "Encounter").target
    assert only(converted(numbered), "Encounter").target != only(converted(numbered, site("south")), "Encounter").target
    by_time = only(converted(adt("A01", pid(), pv1("", f44="202603010000"))), "Encounter").target
    assert by_time == only(converted(adt("A08", pid(), pv1("", f44="20260301000000"))), "Encounter").target
    nameless = converted(adt("A01", pid(), pv1("")))
    assert every(nameless, "Encounter") == []
    assert "encounter-without-identity" in {report.code for report in nameless.reports}


def test_placer_then_placer_and_filler_is_one_order():
    """An order that names only the placer number, followed by a result that names both, becomes one ServiceRequest."""
    region = Region().take(
        oru(obr("P1"), OBX, control="1"), oru(obr("P1", "F1"), OBX, control="2"), oru(obr("", "F1"), OBX)
    )

    assert [one["value"] for one in region.one("ServiceRequest")["identifier"]] == ["F1", "P1"]


def test_two_reports_under_one_placer_number_stay_two():
    """Two OBRs with one placer number are two reports, by their filler numbers or by their codes."""
    by_filler = converted(oru(obr("P1", "F1"), OBX, obr("P1", "F2", number="2"), OBX))
    by_code = converted(oru(obr("P1", code="GLU"), OBX, obr("P1", code="HBA", number="2"), OBX))

    assert len({one.target for one in every(by_filler, "DiagnosticReport")}) == 2
    assert len({one.target for one in every(by_code, "DiagnosticReport")}) == 2
    assert len({one.target for one in every(by_code, "Observation")}) == 2


def test_a_report_without_numbers_is_named_by_its_message():
    """Without placer and filler number the message and the set id name a report, which is reported."""
    conversion = converted(oru(obr(), OBX, obr(number="2"), OBX, control="77"))

    assert len({one.target for one in every(conversion, "DiagnosticReport")}) == 2
    assert "report-without-order-number" in {report.code for report in conversion.reports}


def test_equal_observations_of_one_report_are_told_apart_by_their_order():
    """The same code and sub-id twice are two observations; with sub-ids they keep their names when reordered."""
    twice = converted(oru(obr("", "F1"), OBX, OBX))
    a, b = OBX.replace("|5.4", "1|5.4"), OBX.replace("|5.4", "2|5.4")

    assert len({one.target for one in every(twice, "Observation")}) == 2
    ordered = {one.target for one in every(converted(oru(obr("", "F1"), a, b)), "Observation")}
    assert ordered == {one.target for one in every(converted(oru(obr("", "F1"), b, a)), "Observation")}
    assert len(ordered) == 2


def test_names_with_delimiters_in_them_stay_apart():
    """A number that contains the separator of joined names is not another number with a shorter one."""
    one = converted(oru(obr("", "A|B".replace("|", "\\F\\"), code="C"), OBX))
    other = converted(oru(obr("", "A", code="B\\F\\C"), OBX))

    assert only(one, "DiagnosticReport").target != only(other, "DiagnosticReport").target


def test_people_and_places_are_the_sites_own():
    """A practitioner is id and authority, a place its whole path; a name alone makes none and shows as text."""
    conversion = converted(adt("A01", pid(), pv1(f3="W1^R1^B1^HOSP", f7="C1^Woolf^Kay^^^Dr^^^DR~^Nameless^Nel")))

    assert [one.target.keys[0].value for one in every(conversion, "Practitioner")] == ["C1"]
    assert len(every(conversion, "Location")) == 4
    shown = [
        part["individual"].get("display")
        for part in Region().take(adt("A01", pid(), pv1(f7="^Nameless^Nel"))).one("Encounter")["participant"]
    ]
    assert shown == ["Nel Nameless"]


def test_equal_people_of_one_day_change_nothing():
    """The second message of a day that names a practitioner in the same words leaves its stored state as it is."""
    region = Region().take(adt("A01", pid(), pv1(f7="C1^Woolf^Kay")))
    before = dict(region.stored)
    region.take(adt("A08", pid(), pv1(f7="C1^Woolf^Kay"), time="20260301180000", control="2"))

    unchanged = [name for name in before if name.startswith(("practitioner", "organization"))]
    assert unchanged
    assert all(region.stored[name] is before[name] for name in unchanged)


def test_observations_outside_reports_have_names_too():
    """OBX of an ADT is named by visit (or patient), code and time."""
    weight = segment("OBX", f1="1", f2="NM", f3="WGT^^L", f5="70", f11="F", f14="20260301")
    one, other = adt("A01", pid(), pv1(), weight, control="1"), adt("A08", pid(), pv1(), weight, control="2")

    assert len(Region().take(one, other).all("Observation")) == 1


def test_the_message_and_its_event_have_a_provenance_each():
    """They are named by the message, point to what it is about, and say who and when; a repeated message adds none."""
    raw = adt("A01", pid(), pv1(), evn="20260301115900")
    found = Region().take(raw, raw).all("Provenance")

    assert {one["recorded"] for one in found} == {"2026-03-01T12:00:00+00:00", "2026-03-01T11:59:00+00:00"}
    for one in found:
        assert {target["reference"].split("/")[0] for target in one["target"]} == {"Patient", "Encounter"}
        assert one["agent"][0]["who"]["display"] == "FAC"
