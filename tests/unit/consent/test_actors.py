"""Whom a deny means: the same name, or one of which it cannot be told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.consent.actors import denied_actors, may_mean, undecided
from bridge.consent.rule import compile_consent
from tests.unit.api.exchange import permit

CLINICIAN = frozenset({"Practitioner/dr", "https://login.example|dr", "urn:oid:1|a"})
SYSTEM = frozenset({"https://login.example|registry", "Organization/r"})


@pytest.mark.parametrize(
    ("names", "actor", "expected"),
    [
        (CLINICIAN, "Practitioner/dr", True),
        (CLINICIAN, "Practitioner/other", False),
        (CLINICIAN, "PractitionerRole/x", True),
        (CLINICIAN, "https://elsewhere.example/fhir/Practitioner/dr", True),
        (CLINICIAN, "RelatedPerson/x", False),
        (CLINICIAN, "Patient/x", False),
        (CLINICIAN, "Organization/x", True),
        (CLINICIAN, "Group/x", True),
        (CLINICIAN, "urn:oid:1|b", False),
        (CLINICIAN, "urn:oid:2|b", True),
        (CLINICIAN, "|b", True),
        (SYSTEM, "Practitioner/dr", False),
        (SYSTEM, "Organization/x", False),
        (SYSTEM, "https://elsewhere.example/fhir/Organization/r", True),
    ],
)
def test_only_names_of_one_kind_tell_two_apart(names, actor, expected):
    """Ids of one type on one server, or values of one system."""
    assert may_mean((actor,), names) is expected


def test_what_the_store_knows_of_an_actor_decides():
    """An identifier of a system that the caller has too tells; one of another does not."""
    names = frozenset({"urn:oid:1|a"})

    assert may_mean(("Organization/x",), names, {"Organization/x": frozenset({"urn:oid:1|a"})})
    assert not may_mean(("Organization/x",), names, {"Organization/x": frozenset({"urn:oid:1|b"})})
    assert may_mean(("Organization/x",), names, {"Organization/x": frozenset({"urn:oid:2|b"})})


def test_denied_actors_are_found_at_every_depth():
    """Whom a permit names is left out."""
    consent = permit("p", actors=("Organization/mine",))
    inner = [{"reference": {"reference": "Organization/x"}}]
    consent["provision"]["provision"] = [{"type": "deny", "actor": inner}]

    assert denied_actors(compile_consent(consent)) == {"Organization/x"}


NAMES = st.sampled_from(
    ["Organization/x", "Practitioner/x", "urn:s|x", "https://e.example/fhir/Organization/x", "Group/x"]
)


@given(st.frozensets(NAMES, min_size=1), st.lists(NAMES, min_size=1))
def test_knowing_more_names_of_the_caller_never_hides_a_match(names, actors):
    """Whoever is named is meant; and what is decided without looking further stays so."""
    if names & set(actors):
        assert may_mean(actors, names)
    assert may_mean(actors, names) == bool(names & set(actors) or undecided(actors, names))
