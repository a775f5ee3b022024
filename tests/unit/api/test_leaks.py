"""What consent hides can be neither seen nor inferred, and nobody opens it for themselves."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import Unavailable
from tests.unit.api.exchange import ISSUER, ORGANIZATION, OTHER_KEY, Exchange, mint, permit
from tests.unit.api.test_reading import observation, patient

SECRET = "Zyx-Hidden-Name"
UNSIGNED = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=") + f".{mint().split('.')[1]}."


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    """The default denies; p1 permits everyone, p2 (with a name to look for) permits nobody."""
    with Exchange(tmp_path) as running:
        running.seed.put(patient("p1"), patient("p2", SECRET), permit("p1", id="c1"), permit("p2", "deny", id="c2"))
        for number in range(1, 21):
            hidden = {"note": [{"text": SECRET}]} if number % 2 == 0 else {}
            running.seed.put(observation(number, "p1" if number % 2 else "p2", **hidden))
        yield running


def seen(response):
    """Everything a client can compare."""
    return response.status_code, sorted(response.headers.items()), response.content


@pytest.mark.parametrize(
    ("hidden", "absent"),
    [
        ("Patient/p2", "Patient/p9"),
        ("Patient/p2/_history/1", "Patient/p9/_history/1"),
        ("Patient/p2/_history", "Patient/p9/_history"),
        ("Patient/p2/_history?_since=2020-01-01", "Patient/p9/_history?_since=2020-01-01"),
        ("Observation/o2", "Observation/o98"),
        ("Consent/c2", "Consent/c9"),
    ],
)
def test_a_hidden_resource_reads_like_an_absent_one(exchange, hidden, absent):
    """Status, headers and body are the same, also for conditional reads."""
    assert seen(exchange.get(hidden)) == seen(exchange.get(absent))
    condition = {"headers": {"If-None-Match": 'W/"1"'}}
    assert seen(exchange.get(hidden, **condition)) == seen(exchange.get(absent, **condition))
    assert exchange.get(hidden).status_code == 404


@pytest.mark.parametrize(
    ("hidden", "absent"),
    [
        ("Patient?_id=p2", "Patient?_id=p9"),
        ("Patient?identifier=mrn-p2", "Patient?identifier=mrn-p9"),
        ("Patient?family=Zyx", "Patient?family=Zzz"),
        ("Observation?patient=p2", "Observation?patient=p9"),
        ("Observation?patient:mdm=p2&_count=0", "Observation?patient:mdm=p9&_count=0"),
        ("Consent?patient=p2", "Consent?patient=p9"),
    ],
)
def test_a_search_for_hidden_things_is_a_search_for_nothing(exchange, hidden, absent):
    """The two answers differ in the echoed parameters only."""
    first, second = exchange.get(hidden), exchange.get(absent)

    assert (first.status_code, first.json().get("total")) == (200, 0)
    assert first.text.replace(hidden, "") == second.text.replace(absent, "")


def test_hidden_rows_leave_no_gap_and_no_link(exchange):
    """Pages stay full, the last page says so, and the count counts what is shown."""
    page = exchange.get("Observation?_count=5").json()
    last = exchange.get("Observation?_count=10").json()

    assert [entry["resource"]["id"] for entry in page["entry"]] == ["o1", "o3", "o5", "o7", "o9"]
    assert len(last["entry"]) == last["total"] == 10
    assert [link["relation"] for link in last["link"]] == ["self"]
    assert exchange.get("Observation?_count=0").json()["total"] == 10


def test_hidden_content_stands_in_no_answer(exchange):
    """Neither errors nor bundles show what is hidden, and errors do not quote what was asked."""
    for path in ("Patient", "Observation", "Consent", "Observation?_count=x", "Patient?_sort=-_lastUpdated"):
        assert SECRET not in exchange.get(path).text
    for path in (f"Patient/{SECRET}", f"Patient?birthdate={SECRET}", f"Patient?_count={SECRET}", f"{SECRET}/1"):
        assert SECRET not in exchange.get(path).text


def test_a_page_token_serves_its_caller_only(exchange):
    """Another client, another purpose, an altered token and another type are refused."""
    bundle = exchange.get("Observation?_count=2").json()
    (link,) = [item["url"] for item in bundle["link"] if item["relation"] == "next"]

    assert exchange.get(link).status_code == 200
    for token in (mint("mpi"), mint(purpose="ETREAT"), mint(fhirUser="Practitioner/else")):
        assert exchange.get(link, token=token).status_code == 400
    assert exchange.get(link[:-2] + ("AA" if link[-2:] != "AA" else "BB")).status_code == 400
    assert exchange.get(link.replace("Observation?", "Patient?")).status_code == 400


def test_a_revocation_holds_from_the_next_page_on(exchange):
    """The patient revokes in the middle of paging: the page in hand was the last."""
    bundle = exchange.get("Observation?_count=2").json()
    (link,) = [item["url"] for item in bundle["link"] if item["relation"] == "next"]
    revoked = permit("p1", id="c1", status="inactive")
    response = exchange.put_consent("c1", revoked, token=mint("portal", patient="p1"))

    assert response.status_code == 200
    assert "entry" not in exchange.get(link).json()
    assert exchange.get("Patient/p1").status_code == 404


def test_a_patient_opens_and_closes_the_own_record(exchange):
    """POST Consent takes effect when it returns, and answers with the stored version and its address."""
    token = mint("portal", patient="p2")
    deny = exchange.get("Consent?patient=p2", token=token).json()["entry"][0]["resource"]
    closed = exchange.put_consent("c2", {**deny, "status": "inactive"}, token=token)
    opened = exchange.post_consent(permit("p2", actors=("Organization/other", "Practitioner/dr")), token=token)

    assert (closed.status_code, opened.status_code) == (200, 201)
    assert opened.headers["location"].endswith(f"/Consent/{opened.json()['id']}/_history/1")
    assert exchange.get("Patient/p2").status_code == 404
    assert exchange.get("Patient/p2", token=mint(fhirUser="Practitioner/dr")).status_code == 200


def test_a_patient_sees_the_own_record_and_no_other(exchange):
    """The own compartment whatever was denied to others; nobody else's, whatever they permit."""
    token = mint("portal", patient="p2")

    assert exchange.ids("Patient", token=token) == ["p2"]
    assert exchange.get("Patient/p2", token=token).status_code == 200
    assert exchange.get("Patient/p1", token=token).status_code == 404
    assert exchange.ids("Observation?patient=p1", token=token) == []


