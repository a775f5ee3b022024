"""Whatever JSON a sender puts where FHIR wants something else: it is stored, or refused as the sender's mistake."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.errors import Category
from bridge.store.migrate import migrate
from bridge.store.rows import Outcome
from tests.integration.hospital import NATIONAL, Hospital, outcomes

SECRET = "Wintergreen"
CONCEPT = {"coding": [{"system": "urn:codes", "code": "A", "display": "a"}], "text": "t"}
PERIOD = {"start": "2024-03-01T10:00:00Z", "end": "2024-03-02"}
PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "meta": {"versionId": "3", "profile": ["urn:p"], "tag": [{"code": "x"}]},
    "identifier": [
        {"system": "urn:test:north", "value": "1", "type": {"coding": [{"code": "MR"}]}, "assigner": {"display": "d"}},
        {"system": NATIONAL, "value": "9"},
    ],
    "active": True,
    "name": [{"use": "official", "family": "Ash", "given": ["Ida", "Eve"], "_given": [None, {"id": "g"}]}],
    "telecom": [{"system": "phone", "value": "+44 20 7946 0000", "rank": 1}],
    "gender": "female",
    "birthDate": "1970-01-02",
    "deceasedBoolean": False,
    "address": [{"line": ["1 High St"], "postalCode": "N1 1AA", "period": PERIOD}],
    "link": [{"other": {"reference": "Patient/p2"}, "type": "seealso"}],
    "managingOrganization": {"reference": "Organization/o1"},
    "extension": [{"url": "urn:e", "valueString": "x"}],
}
ENCOUNTER: dict[str, Any] = {
    "resourceType": "Encounter",
    "id": "e1",
    "identifier": [{"value": "V1"}],
    "status": "in-progress",
    "class": {"code": "IMP"},
    "type": [CONCEPT],
    "subject": {"reference": "Patient/p1", "identifier": {"value": "1"}},
    "participant": [{"type": [CONCEPT], "individual": {"reference": "Practitioner/d1"}}],
    "period": PERIOD,
    "location": [{"location": {"reference": "Location/l1"}, "status": "active"}],
}
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o1",
    "identifier": [{"system": "urn:x", "value": "F1"}],
    "status": "final",
    "category": [CONCEPT],
    "code": CONCEPT,
    "subject": {"reference": "Patient/p1"},
    "effectiveDateTime": "2024-03-01T10:00:00+01:00",
    "performer": [{"reference": "Patient/p1"}, {"reference": "Organization/o1"}],
    "valueQuantity": {"value": 4.10, "unit": "mmol/L"},
    "component": [{"code": CONCEPT, "valueInteger": 3}],
    "referenceRange": [{"low": {"value": 3}, "text": "r"}],
}
CONSENT: dict[str, Any] = {
    "resourceType": "Consent",
    "id": "c1",
    "status": "active",
    "scope": CONCEPT,
    "category": [CONCEPT],
    "patient": {"reference": "Patient/p1"},
    "dateTime": "2024-03-01",
    "organization": [{"reference": "Organization/o1", "identifier": {"system": "urn:o", "value": "1"}}],
    "policyRule": {"coding": [{"code": "OPTIN"}]},
    "provision": {
        "type": "permit",
        "period": PERIOD,
        "actor": [{"role": CONCEPT, "reference": {"reference": "Organization/o1"}}],
        "action": [{"coding": [{"code": "access"}]}],
        "purpose": [{"system": "urn:p", "code": "TREAT"}],
        "class": [{"system": "http://hl7.org/fhir/resource-types", "code": "Observation"}],
        "code": [CONCEPT],
        "provision": [{"type": "deny", "purpose": [{"code": "HRESCH"}]}],
    },
}
BUNDLE: dict[str, Any] = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [
        {"fullUrl": "urn:uuid:1", "resource": PATIENT, "request": {"method": "PUT", "url": "Patient/p1"}},
        {"resource": OBSERVATION, "request": {"method": "POST", "url": "Observation"}},
        {"request": {"method": "DELETE", "url": "Encounter/e9"}, "response": {"lastModified": "2024-03-01T10:00:00Z"}},
    ],
}
DOCUMENTS = {document["resourceType"]: document for document in (PATIENT, ENCOUNTER, OBSERVATION, CONSENT, BUNDLE)}

Step = str | int


def places(value: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """The paths of all elements within a document, at every depth."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in members:
        yield (*path, name)
        yield from places(item, (*path, name))


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([SECRET, f"Patient/{SECRET}", "2024-13-41", "#x", "1970-01-02", "permit", "PUT", "Patient"])
)
names = st.sampled_from(["system", "value", "coding", "code", "reference", "start", "family", "given", "type", SECRET])
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
changes = st.sampled_from([(kind, path) for kind, document in DOCUMENTS.items() for path in places(document)])


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """One store for all examples, in which the patient is known."""
    url = f"sqlite:///{tmp_path_factory.mktemp('fhir')}/store.db"
    migrate(url)
    made = Hospital(url)
    assert outcomes(made.feed(PATIENT, CONSENT, BUNDLE)) == [Outcome.STORED] * 3
    yield made
    made.close()


def changed(document: dict[str, Any], path: tuple[Step, ...], value: Any) -> dict[str, Any]:
    """A copy with ``value`` at ``path``."""
    made = copy.deepcopy(document)
    place: Any = made
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return made


@settings(max_examples=600)
@given(changes, anything)
@example(("Patient", ("name",)), SECRET)
@example(("Patient", ("identifier",)), 5)
@example(("Patient", ("name", 0, "given")), 5)
@example(("Patient", ("address", 0, "line")), 5)
@example(("Patient", ("link",)), [SECRET])
@example(("Patient", ("identifier", 0, "system")), [SECRET])
@example(("Patient", ("identifier", 0, "type", "coding")), 5)
@example(("Bundle", ("type",)), [SECRET])
@example(("Bundle", ("entry", 0, "resource", "identifier", 0, "type", "coding")), True)
@example(("Bundle", ("entry", 0, "resource", "identifier", 0, "system")), {"a": 1})
def test_any_json_in_place_of_any_element_is_stored_or_the_senders_mistake(
    hospital: Hospital, change: tuple[str, tuple[Step, ...]], value: Any
) -> None:
    """Never our own fault, and the reason names the place and nothing of what stood there."""
    kind, path = change
    [verdict] = hospital.feed(changed(DOCUMENTS[kind], path, value))

    assert (verdict.outcome is Outcome.DEAD) == (verdict.error is not None)
    if verdict.error is not None:
        assert verdict.error.category in {Category.INCORRECT, Category.UNSUPPORTED}, verdict.error.code
        assert SECRET not in str(verdict.error)
