"""Consent: what is understood, what is refused, and what follows for a request."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.consent.decision import (
    AccessRequest,
    Certainty,
    Compartment,
    ConsentOnFile,
    Resource,
    decide,
    visibility,
)
from bridge.consent.policy import DefaultPolicy, load_policy
from bridge.consent.rule import Code, Status, chain_word, compile_consent, decode, encode
from bridge.errors import BridgeError, Incorrect, Unsupported
from bridge.fhir.dates import parse_date
from tests.reference import ROOT, reference_data

NOW = parse_date("2026-06-01").start_us
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
DENY = load_policy(ROOT / "mappings", DefaultPolicy.DENY)
PERMIT = load_policy(ROOT / "mappings", DefaultPolicy.PERMIT)
CLINICIAN = AccessRequest(frozenset({"Practitioner/dr", "Organization/a"}), "TREAT", NOW)


def consent(provision=None, **elements):
    return {
        "resourceType": "Consent",
        "status": "active",
        "patient": {"reference": "Patient/p"},
        **({"provision": provision} if provision else {}),
        **elements,
    }


def purpose(*codes):
    return [{"system": ACT_REASON, "code": code} for code in codes]


def actor(reference):
    return [{"role": {"coding": [{"code": "IRCP"}]}, "reference": {"reference": reference}}]


def observation(*codes):
    return Resource("Observation", lambda: frozenset(codes))


def on_file(*consents, certainty=Certainty.OWN, restricted=False):
    entries = (ConsentOnFile(key, compile_consent(item), certainty) for key, item in enumerate(consents))
    return [Compartment(1, restricted, tuple(entries))]


def decision(*consents, request=CLINICIAN, policy=DENY, resource=None, **options):
    return decide(request, policy, on_file(*consents, **options), resource or observation())


def test_without_a_consent_the_configured_default_holds():
    """Nothing on file: the policy that was named decides, and says so."""
    assert (decision().permitted, decision().rule) == (False, "default-deny")
    assert (decision(policy=PERMIT).permitted, decision(policy=PERMIT).rule) == (True, "default-permit")


@pytest.mark.parametrize(
    ("provision", "permitted", "rule"),
    [
        ({"type": "permit"}, True, "consent-permit"),
        ({"type": "deny"}, False, "consent-deny"),
        ({"type": "permit", "purpose": purpose("TREAT")}, True, "consent-permit"),
        ({"type": "permit", "purpose": purpose("HRESCH")}, False, "consent-does-not-cover"),
        ({"type": "permit", "actor": actor("Organization/a")}, True, "consent-permit"),
        ({"type": "permit", "actor": actor("Organization/b")}, False, "consent-does-not-cover"),
        ({"type": "deny", "actor": actor("Organization/a")}, False, "consent-deny"),
        (
            {"type": "permit", "class": [{"system": "http://hl7.org/fhir/resource-types", "code": "Patient"}]},
            False,
            "consent-does-not-cover",
        ),
        ({"type": "permit", "action": [{"coding": [{"code": "collect"}]}]}, False, "consent-does-not-cover"),
        ({"type": "permit", "action": [{"coding": [{"code": "access"}]}]}, True, "consent-permit"),
        ({"type": "permit", "provision": [{"type": "deny", "actor": actor("Practitioner/dr")}]}, False, "consent-deny"),
        (
            {"type": "deny", "provision": [{"type": "permit", "actor": actor("Practitioner/dr")}]},
            True,
            "consent-permit",
        ),
        ({"type": "deny", "provision": [{"type": "permit"}, {"type": "deny"}]}, False, "consent-deny"),
        (
            {
                "type": "permit",
                "provision": [{"type": "deny", "provision": [{"type": "permit", "purpose": purpose("TREAT")}]}],
            },
            True,
            "consent-permit",
        ),
    ],
)
@pytest.mark.parametrize("policy", [DENY, PERMIT], ids=["default-deny", "default-permit"])
def test_the_most_specific_provision_decides_and_deny_wins(provision, permitted, rule, policy):
    """Root, exceptions and their exceptions; what a permit does not cover is denied, whatever the default."""
    answer = decision(consent(provision), policy=policy)

    assert (answer.permitted, answer.rule) == (permitted, rule)


def test_a_deny_that_means_others_says_nothing():
    """A deny for another organisation leaves the request to the default, or to OPTIN beside it."""
    provision = {"type": "deny", "actor": actor("Organization/b")}

    assert decision(consent(provision), policy=DENY).rule == "default-deny"
    assert decision(consent(provision), policy=PERMIT).rule == "default-permit"
    assert (
        decision(consent(provision, policyRule={"coding": [{"code": "OPTIN"}]}), policy=DENY).rule == "consent-permit"
    )


@pytest.mark.parametrize(
    ("provision", "rule"),
    [
        ({"type": "deny", "actor": actor("Group/g"), "provision": [{"type": "permit"}]}, "default-deny"),
        ({"type": "deny", "code": [{"coding": [{"code": "hiv"}]}], "provision": [{"type": "permit"}]}, "default-deny"),
        (
            {
                "type": "deny",
                "provision": [{"type": "deny", "actor": actor("Group/g"), "provision": [{"type": "permit"}]}],
            },
            "consent-deny",
        ),
        (
            {
                "type": "deny",
                "actor": actor("Group/g"),
                "provision": [{"type": "permit", "purpose": purpose("HRESCH")}],
            },
            "consent-deny",
        ),
    ],
)
def test_a_deny_that_holds_in_doubt_opens_nothing_by_its_exceptions(provision, rule):
    """Nobody knows whether the caller is in the group: the deny holds, what it leaves open to the group does not."""
    answer = decision(consent(provision), resource=observation(Code("urn:s", "hiv")))

    assert (answer.permitted, answer.rule) == (False, rule)


def test_between_consents_a_deny_wins_and_any_permit_covers():
    """Two Consents: deny beats permit; permits for different recipients do not exclude each other."""
    permit_a = consent({"type": "permit", "actor": actor("Organization/a")})
    permit_b = consent({"type": "permit", "actor": actor("Organization/b")})

    assert decision(permit_a, permit_b).permitted
    assert decision(permit_a, consent({"type": "deny"})).consent_keys == (1,)
    assert not decision(permit_a, consent({"type": "deny"})).permitted


@pytest.mark.parametrize(
    ("period", "rule"),
    [
        ({"start": "2026-01-01", "end": "2026-06-01"}, "consent-permit"),
        ({"end": "2026-05-31"}, "default-deny"),
        ({"start": "2026-06-02"}, "default-deny"),
    ],
)
def test_a_consent_holds_within_its_period(period, rule):
    """Both days of the period belong to it; outside it the Consent says nothing."""
    assert decision(consent({"type": "permit", "period": period})).rule == rule


@pytest.mark.parametrize("status", ["inactive", "draft", "proposed", "rejected", "entered-in-error"])
def test_only_an_active_consent_speaks(status):
    """A revoked permit permits nothing any more; nor does one that never took effect."""
    assert decision(consent({"type": "permit"}, status=status)).rule == "default-deny"


def test_a_deny_of_a_broad_purpose_reaches_the_narrow_one_and_a_permit_does_not():
    """ETREAT falls under a deny of TREAT, but a permit of TREAT does not open ETREAT."""
    emergency = AccessRequest(CLINICIAN.actors, "ETREAT", NOW)

    assert (
        decision(consent({"type": "deny", "purpose": purpose("TREAT")}), request=emergency, policy=PERMIT).rule
        == "consent-deny"
    )
    assert (
        decision(consent({"type": "permit", "purpose": purpose("TREAT")}), request=emergency).rule
        == "consent-does-not-cover"
    )


def test_codes_are_looked_up_in_the_resource():
    """A deny of a code hides the resources that carry it, also where a system is missing; others stay."""
    rule = consent(
        {"type": "permit", "provision": [{"type": "deny", "code": [{"coding": [{"system": "urn:s", "code": "hiv"}]}]}]}
    )

    assert compile_consent(rule).needs_body
    assert not decision(rule, resource=observation(Code("urn:s", "hiv"))).permitted
    assert not decision(rule, resource=observation(Code("", "hiv"))).permitted
    assert decision(rule, resource=observation(Code("urn:other", "hiv"))).permitted


def test_agreements_about_care_open_no_records():
    """A consent to treatment, or an advance directive, is no permission to see anything."""
    scope = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "treatment"}]}

    assert decision(consent({"type": "permit"}, scope=scope)).rule == "default-deny"


def test_a_restricted_patient_is_closed_to_everyone():
    """Neither a permit nor being the patient opens a restricted record; nor does a Consent that was not understood."""
    permit = consent({"type": "permit"})
    patient = AccessRequest(frozenset({"Patient/p"}), "PATRQT", NOW, own=frozenset({1}))
    broken = ConsentOnFile(0, compile_consent(permit), Certainty.OWN)
    broken = broken._replace(rule=decode(encode(broken.rule).replace(b'"active"', b'"error"')))

    assert broken.rule.status is Status.ERROR
    assert decision(permit, restricted=True).rule == "restricted"
    assert decision(permit, restricted=True, request=patient).rule == "restricted"
    assert decide(CLINICIAN, PERMIT, [Compartment(1, False, (broken,))], observation()).rule == "restricted"


def test_a_patient_sees_own_records_and_no_others():
    """A patient's token opens the own compartment, whatever was denied to others, and nothing else."""
    patient = AccessRequest(frozenset({"Patient/p"}), "PATRQT", NOW, own=frozenset({1}))
    other = AccessRequest(frozenset({"Patient/q"}), "PATRQT", NOW, own=frozenset({2}))

    assert decision(consent({"type": "deny"}), request=patient).rule == "patient-self"
    assert decision(consent({"type": "permit"}), request=other, policy=PERMIT).rule == "other-patient"


