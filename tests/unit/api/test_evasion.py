"""Ways around a Consent: other names for the same caller, other places in the resource, other versions, exhausted budgets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.access import enforcement
from tests.unit.api.exchange import BASE, ISSUER, Exchange, mint, permit
from tests.unit.api.test_reading import observation, patient

PORTAL = mint("portal", patient="p1")
HIV = {"coding": [{"system": "urn:s", "code": "hiv"}]}


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    """The default denies; p1 permits everyone, p2 nobody."""
    with Exchange(tmp_path) as running:
        running.seed.put(patient("p1"), patient("p2"), permit("p1", id="c1"), permit("p2", "deny", id="c2"))
        yield running


@pytest.mark.parametrize("named", ["Practitioner/dr", "Practitioner/dr/_history/2", f"{BASE}/Practitioner/dr"])
@pytest.mark.parametrize("claimed", ["Practitioner/dr", f"{BASE}/Practitioner/dr"])
def test_a_denied_person_is_denied_by_every_spelling(exchange, named, claimed):
    """SMART App Launch writes fhirUser as a URL, patients' portals write the actor as they like: it is one person."""
    response = exchange.post_consent(permit("p1", "deny", actors=(named,)), token=PORTAL)

    assert response.status_code == 201
    assert exchange.get("Patient/p1", token=mint(fhirUser=claimed)).status_code == 404
    assert exchange.get("Patient/p1", token=mint(fhirUser="Practitioner/other")).status_code == 200


def test_a_person_of_another_server_goes_by_the_whole_url(exchange):
    """An id elsewhere is not the same id here."""
    elsewhere = "https://other.example/fhir/Practitioner/dr"
    exchange.post_consent(permit("p1", "deny", actors=(elsewhere,)), token=PORTAL)

    assert exchange.get("Patient/p1", token=mint(fhirUser=elsewhere)).status_code == 404
    assert exchange.get("Patient/p1", token=mint(fhirUser=elsewhere + "2")).status_code == 200
    # Whether the one here and the one there are one person, nobody can tell.
    assert exchange.get("Patient/p1", token=mint(fhirUser="Practitioner/dr")).status_code == 404


@pytest.mark.parametrize("version", ["", "/_history/2"])
@pytest.mark.parametrize("place", [BASE, "https://other.example/fhir"])
def test_a_version_of_a_person_is_the_person(exchange, place, version):
    """Neither in the Consent nor in the token does the version of the resource make a name somebody else's."""
    for fhir_id, named, claimed in (("p1", version, ""), ("p3", "", version)):
        exchange.seed.put(patient(fhir_id), permit(fhir_id, id=f"of-{fhir_id}"))
        deny = permit(fhir_id, "deny", actors=(f"{place}/Practitioner/dr{named}",))
        exchange.post_consent(deny, token=mint("portal", patient=fhir_id))

        token = mint(fhirUser=f"{place}/Practitioner/dr{claimed}")
        assert exchange.get(f"Patient/{fhir_id}", token=token).status_code == 404


@pytest.mark.parametrize("end", ["?x=1", "#x", "|1", "/", "%20"])
def test_a_url_that_is_no_reference_may_mean_anyone(exchange, end):
    """It looks like another id on the same server, and is none."""
    exchange.post_consent(permit("p1", "deny", actors=(f"{BASE}/Practitioner/dr{end}",)), token=PORTAL)

    assert exchange.get("Patient/p1", token=mint(fhirUser="Practitioner/dr")).status_code == 404


@pytest.mark.parametrize(
    "user",
    [
        "Organization/r",
        f"{BASE}/Group/g",
        "https://other.example/fhir/Organization/r",
        "https://other.example/users/17",
        "https://other.example/fhir/Practitioner/dr?x=1",
        "https://",
        "Patient/p1",
        "https://other.example/fhir/RelatedPerson/r",
        "dr",
        "urn:uuid:1",
        5,
        ["Practitioner/dr"],
    ],
)
def test_a_user_that_is_no_person_is_refused(exchange, user):
    """Organisations come from the profile alone; of a name that is not understood, or of no member of the staff, nobody
    could tell that it is not a denied one's."""
    exchange.seed.put(permit("p2", actors=("Organization/r",), id="c2"))
    response = exchange.get("Patient/p2", token=mint(fhirUser=user))

    assert response.status_code == 403
    assert "token-user" in response.text
    assert [row["rule"] for row in exchange.access_records()] == ["token-user"]


