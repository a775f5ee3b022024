"""Who may write a Consent: the law on writing, case by case, and as a property."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.access.settings import Client, Role
from bridge.access.tokens import Principal
from bridge.access.writing import authorize_consent
from bridge.consent.decision import AccessRequest, Certainty, Compartment, ConsentOnFile, Resource, decide
from bridge.consent.policy import DefaultPolicy, load_policy
from bridge.consent.rule import compile_consent
from bridge.errors import Forbidden
from tests.reference import ROOT
from tests.unit.api.exchange import permit

MINE, OTHER, CUSTODIAN = "Organization/mine", "Organization/other", "Organization/custodian"
OWN = frozenset({"Patient/p"})


def principal(role):
    custodians = (CUSTODIAN,) if role is Role.CONSENT_OFFICER else ()
    client = Client(client_id="c", issuer="i", organization=MINE, role=role, purposes=("TREAT",), custodians=custodians)
    return Principal("i|someone", client, "TREAT", frozenset({"i|someone", MINE}))


def rule(kind, *actors, custodian=CUSTODIAN, **elements):
    organization = [{"reference": custodian}] if custodian else []
    return compile_consent(permit("p", kind, actors=actors, organization=organization, **elements))


def allowed(role, new, old=None, own=frozenset()):
    try:
        authorize_consent(principal(role), new, old, own=own)
    except Forbidden as error:
        return error.code != "consent-not-authorised"
    return True


@pytest.mark.parametrize("role", list(Role))
def test_nobody_writes_for_a_patient_without_standing(role):
    """No role alone suffices: a patient needs the own record, an officer the custodian."""
    assert not allowed(role, rule("deny", custodian="Organization/unknown"))


def test_patients_write_anything_about_themselves():
    """A patient's own Consent may give and take as it likes."""
    for kind, actors in product(("permit", "deny"), ((), (MINE,), (OTHER,))):
        assert allowed(Role.PATIENT, rule(kind, *actors), own=OWN)
    assert not allowed(Role.PATIENT, rule("permit"), own=frozenset({"Patient/q"}))


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (rule("permit"), None, False),
        (rule("permit", MINE), None, False),
        (rule("permit", OTHER), None, True),
        (rule("deny"), None, True),
        (rule("deny", OTHER), None, True),
        (rule("deny", policyRule={"coding": [{"code": "OPTIN"}]}), None, False),
        (rule("permit", status="inactive"), None, True),
        (rule("deny"), rule("permit"), True),
        (rule("deny", status="inactive"), rule("deny"), False),
        (rule("permit", OTHER), rule("deny", MINE), False),
        (rule("permit", status="inactive"), rule("permit", MINE), True),
        (rule("permit", status="inactive"), rule("permit", OTHER), False),
        (rule("deny"), rule("permit", custodian="Organization/unknown"), False),
    ],
)
def test_officers_never_open_anything_to_themselves(new, old, expected):
    """Neither by a permit that reaches them, nor by the end of what kept them out."""
    assert allowed(Role.CONSENT_OFFICER, new, old) is expected


def test_proxies_are_bound_like_officers():
    """A proxy may deny, and permit others, but nothing that reaches the proxy."""
    assert allowed(Role.PROXY, rule("deny"), own=OWN)
    assert allowed(Role.PROXY, rule("permit", OTHER), own=OWN)
    assert not allowed(Role.PROXY, rule("permit"), own=OWN)


POLICIES = [load_policy(ROOT / "mappings", default) for default in DefaultPolicy]
RULES = st.builds(
    lambda kind, actors, status: rule(kind, *actors, status=status),
    st.sampled_from(["permit", "deny"]),
    st.lists(st.sampled_from([MINE, OTHER]), max_size=2),
    st.sampled_from(["active", "inactive"]),
)


@given(RULES, st.none() | RULES, st.sampled_from(POLICIES), st.sampled_from([Role.CONSENT_OFFICER, Role.CLINICIAN]))
def test_no_write_that_is_allowed_opens_a_record_to_its_writer(new, old, policy, role):
    """Whatever an officer may write: what was closed to the officer stays closed."""
    writer = principal(role)
    request = AccessRequest(writer.names, "TREAT", 1_790_000_000_000_000)

    def sees(consent):
        entries = (ConsentOnFile(1, consent, Certainty.OWN),) if consent else ()
        return decide(request, policy, [Compartment(1, False, entries)], Resource("Patient", frozenset)).permitted

    if allowed(role, new, old):
        assert sees(old) or not sees(new)