@pytest.mark.parametrize(
    ("client", "claims", "consent"),
    [
        ("emr", {}, permit("p2")),
        ("emr", {}, permit("p2", "deny")),
        ("research", {}, permit("p2", actors=("Organization/r",))),
        ("portal", {"patient": "p1"}, permit("p2")),
        ("portal", {"patient": "p9"}, permit("p9")),
        ("family", {"patient": "p2"}, permit("p2")),
        ("officer", {}, permit("p2", organization=[{"reference": "Organization/a"}])),
        ("officer", {}, permit("p2", "deny", organization=[{"reference": "Organization/b"}])),
        ("officer", {}, permit("p9", "deny", organization=[{"reference": "Organization/a"}])),
    ],
)
def test_who_may_not_write_changes_nothing(exchange, client, claims, consent):
    """Clinicians, other patients, whoever would benefit, officers of another custodian: one refusal, no row changed."""
    tables = ("resource", "resource_version", "consent_state", "outbox")
    before = {name: exchange.seed.rows(name) for name in tables}
    response = exchange.post_consent(consent, token=mint(client, **claims))

    assert response.status_code == 403
    assert response.json()["issue"][0]["details"]["coding"][0]["code"] == "consent-not-authorised"
    assert before == {name: exchange.seed.rows(name) for name in tables}
    assert exchange.access_records()[-1]["decision"] == "deny"


def test_an_officer_records_denials_and_permits_for_others(exchange):
    """The custodian's officer writes what does not open anything to the own organisation."""
    organization = [{"reference": "Organization/a"}]
    for consent in (
        permit("p1", "deny", organization=organization),
        permit("p2", actors=("Organization/other",), organization=organization),
    ):
        assert exchange.post_consent(consent, token=mint("officer")).status_code == 201
    assert exchange.get("Patient/p1").status_code == 404