@pytest.mark.parametrize(
    ("certainty", "permit", "deny"),
    [
        (Certainty.ASSERTED, True, False),
        (Certainty.CERTAIN, True, False),
        (Certainty.POSSIBLE, False, False),
    ],
)
def test_a_deny_reaches_every_linked_record_a_permit_only_sure_ones(certainty, permit, deny):
    """A permit given for a record that is only possibly the same person's opens nothing."""
    assert decision(consent({"type": "permit"}), certainty=certainty).permitted is permit
    assert decision(consent({"type": "deny"}), certainty=certainty, policy=PERMIT).permitted is deny


def test_every_compartment_must_permit():
    """A resource of two patients shows only if both permit; one of none follows its type."""
    permit, deny = on_file(consent({"type": "permit"}))[0], on_file(consent({"type": "deny"}))[0]

    assert decide(CLINICIAN, DENY, [permit, permit], observation()).permitted
    assert not decide(CLINICIAN, DENY, [permit, deny], observation()).permitted
    assert not decide(CLINICIAN, DENY, [deny, permit], observation()).permitted
    assert decide(CLINICIAN, DENY, [], Resource("Organization", frozenset)).rule == "type-permit"
    assert decide(CLINICIAN, PERMIT, [], Resource("Observation", frozenset)).rule == "type-deny"


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        ({"resourceType": "Patient"}, "consent-malformed"),
        (consent(patient={"reference": "Group/g"}), "consent-without-patient"),
        (consent(status="on"), "consent-status-unknown"),
        (consent([1]), "consent-malformed"),
        (consent({"type": "maybe"}), "consent-type-missing"),
        (consent({"type": "permit", "actors": actor("Organization/b")}), "consent-malformed"),
        (
            consent({"actor": actor("Organization/a")}, policyRule={"coding": [{"code": "OPTIN"}]}),
            "consent-type-missing",
        ),
        (consent({"type": "permit", "provision": [{}]}), "consent-type-missing"),
        (consent({"type": "permit", "period": {"end": "soon"}}), "consent-malformed"),
        (consent({"type": "permit", "actor": [{"reference": {"display": "Dr. Who"}}]}), "consent-malformed"),
        (consent(modifierExtension=[{"url": "urn:x"}]), "consent-element-unsupported"),
        (consent({"type": "permit", "code": [{"text": "anything"}]}), "consent-malformed"),
        (consent({"type": "permit", "purpose": [{"display": "x"}]}), "consent-malformed"),
        (consent({"type": "permit", "securityLabel": [{"code": "N"}]}), "consent-element-unsupported"),
        (consent({"type": "permit", "dataPeriod": {"end": "2020"}}), "consent-element-unsupported"),
        (consent({"type": "deny", "data": [{}]}), "consent-element-unsupported"),
        (consent({"type": "permit", "class": [{"system": "urn:x", "code": "y"}]}), "consent-element-unsupported"),
    ],
)
def test_what_is_not_understood_is_refused(resource, code):
    """No limit is passed over: the Consent is refused by name, so that its patient can be restricted."""
    with pytest.raises(BridgeError) as caught:
        compile_consent(resource)

    assert caught.value.code == code
    assert "Who" not in str(caught.value)


