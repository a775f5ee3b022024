"""The FHIR API over a seeded store: reads, versions, histories, searches, and what a client sees as Patient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.fhir.types import parse_instant
from tests.unit.api.exchange import BASE, Exchange, mint


def observation(number: int, patient: str = "p1", **elements: object) -> dict[str, object]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": f"c{number % 3}"}]},
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": f"2024-01-{number:02}",
        **elements,
    }


def patient(fhir_id: str, family: str = "Müller", **elements: object) -> dict[str, object]:
    return {
        "resourceType": "Patient",
        "id": fhir_id,
        "identifier": [{"system": "urn:mrn", "value": f"mrn-{fhir_id}"}],
        "name": [{"family": family, "given": ["Anna"]}],
        "gender": "female",
        "birthDate": "1980-06-15",
        **elements,
    }


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    """Nothing is hidden here: the default permits."""
    with Exchange(tmp_path, "permit") as running:
        running.seed.put(patient("p1"), patient("p2", "Schmidt"), *(observation(n) for n in range(1, 13)))
        running.seed.put({"resourceType": "Organization", "id": "org", "name": "St. Olave"})
        yield running


def test_a_read_sends_the_stored_bytes(exchange):
    """Body, ETag and Last-Modified are those of the stored version."""
    response = exchange.get("Patient/p1")

    assert response.status_code == 200
    assert response.content.startswith(b'{"resourceType":"Patient","id":"p1","meta":{"versionId":"1"')
    assert response.headers["etag"] == 'W/"1"'
    assert response.headers["content-type"] == "application/fhir+json; charset=utf-8"
    assert response.headers["last-modified"].endswith("GMT")
    assert response.headers["cache-control"] == "no-store"


def test_an_unchanged_version_is_not_sent_again(exchange):
    """If-None-Match with the current version answers 304 without a body."""
    response = exchange.get("Patient/p1", headers={"If-None-Match": 'W/"1"'})

    assert (response.status_code, response.content) == (304, b"")
    assert exchange.get("Patient/p1", headers={"If-None-Match": 'W/"2"'}).status_code == 200


def test_versions_and_history(exchange):
    """Every version can be read, newest first in the history, page by page."""
    for family in ("B", "C"):
        exchange.seed.put(patient("p1", family))
    first = exchange.get("Patient/p1/_history?_count=2").json()

    assert exchange.get("Patient/p1").headers["etag"] == 'W/"3"'
    assert exchange.get("Patient/p1/_history/1").json()["name"][0]["family"] == "Müller"
    assert exchange.get("Patient/p1/_history/9").status_code == 404
    assert [entry["resource"]["meta"]["versionId"] for entry in first["entry"]] == ["3", "2"]
    assert [entry["request"]["method"] for entry in first["entry"]] == ["PUT", "PUT"]
    (following,) = [link["url"] for link in first["link"] if link["relation"] == "next"]
    second = exchange.get(following).json()
    assert [entry["resource"]["meta"]["versionId"] for entry in second["entry"]] == ["1"]
    assert [link["relation"] for link in second["link"]] == ["self"]
    since = first["entry"][0]["resource"]["meta"]["lastUpdated"]
    assert len(exchange.get(f"Patient/p1/_history?_since={since}").json()["entry"]) == 1


def test_a_deleted_resource_is_gone_and_stays_in_history(exchange):
    """A read answers 404, a search leaves it out, the history shows the deletion without content."""
    exchange.seed.put(observation(1), deleted=True)

    assert exchange.get("Observation/o1").status_code == 404
    assert "o1" not in exchange.ids("Observation")
    history = exchange.get("Observation/o1/_history").json()["entry"]
    assert [entry["request"]["method"] for entry in history] == ["DELETE", "POST"]
    assert "resource" not in history[0]


SEARCHES = [
    ("Patient?identifier=urn:mrn|mrn-p1", ["p1"]),
    ("Patient?identifier=mrn-p2", ["p2"]),
    ("Patient?identifier=urn:mrn|", ["p1", "p2"]),
    ("Patient?identifier=|mrn-p1", []),
    ("Patient?family=MULL", ["p1"]),
    ("Patient?name=anna", ["p1", "p2"]),
    ("Patient?given:exact=anna", []),
    ("Patient?family:contains=chmi", ["p2"]),
    ("Patient?family:contains=%25", []),
    ("Patient?gender=female&birthdate=1980-06-15", ["p1", "p2"]),
    ("Patient?birthdate=lt1980-06-15", []),
    ("Patient?_id=p2,p9", ["p2"]),
    ("Observation?patient=p1&code=http://loinc.org|c1", ["o1", "o4", "o7", "o10"]),
    ("Observation?subject=Patient/p1&date=2024-01-05", ["o5"]),
    ("Observation?patient=p1&date=ge2024-01-03&date=lt2024-01-05", ["o3", "o4"]),
    ("Observation?patient=p2", []),
    ("Observation?patient=nobody", []),
    ("Observation?status=final&code=c2&_count=2", ["o2", "o5", "o8", "o11"]),
    ("Observation?status=preliminary", []),
    ("Observation?patient=p1&_sort=-date&_count=5", [f"o{n}" for n in range(12, 0, -1)]),
    ("Observation?_sort=date&code=c0", ["o3", "o6", "o9", "o12"]),
    ("Observation?_sort=-_lastUpdated&_id=o1,o2", ["o2", "o1"]),
    ("Organization?name=st.", ["org"]),
]


@pytest.mark.parametrize(("path", "ids"), SEARCHES)
def test_searches_find_what_they_ask_for(exchange, path, ids):
    """By token, text, date, reference and id, in the order asked for, over any number of pages."""
    assert exchange.ids(path) == ids


def test_last_updated_is_a_criterion(exchange):
    """``_lastUpdated`` compares with the stored instant."""
    moment = exchange.get("Observation/o5").json()["meta"]["lastUpdated"]

    assert exchange.ids(f"Observation?_lastUpdated=gt{moment}") == [f"o{n}" for n in range(6, 13)]
    assert exchange.ids(f"Observation?_lastUpdated={moment}") == ["o5"]


def test_polls_leave_out_what_may_still_get_company(exchange, monkeypatch):
    """Beyond the horizon a change shows in ordinary answers at once, but not to a client that follows lastUpdated."""
    horizon_us = parse_instant(exchange.get("Observation/o5").json()["meta"]["lastUpdated"])

    async def horizon(_):
        return horizon_us

    monkeypatch.setattr("bridge.store.async_database._AsyncSqlite.visible_horizon_us", horizon)
    exchange.seed.put(observation(1))
    since = "_since=2020-01-01"

    assert exchange.ids("Observation?_lastUpdated=gt2020") == ["o2", "o3", "o4", "o5"]
    assert exchange.ids("Observation?_sort=_lastUpdated") == ["o2", "o3", "o4", "o5"]
    assert len(exchange.ids("Observation")) == 12
    assert len(exchange.get(f"Observation/o1/_history?{since}").json()["entry"]) == 1
    assert len(exchange.get("Observation/o1/_history").json()["entry"]) == 2


def test_a_posted_search_is_the_same_search(exchange):
    """Form and query string count together; the links onward show none of it."""
    form = {"patient": "p1", "_count": "5"}
    response = exchange.request("POST", "Observation/_search?status=final", data=form)
    bundle = response.json()

    assert len(bundle["entry"]) == 5
    (following,) = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
    assert following.startswith(f"{BASE}/Observation?_page=")
    assert "p1" not in following
    assert exchange.ids(following) == [f"o{n}" for n in range(6, 13)]


def test_bundles_name_every_resource_and_count_what_is_known(exchange):
    """fullUrl is the resource's address; total stands where the whole answer is known."""
    whole = exchange.get("Observation?patient=p1&_count=50").json()
    part = exchange.get("Observation?patient=p1&_count=5").json()

    assert whole["total"] == 12
    assert whole["entry"][0]["fullUrl"] == f"{BASE}/Observation/o1"
    assert whole["link"] == [{"relation": "self", "url": f"{BASE}/Observation?patient=p1&_count=50"}]
    assert "total" not in part
    counted = exchange.get("Observation?patient=p1&_count=0").json()
    assert (counted["total"], "entry" in counted) == (12, False)


