"""Law *Reading*, promise P9: an answer equals the answer over a store that never contained what is hidden."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from bridge.access.settings import Role
from tests.unit.api.exchange import CLIENTS, Exchange, mint, permit
from tests.unit.api.test_reading import observation, patient

PATIENTS = ("p1", "p2", "p3", "p4")
CALLERS = {
    "emr": ({}, frozenset({"urn:oid:1.2.3|a"})),
    "research": ({}, frozenset({"Organization/r"})),
    "portal": ({"patient": "p1"}, frozenset()),
}
QUERIES = (
    "Patient?_count=1",
    "Patient?_count=3",
    "Patient?gender=female&_sort=-_lastUpdated&_count=2",
    "Patient?family=mull&_count=0",
    "Observation?_count=2",
    "Observation?code=c1&_count=3",
    "Observation?_sort=-date&_count=4",
    "Observation?patient=p1,p2&_count=2",
    "Observation?patient:mdm=p3",
    "Observation?subject=Patient/p2&date=ge2024-01-05",
    "Observation?status=final&_count=50",
)


class World(NamedTuple):
    """Consents by patient, which two are one person, who is restricted."""

    consents: dict[str, str]
    linked: tuple[str, str] | None
    restricted: str | None
    default: str


WORLDS = st.builds(
    World,
    st.dictionaries(st.sampled_from(PATIENTS), st.sampled_from(["permit", "deny", "permit-r", "deny-r"])),
    st.none() | st.sampled_from([("p1", "p2"), ("p2", "p3")]),
    st.none() | st.sampled_from(PATIENTS),
    st.sampled_from(["permit", "deny"]),
)


def visible(world: World, client: str, fhir_id: str) -> bool:
    """The law in its plainest words, for these few forms of Consent."""
    person = {fhir_id, *(world.linked if world.linked and fhir_id in world.linked else ())}
    if client == "portal":
        return fhir_id == CALLERS["portal"][0]["patient"] and world.restricted not in person
    if world.restricted in person:
        return False
    words = {world.consents[name] for name in person if name in world.consents}
    # Organization/r is not stored, so that nobody can tell whether a deny of it means a client known by an identifier.
    mine = {word.removesuffix("-r") for word in words if word != "permit-r" or client == "research"}
    if "deny" in mine:
        return False
    if "permit" in mine:
        return True
    return "permit-r" not in words and world.default == "permit"


def fill(exchange: Exchange, world: World, shown: set[str]) -> None:
    """Seeds what belongs to ``shown``, all at the places and times it has in the full store."""
    for fhir_id in PATIENTS:
        exchange.seed.put_if(fhir_id in shown, patient(fhir_id))
    for number in range(1, 17):
        owner = PATIENTS[number * 7 % 4]
        exchange.seed.put_if(owner in shown, observation(number, owner))
    for fhir_id, word in sorted(world.consents.items()):
        kind, _, limited = word.partition("-")
        consent = permit(fhir_id, kind, actors=("Organization/r",) if limited else (), id=f"c-{fhir_id}")
        exchange.seed.put_if(fhir_id in shown, consent)
    if world.linked and shown.issuperset(world.linked):
        exchange.seed.link(*world.linked)
    if world.restricted in shown:
        exchange.seed.restrict(world.restricted)


def answers(exchange: Exchange, client: str) -> list[tuple[object, ...]]:
    """What the caller can tell apart: every page of every query, and every read; page tokens are random anyway."""
    token = mint(client, **CALLERS[client][0])
    seen: list[tuple[object, ...]] = []
    for query in QUERIES:
        link = query
        while link:
            response = exchange.get(link, token=token)
            seen.append((query, response.status_code, re.sub(r"_page=[\w-]+", "_page", response.text)))
            bundle = response.json()
            link = next((item["url"] for item in bundle["link"] if item["relation"] == "next"), "")
    for path in [f"Patient/{name}" for name in PATIENTS] + [
        "Observation/o1",
        "Observation/o2/_history",
        "Consent/c-p1",
    ]:
        response = exchange.get(path, token=token)
        seen.append((path, response.status_code, sorted(response.headers.items()), response.content))
    return seen


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(WORLDS, st.sampled_from(sorted(CALLERS)))
def test_answers_are_those_of_a_store_without_the_hidden(world, client):
    """Same pages, links, counts, order and reads, whatever is hidden; and what may be seen is seen."""
    shown = {fhir_id for fhir_id in PATIENTS if visible(world, client, fhir_id)}
    event("hides and shows" if 0 < len(shown) < len(PATIENTS) else "all or nothing")
    with (
        tempfile.TemporaryDirectory() as first,
        tempfile.TemporaryDirectory() as second,
        Exchange(Path(first), world.default) as full,
        Exchange(Path(second), world.default) as reduced,
    ):
        fill(full, world, set(PATIENTS))
        fill(reduced, world, shown)

        assert set(full.ids("Patient", token=mint(client, **CALLERS[client][0]))) == shown
        assert answers(full, client) == answers(reduced, client)


def test_the_callers_are_clients_of_the_exchange():
    """The oracle's callers are the ones that the exchange knows, with the names it gives them."""
    known = {str(client["client_id"]): client for client in CLIENTS}

    for client, (claims, names) in CALLERS.items():
        assert (known[client]["role"] == Role.PATIENT.value) == ("patient" in claims)
        assert not names or known[client]["organization"] in names
