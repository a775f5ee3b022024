"""FHIR R4 Consent → the rule that decisions run on (consent.html).

Understood: root and nested provisions with type, period, actor, action, purpose, class (resource types) and code;
``policyRule`` OPTIN and OPTOUT as the base where the root names no type. Everything else that narrows a provision
(``securityLabel``, ``dataPeriod``, ``data``) is refused rather than passed over: a limit that is not understood must
neither widen a permit nor narrow a deny.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from bridge.errors import Incorrect, Unsupported
from bridge.fhir.dates import MAXIMUM_US, MINIMUM_US, interval_of
from bridge.fhir.references import parse_absolute, parse_reference, patient_of

Json = Any
MAX_DEPTH: Final = 4
MAX_PROVISIONS: Final = 200
MAX_CONDITIONS: Final = 500  # gone through for every resource that is decided
_RESOURCE_TYPES: Final = "http://hl7.org/fhir/resource-types"
_URLS: Final = ("https://", "http://")
_READING: Final = frozenset({"access", "use", "disclose"})
_OTHER_SCOPES: Final = frozenset({"adr", "treatment"})  # agreements about care, which say nothing about seeing records
_UNDERSTOOD: Final = frozenset(
    ("id", "extension", "type", "period", "actor", "action", "purpose", "class", "code", "provision")
)
_NOT_UNDERSTOOD: Final = ("securityLabel", "dataPeriod", "data", "modifierExtension")


class Status(StrEnum):
    """Where a consent stands for decisions; ``error`` = not understood, its patient is restricted."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    REVOKED = "revoked"
    ERROR = "error"


class Code(NamedTuple):
    """A coding; ``system`` is ``""`` where the Consent gives none."""

    system: str
    code: str