@pytest.mark.parametrize("status", ["active", "inactive"])
def test_a_put_on_a_hidden_id_is_a_put_on_an_absent_one(exchange, status):
    """Same status, headers and body; neither changes a row."""
    before = [exchange.seed.rows(name) for name in ("resource", "resource_version", "consent_state")]
    hidden = exchange.put_consent("c2", permit("p2", id="c2", status=status))
    absent = exchange.put_consent("c9", permit("p2", id="c9", status=status))

    assert seen(hidden) == seen(absent)
    assert hidden.status_code == 404
    assert before == [exchange.seed.rows(name) for name in ("resource", "resource_version", "consent_state")]


def test_a_consent_cannot_be_moved_to_another_patient(exchange):
    """An update keeps the patient, and needs the version that was read."""
    token = mint("portal", patient="p1")

    assert exchange.put_consent("c1", permit("p2", id="c1"), token=token).status_code == 403
    assert exchange.put_consent("c1", permit("p1", id="c3"), token=token).status_code == 400
    stale = exchange.put_consent("c1", permit("p1", id="c1"), token=token, headers={"If-Match": 'W/"7"'})
    assert stale.status_code == 412


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "json-invalid"),
        (b'{"resourceType":"Consent","resourceType":"Patient"}', 400, "json-invalid"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, 400, "json-too-deep"),
        (b'{"a":[' + b"[]," * 300_000 + b"[]]}", 413, "request-too-large"),
        (b'{"resourceType":"Patient","id":"x"}', 400, "consent-malformed"),
    ],
)
def test_broken_bodies_are_refused_by_name(exchange, body, status, code):
    """Invalid JSON, bombs and other resources: a clear error, nothing stored."""
    response = exchange.request(
        "POST",
        "Consent",
        content=body,
        headers={"Content-Type": "application/fhir+json"},
        token=mint("portal", patient="p1"),
    )

    assert response.status_code == status
    assert response.json()["issue"][0]["details"]["coding"][0]["code"] == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"provision": {"type": "permit", "securityLabel": [{"code": "N"}]}}, "consent-element-unsupported"),
        ({"provision": {"actor": []}, "shoeSize": 42}, "consent-element-unknown"),
        ({"scope": None}, "consent-incomplete"),
    ],
)
def test_consents_that_are_not_understood_are_refused(exchange, change, code):
    """What cannot be decided on is not stored as if it could."""
    consent = {name: value for name, value in {**permit("p1"), **change}.items() if value is not None}
    response = exchange.post_consent(consent, token=mint("portal", patient="p1"))

    assert response.status_code == 422
    assert response.json()["issue"][0]["details"]["coding"][0]["code"] == code


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        (None, 401, "token-missing"),
        ("nonsense", 401, "token-malformed"),
        ("a.b.c", 401, "token-malformed"),
        (UNSIGNED, 401, "token-algorithm"),
        (mint(exp=int(time.time()) - 60), 401, "token-expired"),
        (mint(exp=None), 401, "token-expired"),
        (mint(nbf=int(time.time()) + 300), 401, "token-not-yet-valid"),
        (mint(exp=int(time.time()) + 10**8), 401, "token-too-long"),
        (mint(aud="https://other.example"), 401, "token-audience"),
        (mint(aud=None), 401, "token-audience"),
        (mint(iss="https://evil.example"), 401, "token-issuer"),
        (mint(key=OTHER_KEY), 401, "token-signature"),
        (mint(header={"kid": "other"}), 401, "token-key"),
        (mint(header={"jku": "https://evil.example/jwks"}), 401, "token-algorithm"),
        (mint(header={"jwk": OTHER_KEY.as_dict(private=False)}, key=OTHER_KEY), 401, "token-algorithm"),
        (mint("stranger"), 403, "client-unknown"),
        (mint(purpose=None), 403, "token-without-purpose"),
        (mint(purpose="HRESCH"), 403, "purpose-not-registered"),
        (mint(purpose=["TREAT", "ETREAT"]), 403, "purpose-not-registered"),
        (mint(patient="p2"), 403, "token-patient"),
        (mint("portal"), 403, "token-patient"),
        (mint(role="consent-officer"), 403, "token-profile-mismatch"),
        (mint(organization="Organization/other"), 403, "token-profile-mismatch"),
    ],
)
def test_tokens_that_do_not_hold_open_nothing(exchange, token, status, code):
    """Wrong, expired, for someone else, without purpose: refused before anything is looked up."""
    response = exchange.get("Patient/p1", headers={"Authorization": f"Bearer {token}" if token else None})

    assert response.status_code == status
    assert response.json()["issue"][0]["details"]["coding"][0]["code"] == code
    assert ("www-authenticate" in response.headers) == (status == 401)
    assert ISSUER not in response.text


