"""May this caller see this resource for this purpose? Pure; the caller brings consents and policy.

Order (law *Consent never fails open*): a restricted patient is closed; then, within one Consent, the most specific
provision; among equals and between Consents a deny. Where Consents are on file and none covers the request, it is denied;
where none is on file, the configured default holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from bridge.consent.actors import may_mean
from bridge.consent.policy import DefaultPolicy, Policy
from bridge.consent.rule import Code, Provision, Rule, Status

_PURPOSE_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"


class Certainty(StrEnum):
    """How surely the record that a Consent was given for is the record asked for."""

    OWN = "own"
    ASSERTED = "asserted"
    CERTAIN = "certain"
    POSSIBLE = "possible"


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """Who asks, why and when.

    Attributes:
        actors: every name of the caller that a Consent may use: ``Practitioner/id``, ``Organization/id``,
            ``system|value``, ``Group/id``.
        purpose: effective purpose of use (code of v3-ActReason).
        time_us: when.
        own: patient keys of the caller's own records, if the caller is a patient; else None.
        aliases: further names of the caller, found in the store; they count for denies only.
        meanings: further names of actors of Consents, found in the resources that those refer to; likewise.
    """

    actors: frozenset[str] = field(repr=False)
    purpose: str
    time_us: int
    own: frozenset[int] | None = None
    aliases: frozenset[str] = field(default=frozenset(), repr=False)
    meanings: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)


class ConsentOnFile(NamedTuple):
    """A Consent of the patient or of a record linked to the patient's."""

    consent_key: int
    rule: Rule
    certainty: Certainty


