"""Consents written over the API through the recorder: resource, decision, chain word and leaves change together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.mapping.operations import Conversion, IdentityKey, Stamp, Target, UnitChange, UnitKind, Upsert
from bridge.record.work import Change
from tests.unit.api.exchange import Exchange, mint, permit
from tests.unit.api.test_reading import observation, patient


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    with Exchange(tmp_path, real_recorder=True) as running:
        running.seed.put(patient("p1"), observation(1), observation(2))
        yield running


def test_a_grant_and_its_revocation_hold_when_they_return(exchange):
    """POST opens, PUT closes, a further PUT opens again under a new handle; each is a version with leaf and chain word."""
    token = mint("portal", patient="p1")
    created = exchange.post_consent(permit("p1"), token=token)
    stored = created.json()
    opened = exchange.ids("Observation?patient=p1")
    revoked = exchange.put_consent(stored["id"], {**stored, "status": "inactive"}, token=token)
    closed = exchange.ids("Observation?patient=p1")
    handle = exchange.seed.rows("consent_state")[0][2]
    again = exchange.put_consent(stored["id"], revoked.json() | {"status": "active"}, token=token)

    assert [created.status_code, revoked.status_code, again.status_code] == [201, 200, 200]
    assert (opened, closed) == (["o1", "o2"], [])
    assert again.headers["etag"] == 'W/"3"'
    assert exchange.ids("Observation?patient=p1") == ["o1", "o2"]
    assert exchange.seed.rows("consent_state")[0][2] != handle
    history = exchange.get(f"Consent/{stored['id']}/_history", token=token).json()["entry"]
    assert [entry["resource"]["status"] for entry in history] == ["active", "inactive", "active"]
    assert created.content == exchange.get(f"Consent/{stored['id']}/_history/1", token=token).content


def test_an_equal_consent_makes_no_version(exchange):
    """Posting back what was read changes nothing."""
    token = mint("portal", patient="p1")
    stored = exchange.post_consent(permit("p1"), token=token)
    same = exchange.put_consent(stored.json()["id"], stored.json(), token=token)

    assert (same.status_code, same.content) == (200, stored.content)
    assert same.headers["etag"] == 'W/"1"'


def test_clients_choose_neither_ids_nor_versions(exchange):
    """The id of a POST and the version in meta are the server's."""
    consent = permit("p1", id="mine", meta={"versionId": "9", "lastUpdated": "2000-01-01T00:00:00Z"})
    stored = exchange.post_consent(consent, token=mint("portal", patient="p1")).json()

    assert stored["id"] != "mine"
    assert stored["meta"]["versionId"] == "1"
    assert not stored["meta"]["lastUpdated"].startswith("2000")


def test_two_updates_of_one_version_cannot_both_win(exchange, monkeypatch):
    """What was read is what is replaced: a version in between is a conflict, and nothing is written."""
    token = mint("portal", patient="p1")
    stored = exchange.post_consent(permit("p1"), token=token).json()
    writer = exchange.api.writer
    authorize = writer._authorize

    async def meanwhile(trail, rule, replaced):
        await authorize(trail, rule, replaced)
        monkeypatch.setattr(writer, "_authorize", authorize)
        changed = {**stored, "status": "inactive"}
        await writer._recorder.update_consent(
            stored["id"], changed, expected_version=1, organization=trail.principal.client.organization
        )

    monkeypatch.setattr(writer, "_authorize", meanwhile)
    lost = exchange.put_consent(stored["id"], {**stored, "language": "de"}, token=token)

    assert lost.status_code == 412
    current = exchange.get(f"Consent/{stored['id']}", token=token).json()
    assert (current["status"], "language" in current) == ("inactive", False)


@pytest.mark.parametrize("time_us", [1_700_000_000_000_000, 4_000_000_000_000_000])
def test_a_revocation_outdoes_a_consent_that_a_feed_dated_into_the_future(exchange, time_us):
    """Whatever a hospital's clock said: what the patient revokes here is revoked when the call returns."""
    consent = permit("p1")
    units = tuple(
        UnitChange(name, UnitKind.ELEMENT, value) for name, value in consent.items() if name != "resourceType"
    )
    target = Target((IdentityKey("Consent", "urn:feed", "", "1"),))
    operation = Upsert(target, Stamp(1, time_us, "feed"), "a", units, whole=True)
    conversion = Conversion("fhir:Consent", "fhir", time_us, None, (operation,))
    recorder = exchange.api.writer._recorder._recorder
    exchange.run(exchange._store.write(lambda txn: recorder.record(txn, [Change(conversion, "a")])))
    token = mint("portal", patient="p1")
    (stored,) = (entry["resource"] for entry in exchange.get("Consent", token=token).json()["entry"])
    open_before = exchange.get("Patient/p1").status_code
    revoked = exchange.put_consent(stored["id"], {**stored, "status": "inactive"}, token=token)

    assert (open_before, revoked.json()["status"]) == (200, "inactive")
    assert exchange.get("Patient/p1").status_code == 404