def test_deep_nesting_is_refused():
    """The depth and the number of provisions are bounded."""
    deep = {"type": "permit"}
    for _ in range(6):
        deep = {"type": "permit", "provision": [deep]}
    for provision in (deep, {"type": "permit", "provision": [{"type": "deny"}] * 300}):
        with pytest.raises(Incorrect) as caught:
            compile_consent(consent(provision))
        assert caught.value.code == "consent-too-deep"


@pytest.mark.parametrize(
    "conditions",
    [
        {"actor": [entry for number in range(301) for entry in actor(f"Group/{number}")]},
        {"purpose": purpose(*map(str, range(301)))},
        {"code": [{"coding": [{"code": str(number)} for number in range(301)]}]},
        {"class": [{"system": "http://hl7.org/fhir/resource-types", "code": "Observation"}] * 301},
    ],
    ids=["actors", "purposes", "codes", "types"],
)
def test_a_consent_has_a_bounded_number_of_conditions(conditions):
    """All of them are gone through for every resource of the patient that somebody's search looks at."""
    compile_consent(consent({"type": "deny", **conditions}))
    twice = {"type": "permit", "provision": [{"type": "deny", **conditions}] * 2}

    with pytest.raises(Incorrect) as caught:
        compile_consent(consent(twice))
    assert caught.value.code == "consent-too-long"


