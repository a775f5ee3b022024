"""The whole road with real parts: Kafka → ``hiebridge work`` → PostgreSQL → log → anvil, and ``hiebridge serve`` in front.

All that a simulated hospital sent. What must come out is counted from the messages by the few lines below, which know
nothing of the bridge. The tests share one run and stand in its order.
"""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bridge.cli.development import create_issuer, mint, open_issuer
from bridge.ledger.chain import Handle, LogId
from bridge.store import anchors, leaves, positions
from bridge.store.rows import AnchorState
from tests.contract.chain_harness import deploy, evm_settings
from tests.faults.deployments import ORIGIN, PROGRAM, Bridge, Role, received, run_to_end, serving, signed, until
from tests.reference import reference_data
from tests.services.anvil import Anvil
from tests.services.kafka import Kafka
from tests.services.postgres import Postgres

# kafka-python leaves sockets of refused connections to the garbage collector
pytestmark = [pytest.mark.ci, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

ISSUER = "https://login.test.example"
MRN = "urn:oid:2.16.840.1.113883.19.1"
ORGANIZATION = "urn:test:organizations|clinic"


# what must come out


@dataclass
class Expected:
    """Counted from the messages alone. Observations by patient hold what identifies each: order, code, ordinal."""

    messages: list[bytes]
    filtered: int = 0
    patients: set[str] = field(default_factory=set)
    visits: set[str] = field(default_factory=set)
    reports: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    observations: dict[str, set[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(set))
    codes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def expected(text: bytes) -> Expected:
    found = Expected([part for part in text.split(b"\n\n") if part.strip()])
    for message in found.messages:
        rows = [line.split("|") for line in message.decode().split("\r") if line]
        event = rows[0][8]
        if event not in {"ADT^A01", "ORU^R01"}:
            found.filtered += 1
            continue
        one = {row[0]: row for row in rows}
        mrn = next(cx.split("^")[0] for cx in one["PID"][3].split("~") if "SIMULATOR MRN" in cx)
        found.patients.add(mrn)
        visit = one["PV1"][19].split("^")[0] if len(one["PV1"]) > 19 else ""
        found.visits.add(visit or f"{mrn}@{one['PV1'][44]}")
        if event != "ORU^R01":
            continue
        assert sum(row[0] == "OBR" for row in rows) == 1
        order = one["OBR"][3], one["OBR"][4].split("^")[0]
        found.reports[mrn].add(order)
        seen: Counter[tuple[str, str]] = Counter()
        for row in rows:
            if row[0] == "OBX":
                pair = row[3].split("^")[0], row[4]
                seen[pair] += 1
                known = (*order, *pair, str(seen[pair]))
                if known not in found.observations[mrn]:
                    found.codes[mrn][pair[0]] += 1
                found.observations[mrn].add(known)
    return found


# the run


@dataclass
class Road:
    bridge: Bridge
    expected: Expected
    anvil: Anvil
    issuer: Path

    def token(self, client: str, purpose: str, **claims: str) -> str:
        base = f"http://127.0.0.1:{self.bridge.api_port}/fhir"
        given = {"sub": f"user-of-{client}", "client_id": client, "purpose": purpose, **claims}
        given |= {"fhirUser": "Practitioner/dr"} if client == "emr" else {}
        return mint(open_issuer(self.issuer), given, ISSUER, base, 600)

    def ask(self, path: str, token: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and resource of a GET, or of a POST of ``body``."""
        url = path if path.startswith("http") else f"http://127.0.0.1:{self.bridge.api_port}/fhir/{path}"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    def search(self, kind: str, **parameters: str) -> list[dict[str, Any]]:
        """All resources of a clinician's search, over all pages."""
        token = self.token("emr", "TREAT")
        path: str | None = f"{kind}?{urlencode(parameters)}"
        found: list[dict[str, Any]] = []
        while path:
            status, bundle = self.ask(path, token)
            assert status == 200, bundle
            found += [entry["resource"] for entry in bundle.get("entry", [])]
            path = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
        assert len({resource["id"] for resource in found}) == len(found)
        return found

    def patient(self, mrn: str) -> dict[str, Any]:
        [found] = self.search("Patient", identifier=f"{MRN}|{mrn}")
        return found

    def busiest(self, rank: int = 0) -> str:
        """The patient with the most results, or the next ones."""
        counts = {mrn: len(found) for mrn, found in self.expected.observations.items()}
        return sorted(counts, key=lambda mrn: (-counts[mrn], mrn))[rank]

    def run(self, *arguments: str, folder: Path | None = None) -> tuple[int, str]:
        """A command of the program: exit code and output; without configuration where ``folder`` is given."""
        config = [] if folder else ["--config", str(self.bridge.config)]
        done = subprocess.run(
            [PROGRAM, *config, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout + done.stderr * (done.returncode > 1)


@pytest.fixture(scope="module")
def road(kafka: Kafka, postgres: Postgres, anvil: Anvil, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """Everything that was sent is worked, numbered, signed and anchored; then the API serves."""
    found = expected(reference_data("hl7v2", "google-simhospital", "messages.out").read_bytes())
    folder = tmp_path_factory.mktemp("road")
    topic = kafka.create_topic(partitions=3)
    produce(kafka, topic, found.messages)
    issuer, jwks = folder / "issuer.json", folder / "jwks.json"
    create_issuer(issuer, jwks)
    url = postgres.create_database()
    bridge = Bridge(
        folder / "bridge",
        url,
        sources=[
            {
                "name": "simhospital",
                "adapter": "kafka",
                "site": "simhospital",
                "topic": topic,
                "group_id": topic,
                "bootstrap_servers": [kafka.bootstrap],
            }
        ],
        chain=chain_section(anvil, folder),
        access={
            "issuers": [
                {
                    "issuer": ISSUER,
                    "audience": "http://127.0.0.1:PORT/fhir",
                    "algorithms": ["ES256"],
                    "keys": {"adapter": "jwks-file", "path": str(jwks)},
                }
            ],
            "clients": [
                {
                    "client_id": name,
                    "issuer": ISSUER,
                    "organization": ORGANIZATION,
                    "role": role,
                    "purposes": [purpose],
                }
                for name, role, purpose in (("emr", "clinician", "TREAT"), ("portal", "patient", "PATRQT"))
            ],
        },
    )
    text = bridge.config.read_text(encoding="utf-8").replace(":PORT/", f":{bridge.api_port}/")
    bridge.config.write_text(text, encoding="utf-8")
    made = Road(bridge, found, anvil, issuer)
    roles = [bridge.role(name) for name in ("work", "anchor", "serve")]
    try:
        for role in roles:
            role.begin()
        settle(made)
        serving(bridge, roles[-1])
        yield made
        assert [run_to_end(role) for role in roles] == [0, 0, 0]
    finally:
        stop(roles)
        postgres.drop_database(url)


def produce(kafka: Kafka, topic: str, messages: list[bytes]) -> None:
    """As a listener would: keyed by site and patient."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=5)
    for message in messages:
        number = message.split(b"\rPID|", 1)[1].split(b"|")[2].split(b"^")[0]
        producer.send(topic, message, key=b"simhospital|" + number)
    producer.flush()
    producer.close()


def chain_section(anvil: Anvil, folder: Path) -> dict[str, Any]:
    contract = deploy(anvil, folder / "deployer")
    evm_settings(anvil, folder)
    return {
        "adapter": "evm",
        "url": anvil.url,
        "chain_id": anvil.chain_id,
        "contract": contract,
        "anchor_key": {"file": str(folder / "anchor.key")},
        "consent_key": {"file": str(folder / "consent.key")},
        "anchor_interval_seconds": 1,
        "consent_interval_seconds": 1,
    }


def settle(road: Road) -> None:
    """Waits until every message has its outcome, every leaf is signed for, and a final anchor covers the newest head."""
    with road.bridge.database() as database:
        until(lambda: received(database) == len(road.expected.messages), "all messages")
        until(lambda: signed(database) and final_anchor(road) is not None, "a final anchor of the newest checkpoint")


def final_anchor(road: Road) -> Any:
    """The anchor row that covers the whole log, once it is final."""
    with road.bridge.database() as database, database.transaction(read_only=True) as txn:
        state = leaves.state(txn, ORIGIN)
        assert state is not None
        row = anchors.covering(txn, "evm", LogId.of_origin(ORIGIN).value, state.size)
    return row if row is not None and row.state == AnchorState.FINAL else None


def stop(roles: list[Role]) -> None:
    for role in roles:
        role.stop()


# what must hold


def test_every_message_has_its_outcome_and_all_is_as_counted(road: Road) -> None:
    """P2 by the store's totals; as many resources of each type as the messages name, whatever way they were split."""
    with road.bridge.database() as database, database.transaction(read_only=True) as txn:
        rows = positions.all_positions(txn)
    total = {
        name: sum(getattr(row, name) for row in rows)
        for name in ("received", "stored", "filtered", "duplicate", "dead")
    }
    sent = len(road.expected.messages)

    assert len(rows) == 3
    assert total == {"received": sent, "stored": sent - 3, "filtered": 3, "duplicate": 0, "dead": 0}
    assert road.expected.filtered == 3
    want = {
        "Patient": len(road.expected.patients),
        "Encounter": len(road.expected.visits),
        "DiagnosticReport": sum(map(len, road.expected.reports.values())),
        "Observation": sum(map(len, road.expected.observations.values())),
    }
    assert {kind: stored(road, kind) for kind in want} == want


def stored(road: Road, kind: str) -> int:
    import psycopg

    with psycopg.connect(road.bridge.store_url) as connection:
        row = connection.execute("SELECT count(*) FROM resource WHERE type = %s AND NOT deleted", [kind]).fetchone()
    assert row is not None
    return int(row[0])


def test_the_totals_are_served_as_metrics(road: Road) -> None:
    """P2 by metrics: what a dashboard adds up is what the store counted."""

    def shown() -> dict[str, float]:
        lines = [line.split() for line in road.bridge.get("/metrics")[1].decode().splitlines()]
        return {
            name: float(value) for name, value in (pair for pair in lines if len(pair) == 2) if "simhospital" in name
        }

    def outcome(name: str) -> float:
        label = f'{{outcome="{name}",source="simhospital"}}'
        return shown().get(f"hiebridge_positions{label}", -1)

    until(lambda: outcome("received") == len(road.expected.messages), "the gauges of the store's totals")
    assert outcome("received") == sum(outcome(name) for name in ("stored", "filtered", "duplicate", "dead"))
    assert outcome("filtered") == 3


@pytest.mark.parametrize("rank", [0, 1, 7])
def test_a_search_by_token_finds_what_the_patient_has(road: Road, rank: int) -> None:
    """Patient by MRN; results by patient, by code and by order number: as many as the messages hold, on all pages."""
    mrn = road.busiest(rank)
    patient = road.patient(mrn)
    reference = f"Patient/{patient['id']}"
    observations = road.search("Observation", patient=patient["id"], _count="17")
    reports = road.search("DiagnosticReport", subject=reference)

    assert len(observations) == len(road.expected.observations[mrn])
    assert {resource["subject"]["reference"] for resource in observations} == {reference}
    assert len(reports) == len(road.expected.reports[mrn])
    numbers = {i["value"] for report in reports for i in report["identifier"]}
    assert {filler for filler, _ in road.expected.reports[mrn]} <= numbers
    code, count = road.expected.codes[mrn].most_common(1)[0]
    assert len(road.search("Observation", patient=patient["id"], code=code)) == count


def test_without_a_token_nothing_is_answered(road: Road) -> None:
    """Neither a patient nor how many there are."""
    status, outcome = road.ask("Patient", "")

    assert (status, outcome["resourceType"]) == (401, "OperationOutcome")


def test_a_proof_verifies_offline_against_a_block_from_elsewhere(road: Road, tmp_path: Path) -> None:
    """The policy holds the block's hash as the node reports it; nothing else of the bridge is at hand."""
    patient = road.patient(road.busiest())
    code, said = road.run("prove", f"Patient/{patient['id']}", "-o", str(tmp_path / "proof.json"))
    assert code == 0, said
    code, said = road.run("policy", "-o", str(tmp_path / "policy.json"))
    assert code == 0, said
    policy = json.loads((tmp_path / "policy.json").read_text())
    block = block_of(road, tmp_path)
    policy["chains"][0]["blocks"] = [{"hash": block["hash"], "final": True}]
    (tmp_path / "policy.json").write_text(json.dumps(policy))

    code, said = verify(road, tmp_path)
    assert code == 0, said
    verdict = json.loads(said)
    assert verdict["verified"] is True
    assert [(chain["level"], chain["own_chain"]) for chain in verdict["chains"]] == [("final", False)]
    assert verdict["attested_by"] == f"eip155:{road.anvil.chain_id}"

    policy["chains"][0]["blocks"] = [{"hash": "0x" + "11" * 32, "final": True}]
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    code, said = verify(road, tmp_path)
    assert {chain["level"] for chain in json.loads(said).get("chains", [])}.isdisjoint({"included", "final"})
    assert json.loads(said).get("attested_by") is None


def block_of(road: Road, folder: Path) -> dict[str, Any]:
    """The block that the proof rests on, as the node has it under that number."""
    _, said = verify(road, folder)
    [chain] = json.loads(said)["chains"]
    block = road.anvil.call("eth_getBlockByNumber", hex(chain["block"]), False)
    assert isinstance(block, dict)
    return block


def verify(road: Road, folder: Path) -> tuple[int, str]:
    return road.run("verify", "proof.json", "--policy", "policy.json", "--json", folder=folder)


def test_the_patients_own_consent_closes_the_record(road: Road) -> None:
    """Denied by the patient's own token: the clinician's same search is empty from the answer on, others are not touched."""
    mrn, other = road.busiest(0), road.busiest(1)
    patient = road.patient(mrn)
    assert road.search("Observation", patient=patient["id"])

    token = road.token("portal", "PATRQT", patient=patient["id"])
    status, stored_consent = road.ask("Consent", token, deny(patient["id"]))
    assert status == 201, stored_consent

    assert road.search("Observation", patient=patient["id"]) == []
    assert road.search("DiagnosticReport", subject=f"Patient/{patient['id']}") == []
    assert road.search("Patient", identifier=f"{MRN}|{mrn}") == []
    hidden = road.ask(f"Patient/{patient['id']}", road.token("emr", "TREAT"))
    absent = road.ask("Patient/00000000-0000-8000-8000-000000000000", road.token("emr", "TREAT"))
    assert hidden == absent
    assert hidden[0] == 404
    assert len(road.search("Observation", patient=road.patient(other)["id"])) == len(road.expected.observations[other])


def deny(patient: str) -> dict[str, Any]:
    scope = {"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [scope]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient}"},
        "provision": {"type": "deny"},
    }


def test_a_clinician_cannot_write_the_consent(road: Road) -> None:
    """Whom it would benefit may not write it, and no row changes."""
    patient = road.patient(road.busiest(1))
    before = stored(road, "Consent")
    status, _ = road.ask("Consent", road.token("emr", "TREAT"), deny(patient["id"]) | {"provision": {"type": "permit"}})

    assert status == 403
    assert stored(road, "Consent") == before


def test_the_consent_is_on_the_chain_under_a_random_handle(road: Road) -> None:
    """One word, revoked or denied for good; nothing there names patient or record."""
    import psycopg

    with psycopg.connect(road.bridge.store_url) as connection:
        rows = connection.execute("SELECT handle FROM consent_state").fetchall()
    [[handle]] = rows
    chain = road.bridge.deployment().chain()
    try:
        until(lambda: chain.read_consent(Handle(bytes(handle))).word is not None, "the consent word on chain")
        word = chain.read_consent(Handle(bytes(handle))).word
    finally:
        chain.close()

    assert word is not None
    assert word.permits(0) is False


def test_the_store_is_in_order(road: Road) -> None:
    """Everything is derived again, from the stored bytes to the head that the chain holds; then one byte is altered."""
    import psycopg

    settle_again(road)
    code, said = road.run("fsck", "--json")
    assert code == 0, said
    answer = json.loads(said)
    assert answer["in_order"] is True
    assert answer["findings"] == []

    victim = road.patient(road.busiest(1))["id"]
    with psycopg.connect(road.bridge.store_url) as connection:
        [[key, body]] = connection.execute(
            "SELECT v.resource_key, v.body FROM resource_version v JOIN resource r USING (resource_key)"
            " WHERE r.fhir_id = %s AND v.version = 1",
            [victim],
        ).fetchall()
        altered = bytes(body).replace(b"19", b"18", 1)
        connection.execute(
            "UPDATE resource_version SET body = %s WHERE resource_key = %s AND version = 1", [altered, key]
        )
    code, said = road.run("fsck", "--json")

    assert code == 1
    assert victim in said
    with psycopg.connect(road.bridge.store_url) as connection:
        connection.execute("UPDATE resource_version SET body = %s WHERE resource_key = %s AND version = 1", [body, key])
    assert road.run("fsck")[0] == 0


def settle_again(road: Road) -> None:
    with road.bridge.database() as database:
        until(lambda: signed(database), "a checkpoint over everything")