@pytest.mark.parametrize("name", ["fhirUser", "sub"])
def test_an_officer_opens_nothing_by_the_other_name(exchange, name):
    """Whoever has two names in one token benefits from a permit to either."""
    consent = permit("p2", organization=[{"reference": "Organization/a"}])
    references = {
        "fhirUser": {"reference": "Practitioner/bob"},
        "sub": {"identifier": {"system": ISSUER, "value": "b"}},
    }
    consent["provision"]["actor"] = [{"role": {"coding": [{"code": "IRCP"}]}, "reference": references[name]}]

    bob = mint("officer", sub="b", fhirUser="Practitioner/bob")
    assert exchange.post_consent(consent, token=bob).status_code == 403
    assert exchange.post_consent(consent, token=mint("officer", sub="c", fhirUser="Practitioner/c")).status_code == 201


@pytest.mark.parametrize("reference", ["#dr", "urn:uuid:8e7fbe7c-6b6f-4d4b-9ad5-3c6f1b6d0f11", "the doctor", ""])
def test_an_actor_whom_no_caller_can_be_is_refused(exchange, reference):
    """A deny that could never hold is not taken for one that does."""
    response = exchange.post_consent(permit("p1", "deny", actors=(reference,)), token=PORTAL)

    assert response.status_code == 400
    assert "consent-malformed" in response.text


def test_a_denied_code_is_found_anywhere_and_a_permitted_one_is_not(exchange):
    """A deny hides what mentions the code at any depth; a permit of it opens only what is of that code."""
    inside = ({"component": [{"code": HIV}]}, {"valueCodeableConcept": HIV}, {"contained": [{"code": HIV}]})
    for number, elements in enumerate(inside, 1):
        exchange.seed.put(observation(number, "p1", **elements))
        exchange.seed.put(observation(number + 10, "p2", **elements))
    exchange.seed.put(observation(4, "p1"), observation(14, "p2", code=HIV), observation(15, "p2"))
    hide, show = permit("p1", "deny", id="c3"), permit("p2", id="c2")
    hide["provision"]["code"] = show["provision"]["code"] = [HIV]
    exchange.seed.put(hide, show)

    assert exchange.ids("Observation") == ["o4", "o14"]
    assert exchange.get("Observation/o1").status_code == 404


def test_a_version_of_another_patient_follows_that_patient(exchange):
    """A resource that moved from a patient who denies to one who permits does not take its past along."""
    exchange.seed.put(observation(1, "p2"), observation(1, "p1"))
    exchange.seed.put(observation(2, "p1"), observation(2, "p2"))

    assert exchange.get("Observation/o1").status_code == 200
    assert exchange.get("Observation/o1/_history/1").status_code == 404
    versions = [
        entry["resource"]["meta"]["versionId"] for entry in exchange.get("Observation/o1/_history").json()["entry"]
    ]
    assert versions == ["2"]
    assert exchange.get("Observation/o2/_history/1").status_code == 404


@pytest.mark.parametrize("how", ["denied", "restricted"])
def test_hidden_rows_do_not_spend_the_budget(exchange, monkeypatch, how):
    """However many rows a hidden patient has, the answer is that for an absent one: no link to an empty rest."""
    monkeypatch.setattr(enforcement, "SCAN_ROWS", 30)
    monkeypatch.setattr(enforcement, "SCAN_AT_ONCE", 20)
    if how == "restricted":
        exchange.seed.put({**permit("p2", id="c2"), "provision": {"type": "permit", "code": [HIV]}})
        exchange.seed.restrict("p2")
    exchange.seed.put(*(observation(number, "p2") for number in range(1, 60)), observation(60, "p1"))
    hidden, absent = exchange.get("Observation?patient=p2"), exchange.get("Observation?patient=p9")

    assert hidden.json().get("total") == 0
    assert exchange.get("Observation?patient=p2&_count=0").json().get("total") == 0
    assert exchange.get("Observation?_count=0").json().get("total") == 1
    assert hidden.text.replace("p2", "") == absent.text.replace("p9", "")
    page = exchange.get("Observation?_count=5").json()
    assert [entry["resource"]["id"] for entry in page["entry"]] == ["o60"]
    assert (page["total"], [link["relation"] for link in page["link"]]) == (1, ["self"])


@pytest.mark.parametrize("condition", ["W/1", 'W/"0"', '"1", "2"', '"01"', "*", "1"])
def test_a_condition_that_is_not_understood_stops_a_write(exchange, condition):
    """If-Match that cannot be read is not an unconditional write; also where there is nothing to write on."""
    for fhir_id in ("c1", "c9"):
        consent = permit("p1", id=fhir_id, status="inactive")
        response = exchange.put_consent(fhir_id, consent, token=PORTAL, headers={"If-Match": condition})
        assert (response.status_code, "if-match-invalid" in response.text) == (400, True)
    assert exchange.get("Consent/c1").headers["etag"] == 'W/"1"'


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("moment", [10**400, 1e300, -(10**400)])
def test_times_out_of_all_bounds_are_refused(exchange, claim, moment):
    """A number that no clock shows is no time, and no fault of the server."""
    assert exchange.get("Patient/p1", token=mint(**{claim: moment})).status_code == 401


