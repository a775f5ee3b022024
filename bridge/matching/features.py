"""What matching knows of a source record: features taken from its Patient resource, and the keys made of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from bridge.matching import normalize
from bridge.matching.model import Model, Rule


@dataclass(frozen=True, slots=True)
class Features:
    """Normalized demographics of one source record; texts are empty and tuples short where nothing is known.

    Attributes:
        evidence: ``(system, value)`` of identifiers whose authority the site marks `evidence`.
        name: family and first given name.
        birth_date: full date, ISO; partial dates are no evidence.
        sex: FHIR administrative gender, only ``male`` or ``female``.
        phones: last nine digits each.
        addresses: first line and postal code each.
    """

    evidence: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    name: str = field(default="", repr=False)
    birth_date: str = field(default="", repr=False)
    sex: str = field(default="", repr=False)
    phones: tuple[str, ...] = field(default=(), repr=False)
    addresses: tuple[str, ...] = field(default=(), repr=False)

    def values(self, feature: str) -> Sequence[str]:
        """All values of a feature that a rule names."""
        match feature:
            case "evidence":
                return [f"{system}|{value}" for system, value in self.evidence]
            case "phone":
                return self.phones
            case "address":
                return self.addresses
            case "name" | "birth_date" | "sex":
                value: str = getattr(self, feature)
                return (value,) if value else ()
            case _:
                msg = f"no such feature: {feature}"
                raise KeyError(msg)


def _each(resource: Mapping[str, Any], element: str) -> Iterator[Mapping[str, Any]]:
    value = resource.get(element)
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def features_of(patient: Mapping[str, Any], evidence_systems: frozenset[str], model: Model) -> Features:
    """Features of a Patient resource.

    Args:
        patient: FHIR R4 Patient.
        evidence_systems: Identifier.system of the `evidence` authorities of the record's sites.
        model: whose placeholders are left out.
    """
    evidence = {
        (str(identifier["system"]), str(identifier["value"]).strip())
        for identifier in _each(patient, "identifier")
        if identifier.get("system") in evidence_systems and str(identifier.get("value") or "").strip()
    }
    names = [human for human in _each(patient, "name") if human.get("use") not in {"old", "nickname", "anonymous"}]
    official = next((human for human in names if human.get("use") == "official"), names[0] if names else {})
    given = official.get("given") or [""]
    full_name = normalize.name(str(official.get("family") or ""), str(given[0] or ""))
    if full_name and {full_name, *full_name.split(" ")} & model.placeholder_names:
        full_name = ""
    gender = str(patient.get("gender") or "")
    birth = str(patient.get("birthDate") or "")
    phones = {
        normalize.phone(str(t.get("value") or ""))
        for t in _each(patient, "telecom")
        if t.get("system") in {"phone", None}
    }
    addresses = {
        normalize.address(str((place.get("line") or [""])[0] or ""), str(place.get("postalCode") or ""))
        for place in _each(patient, "address")
        if place.get("use") != "old"
    }
    return Features(
        evidence=tuple(sorted(e for e in evidence if e[1].lower() not in model.placeholder_identifiers)),
        name=full_name,
        birth_date=birth if len(birth) == len("2000-01-01") else "",
        sex=gender if gender in {"male", "female"} else "",
        phones=tuple(sorted(phones - {""})),
        addresses=tuple(sorted(addresses - {""})),
    )


def rule_keys(rule: Rule, features: Features) -> Iterator[int]:
    """The signed 64-bit keys that a record has under one rule: one for each combination of present values."""
    for combination in itertools.product(*(features.values(feature) for feature in rule.equal)):
        text = "\x1f".join((rule.name, *combination)).encode()
        yield int.from_bytes(blake2b(text, digest_size=8, person=b"hie-bridge/match").digest(), "big", signed=True)


def keys_of(features: Features, model: Model) -> dict[int, str]:
    """All keys of a record, each with the rule it belongs to. Two records that share a key satisfy that rule."""
    return {key: rule.name for rule in model.rules for key in rule_keys(rule, features)}