def test_rules_survive_the_store():
    """A rule is the same after it was written and read."""
    rule = compile_consent(
        consent(
            {
                "type": "permit",
                "purpose": purpose("TREAT"),
                "provision": [{"type": "deny", "actor": actor("Practitioner/x")}],
            },
            organization=[{"identifier": {"system": "urn:o", "value": "1"}}],
        )
    )

    assert decode(encode(rule)) == rule
    assert rule.custodian == "urn:o|1"


@pytest.mark.parametrize(
    ("resource", "granted"),
    [
        (consent({"type": "permit", "period": {"end": "2026-12-31"}}), True),
        (consent({"type": "permit"}, status="inactive"), False),
        (consent({"type": "deny"}), False),
        (consent(), False),
    ],
)
def test_the_chain_hears_of_a_grant_only_while_one_holds(resource, granted):
    """A word on chain is a grant only for an active permit, and ends with its period."""
    word = chain_word(compile_consent(resource))

    assert word.granted is granted
    assert word.not_after_us == (parse_date("2026-12-31").end_us if granted else None)


def test_visibility_never_hides_what_a_decision_would_show():
    """Patients without a Consent may be left out only where the default denies."""
    assert not visibility(CLINICIAN, DENY).without_consent
    assert visibility(CLINICIAN, PERMIT).without_consent
    patient = AccessRequest(frozenset(), "PATRQT", NOW, own=frozenset({4}))
    assert visibility(patient, DENY).own == {4}
    assert visibility(patient, DENY).without_consent