@pytest.mark.parametrize("parameters", ["&".join(["name:contains={}"] * 3), "birthdate={}&name={}"])
def test_a_search_has_a_bounded_number_of_comparisons(exchange, parameters):
    """Each becomes a condition of a statement that is compiled and kept: together they are limited, not only one by one."""
    few, many = (",".join(["2000-01-01"] * number) for number in (33, 60))

    assert exchange.get("Patient?" + parameters.replace("{}", few)).status_code == 200
    response = exchange.get("Patient?" + parameters.replace("{}", many))
    assert (response.status_code, "search-too-complex" in response.text) == (400, True)


def test_a_version_of_another_patient_is_recorded_for_that_patient(exchange):
    """What is shown of a second patient in a history leaves that patient's access record too."""
    exchange.seed.put(patient("p3"), permit("p3", id="c3"), observation(1, "p3"), observation(1, "p1"))
    exchange.get("Observation/o1/_history")

    keys = {exchange.seed._keys["Patient/p1"], exchange.seed._keys["Patient/p3"]}
    assert {row["patient_key"] for row in exchange.access_records()} == keys


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "a\x00b"},
        {"sub": "a\ud800"},
        {"sub": "a" * 1025},
        {"sub": 5},
        {"sub": ["a"]},
        {"fhirUser": "https://other.example/Practitioner/\x00"},
        {"fhirUser": "https://other.example/" + "a" * 1025},
        {"azp": "line\nbreak"},
    ],
)
def test_a_name_that_cannot_be_recorded_is_no_name(exchange, claims):
    """A claim that the store would refuse fails the token (401), not the store (503)."""
    response = exchange.get("Patient/p1", token=mint(**claims))

    assert response.status_code == 401
    assert "token-claims" in response.text
    assert exchange.get("Patient/p1", token=mint(sub="ä" * 1024)).status_code == 200


@pytest.mark.parametrize("client", ["emr", "officer"])
@pytest.mark.parametrize("user", [None, ""])
def test_a_person_without_a_name_is_refused(exchange, client, user):
    """A token that leaves out who asks does not escape the Consent that denies that person; the denial is recorded."""
    exchange.post_consent(permit("p1", "deny", actors=("Practitioner/dr",)), token=PORTAL)
    before = len(exchange.access_records())
    response = exchange.get("Patient/p1", token=mint(client, fhirUser=user))

    assert response.status_code == 403
    assert "token-without-user" in response.text
    assert [row["rule"] for row in exchange.access_records()[before:]] == ["token-without-user"]
    assert "www-authenticate" not in response.headers


def test_a_client_that_no_person_uses_needs_none(exchange):
    """A system asks in its own name."""
    assert exchange.get("Patient/p1", token=mint("research")).status_code == 200


def organization(fhir_id, *identifiers):
    listed = [dict(zip(("system", "value"), item.split("|"), strict=True)) for item in identifiers]
    return {"resourceType": "Organization", "id": fhir_id, "identifier": listed}


@pytest.mark.parametrize(
    ("identifiers", "status"),
    [
        (("urn:oid:1.2.3|a",), 404),
        (("urn:oid:9|x", "urn:oid:1.2.3|a"), 404),
        (("urn:oid:1.2.3|b",), 200),
        (("urn:oid:9|x",), 404),
        ((), 404),
        (None, 404),
    ],
)
def test_a_denied_organization_is_found_by_its_identifier(exchange, identifiers, status):
    """The client goes by SYSTEM|VALUE, the Consent by the resource: it is denied unless that is surely another one."""
    if identifiers is not None:
        exchange.seed.put(organization("o", *identifiers))
    exchange.post_consent(permit("p1", "deny", actors=("Organization/o",)), token=PORTAL)

    assert exchange.get("Patient/p1").status_code == status
    assert (exchange.ids("Patient") == ["p1"]) is (status == 200)


@pytest.mark.parametrize(("value", "status"), [("r", 404), ("s", 200), (None, 404)])
def test_a_denied_identifier_is_found_at_the_clients_resource(exchange, value, status):
    """The other way about: the client goes by Organization/r, the Consent by an identifier."""
    if value is not None:
        exchange.seed.put(organization("r", f"urn:oid:9|{value}"))
    consent = permit("p1", "deny", actors=("x",))
    consent["provision"]["actor"][0]["reference"] = {"identifier": {"system": "urn:oid:9", "value": "r"}}
    exchange.post_consent(consent, token=PORTAL)

    assert exchange.get("Patient/p1", token=mint("research")).status_code == status


