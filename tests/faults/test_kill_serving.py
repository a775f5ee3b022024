"""Promises P1 and P5 for the API: killed at each commit, it has answered nothing that is not recorded.

Whoever got an answer finds its access record; whoever was told that a Consent is stored finds it in force, with its leaf and
its word for the chain.
"""

from __future__ import annotations

import itertools
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.cli.development import create_issuer, mint, open_issuer
from bridge.store import schema
from bridge.store.dialect import Statement
from tests.faults.deployments import Bridge, feed, run_to_end, serving
from tests.faults.oracle import read, violations
from tests.faults.test_shuffle import FOLDERS, Pipeline, in_order

pytestmark = [pytest.mark.ci, pytest.mark.timeout(300)]

ISSUER, AUDIENCE = "https://login.test.example", "https://fhir.test.example"
POINTS = ("access.before-commit", "access.after-commit", "consent.before-commit", "consent.after-commit")


def access(folder: Path) -> dict[str, Any]:
    create_issuer(folder / "issuer.json", folder / "jwks.json")
    keys = {"adapter": "jwks-file", "path": str(folder / "jwks.json")}
    issuer = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"], "keys": keys}
    organization = {"issuer": ISSUER, "organization": "urn:oid:1.2.3|sto"}
    clients = [
        {"client_id": "emr", "role": "clinician", "purposes": ["TREAT"], **organization},
        {"client_id": "portal", "role": "patient", "purposes": ["PATRQT"], **organization},
    ]
    return {"access": {"issuers": [issuer], "clients": clients}}


def consent(patient: str) -> bytes:
    scope = {"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}
    return json.dumps(
        {
            "resourceType": "Consent",
            "status": "active",
            "scope": {"coding": [scope]},
            "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
            "patient": {"reference": f"Patient/{patient}"},
            "provision": {"type": "permit"},
        }
    ).encode()


class Clients:
    """A clinician who reads and patients who consent, one after the other, until the line breaks."""

    def __init__(self, bridge: Bridge, folder: Path, patients: list[str]) -> None:
        self._bridge = bridge
        self._key = open_issuer(folder / "issuer.json")
        self._patients = itertools.cycle(patients)
        self.reads: Counter[str] = Counter()
        self.consents: list[str] = []

    def _bearer(self, **claims: str) -> dict[str, str]:
        token = mint(self._key, {"sub": "someone", **claims}, ISSUER, AUDIENCE, 600)
        return {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}

    def go_on(self, requests: int) -> bool:
        """That many reads and consents; False if the line broke before."""
        emr = self._bearer(client_id="emr", purpose="TREAT", fhirUser="Practitioner/dr")
        for patient in itertools.islice(self._patients, requests):
            try:
                status, _ = self._bridge.get(f"/fhir/Patient/{patient}", emr)
                assert status == 200
                self.reads[patient] += 1
                portal = self._bearer(client_id="portal", purpose="PATRQT", patient=patient)
                status, body = self._bridge.post("/fhir/Consent", consent(patient), portal)
                assert status == 201, body
                self.consents.append(json.loads(body)["id"])
            except OSError:
                return False
        return True


def test_what_a_killed_api_has_answered_is_recorded(store_url: str, tmp_path: Path) -> None:
    """Ended at each of its commits, twice each, and once at random, while clients read and consent."""
    bridge = Bridge(tmp_path / "bridge", store_url, **FOLDERS, **access(tmp_path))
    with bridge.database(read_only=False) as database:
        in_order(Pipeline(bridge.deployment(), database), feed(60))
        patients = [name[1] for name in read(database, bridge.deployment().keys).current() if name[0] == "Patient"]
    assert len(patients) >= 10
    clients = Clients(bridge, tmp_path, patients[:10])
    role = bridge.role("serve")
    for number, point in enumerate([*POINTS, *POINTS], 2):
        role.begin(f"{point}=kill@{number}")
        serving(bridge, role)
        assert not clients.go_on(200)
        assert role.wait(10) == -signal.SIGKILL
    role.begin()
    serving(bridge, role)
    assert clients.go_on(5)
    role.kill()
    role.begin()
    serving(bridge, role)
    assert run_to_end(role) == 0
    with bridge.database() as database:
        found = read(database, bridge.deployment().keys)

    recorded = Counter(row["resource_id"] for row in found.tables["access_record"] if row["interaction"] == "read")
    assert all(recorded[patient] >= count for patient, count in clients.reads.items())
    states = {found.names()[row["consent_key"]][1]: row["status"] for row in found.tables["consent_state"]}
    assert {states.get(consent_id) for consent_id in clients.consents} == {"active"}
    assert words(bridge) == len(states) == sum(name[0] == "Consent" for name in found.current())
    assert violations(found, drained=False) == []


def words(bridge: Bridge) -> int:
    """Consent words that wait for the chain."""
    with bridge.database() as database, database.transaction(read_only=True) as txn:
        return int(txn.execute(Statement(sa.select(sa.func.count()).select_from(schema.outbox)))[0][0])
