"""Search requests: parsed to a tree, refused by name, and true of a body or not."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BridgeError, Incorrect, Unsupported
from bridge.fhir.references import Target
from bridge.fhir.search.match import matches
from bridge.fhir.search.query import (
    IdClause,
    PatientClause,
    ReferenceClause,
    Sort,
    SortBy,
    Token,
    TokenClause,
    parse_query,
)

BASE = "https://hie.example/fhir"
PATIENT = {
    "resourceType": "Patient",
    "id": "p1",
    "meta": {"lastUpdated": "2026-01-02T03:04:05.000006Z"},
    "identifier": [{"system": "urn:mrn", "value": "A,1"}, {"value": "bare"}],
    "name": [{"family": "Ångström", "given": ["Eva", "Maria"], "text": "Eva M. Ångström"}],
    "gender": "female",
    "birthDate": "1980-06-15",
    "telecom": [{"system": "phone", "value": "555"}, {"system": "email", "value": "e@x.example"}],
}
STAY = {
    "resourceType": "Encounter",
    "id": "e1",
    "status": "in-progress",
    "class": {"system": "urn:c", "code": "IMP"},
    "subject": {"reference": "Patient/p1"},
    "period": {"start": "2024-03-01T10:00:00Z"},
    "serviceProvider": {"reference": "Organization/o1"},
}


def search(kind, *pairs, **options):
    return parse_query(kind, pairs, base=BASE, **options)


@pytest.mark.parametrize(
    ("name", "value", "tokens"),
    [
        ("identifier", "1", (Token(None, "1"),)),
        ("identifier", "urn:a|1", (Token("urn:a", "1"),)),
        ("identifier", "|1", (Token("", "1"),)),
        ("identifier", "urn:a|", (Token("urn:a", None),)),
        ("identifier", "urn:a|x\\|y,z", (Token("urn:a", "x|y"), Token(None, "z"))),
        ("identifier", "a\\,b", (Token(None, "a,b"),)),
    ],
)
def test_tokens_take_all_four_forms(name, value, tokens):
    """``code``, ``system|code``, ``|code`` and ``system|``, with escapes and alternatives."""
    assert search("Patient", (name, value)).clauses == (TokenClause(name, tokens),)


@pytest.mark.parametrize("value", ["p1", "Patient/p1", f"{BASE}/Patient/p1"])
@pytest.mark.parametrize("name", ["patient", "subject", "subject:Patient"])
def test_a_patient_is_named_in_any_form(name, value):
    """A bare id, a relative and an absolute reference of this server mean the same patient."""
    clause = PatientClause(name.partition(":")[0], ("p1",))

    assert search("Encounter", (name, value)).clauses == (clause,)


def test_expansion_is_asked_for_by_modifier_or_profile():
    """Nothing but ``:mdm`` or the client's profile expands over the person."""
    assert search("Encounter", ("patient:mdm", "p1")).patient_clauses[0].expand
    assert search("Encounter", ("patient", "p1"), expand_person=True).patient_clauses[0].expand
    assert not search("Encounter", ("patient", "p1")).patient_clauses[0].expand


def test_a_subject_that_is_no_patient_matches_nothing():
    """Groups, devices and other servers' patients are not mistaken for a patient here."""
    query = search("Encounter", ("subject", "Group/g,https://other.example/Patient/p1"))

    assert query.clauses == (PatientClause("subject", ()),)
    assert not matches(query, STAY, [frozenset()])


def test_bare_ids_of_references_take_the_types_they_may_name():
    """``service-provider=o1`` means Organization/o1."""
    (clause,) = search("Encounter", ("service-provider", "o1")).clauses

    assert clause == ReferenceClause("service-provider", (Target("Organization", "o1"),))


def test_result_parameters_are_no_criteria():
    """Count, sort and format shape the answer; the count has a ceiling."""
    query = search("Observation", ("_count", "100000"), ("_sort", "-date"), ("_format", "json"), ("_id", "a,b"))

    assert query.count == 200
    assert query.sort == Sort(SortBy.DATE, descending=True)
    assert query.clauses == (IdClause(("a", "b")),)
    assert search("Patient", ("_sort", "_lastUpdated")).sort == Sort(SortBy.LAST_UPDATED, descending=False)


@pytest.mark.parametrize("value", ["-1", "ten", "1.5", "٣", "9" * 40, " 1"])
def test_a_bad_count_is_refused(value):
    """``_count`` is a whole number, whatever the handling."""
    with pytest.raises(Incorrect) as caught:
        search("Patient", ("_count", value))

    assert caught.value.code == "search-count-invalid"


def test_unknown_parameters_follow_the_handling():
    """Strict refuses; lenient ignores, tells, and leaves them out of the self link."""
    pairs = [("gender", "female"), ("shoe-size", "42"), ("patient.name", "x"), ("_include", "*")]
    query = parse_query("Patient", pairs)

    assert query.parameters == (("gender", "female"),)
    assert query.ignored == ("shoe-size", "patient.name", "_include")
    with pytest.raises(Incorrect) as caught:
        parse_query("Patient", pairs, strict=True)
    assert caught.value.code == "search-parameter-unknown"
    assert "42" not in str(caught.value)
    assert "shoe" not in str(caught.value)


def test_sorting_by_what_is_not_kept_follows_the_handling():
    """``_sort`` on another element is ignored or refused like an unknown parameter."""
    assert search("Patient", ("_sort", "family")).ignored == ("_sort",)
    with pytest.raises(Incorrect) as caught:
        search("Patient", ("_sort", "family"), strict=True)
    assert caught.value.code == "search-sort-invalid"