def test_consents_hold_for_every_linked_record(exchange):
    """Records found to be one person's: a deny covers all of them, a permit those that are surely the same."""
    exchange.seed.put(patient("p3"), patient("p4"), patient("p5"))
    exchange.seed.link("p1", "p3")
    exchange.seed.link("p4", "p5", certainty="possible")
    exchange.seed.put(permit("p4", id="c4"))

    assert exchange.get("Patient/p3").status_code == 200
    assert exchange.get("Patient/p5").status_code == 404
    exchange.seed.put(permit("p3", "deny", id="c3"))
    assert exchange.get("Patient/p1").status_code == 404
    assert exchange.get("Observation?patient=p1").json()["total"] == 0


def test_a_restricted_patient_is_closed(exchange):
    """Also to the own patient, and through every linked record."""
    exchange.seed.put(patient("p3"))
    exchange.seed.link("p1", "p3")
    exchange.seed.restrict("p3")

    assert exchange.get("Patient/p1").status_code == 404
    assert exchange.ids("Patient") == []
    assert exchange.get("Patient/p3", token=mint("portal", patient="p3")).status_code == 404


def test_a_resource_of_two_patients_needs_both(exchange):
    """A Provenance over a hidden patient is hidden, though the first patient permits."""
    targets = [{"reference": "Patient/p1"}, {"reference": "Patient/p2"}]
    exchange.seed.put({"resourceType": "Provenance", "id": "pr", "target": targets, "recorded": "2024-01-01T00:00:00Z"})
    exchange.seed.put({"resourceType": "Provenance", "id": "own", "target": targets[:1], "recorded": "2024-01-01"})

    assert exchange.get("Provenance/pr").status_code == 404
    assert exchange.ids("Provenance") == ["own"]


def test_an_old_version_is_no_way_around(exchange):
    """A consent that hides a code hides the versions that carry it, and all of a resource whose current one does."""
    coding = {"system": "urn:s", "code": "hiv"}
    hide = {"type": "permit", "provision": [{"type": "deny", "code": [{"coding": [coding]}]}]}
    exchange.seed.put({**permit("p1", id="c1"), "provision": hide})
    exchange.seed.put(observation(31, code={"coding": [coding]}), observation(31))
    exchange.seed.put(observation(33), observation(33, code={"coding": [coding]}))

    assert exchange.get("Observation/o31").status_code == 200
    assert exchange.get("Observation/o31/_history/1").status_code == 404
    assert [e["resource"]["meta"]["versionId"] for e in exchange.get("Observation/o31/_history").json()["entry"]] == [
        "2"
    ]
    assert exchange.get("Observation/o33").status_code == 404
    assert exchange.get("Observation/o33/_history/1").status_code == 404
    assert exchange.get("Observation/o33/_history").status_code == 404


def test_a_broken_rule_closes_its_patient(exchange):
    """A stored rule that cannot be read denies; it is not passed over."""
    from bridge.store import schema
    from bridge.store.dialect import Statement

    with exchange.seed._database.transaction() as txn:
        txn.change(Statement(schema.consent_state.update().values(rule=b"{}")), {})

    assert exchange.get("Patient/p1").status_code == 404


class _FailingJournal:
    async def open(self, principal, entries):
        raise Unavailable("access-record-failed", "the access could not be recorded")

    def close(self, tickets, outcome, status):
        return


def test_without_an_access_record_nothing_is_answered(tmp_path):
    """What cannot be recorded is not shown: reads, searches and writes alike."""
    with Exchange(tmp_path, "permit", journal=_FailingJournal()) as running:
        running.seed.put(patient("p1", SECRET))
        for response in (
            running.get("Patient/p1"),
            running.get("Patient"),
            running.get("Patient/p1/_history"),
            running.post_consent(permit("p1"), token=mint("portal", patient="p1")),
        ):
            assert response.status_code == 503
            assert SECRET not in response.text
        assert running.seed.rows("consent_state") == []