def test_unknown_parameters_follow_the_handling(exchange):
    """Lenient: ignored and left out of the self link. Strict: refused, without quoting."""
    lenient = exchange.get("Patient?shoe-size=42&gender=female").json()
    strict = exchange.get("Patient?shoe-size=42", headers={"Prefer": "handling=strict"})

    assert lenient["link"][0]["url"] == f"{BASE}/Patient?gender=female"
    assert strict.status_code == 400
    assert strict.json()["issue"][0]["details"]["coding"][0]["code"] == "search-parameter-unknown"
    assert "42" not in strict.text


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("Patient?_count=ten", 400, "search-count-invalid"),
        ("Patient?birthdate=yesterday", 400, "search-value-invalid"),
        ("Patient?gender:not=male", 400, "search-modifier-unsupported"),
        ("Patient?_format=xml", 406, "search-format-unsupported"),
        ("Patient?family=%ff", 400, "search-malformed"),
        ("Patient?" + "&".join(["gender=x"] * 200), 400, "search-malformed"),
        ("Patient?_page=nonsense", 400, "page-token-invalid"),
        ("Patient/p1/_history?_count=0", 400, "search-count-invalid"),
        ("Patient/p1/_history?_since=soon", 400, "search-value-invalid"),
        ("Medication/1", 404, "type-unknown"),
        ("Patient/nobody", 404, "resource-not-found"),
        ("Patient/not%20an%20id", 404, "resource-not-found"),
        ("Patient/p1/everything/else", 404, "no-such-address"),
    ],
)
def test_errors_are_outcomes_with_a_name(exchange, path, status, code):
    """Every refusal is an OperationOutcome of the closed categories."""
    response = exchange.get(path)

    assert response.status_code == status
    issue = response.json()["issue"][0]
    assert issue["details"]["coding"][0]["code"] == code
    assert response.headers["content-type"].startswith("application/fhir+json")