@pytest.mark.parametrize(
    "pair",
    [
        ("gender:not", "male"),
        ("family:phonetic", "x"),
        ("birthdate:missing", "true"),
        ("_id:below", "x"),
        ("subject:Group", "g"),
    ],
)
def test_modifiers_that_are_not_supported_are_refused(pair):
    """search.html#modifiers: a server rejects them, whatever the handling."""
    kind = "Encounter" if pair[0].startswith("subject") else "Patient"
    with pytest.raises(Unsupported) as caught:
        search(kind, pair)

    assert caught.value.code == "search-modifier-unsupported"


@pytest.mark.parametrize(
    "pair",
    [
        ("birthdate", "yesterday"),
        ("birthdate", "ap1980"),
        ("_id", "a/b"),
        ("_lastUpdated", "gt"),
        ("identifier", "|"),
        ("family", "a\0b"),
    ],
)
def test_values_of_the_wrong_form_are_refused_without_being_quoted(pair):
    """The error names the rule, never the value."""
    with pytest.raises(Incorrect) as caught:
        search("Patient", pair)

    assert caught.value.code == "search-value-invalid"
    assert pair[1] not in str(caught.value)


def test_an_excess_of_parameters_or_values_is_refused():
    """A search is bounded before it reaches the store."""
    for pairs in ([("gender", "x")] * 51, [("_id", ",".join(["a"] * 201))]):
        with pytest.raises(Incorrect) as caught:
            search("Patient", *pairs)
        assert caught.value.code == "search-too-complex"


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (("identifier", "urn:mrn|A\\,1"), True),
        (("identifier", "A\\,1"), True),
        (("identifier", "|bare"), True),
        (("identifier", "|A\\,1"), False),
        (("identifier", "urn:mrn|"), True),
        (("identifier", "urn:other|A\\,1"), False),
        (("family", "angs"), True),
        (("family:exact", "Ångström"), True),
        (("family:exact", "angstrom"), False),
        (("family:contains", "STROM"), True),
        (("given", "maria"), True),
        (("given", "ria"), False),
        (("name", "eva m"), True),
        (("name", "angstr"), True),
        (("gender", "female"), True),
        (("gender", "http://hl7.org/fhir/administrative-gender|female"), True),
        (("gender", "male"), False),
        (("phone", "555"), True),
        (("email", "555"), False),
        (("birthdate", "1980"), True),
        (("birthdate", "1980-06-15"), True),
        (("birthdate", "1980-06-15T10:00"), False),
        (("birthdate", "ne1980-06-15"), False),
        (("birthdate", "lt1980-06-15"), False),
        (("birthdate", "le1980-06-15"), True),
        (("birthdate", "ge1980-06-15"), True),
        (("birthdate", "sa1980-06-14"), True),
        (("birthdate", "eb1980-06-16"), True),
        (("birthdate", "gt1980,lt1970"), False),
        (("birthdate", "gt1970,lt1960"), True),
        (("_id", "p1"), True),
        (("_id", "p2"), False),
        (("_lastUpdated", "gt2026-01-02T03:04:05.000005Z"), True),
        (("_lastUpdated", "gt2026-01-02T03:04:05.000006Z"), False),
        (("_lastUpdated", "2026-01"), True),
    ],
)
def test_a_body_answers_a_query_or_not(pair, expected):
    """The body decides: prefixes on intervals, folded texts, tokens with their systems."""
    assert matches(search("Patient", pair), PATIENT) is expected


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (("date", "ge2024-03-02"), True),
        (("date", "2024-03-01"), False),
        (("date", "lt2024-03-01"), False),
        (("date", "sa2024-02-29"), True),
        (("date", "eb2030-01-01"), False),
        (("status", "in-progress"), True),
        (("status", "finished"), False),
        (("class", "urn:c|IMP"), True),
        (("service-provider", "Organization/o1"), True),
        (("service-provider", "Organization/o2"), False),
    ],
)
def test_an_open_stay_goes_on(pair, expected):
    """A period without an end reaches into the future, and is contained in no finite span."""
    assert matches(search("Encounter", pair), STAY) is expected


def test_several_criteria_must_all_hold():
    """Parameters are joined by and, values by or; the type counts too."""
    assert matches(
        search("Encounter", ("status", "finished,in-progress"), ("patient", "p1")), STAY, [frozenset({"Patient/p1"})]
    )
    assert not matches(
        search("Encounter", ("status", "finished"), ("patient", "p1")), STAY, [frozenset({"Patient/p1"})]
    )
    assert not matches(search("Encounter", ("patient", "p9")), STAY, [frozenset({"Patient/p9"})])
    assert not matches(search("Patient", ("_id", "e1")), STAY)


@given(
    st.sampled_from(["Patient", "Observation", "Consent"]),
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "_id",
                    "identifier",
                    "name",
                    "birthdate",
                    "date",
                    "patient",
                    "_count",
                    "_sort",
                    "code",
                    "x:y",
                    "name:exact",
                ]
            ),
            st.text(max_size=20),
        ),
        max_size=5,
    ),
)
def test_any_request_is_understood_or_refused_by_name(kind, pairs):
    """Whatever is asked, the answer is a query or an error of the closed categories."""
    with suppress(BridgeError):
        query = parse_query(kind, pairs, base=BASE)
        matches(query, PATIENT, [frozenset({"Patient/p1"})] * len(query.patient_clauses))