@pytest.mark.parametrize(("shared", "status"), [("urn:npi|1", 404), ("urn:npi|2", 200)])
def test_one_person_under_two_ids_is_one_person(exchange, shared, status):
    """Each site's Practitioner has an id of its own here: what has an identifier in common is not somebody else."""
    for fhir_id, number in (("here", "urn:npi|1"), ("there", shared)):
        body = organization(fhir_id, f"urn:site:{fhir_id}|7", number) | {"resourceType": "Practitioner"}
        exchange.seed.put(body)
    exchange.post_consent(permit("p1", "deny", actors=("Practitioner/there",)), token=PORTAL)

    assert exchange.get("Patient/p1", token=mint(fhirUser="Practitioner/here")).status_code == status


def test_an_earlier_identifier_of_an_organization_means_it(exchange):
    """The token gives one value of a system, the client's Organization also has the one that the Consent gives."""
    exchange.seed.put(organization("r", f"{ISSUER}|old"))
    consent = permit("p1", "deny", actors=("x",))
    consent["provision"]["actor"][0]["reference"] = {"identifier": {"system": ISSUER, "value": "old"}}
    exchange.post_consent(consent, token=PORTAL)

    assert exchange.get("Patient/p1", token=mint("research")).status_code == 404


def test_one_patients_consents_do_not_spend_what_anothers_are_looked_up_with(exchange, monkeypatch):
    """However many a patient denies, the deny of another patient, which surely means someone else, hides nothing."""
    monkeypatch.setattr(enforcement, "MAX_NAMED_ACTORS", 3)
    exchange.seed.put(organization("o", "urn:oid:1.2.3|b"), permit("p2", id="c2"))
    exchange.post_consent(permit("p1", "deny", actors=("Organization/o",)), token=PORTAL)
    assert exchange.ids("Patient") == ["p1", "p2"]
    many = tuple(f"Organization/a{number}" for number in range(4))
    exchange.post_consent(permit("p2", "deny", actors=many), token=mint("portal", patient="p2"))

    assert exchange.ids("Patient") == ["p1"]


def test_what_the_store_says_of_names_permits_nothing(exchange):
    """A feed that gives an Organization another's identifier opens nothing: permits are taken literally."""
    exchange.seed.put(organization("o", "urn:oid:1.2.3|a"), permit("p2", actors=("Organization/o",), id="c2"))

    assert exchange.get("Patient/p2").status_code == 404


def test_an_officer_writes_for_patients_of_the_own_sites_only(exchange):
    """Another custodian's patient is refused in the words for an absent one, whatever the Consent says of its custodian."""
    exchange.seed.site = "b"
    exchange.seed.put(patient("p3"))
    exchange.seed.site = "a2"
    exchange.seed.put(patient("p4"))
    officer = mint("officer")

    def write(fhir_id, custodian="Organization/a"):
        consent = permit(fhir_id, "deny", organization=[{"reference": custodian}])
        return exchange.post_consent(consent, token=officer)

    foreign, absent = write("p3"), write("p9")

    assert (write("p1").status_code, write("p4").status_code) == (201, 201)
    assert (foreign.status_code, foreign.content) == (403, absent.content)
    assert write("p3", "Organization/b").status_code == 403
    assert exchange.access_records()[-1]["decision"] == "deny"


def test_an_officer_writes_in_nobody_elses_name(exchange):
    """A Consent of several custodians is written by none of their officers alone, whichever is named first."""
    names = [{"reference": "Organization/a"}, {"reference": "Organization/b"}]
    for organizations in (names, names[::-1]):
        response = exchange.post_consent(permit("p1", "deny", organization=organizations), token=mint("officer"))
        assert (response.status_code, "consent-not-authorised" in response.text) == (403, True)
    assert exchange.post_consent(permit("p1", "deny", organization=names), token=PORTAL).status_code == 201


def test_an_officer_writes_for_whoever_surely_has_a_record_there(exchange):
    """The person counts: a certain link to a record of the own site suffices, a possible one does not."""
    exchange.seed.site = "b"
    exchange.seed.put(patient("p3"), patient("p4"))
    exchange.seed.link("p1", "p3")
    exchange.seed.link("p2", "p4", certainty="possible")
    consents = [permit(name, "deny", organization=[{"reference": "Organization/a"}]) for name in ("p3", "p4")]

    assert [exchange.post_consent(item, token=mint("officer")).status_code for item in consents] == [201, 403]
