"""Who may write a Consent (law *Writing is authorised separately, deny by default*)."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.access.settings import Role
from bridge.access.tokens import Principal
from bridge.consent.actors import may_mean
from bridge.consent.rule import Provision, Rule, Status
from bridge.errors import Forbidden


def authorize_consent(principal: Principal, rule: Rule, replaced: Rule | None, *, own: frozenset[str]) -> None:
    """Checks that the caller may write this Consent.

    Args:
        principal: who writes.
        rule: the Consent as compiled.
        replaced: the Consent as it stood, when it is updated.
        own: references (``Patient/id``) of the caller's own records, if it speaks for a patient.

    Raises:
        Forbidden: ``consent-not-authorised``, always in the same words: what exactly is missing would tell about state.
    """
    rules = [rule] if replaced is None else [rule, replaced]
    role = principal.client.role
    if role in (Role.PATIENT, Role.PROXY):
        allowed = all(item.patient in own for item in rules)
        # What a proxy grants may reach anyone but the proxy.
        beneficial = role is Role.PROXY and _benefits(principal, rule, replaced)
    else:
        allowed = role is Role.CONSENT_OFFICER and all(item.custodian in principal.client.custodians for item in rules)
        beneficial = _benefits(principal, rule, replaced)
    if not allowed or beneficial or (replaced is not None and replaced.patient != rule.patient):
        raise not_authorised()


def not_authorised() -> Forbidden:
    """The one refusal of a write."""
    return Forbidden(
        "consent-not-authorised",
        "this caller may not write this Consent",
        remedy="Consents are written by the patient, a verified proxy, or the custodian's consent officer, and never by "
        "whom they would benefit.",
    )


def _benefits(principal: Principal, rule: Rule, replaced: Rule | None) -> bool:
    """Whether the write could open anything to the caller.

    A permit that reaches the caller does, and so may the end of any Consent but one that only gave to the caller: without
    a deny, or without a permit that left the caller out, the default policy would hold.
    """
    if replaced is not None and replaced.status is Status.ACTIVE:
        gave = _reaches(principal, replaced, permit=True)
        if not gave or _reaches(principal, replaced, permit=False):
            return True
    return rule.status is Status.ACTIVE and _reaches(principal, rule, permit=True)


def _reaches(principal: Principal, rule: Rule, *, permit: bool) -> bool:
    if rule.base is permit:
        return True
    return any(
        provision.permit is permit and (not provision.actors or _names(principal, provision, permit=permit))
        for provision in _provisions(rule.root)
    )


def _names(principal: Principal, provision: Provision, *, permit: bool) -> bool:
    if permit:
        return not principal.names.isdisjoint(provision.actors)
    return may_mean(provision.actors, principal.names)


def _provisions(provision: Provision) -> Iterator[Provision]:
    yield provision
    for child in provision.exceptions:
        yield from _provisions(child)
