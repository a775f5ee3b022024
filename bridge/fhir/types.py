"""Names and primitive forms of FHIR R4 that several rooms share (datatypes.html)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

# The types that the bridge stores and serves.
STORED_TYPES: Final = (
    "Patient",
    "Encounter",
    "Observation",
    "DiagnosticReport",
    "ServiceRequest",
    "Specimen",
    "Condition",
    "AllergyIntolerance",
    "Procedure",
    "Immunization",
    "MedicationRequest",
    "DocumentReference",
    "Appointment",
    "Coverage",
    "Account",
    "CareTeam",
    "RelatedPerson",
    "Practitioner",
    "Organization",
    "Location",
    "Provenance",
    "Consent",
)
is_stored_type: Final = frozenset(STORED_TYPES).__contains__

_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of a logical id (datatypes.html#id)."""
    return _ID.fullmatch(text) is not None


def format_instant(time_us: int) -> str:
    """µs since the epoch as a FHIR instant in UTC with six fractional digits: ``2026-11-20T21:44:02.000001Z``."""
    seconds, fraction = divmod(time_us, 1_000_000)
    return f"{_format_second(seconds)}.{fraction:06d}Z"


@lru_cache(maxsize=64)
def _format_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def parse_instant(text: str) -> int:
    """A FHIR instant as µs since the epoch.

    Raises:
        ValueError: not an instant (it needs a time and an offset).
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("an instant needs an offset")
    return (moment - _EPOCH) // _MICROSECOND
