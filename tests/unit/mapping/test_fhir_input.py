"""FHIR resources and Bundles give the same kind of operations as HL7 v2 messages, and lead to the same records."""

from __future__ import annotations

import pytest

from bridge.errors import Incorrect
from bridge.mapping.apply import apply
from bridge.mapping.fhir_input import convert_fhir
from bridge.mapping.operations import Delete, TargetReference
from tests.unit.mapping.messages import Region, adt, converted, pid, pv1, site

NOW = 1_772_000_000_000_000


def patient(**more):
    return {"resourceType": "Patient", "id": "p1", **more}


def conversions(document, at=None):
    return convert_fhir(document, at or site(), received_us=NOW)


def one(document):
    (conversion,) = conversions(document)
    return conversion


def units(conversion):
    return {unit.path: unit.value for unit in conversion.operations[0].units}


def test_a_patient_is_the_same_record_by_either_road():
    """A FHIR Patient with a record identifier is the Patient that HL7 v2 names; its FHIR id is a further name."""
    identifier = {"system": "urn:north:mrn", "value": "100", "type": {"coding": [{"code": "MR"}]}}
    conversion = one(patient(identifier=[{"system": "urn:nhs", "value": "9"}, identifier]))

    assert conversion.patient.keys[0] == converted(adt("A01", pid(), pv1())).patient.keys[0]
    assert conversion.patient.keys[1].value == "p1"
    assert len(conversion.patient.keys) == 2
    assert conversion.event == "fhir:Patient"


def test_references_follow_the_names():
    """A relative reference is the resource that the source names so; contained and foreign ones stay."""
    conversion = one(
        {
            "resourceType": "Observation", "id": "o1", "status": "final", "code": {"text": "x"},
            "subject": {"reference": "Patient/p1/_history/2"}, "device": {"reference": "#d"},
            "encounter": {"reference": "https://elsewhere.example/Encounter/1"},
        }
    )  # fmt: skip
    found = units(conversion)

    assert found["subject"]["reference"] == TargetReference(one(patient()).patient)
    assert conversion.patient == one(patient()).patient
    assert found["device"]["reference"] == "#d"
    assert found["encounter"]["reference"] == "https://elsewhere.example/Encounter/1"
    assert "reference-not-resolved" in {report.code for report in conversion.reports}


def test_the_entries_of_a_bundle_refer_to_each_other():
    """Full URLs resolve within the Bundle, also to resources without an id; deletions delete."""
    url = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"
    found = conversions(
        {
            "resourceType": "Bundle", "type": "transaction",
            "entry": [
                {"fullUrl": url, "resource": {"resourceType": "Patient", "name": [{"family": "Moss"}]}},
                {"resource": {"resourceType": "Encounter", "id": "e", "status": "planned", "subject": {"reference": url}}},
                {"request": {"method": "DELETE", "url": "Observation/o1"}},
                {"request": {"method": "GET", "url": "Patient/p1"}},
            ],
        }
    )  # fmt: skip

    assert [conversion.event for conversion in found] == ["fhir:Patient", "fhir:Encounter", "fhir:Observation"]
    assert units(found[1])["subject"]["reference"] == TargetReference(found[0].patient)
    assert isinstance(found[2].operations[0], Delete)


def test_a_resource_states_itself_as_a_whole():
    """What a newer statement leaves out is cleared, in every order; versions of one instant are ordered by their number."""
    old = one(patient(meta={"lastUpdated": "2026-03-01T00:00:00Z", "versionId": "9"}, gender="male", birthDate="1980"))
    new = one(patient(meta={"lastUpdated": "2026-03-01T00:00:00Z", "versionId": "10"}, name=[{"family": "Moss"}]))
    bodies = []
    for order in ((old, new), (new, old)):
        stored = None
        for conversion in order:
            stored = apply(conversion.operations[0], stored, lambda target: "x") or stored
        bodies.append(stored.body)

    assert bodies == [{"resourceType": "Patient", "name": [{"family": "Moss"}]}] * 2


def test_both_roads_change_one_element_in_time_order():
    """A later HL7 v2 message changes what FHIR said, also where the type of a choice or an extension differs."""
    region = Region()
    first = one(
        patient(
            identifier=[{"system": "urn:north:mrn", "value": "100", "type": {"coding": [{"code": "MR"}]}}],
            meta={"lastUpdated": "2026-02-01T00:00:00Z"},
            birthDate="1980-01-01",
            deceasedBoolean=False,
        )
    )  # fmt: skip
    name = region.id(first.patient)
    region.stored[name] = apply(first.operations[0], None, region.id)
    region.take(adt("A08", pid(f7="198101020304", f29="20260228"), pv1()))
    body = region.one("Patient")

    assert body["birthDate"] == "1981-01-02"
    assert body["deceasedDateTime"] == "2026-02-28"
    assert "deceasedBoolean" not in body
    assert body["identifier"] == [first.operations[0].units[0].value[0]]


def test_own_versions_are_no_content():
    """meta.versionId and lastUpdated of the source order its changes and are not kept; the rest of meta is."""
    meta = {"lastUpdated": "2026-03-01T00:00:00Z", "versionId": "9", "tag": [{"code": "t"}]}

    assert units(one(patient(meta=meta)))["meta"] == {"tag": [{"code": "t"}]}
    assert "meta" not in units(one(patient(meta={"versionId": "1"})))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"resourceType": "Person4"},
        {"resourceType": 5},
        patient(id="a b"),
        patient(name=[]),
        patient(name=[{}]),
        patient(name=None),
        patient(name=[None]),
        patient(gender=""),
        patient(name=[[{"family": "x"}]]),
        {"resourceType": "Patient", "id": "p1", "Gender": "male"},
        patient(meta="x"),
        patient(meta={"lastUpdated": "yesterday"}),
        {"resourceType": "Bundle", "type": "subscription"},
        {"resourceType": "Bundle", "type": "batch", "entry": {}},
        {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": "x"}]},
        {"resourceType": "Bundle", "type": "batch", "entry": [{"request": {"method": "DELETE", "url": "everything"}}]},
    ],
)
def test_what_is_no_resource_is_refused(document):
    """By one name, without a word of its content."""
    with pytest.raises(Incorrect) as raised:
        conversions(document)

    assert raised.value.code == "fhir-invalid"


def test_a_resource_that_nothing_names_is_refused():
    """Without id, full URL and identifier there is no name to find it by again."""
    with pytest.raises(Incorrect) as raised:
        conversions({"resourceType": "Observation", "status": "final"})

    assert raised.value.code == "fhir-without-id"


def test_primitive_extensions_of_lists_may_have_gaps():
    """A null beside an extension is FHIR's way to say which item it belongs to."""
    document = patient(
        name=[{"given": ["Ada", None], "_given": [None, {"extension": [{"url": "u", "valueString": "v"}]}]}]
    )

    assert units(one(document))["name"] == document["name"]