def test_what_is_not_served_is_refused(exchange):
    """XML, deletions, writes of other types, other bodies: each with its own status."""
    assert exchange.get("Patient/p1", headers={"Accept": "application/fhir+xml"}).status_code == 406
    assert exchange.request("DELETE", "Patient/p1").status_code == 405
    assert exchange.request("PATCH", "Patient/p1").status_code == 405
    assert exchange.request("PUT", "Patient/p1", content=b"{}").status_code == 405
    assert exchange.request("POST", "Patient/_search", content=b"{}").status_code == 415


def test_the_capability_statement_says_what_is_served(exchange):
    """Without a token; every type with its parameters, and writing for Consent alone."""
    response = exchange.request("GET", "metadata", headers={"Authorization": None})
    statement = response.json()

    assert response.status_code == 200
    assert statement["fhirVersion"] == "4.0.1"
    by_type = {item["type"]: item for item in statement["rest"][0]["resource"]}
    assert {"name": "birthdate", "type": "date"} in by_type["Patient"]["searchParam"]
    assert "create" in [item["code"] for item in by_type["Consent"]["interaction"]]
    assert "create" not in [item["code"] for item in by_type["Patient"]["interaction"]]


def test_after_a_merge_either_id_finds_both_records(exchange):
    """The old Patient answers as the source left it; patient= on either id finds the resources of both."""
    exchange.seed.put(observation(20, "p2"))
    exchange.seed.merge("p1", "p2")
    link = [{"other": {"reference": "Patient/p1"}, "type": "replaced-by"}]
    exchange.seed.put(patient("p2", "Schmidt", active=False, link=link))
    old = exchange.get("Patient/p2")

    assert old.status_code == 200
    assert (old.json()["active"], old.json()["link"]) == (False, link)
    for fhir_id in ("p1", "p2"):
        assert "o20" in exchange.ids(f"Observation?patient={fhir_id}")
        assert "o1" in exchange.ids(f"Observation?patient={fhir_id}")


def test_links_made_by_matching_expand_only_when_asked(exchange):
    """``:mdm`` or the client's profile joins the linked records; an ordinary search does not."""
    exchange.seed.put(observation(20, "p2"))
    exchange.seed.link("p1", "p2")

    assert "o20" not in exchange.ids("Observation?patient=p1")
    assert "o20" in exchange.ids("Observation?patient:mdm=p1")
    assert "o20" in exchange.ids("Observation?patient=p1", token=mint("mpi"))


def test_possible_links_never_expand(exchange):
    """A link that is only possible joins nothing."""
    exchange.seed.put(observation(20, "p2"))
    exchange.seed.link("p1", "p2", certainty="possible")

    assert "o20" not in exchange.ids("Observation?patient:mdm=p1")


def test_provenance_of_two_patients_is_found_by_either(exchange):
    """A merge's Provenance names both records."""
    targets = [{"reference": "Patient/p1"}, {"reference": "Patient/p2"}]
    exchange.seed.put({"resourceType": "Provenance", "id": "pr", "target": targets, "recorded": "2024-01-01T00:00:00Z"})

    assert exchange.ids("Provenance?patient=p1") == ["pr"]
    assert exchange.ids("Provenance?patient=p2") == ["pr"]


def test_operations_answer_without_a_token(tmp_path):
    """Alive, ready or why not, and the newest checkpoint once there is one."""
    from bridge.errors import Unavailable

    async def ready() -> None:
        return

    async def waiting() -> None:
        raise Unavailable("keys-missing", "no keys")

    with Exchange(tmp_path, checks={"store": ready, "keys": waiting}) as running:
        root = "https://hie.example"
        assert running.get(f"{root}/live").json() == {"status": "alive"}
        state = running.get(f"{root}/ready")
        assert (state.status_code, state.json()) == (503, {"store": "ready", "keys": "keys-missing"})
        assert running.get(f"{root}/log/checkpoint").status_code == 404
        running.checkpoint = "hie.example/log\n1\nroot\n"
        assert running.get(f"{root}/log/checkpoint").text == "hie.example/log\n1\nroot\n"


@pytest.mark.parametrize(("asked_for", "status"), [(True, 200), (False, 404)])
def test_measures_are_served_only_where_asked_for(tmp_path, asked_for, status):
    """Decisions are counted: on a port that callers reach, the count would tell hidden from absent."""
    with Exchange(tmp_path, metrics=asked_for) as running:
        response = running.get("https://hie.example/metrics")

        assert response.status_code == status
        assert ("hiebridge_request_seconds" in response.text) is asked_for