def test_an_exception_in_the_decision_shows_nothing(exchange, monkeypatch, capsys):
    """Whatever breaks, the answer is a bare fault, and no text of the exception is logged or sent."""

    def broken(*_):
        raise ValueError(SECRET)

    monkeypatch.setattr("bridge.access.enforcement.decide", broken)
    for path in ("Patient/p1", "Patient", "Patient/p1/_history"):
        response = exchange.get(path)
        assert response.status_code == 500
        assert response.json()["resourceType"] == "OperationOutcome"
        assert SECRET not in response.text
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("error", "status", "rule"),
    [
        (ValueError(SECRET), 500, "unexpected"),
        (Unavailable("store-busy", "the store does not answer"), 503, "store-busy"),
    ],
)
def test_what_could_not_be_decided_is_recorded_as_denied(exchange, monkeypatch, error, status, rule):
    """A decision that breaks leaves a record of who asked for what, and one leaf, like any other denial (promise P5)."""

    def broken(*_):
        raise error

    monkeypatch.setattr("bridge.access.enforcement.decide", broken)
    before = len(exchange.seed.rows("leaf_pending"))
    for path in ("Patient/p1", "Patient", "Patient/p1/_history"):
        assert exchange.get(path).status_code == status
    records = exchange.access_records()

    assert [(row["interaction"], row["resource_type"], row["resource_id"]) for row in records] == [
        ("read", "Patient", "p1"),
        ("search-type", "Patient", None),
        ("history-instance", "Patient", "p1"),
    ]
    assert {(row["decision"], row["rule"], row["status"]) for row in records} == {("deny", rule, status)}
    assert len(exchange.seed.rows("leaf_pending")) == before + 3


def test_the_size_of_the_log_does_not_tell_how_many_were_hidden(tmp_path):
    """The log is public: whoever searches and looks at its size learns nothing of patients that were hidden."""
    grown = []
    for number, hidden in enumerate((0, 1, 7)):
        (tmp_path / str(number)).mkdir()
        with Exchange(tmp_path / str(number), "permit") as running:
            for place in range(hidden):
                running.seed.put(patient(f"h{place}"), permit(f"h{place}", "deny", id=f"d{place}"))
            assert running.ids("Patient") == []
            assert len(running.access_records()) == max(1, hidden)
            grown.append([len(row[1]) for row in running.seed.rows("leaf_pending")])

    assert grown == [[33]] * 3


def test_every_request_leaves_its_record(exchange):
    """Who, why, what, whose, decided how, by which Consent: recorded, closed and committed to one leaf a request."""
    exchange.get("Patient/p1")
    exchange.get("Patient/p2")
    exchange.get("Patient/p9")
    exchange.get("Patient?gender=female&_count=5")
    exchange.get("Patient/p1", token=mint(purpose="HRESCH"))
    exchange.get("Patient/p1", token=mint(key=OTHER_KEY))
    records = exchange.access_records()

    assert [(row["interaction"], row["decision"], row["rule"]) for row in records[:3]] == [
        ("read", "permit", "consent-permit"),
        ("read", "deny", "consent-deny"),
        ("read", "none", "absent"),
    ]
    searched = [row for row in records if row["interaction"] == "search-type"]
    assert sorted(row["decision"] for row in searched) == ["deny", "permit"]
    assert {row["query_parameters"] for row in searched} == {"gender _count"}
    assert (records[-1]["decision"], records[-1]["rule"]) == ("deny", "purpose-not-registered")
    assert len(records) == 6
    assert {row["outcome"] for row in records} == {"answered"}
    assert [row["status"] for row in records] == [200, 404, 404, 200, 200, 403]
    leaves = {row[0] for row in exchange.seed.rows("leaf_pending")}
    assert {row["leaf_id"] for row in records} == leaves
    assert len(leaves) == 5
    assert all(row["actor"] == "Practitioner/of-emr" and row["organization"] == ORGANIZATION for row in records)
