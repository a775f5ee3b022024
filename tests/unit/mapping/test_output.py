"""What a conversion tells besides its operations: the ledger, explanations, Bundles, reports, restrictions."""

from __future__ import annotations

import pytest

from bridge.fhir.json import dumps
from bridge.mapping.apply import apply, with_merges
from bridge.mapping.bundle import explain_lines, to_bundle
from bridge.mapping.operations import Fate, Merge
from tests.unit.mapping.messages import Region, adt, converted, every, only, oru, pid, pv1, segment

SECRET = "Zyxwv"


def fates(conversion):
    return {entry.place: (entry.fate, entry.rule) for entry in conversion.ledger}


def test_each_valued_element_has_a_fate():
    """Mapped and dropped name their rule; a component that no rule reads is unmapped even in a mapped field."""
    ledger = fates(converted(adt("A01", pid(f1="1", f5="Moss^Ada^^^^^L^Q", f10="W", f22="E"), pv1()), explain=True))

    assert ledger["PID[1]-5[1].1"] == (Fate.MAPPED, "segments/PID.yaml#name")
    assert ledger["PID[1]-5[1].8"] == (Fate.UNMAPPED, "")
    assert ledger["PID[1]-10[1].1"] == (Fate.UNMAPPED, "")
    assert ledger["PID[1]-1[1].1"] == (Fate.DROPPED, "segments/PID.yaml#set-id")
    assert ledger["MSH[1]-2[1].1"][0] is Fate.DROPPED


def test_what_a_false_condition_leaves_out_is_unmapped():
    """The ledger tells what happened in this message, not what a rule could have read."""
    with_orc = oru(segment("ORC", f1="NW", f12="D1^Doe"), segment("OBR", f3="F1", f4="C", f16="D2^Roe"), control="1")

    assert fates(converted(with_orc, explain=True))["OBR[1]-16[1].1"][0] is Fate.UNMAPPED
    without = oru(segment("OBR", f3="F1", f4="C", f16="D2^Roe"), control="1")
    assert fates(converted(without, explain=True))["OBR[1]-16[1].1"][0] is Fate.MAPPED


def test_unknown_segments_and_unreadable_values_are_unmapped():
    """Z-segments, types beyond ours, and texts that are no time or number are counted and reported."""
    conversion = converted(adt("A01", pid(f7="soon"), pv1(f44="now"), "ZZZ|1|2", "GT1|1||Payer"), explain=True)
    ledger = fates(conversion)

    assert ledger["PID[1]-7[1].1"][0] is Fate.UNMAPPED
    assert ledger["ZZZ[1]-2[1].1"][0] is Fate.UNMAPPED
    assert ledger["GT1[1]-3[1].1"][0] is Fate.UNMAPPED
    assert {"time-invalid", "segment-unknown"} <= {report.code for report in conversion.reports}


def test_explanations_name_rules_and_places_and_no_values():
    """Each output element with its rule, each input element with its fate, and not a word of the content."""
    raw = adt("A01", pid(f5=f"{SECRET}^{SECRET}", f8=SECRET), pv1(f7=f"{SECRET}^{SECRET}"), f"NK1|1|{SECRET}")
    lines = list(explain_lines(converted(raw, explain=True)))

    assert "Patient[1].name  <-  segments/PID.yaml#name" in lines
    assert "Patient[1].contact  <-  NK1.Contact" in lines
    assert "Practitioner[1].name  <-  datatypes/XCN.yaml#family" in lines
    assert "PID[1]-5[1].1  mapped  ->  segments/PID.yaml#name" in lines
    assert lines[-1].startswith("elements: ")
    assert not any(SECRET in line for line in lines)


def test_reports_and_errors_hold_no_values():
    """What is told to the sender is codes and places."""
    conversion = converted(adt("A01", pid(f"1^^^{SECRET}~100^^^NORTH", f8=SECRET, f16=f"{SECRET}^^{SECRET}"), pv1()))

    assert conversion.reports
    assert not any(SECRET in f"{report.code} {report.place}" for report in conversion.reports)