@dataclass(frozen=True, slots=True)
class Provision:
    """One provision; an empty condition holds always, a filled one when any of its members does.

    Attributes:
        permit: what it says; None on a root that leaves it to the default policy.
        start_us, end_us: when it holds, both included.
        actors: names of recipients: ``Type/id`` or ``system|value`` of a logical reference.
        purposes, codes: codings.
        types: resource types.
        reading: whether its actions touch reading at all; False never matches here.
        exceptions: nested provisions.
    """

    permit: bool | None
    start_us: int = MINIMUM_US
    end_us: int = MAXIMUM_US
    actors: tuple[str, ...] = ()
    purposes: tuple[Code, ...] = ()
    types: tuple[str, ...] = ()
    codes: tuple[Code, ...] = ()
    reading: bool = True
    exceptions: tuple[Provision, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled Consent.

    Attributes:
        status: active, inactive or revoked.
        patient: ``Patient/id``.
        custodian: ``Consent.organization`` as ``Type/id`` or ``system|value``; ``""`` without one, or with
            several, of whom none speaks for the others.
        base: what policyRule says outside the root provision's conditions; None without one.
        root: the root provision.
        needs_body: some provision looks into the resource.
    """

    status: Status
    patient: str = field(repr=False)
    custodian: str
    base: bool | None
    root: Provision = field(repr=False)
    needs_body: bool


class ChainWord(NamedTuple):
    """What a chain may learn of a consent: whether it is a grant, and when that ends at the latest (None = no end)."""

    granted: bool
    not_after_us: int | None
    policy_tag: str


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Rule)


def encode(rule: Rule) -> bytes:
    """The rule as JSON bytes, for the store."""
    return _encoder.encode(rule)


def decode(data: bytes) -> Rule:
    """The rule again; :class:`msgspec.DecodeError` if the bytes are none."""
    return _decoder.decode(data)


def compile_consent(resource: Mapping[str, Json]) -> Rule:
    """Compiles a Consent.

    Raises:
        Incorrect: ``consent-malformed``, ``consent-without-patient``, ``consent-status-unknown``,
            ``consent-type-missing``, ``consent-too-deep``, ``consent-too-long``.
        Unsupported: ``consent-element-unsupported``; it narrows by something that is not evaluated.
    """
    if resource.get("resourceType") != "Consent":
        raise _malformed("the resource is not a Consent")
    patient = patient_of(resource)
    if patient is None:
        raise Incorrect(
            "consent-without-patient", "the Consent names no patient of this server", remedy="Set Consent.patient."
        )
    if "modifierExtension" in resource or "implicitRules" in resource:
        raise Unsupported("consent-element-unsupported", "the Consent has modifiers that are not known here")
    base = _base(resource)
    root = resource.get("provision", {})
    if not isinstance(root, dict):
        raise _malformed("provision is not an object")
    budget = [MAX_PROVISIONS]
    provision = _provision(root, 0, budget, base)
    if _conditions(provision) > MAX_CONDITIONS:
        raise Incorrect(
            "consent-too-long",
            f"the provisions name more than {MAX_CONDITIONS} actors, purposes, types and codes",
            remedy="Name groups or organisations instead of each member.",
        )
    status = _status(resource)
    return Rule(status, patient, _custodian(resource), base, provision, _needs_body(provision))


def chain_word(rule: Rule) -> ChainWord:
    """What goes on chain for a rule: a grant only while it is active and its root permits."""
    granted = rule.status is Status.ACTIVE and rule.root.permit is True
    end_us = rule.root.end_us
    not_after_us = end_us if granted and end_us < MAXIMUM_US else None
    return ChainWord(granted, not_after_us, "permit" if granted else "deny")


def _malformed(message: str) -> Incorrect:
    return Incorrect("consent-malformed", message, remedy="See https://hl7.org/fhir/R4/consent.html.")


def _status(resource: Mapping[str, Json]) -> Status:
    status = resource.get("status")
    if status == "active":
        scopes = {code.code for code in _concepts([resource["scope"]])} if "scope" in resource else set()
        return Status.INACTIVE if scopes & _OTHER_SCOPES else Status.ACTIVE
    if status == "inactive":
        return Status.REVOKED
    if status in ("draft", "proposed", "rejected", "entered-in-error"):
        return Status.INACTIVE
    raise Incorrect("consent-status-unknown", "Consent.status is not a consent-state code", remedy="Set it to active.")


def _base(resource: Mapping[str, Json]) -> bool | None:
    rule = resource.get("policyRule")
    codes = {code.code for code in _concepts([rule])} if rule is not None else set()
    if {"OPTIN", "OPTOUT"} <= codes:
        raise _malformed("policyRule says both OPTIN and OPTOUT")
    return True if "OPTIN" in codes else False if "OPTOUT" in codes else None


def _custodian(resource: Mapping[str, Json]) -> str:
    organizations = _list(resource, "organization")
    names = _names(organizations[0]) if len(organizations) == 1 else []
    return names[0] if names else ""


def _provision(item: Mapping[str, Json], depth: int, budget: list[int], base: bool | None) -> Provision:
    budget[0] -= 1
    if depth > MAX_DEPTH or budget[0] < 0:
        raise Incorrect("consent-too-deep", "the provisions are nested deeper or are more than the limit")
    if any(name in item for name in _NOT_UNDERSTOOD):
        raise Unsupported(
            "consent-element-unsupported",
            "a provision narrows by securityLabel, dataPeriod, data or an extension, which are not evaluated",
            remedy="State the Consent without them.",
        )
    if not item.keys() <= _UNDERSTOOD:
        raise _malformed("a provision has an element that R4 does not define")
    start_us, end_us = MINIMUM_US, MAXIMUM_US
    if "period" in item:
        interval = interval_of(item["period"])
        if interval is None:
            raise _malformed("provision.period is not a Period")
        start_us, end_us = interval
    actors = tuple(name for actor in _list(item, "actor") for name in _actor(actor))
    purposes = tuple(_coding(coding) for coding in _list(item, "purpose"))
    types = tuple(_resource_type(coding) for coding in _list(item, "class"))
    codes = tuple(_concepts(_list(item, "code"), required=True))
    actions = _concepts(_list(item, "action"), required=True)
    permit = _permit(item, depth, base, narrowed=bool(actors or purposes or types or codes or actions))
    return Provision(
        permit=permit,
        start_us=start_us,
        end_us=end_us,
        actors=actors,
        purposes=purposes,
        types=types,
        codes=codes,
        reading=not actions or any(action.code in _READING for action in actions),
        exceptions=tuple(_provision(child, depth + 1, budget, base) for child in _list(item, "provision")),
    )


def _permit(item: Mapping[str, Json], depth: int, base: bool | None, *, narrowed: bool) -> bool | None:
    kind = item.get("type")
    if kind in ("permit", "deny"):
        return bool(kind == "permit")
    # Under OPTIN some write what is excepted without a type, others what is included: only a person can tell.
    if kind is not None or depth or narrowed:
        raise Incorrect(
            "consent-type-missing",
            "a provision with conditions does not say whether it permits or denies",
            remedy="Set provision.type to permit or deny.",
        )
    return base


def _needs_body(provision: Provision) -> bool:
    return bool(provision.codes) or any(_needs_body(child) for child in provision.exceptions)


def _conditions(provision: Provision) -> int:
    own = len(provision.actors) + len(provision.purposes) + len(provision.types) + len(provision.codes)
    return own + sum(map(_conditions, provision.exceptions))


def _list(item: Mapping[str, Json], name: str) -> list[dict[str, Json]]:
    values = item.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise _malformed(f"{name} is not a list of objects")
    return values


def _coding(item: Json) -> Code:
    if not isinstance(item, dict) or not isinstance(item.get("code"), str) or not item["code"]:
        raise _malformed("a coding has no code")
    system = item.get("system", "")
    if not isinstance(system, str):
        raise _malformed("the system of a coding is not a text")
    return Code(system, item["code"])


def _concepts(items: list[Json], *, required: bool = False) -> list[Code]:
    codes: list[Code] = []
    for item in items:
        if not isinstance(item, dict):
            raise _malformed("a concept is not an object")
        codings = _list(item, "coding")
        if required and not codings:
            raise _malformed("a concept that narrows a provision has no coding")
        codes += [_coding(coding) for coding in codings]
    return codes


def _resource_type(item: Json) -> str:
    system, code = _coding(item)
    if system != _RESOURCE_TYPES:
        raise Unsupported(
            "consent-element-unsupported",
            "provision.class names something else than a resource type",
            remedy=f"Use codes of {_RESOURCE_TYPES}, or provision.code.",
        )
    return code


def _actor(item: Mapping[str, Json]) -> list[str]:
    names = _names(item.get("reference"))
    if not names:
        raise _malformed("an actor is named neither by reference nor by identifier")
    return names


def _names(reference: Json) -> list[str]:
    """The names by which a reference says whom it means; what no caller can be called (``#…``, ``urn:…``) is none."""
    if not isinstance(reference, dict):
        return []
    text = reference.get("reference")
    names = [name] if isinstance(text, str) and (name := _name(text)) else []
    identifier = reference.get("identifier")
    if isinstance(identifier, dict) and isinstance(identifier.get("value"), str):
        names.append(f"{identifier.get('system', '')}|{identifier['value']}")
    return names


def _name(text: str) -> str:
    """Who is named, whichever version of the resource is; a URL that is no such reference stays as it is."""
    target, elsewhere = parse_reference(text), parse_absolute(text)
    if target:
        return str(target)
    if elsewhere:
        return f"{elsewhere[0]}{elsewhere[1]}"
    return text if text.startswith(_URLS) else ""
