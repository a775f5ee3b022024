"""Resource → index entries, patients and dates."""

from __future__ import annotations

import pytest

from bridge.fhir.dates import interval_of, parse_date
from bridge.fhir.references import Target, parse_reference, patient_of, patients_of
from bridge.fhir.search.definitions import definitions
from bridge.fhir.search.index import extract
from bridge.fhir.search.terms import normalize, term
from bridge.fhir.types import STORED_TYPES, format_instant, parse_instant

OBSERVATION = {
    "resourceType": "Observation",
    "id": "o1",
    "identifier": [{"system": "urn:lab", "value": "77"}, {"value": "bare"}],
    "status": "final",
    "category": [{"coding": [{"system": "urn:cat", "code": "laboratory"}]}],
    "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}, {"code": "HGB"}]},
    "subject": {"reference": "Patient/p1"},
    "encounter": {"reference": "Encounter/e1"},
    "effectiveDateTime": "2024-02-29T10:00:00+01:00",
}


def test_every_stored_type_has_a_definition():
    """What is stored can be searched, and nothing else is defined."""
    assert set(definitions()) == set(STORED_TYPES)


def test_tokens_are_filed_with_and_without_their_system():
    """``code``, ``system|code`` and ``system|`` each find a token."""
    terms = set(extract(OBSERVATION).terms)

    for value in ("718-7", "http://loinc.org|718-7", "http://loinc.org|", "HGB"):
        assert term("Observation", "code", value) in terms
    for value in ("77", "urn:lab|77", "bare"):
        assert term("Observation", "identifier", value) in terms
    assert term("Observation", "encounter", "Encounter/e1") in terms
    assert term("Observation", "code", "77") not in terms


def test_hot_columns_come_from_the_resource():
    """Status and date interval are those of the body, in UTC."""
    index = extract(OBSERVATION)

    assert index.status == "final"
    assert format_instant(index.date_start_us) == "2024-02-29T09:00:00.000000Z"
    assert format_instant(index.date_end_us) == "2024-02-29T09:00:00.999999Z"


def test_names_are_folded_once():
    """Case, accents and space do not matter, and a family name is filed under its own parameter only."""
    patient = {
        "resourceType": "Patient",
        "id": "p1",
        "name": [{"family": "  Müller-Lüdenscheidt ", "given": ["ÅSA", "Asa"], "prefix": ["Dr"]}],
        "birthDate": "1990-05",
    }
    index = extract(patient)

    assert set(index.strings) == {("family", "muller-ludenscheidt"), ("given", "asa"), ("name", "dr")}
    assert index.date_start_us == parse_date("1990-05-01").start_us
    assert index.date_end_us == parse_date("1990-05-31").end_us


@pytest.mark.parametrize(
    "broken",
    [
        {"identifier": "x", "code": 5, "category": [None], "effectiveDateTime": "yesterday", "status": 3},
        {"identifier": {"value": 1}, "code": {"coding": "x"}, "subject": [], "encounter": {"reference": 4}},
        {"effectivePeriod": {"start": 7}, "basedOn": [{"reference": "#contained"}], "performer": {"reference": ""}},
    ],
)
def test_odd_shapes_are_passed_over(broken):
    """A resource of the wrong shape is filed under what can be read of it; nothing is raised."""
    index = extract({"resourceType": "Observation", "id": "o", **broken})

    assert index.date_start_us is None
    assert index.status is None


@pytest.mark.parametrize(
    ("resource", "patients"),
    [
        ({"resourceType": "Patient", "id": "p"}, ("Patient/p",)),
        (OBSERVATION, ("Patient/p1",)),
        ({"resourceType": "Observation", "subject": {"reference": "Group/g"}}, ()),
        (
            {
                "resourceType": "Provenance",
                "target": [{"reference": "Patient/a"}, {"reference": "Patient/b/_history/2"}],
            },
            ("Patient/a", "Patient/b"),
        ),
        ({"resourceType": "Consent", "patient": {"reference": "Patient/c"}}, ("Patient/c",)),
        ({"resourceType": "Consent", "patient": {"reference": "https://elsewhere.example/Patient/c"}}, ()),
        ({"resourceType": "Organization", "id": "x"}, ()),
        ({"resourceType": "Condition", "subject": {"reference": "Patient/c"}}, ("Patient/c",)),
        (
            {
                "resourceType": "Appointment",
                "participant": [
                    {"actor": {"reference": "Practitioner/p"}},
                    {"actor": {"reference": "Patient/a"}},
                    {"type": []},
                    {"actor": {"reference": "Patient/b"}},
                ],
            },
            ("Patient/a", "Patient/b"),
        ),
        (
            {
                "resourceType": "Coverage",
                "beneficiary": {"reference": "Patient/a"},
                "payor": [{"reference": "Organization/o"}, {"reference": "Patient/b"}],
            },
            ("Patient/a", "Patient/b"),
        ),
    ],
)
def test_patients_are_found_by_compartment(resource, patients):
    """A resource belongs to the patients its compartment elements name."""
    assert patients_of(resource) == patients
    assert patient_of(resource) == (patients[0] if patients else None)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("Patient/p1", Target("Patient", "p1")),
        ("Patient/p1/_history/3", Target("Patient", "p1")),
        ("https://hie.example/fhir/Patient/p1", Target("Patient", "p1")),
        ("https://other.example/fhir/Patient/p1", None),
        ("urn:uuid:0", None),
        ("#x", None),
        ("p1", None),
        ("../Patient/p1", None),
    ],
)
def test_only_literal_references_of_this_server_are_targets(text, target):
    """An absolute reference counts only under the server's own base."""
    assert parse_reference(text, base="https://hie.example/fhir") == target


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2024", "2024-01-01T00:00:00.000000Z", "2024-12-31T23:59:59.999999Z"),
        ("2024-02", "2024-02-01T00:00:00.000000Z", "2024-02-29T23:59:59.999999Z"),
        ("2024-02-29", "2024-02-29T00:00:00.000000Z", "2024-02-29T23:59:59.999999Z"),
        ("2024-02-29T10:00", "2024-02-29T10:00:00.000000Z", "2024-02-29T10:00:59.999999Z"),
        ("2024-02-29T10:00:00.5Z", "2024-02-29T10:00:00.500000Z", "2024-02-29T10:00:00.599999Z"),
        ("2024-02-29T10:00:00.1234567-05:00", "2024-02-29T15:00:00.123456Z", "2024-02-29T15:00:00.123456Z"),
    ],
)
def test_a_date_stands_for_all_it_may_mean(text, start, end):
    """The interval runs from the first to the last µs of the stated precision."""
    interval = parse_date(text)

    assert (format_instant(interval.start_us), format_instant(interval.end_us)) == (start, end)


@pytest.mark.parametrize(
    "text", ["", "2024-13", "2024-02-30", "24-01-01", "2024-01-01T25:00", "0000", "2024-01-01T10:00:00+99:00"]
)
def test_no_date_is_refused(text):
    """What is not a date raises, and counts as absent in a resource."""
    with pytest.raises(ValueError):
        parse_date(text)
    assert interval_of(text) is None


def test_instants_go_both_ways():
    """Formatting and parsing an instant are inverse."""
    for time_us in (0, 1, 1_795_210_000_123_456):
        assert parse_instant(format_instant(time_us)) == time_us
    with pytest.raises(ValueError):
        parse_instant("2024-01-01T00:00:00")


def test_long_text_is_cut_and_odd_text_folded():
    """Normalized text is bounded, and holds no U+0000."""
    assert len(normalize("x" * 1000)) == 128
    assert normalize("A\0B\tC") == "a b c"