def test_a_bundle_holds_everything_and_its_references_resolve():
    """The same message always gives the same Bundle, whose references to its entries are their full URLs."""
    raw = oru(
        segment("OBR", f2="P1", f3="F1", f4="C", f16="D2^Roe"),
        segment("OBX", f2="NM", f3="C", f5="1.50", f11="F"),
        pv1(),
    )
    bundle = to_bundle(converted(raw))
    urls = {entry["fullUrl"] for entry in bundle["entry"]}

    def references(value):
        if isinstance(value, dict):
            yield from ([value["reference"]] if "reference" in value else [])
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    assert bundle == to_bundle(converted(raw))
    assert {entry["resource"]["resourceType"] for entry in bundle["entry"]} >= {
        "Patient",
        "Observation",
        "DiagnosticReport",
    }
    assert set(references(bundle)) <= urls
    assert b'"value":1.50' in dumps(bundle)


def test_a_bundle_shows_a_merge():
    """The survivor replaces the subsumed record, which is no longer active."""
    bundle = to_bundle(converted(adt("A40", pid("200^^^NORTH^MR"), "MRG|100^^^NORTH^MR")))
    patients = [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == "Patient"]

    assert [patient.get("active", True) for patient in patients] == [True, False]
    assert [patient["link"][0]["type"] for patient in patients] == ["replaces", "replaced-by"]


def test_merges_survive_later_changes_in_every_order():
    """An ADT about a subsumed record after the merge changes its content, and the link stays."""
    region = Region().take(adt("A01", pid(f5="Moss^Ada"), pv1()))
    name = next(iter(name for name in region.stored if name.startswith("patient")))
    first = region.stored[name]
    marked = first._replace(body=with_merges(first.body, replaced_by=["9"]))
    later = only(converted(adt("A08", pid(f5="Field^Ada"), pv1(), time="20260302120000")), "Patient")

    after = apply(later, marked, region.id)
    directly = apply(later, first, region.id)

    assert after.body["name"][0]["family"] == "Field"
    assert with_merges(after.body, replaced_by=["9"]) == with_merges(directly.body, replaced_by=["9"])
    assert with_merges(after.body, replaced_by=["9"])["active"] is False


@pytest.mark.parametrize("line", ["CON|1|R", "ARV|1|A"])
def test_consent_content_restricts_its_patient(line):
    """A valued CON or ARV restricts, wherever it stands, until it is mapped; an empty one does not."""
    assert converted(adt("A08", pid(), pv1(), line)).restricts_patient
    assert converted(oru(segment("OBR", f3="F1", f4="C"), line)).restricts_patient
    assert not converted(adt("A08", pid(), pv1(), line[:3] + "|||")).restricts_patient


def test_a_second_patient_segment_does_not_change_the_first():
    """Two PIDs in one ADT: the second is reported and not taken for the first one's data."""
    conversion = converted(adt("A01", pid(f5="Moss^Ada"), pid("200^^^NORTH", f8="M"), pv1()))
    units = {unit.path for unit in only(conversion, "Patient").units}

    assert "gender" not in units
    assert "segment-out-of-place" in {report.code for report in conversion.reports}


def test_two_patients_of_one_result_message_stay_apart():
    """Each PATIENT_RESULT is of its own patient."""
    order = segment("OBR", f3="F1", f4="C")
    other = segment("OBR", f3="F2", f4="C")
    conversion = converted(oru(order, pid("200^^^NORTH"), other))
    subjects = [
        next(unit.value["reference"].target for unit in report.units if unit.path == "subject")
        for report in every(conversion, "DiagnosticReport")
    ]

    assert [subject.keys[0].value for subject in subjects] == ["100", "200"]


def test_patients_come_before_what_refers_to_them():
    """The order of operations lets a recorder mint ids as it goes."""
    conversion = converted(adt("A01", pid(), pv1()))
    kinds = [one.target.resource_type for one in conversion.operations if not isinstance(one, Merge)]

    assert kinds.index("Patient") < kinds.index("Encounter") < kinds.index("Provenance")


def test_delimiters_of_its_own_and_escapes_are_understood():
    """A sender's own delimiters and escapes give the same resources."""
    plain = adt("A01", pid(f5="O\\X26\\Hara^Ada \\F\\ Bo"), pv1())
    own = plain.replace(b"\\", b"@").replace(b"^", b"%").replace(b"~", b"*").replace(b"&", b"$")
    patient = Region().take(plain).one("Patient")

    assert patient["name"] == [{"family": "O&Hara", "given": ["Ada | Bo"]}]
    assert Region().take(own).one("Patient") == patient
