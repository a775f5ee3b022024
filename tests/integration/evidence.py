"""A hospital's store with a log, a chain and keys, as prove and fsck see it; and hands that reach behind its back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from adapters.chains.local import LocalChain
from bridge.access.journal import record_bytes
from bridge.keys.ed25519 import Ed25519Signer
from bridge.keys.ports import KeyPurpose
from bridge.ledger.chain import ChainBackend
from bridge.ledger.note import VerifierKey
from bridge.ledger.policy import LocalChainPolicy, Policy
from bridge.ledger.watermark import FileWatermark
from bridge.pipeline.anchoring import Anchorer
from bridge.pipeline.findings import Finding
from bridge.pipeline.fsck import Fsck
from bridge.pipeline.proving import Proved, prove
from bridge.pipeline.sequencer import Sequencer
from bridge.store import schema
from bridge.store.database import open_database
from bridge.store.dialect import Statement
from tests.integration.hospital import KEYS, ORIGIN, Hospital, hl7, obr, obx, pid, pv1

SIGNER = Ed25519Signer(ORIGIN, bytes(32))
LOG_KEY = VerifierKey(ORIGIN, SIGNER.public_key())
CHAIN_SIGNER = Ed25519Signer("chain.test.example", bytes(range(32)))
POLICY = Policy({ORIGIN: LOG_KEY}, (LocalChainPolicy(VerifierKey(CHAIN_SIGNER.name, CHAIN_SIGNER.public_key())),))


SECRETS = ("Ash", "Ida", "19700102", "N-77")
"""What the messages of :func:`feed` say that nothing outside the store may."""


class Evidence:
    """Sequencer, anchors, proofs and checks over the store of ``hospital``."""

    def __init__(self, hospital: Hospital, folder: Path, chain: ChainBackend | None = None) -> None:
        self.hospital = hospital
        self.chain = chain or LocalChain(folder / "chain.sqlite", CHAIN_SIGNER)
        self.watermark = FileWatermark(folder / "watermark.json", ORIGIN)
        self._database = open_database(hospital.url)
        self._sequencer = Sequencer(self._database, SIGNER, self.watermark, "test", checkpoint_interval_seconds=0)
        self._anchorer = Anchorer(self._database, self.chain, ORIGIN, "test")

    def close(self) -> None:
        """Closes connections and files."""
        self._database.close()
        self.chain.close()

    def sequence(self) -> None:
        """Numbers the pending leaves and signs a checkpoint."""
        self._sequencer.step()

    def anchor(self) -> None:
        """The same, then anchors it and publishes consents."""
        self.sequence()
        self._anchorer.anchor()
        self._anchorer.publish_consents()

    def prove(self, kind: str, fhir_id: str, version: int | None = None, *, chain: bool = True) -> Proved:
        """A proof from the store."""
        with open_database(self.hospital.url, read_only=True) as database:
            return prove(database, KEYS, LOG_KEY, self.chain if chain else None, (kind, fhir_id), version)

    def check(self, *, outside: bool = True) -> list[Finding]:
        """Everything that fsck finds; ``outside`` says whether it may look at chain and watermark."""
        check = self.fsck(outside=outside)
        return list(check.run())

    def fsck(self, *, outside: bool = True) -> Fsck:
        """A check that has not run yet."""
        chain = self.chain if outside else None
        watermark = self.watermark.read() if outside else None
        database = self._database
        return Fsck(
            database,
            KEYS,
            LOG_KEY,
            record_bytes,
            identity_key=KEYS.secret_key(KeyPurpose.IDENTITY).reveal(),
            event_ahead_us=86_400_000_000,
            chain=chain,
            watermark=watermark,
        )

    # behind the bridge's back

    def alter(self, table: str, where: Mapping[str, Any], **values: Any) -> None:
        """Changes the rows of ``table`` that are like ``where``."""
        found = self._table(table)
        given = {name: sa.bindparam(f"to_{name}", type_=found.c[name].type) for name in values}
        self._do(
            sa.update(found).values(**given), found, where, {f"to_{name}": value for name, value in values.items()}
        )

    def remove(self, table: str, **where: Any) -> None:
        """Deletes the rows that are like ``where``."""
        found = self._table(table)
        self._do(sa.delete(found), found, where, {})

    def _do(self, statement: Any, table: sa.Table, where: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        matches = [table.c[name] == sa.bindparam(f"is_{name}", type_=table.c[name].type) for name in where]
        given = {**values, **{f"is_{name}": value for name, value in where.items()}}
        with self._database.transaction() as txn:
            assert txn.change(Statement(statement.where(*matches)), given) > 0

    @staticmethod
    def _table(name: str) -> sa.Table:
        return next(table for table in schema.metadata.tables.values() if name in {table.name, table.fullname})


def codes(findings: list[Finding]) -> set[tuple[str, str]]:
    """Table and code of each finding."""
    return {(finding.table, finding.code) for finding in findings}


def alter_one_byte(hospital: Hospital, evidence: Evidence, resource: dict[str, Any]) -> None:
    """In the stored bytes of the version that ``resource`` is."""
    key, version = hospital.key_of(resource), int(resource["meta"]["versionId"])
    [row] = [r for r in hospital.rows("resource_version") if (r["resource_key"], r["version"]) == (key, version)]
    body = row["body"].replace(b"Ash", b"Axh")
    assert body != row["body"]
    evidence.alter("resource_version", {"resource_key": key, "version": version}, body=body)


def feed(hospital: Hospital) -> None:
    """Two registrations of one person, an update, a result, a consent, a merge, a duplicate and a dead letter."""
    ids = "1^^^NORTH^MR~N-77^^^NHR^NH"
    arrival = hl7("ADT^A04", pid(ids), pv1())
    hospital.feed(arrival, hl7("ADT^A04", pid("2^^^NORTH^MR", "Elm^Ole"), pv1("V2")))
    hospital.feed(hl7("ADT^A04", pid("9^^^SOUTH^MR~N-77^^^NHR^NH"), pv1("W1")), site="south")
    hospital.feed(hl7("ADT^A08", pid(ids, sex="F"), pv1(), at="20240301130000"))
    hospital.feed(hl7("ORU^R01", pid(ids), obr(), obx()))
    hospital.feed(arrival)
    hospital.feed(hl7("ADT^A40", pid(ids), "MRG|2^^^NORTH^MR", at="20240301140000"))
    hospital.feed(b"MSH|^~\\&|PAS")
    hospital.feed(consent(hospital, "active"))


def consent(hospital: Hospital, status: str, at: str = "2024-03-01T10:00:00Z") -> dict[str, Any]:
    """A Consent of the first patient, as FHIR input."""
    patient = hospital.patient("1")
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [
            {"resource": {**patient, "id": "p1"}},
            {
                "resource": {
                    "resourceType": "Consent",
                    "id": "c1",
                    "meta": {"lastUpdated": at},
                    "status": status,
                    "patient": {"reference": "Patient/p1"},
                    "provision": {"type": "permit"},
                }
            },
        ],
    }
