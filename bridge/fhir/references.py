"""Literal references of FHIR R4 (references.html), and the patients a resource is about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

_RELATIVE: Final = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")
_ABSOLUTE: Final = re.compile(rf"(https?://[^\s?#|]+/){_RELATIVE.pattern}")


class Target(NamedTuple):
    """Type and logical id that a literal reference names."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


def parse_reference(text: str, base: str = "") -> Target | None:
    """``Type/id`` (also with ``/_history/…``, or absolute under ``base``) as a target; None for everything else."""
    if base and text.startswith(base):
        text = text[len(base) :].lstrip("/")
    match = _RELATIVE.fullmatch(text)
    return Target(match[1], match[2]) if match else None


def parse_absolute(text: str) -> tuple[str, Target] | None:
    """A URL of a resource (also with ``/_history/…``) as the server's address, with a slash at its end, and the target."""
    match = _ABSOLUTE.fullmatch(text)
    return (match[1], Target(match[2], match[3])) if match else None


# Elements by which a resource belongs to a patient's compartment (compartmentdefinition-patient.html), for the stored
# types and as far as they hold a Patient; a list element holds several, a dot leads into the items of a list.
_PATIENT_ELEMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "Encounter": ("subject",),
    "Observation": ("subject", "performer"),
    "DiagnosticReport": ("subject",),
    "ServiceRequest": ("subject", "performer"),
    "Specimen": ("subject",),
    "Condition": ("subject", "asserter"),
    "AllergyIntolerance": ("patient", "recorder", "asserter"),
    "Procedure": ("subject", "performer.actor"),
    "Immunization": ("patient",),
    "MedicationRequest": ("subject",),
    "DocumentReference": ("subject", "author"),
    "Appointment": ("participant.actor",),
    "Coverage": ("beneficiary", "policyHolder", "subscriber", "payor"),
    "Account": ("subject",),
    "CareTeam": ("subject", "participant.member"),
    "RelatedPerson": ("patient",),
    "Provenance": ("target",),
    "Consent": ("patient",),
}


def patients_of(resource: Mapping[str, Any]) -> tuple[str, ...]:
    """The patients whose compartments the resource is in, as relative references, each once, the subject first.

    A Patient is in its own. References that are not ``Patient/id`` (logical, contained, absolute elsewhere) count as
    none.
    """
    return tuple(dict.fromkeys(_patients(resource)))


def patient_of(resource: Mapping[str, Any]) -> str | None:
    """The patient the resource is about, as ``Patient/id``; None if it is in no patient's compartment."""
    return next(_patients(resource), None)


def _patients(resource: Mapping[str, Any]) -> Iterator[str]:
    kind = resource.get("resourceType")
    if kind == "Patient":
        if "id" in resource:
            yield f"Patient/{resource['id']}"
        return
    for reference in _references(resource, _PATIENT_ELEMENTS.get(str(kind), ())):
        text = _patient(reference)
        if text:
            yield text


def _references(resource: Mapping[str, Any], elements: tuple[str, ...]) -> Iterator[Any]:
    for name in elements:
        outer, _, inner = name.partition(".")
        value = resource.get(outer)
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, Mapping):
                yield item.get(inner) if inner else item


def _patient(reference: Any) -> str | None:
    text = reference.get("reference") if isinstance(reference, Mapping) else None
    if not isinstance(text, str) or not text.startswith("Patient/"):
        return None
    target = parse_reference(text)
    return str(target) if target else None