def test_a_policy_file_with_mistakes_is_refused(tmp_path: Path):
    """A missing file, an unknown word and an unknown key are named with the file."""
    folder = tmp_path / "consent"
    folder.mkdir()
    for text in (None, "types: {Patient: maybe}\npurposes: {}", "types: {}", "types: {}\npurposes: {}\nextra: 1"):
        if text is not None:
            (folder / "policy.yaml").write_text(text)
        with pytest.raises(Incorrect) as caught:
            load_policy(tmp_path, DefaultPolicy.DENY)
        assert caught.value.code == "consent-policy-malformed"
        assert caught.value.where is not None


def test_ihe_examples_that_are_understood_decide_as_published():
    """IHE PCF's cases: every Consent that compiles gives the expected visibility of all six resources."""
    folder = reference_data("consent", "ihe-pcf")
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    decided = 0
    for case in cases:
        resource = json.loads((folder / "resources" / f"Consent-{case['consent']}.json").read_text())
        try:
            compartments = on_file(resource)
        except Unsupported:
            continue
        request = AccessRequest(frozenset({case["actor"]}), case["purposeOfUse"], parse_date(case["at"]).start_us)
        for name, visible in case["derived_visible"].items():
            target = Resource(name.partition("/")[0], frozenset)
            assert decide(request, DENY, compartments, target).permitted is visible, (case["consent"], name)
        decided += 1
    assert decided >= 19


def test_official_examples_are_understood_or_refused_by_name():
    """HL7's own R4 examples: a rule or an error of the closed categories, never an accident."""
    for path in sorted(reference_data("consent", "hl7-r4-examples").glob("*.json")):
        resource = json.loads(path.read_text())
        with suppress(BridgeError):
            assert compile_consent(resource).patient == resource["patient"]["reference"], path.name


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["permit", "deny", "TREAT", "2026", "Organization/a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "period",
                    "start",
                    "actor",
                    "reference",
                    "purpose",
                    "code",
                    "coding",
                    "provision",
                    "class",
                    "action",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_any_provision_compiles_or_is_refused(provision):
    """Whatever stands in a Consent, the outcome is a rule that decides, or an error of the closed categories."""
    try:
        compartments = on_file({**consent(), "provision": provision})
    except BridgeError:
        return
    decide(CLINICIAN, DENY, compartments, observation())


ACTORS = st.lists(st.sampled_from(["Organization/a", "Organization/b", "Practitioner/dr", "Group/g"]), max_size=2)
PLAIN = st.builds(
    lambda kind, actors, codes: {
        "type": kind,
        "actor": [entry for name in actors for entry in actor(name)],
        "purpose": purpose(*codes),
    },
    st.sampled_from(["permit", "deny"]),
    ACTORS,
    st.lists(st.sampled_from(["TREAT", "HRESCH"]), max_size=1),
)


def provisions_of(leaves):
    """Provisions with exceptions, not deeper than ``leaves``."""
    return st.recursive(
        PLAIN,
        lambda inner: st.builds(
            lambda outer, children: {**outer, "provision": children}, inner, st.lists(inner, max_size=2)
        ),
        max_leaves=leaves,
    )


@given(st.lists(provisions_of(5), max_size=3), st.sampled_from([DENY, PERMIT]))
def test_one_more_deny_never_opens_anything(provisions, policy):
    """Adding an unconditional deny to any set of Consents closes the patient."""
    consents = [consent(provision) for provision in provisions]

    assert not decision(*consents, consent({"type": "deny"}), policy=policy).permitted


@given(
    st.lists(provisions_of(3), max_size=3), st.sampled_from(["permit", "deny", None]), st.sampled_from([DENY, PERMIT])
)
def test_doubt_never_opens_what_certainty_would_not(exceptions, outer, policy):
    """What a caller sees while it cannot be told whether a group means it, it also sees once that surely is another."""
    doubtful = {"type": "deny", "actor": actor("Group/g"), "provision": exceptions}
    rule = consent({"type": outer, "provision": [doubtful]} if outer else doubtful)
    known = {"aliases": frozenset({"urn:g|me"}), "meanings": {"Group/g": frozenset({"urn:g|other"})}}

    if decision(rule, policy=policy).permitted:
        assert decision(rule, policy=policy, request=replace(CLINICIAN, **known)).permitted