@dataclass(frozen=True, slots=True)
class Compartment:
    """A patient in whose compartment the resource lies, with all Consents that may speak for the person."""

    patient_key: int
    restricted: bool = False
    consents: tuple[ConsentOnFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Resource:
    """What a decision looks at, if a rule asks for it.

    Attributes:
        type: resource type.
        codings: the codings of code, category, type and class: what the resource is, as a permit means it.
        mentioned: the codings anywhere in it, as a deny means them (consent.html: "if this code is found in an instance,
            then the rule applies"); None = the same.
    """

    type: str
    codings: Callable[[], frozenset[Code]] = field(repr=False)
    mentioned: Callable[[], frozenset[Code]] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ConsentDecision:
    """The answer and its grounds.

    Attributes:
        permitted: whether the resource may be seen.
        rule: what decided: ``consent-permit``, ``consent-deny``, ``consent-does-not-cover``, ``default-permit``,
            ``default-deny``, ``restricted``, ``patient-self``, ``other-patient``, ``type-permit``, ``type-deny``.
        consent_keys: the Consents that decided.
    """

    permitted: bool
    rule: str
    consent_keys: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which rows are worth fetching for a caller. May admit too much, never too little.

    Attributes:
        open_types: types that may show though they lie in no compartment.
        without_consent: whether patients with no Consent on file may show.
        own: only these patients, if the caller is one.
        closed: patients already found to be closed to the caller.
    """

    open_types: frozenset[str]
    without_consent: bool
    own: frozenset[int] | None
    closed: frozenset[int] = frozenset()


def visibility(request: AccessRequest, policy: Policy) -> Visibility:
    """The predicate for a caller, for the store to add to every query."""
    return Visibility(
        open_types=policy.open_types,
        without_consent=policy.default is DefaultPolicy.PERMIT or request.own is not None,
        own=request.own,
    )


def decide(
    request: AccessRequest, policy: Policy, compartments: Sequence[Compartment], resource: Resource
) -> ConsentDecision:
    """Decides on one resource.

    Args:
        request: who, why, when.
        policy: what holds where no Consent speaks.
        compartments: every patient in whose compartment it lies; empty = none. All must permit.
        resource: the resource.
    """
    if not compartments:
        permitted = resource.type in policy.open_types
        return ConsentDecision(permitted, "type-permit" if permitted else "type-deny")
    decision = _decide(request, policy, compartments[0], resource)
    for compartment in compartments[1:]:
        if not decision.permitted:
            return decision
        other = _decide(request, policy, compartment, resource)
        decision = ConsentDecision(other.permitted, other.rule, decision.consent_keys + other.consent_keys)
    return decision


def _decide(request: AccessRequest, policy: Policy, compartment: Compartment, resource: Resource) -> ConsentDecision:
    if request.own is not None and compartment.patient_key not in request.own:
        return ConsentDecision(False, "other-patient")
    if compartment.restricted or any(entry.rule.status is Status.ERROR for entry in compartment.consents):
        return ConsentDecision(False, "restricted")
    if request.own is not None:
        return ConsentDecision(True, "patient-self")
    answers = [
        (entry.consent_key, answer)
        for entry in compartment.consents
        if (answer := _answer(entry, request, policy, resource)) is not None
    ]
    for answer, permitted in _PRECEDENCE:
        keys = tuple(key for key, given in answers if given is answer)
        if keys:
            return ConsentDecision(permitted, answer.value, keys)
    permitted = policy.default is DefaultPolicy.PERMIT
    return ConsentDecision(permitted, "default-permit" if permitted else "default-deny")


class _Answer(StrEnum):
    """What one Consent says to a request."""

    DENY = "consent-deny"
    PERMIT = "consent-permit"
    NOT_COVERED = "consent-does-not-cover"


_PRECEDENCE: Final = ((_Answer.DENY, False), (_Answer.PERMIT, True), (_Answer.NOT_COVERED, False))


def _answer(entry: ConsentOnFile, request: AccessRequest, policy: Policy, resource: Resource) -> _Answer | None:
    rule = entry.rule
    if rule.status is not Status.ACTIVE or not rule.root.start_us <= request.time_us <= rule.root.end_us:
        return None
    permits = _evaluate(rule, request, policy, resource)
    if permits is False:
        return _Answer.DENY
    if entry.certainty is Certainty.POSSIBLE:
        return None  # a permit covers only records that are surely the same person's
    if permits:
        return _Answer.PERMIT
    return _Answer.NOT_COVERED if rule.root.permit else None


def _evaluate(rule: Rule, request: AccessRequest, policy: Policy, resource: Resource) -> bool | None:
    """What the Consent says to the request; None = nothing."""
    answer = _provision(rule.root, request, policy, resource)
    if answer is not None or _holds(rule.root, request, policy, resource, sure=True):
        return answer
    # Outside a deny that names whom it means, OPTIN and OPTOUT say what holds; outside a permit nothing is granted.
    return None if rule.root.permit else rule.base


def _provision(provision: Provision, request: AccessRequest, policy: Policy, resource: Resource) -> bool | None:
    """What a provision says with its exceptions, the most specific of which decide; None = nothing."""
    if not _holds(provision, request, policy, resource):
        return None
    answers = [
        answer for child in provision.exceptions if (answer := _provision(child, request, policy, resource)) is not None
    ]
    answer = all(answers) if answers else provision.permit
    # A deny that holds only because it might mean the caller opens nothing by its exceptions, for it might not.
    return answer if not answer or _holds(provision, request, policy, resource, sure=True) else None


def _holds(
    provision: Provision, request: AccessRequest, policy: Policy, resource: Resource, *, sure: bool = False
) -> bool:
    """Whether the provision covers the request; ``sure``: also where a deny is read as literally as a permit."""
    literal = sure or provision.permit is not False
    return (
        provision.reading
        and provision.start_us <= request.time_us <= provision.end_us
        and (not provision.actors or _actor(provision, request, literal))
        and (not provision.purposes or _purpose(provision, request, policy))
        and (not provision.types or resource.type in provision.types)
        and (not provision.codes or _code(provision, resource, literal))
    )


def _actor(provision: Provision, request: AccessRequest, literal: bool) -> bool:
    """A deny also reaches a caller of whom it cannot be told; a permit names exactly whom it permits."""
    if not request.actors.isdisjoint(provision.actors):
        return True
    return not literal and may_mean(provision.actors, request.actors | request.aliases, request.meanings)


def _purpose(provision: Provision, request: AccessRequest, policy: Policy) -> bool:
    """A deny also reaches the narrower purposes; a permit names exactly what it permits."""
    meant = {request.purpose}
    if provision.permit is False:
        meant |= policy.purposes.get(request.purpose, frozenset())
    return any(system in ("", _PURPOSE_SYSTEM) and code in meant for system, code in provision.purposes)


def _code(provision: Provision, resource: Resource, literal: bool) -> bool:
    look = resource.codings if provision.permit or resource.mentioned is None else resource.mentioned
    present = look()
    for wanted in provision.codes:
        if wanted in present:
            return True
        # Without a system on either side a deny takes the code for the same, a permit does not.
        if not literal and any(code == wanted.code and (not system or not wanted.system) for system, code in present):
            return True
    return False
