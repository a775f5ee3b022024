"""Every stored type that tells of a patient lies behind that patient's consents, by whatever element it names the patient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.fhir.references import patients_of
from bridge.fhir.search.definitions import definitions
from tests.unit.api.exchange import Exchange, permit
from tests.unit.api.test_reading import patient

# the element by which the mappings name the patient
ELEMENTS = {
    "AllergyIntolerance": "patient",
    "Immunization": "patient",
    "RelatedPerson": "patient",
    "Coverage": "beneficiary",
    "Appointment": "participant",
    "Account": "subject",
    "Consent": "patient",
    "Provenance": "target",
}
TYPES = [kind for kind, definition in definitions().items() if definition.patient and kind != "Consent"]


def about(kind: str, fhir_id: str, who: str) -> dict[str, Any]:
    reference: Any = {"reference": f"Patient/{who}"}
    element = ELEMENTS.get(kind, "subject")
    if element == "participant":
        reference = [{"actor": {"reference": "Practitioner/dr"}}, {"actor": reference}]
    elif element == "target" or kind == "Account":
        reference = [reference]
    return {"resourceType": kind, "id": fhir_id, element: reference}


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    """The default denies; p1 permits everyone, p2 nobody."""
    with Exchange(tmp_path) as running:
        running.seed.put(patient("p1"), patient("p2"), permit("p1", id="c1"), permit("p2", "deny", id="c2"))
        running.seed.put(*(about(kind, f"{who}-x", who) for kind in TYPES for who in ("p1", "p2")))
        yield running


def test_no_type_with_a_patient_is_outside_of_compartments():
    """Each type that can be searched by patient says by which elements it belongs to one."""
    for kind in TYPES:
        assert patients_of(about(kind, "x", "p9")) == ("Patient/p9",), kind


def test_what_a_patient_denies_is_shown_by_no_type(exchange):
    """Neither read nor found, by type or by patient; what another patient permits is."""
    for kind in TYPES:
        assert exchange.get(f"{kind}/p1-x").status_code == 200, kind
        assert exchange.get(f"{kind}/p2-x").status_code == 404, kind
        assert "p2-x" not in exchange.ids(kind), kind
        assert "p1-x" in exchange.ids(f"{kind}?patient=p1"), kind
        assert exchange.ids(f"{kind}?patient=p2") == [], kind


def test_an_appointment_of_two_patients_needs_both(exchange):
    """One patient's permit opens nothing that tells of another too."""
    both = about("Appointment", "both", "p1")
    both["participant"].append({"actor": {"reference": "Patient/p2"}})
    exchange.seed.put(both)

    assert exchange.get("Appointment/both").status_code == 404
    assert "both" not in exchange.ids("Appointment")
