"""No change behind the bridge's back escapes a check of the whole store, and an untouched one is in order (promise P4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bridge.access.journal import Request, write_records
from bridge.fhir.json import loads_stored
from bridge.fhir.search.index import extract
from bridge.keys.ports import WrappedKey
from bridge.ledger.chain import LogId
from bridge.ledger.checkpoint import sign_checkpoint
from bridge.ledger.commitment import commit, derive_salt, leaf_data
from bridge.ledger.merkle import CompactRange, hash_leaf
from bridge.pipeline import fsck_log, fsck_rows
from bridge.record.versions import content_bytes, content_digest, content_of
from bridge.store import leaves, scans, vault
from bridge.store.resources import index_digest
from bridge.store.rows import AccessRecord
from tests.integration.evidence import SECRETS, SIGNER, Evidence, alter_one_byte, codes, consent
from tests.integration.hospital import KEYS, ORIGIN, Hospital, hl7, pid, pv1


def read_by_someone(hospital: Hospital) -> None:
    """One request that touched a patient and nobody, with its leaf, as the API writes it."""
    key = hospital.key_of(hospital.patient("1"))
    with hospital.database.transaction() as txn:
        gathered = hospital.recorder.commitments(txn)
        row = AccessRecord(
            uuid4().bytes, txn.start_us, "dr", "ward", "north", "clinician", "TREAT", "read", "Patient", "x", key,
            "", "permit", "default", "", None, None, None, b"",
        )  # fmt: skip
        other = row._replace(access_id=uuid4().bytes, patient_key=None)
        [facts] = scans.resource_facts(txn, [key]).values()
        organization = str(uuid4())
        request = Request(organization, [(row, facts.record_uuid), (other, organization)])
        write_records(txn, [request], gathered, hospital.recorder.record_keys)


def test_an_untouched_store_is_in_order_at_every_moment(hospital: Hospital, evidence: Evidence) -> None:
    """Before sequencing, between checkpoint and anchor, with leaves on both sides of the anchor, and after a revocation."""
    assert evidence.check() == []
    evidence.sequence()
    assert evidence.check() == []
    evidence.anchor()
    read_by_someone(hospital)
    hospital.feed(consent(hospital, "inactive", "2024-03-02T10:00:00Z"))
    assert evidence.check() == []
    evidence.anchor()
    check = evidence.fsck()

    assert list(check.run()) == []
    rows = {"versions": "resource_version", "link events": "link_event", "consent states": "consent_state"}
    rows |= {"access records": "access_record", "leaves": "log_leaf", "checkpoints": "checkpoint"}
    assert {kind: check.tally.checked[kind] for kind in rows} == {
        kind: len(hospital.rows(table)) for kind, table in rows.items()
    }
    assert all(check.tally.checked[kind] for kind in rows)


def test_the_pieces_in_which_tables_are_read_do_not_matter(
    hospital: Hospital, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded by the piece: with pieces of one row the same store is in order and the same byte is found."""
    monkeypatch.setattr(fsck_rows, "CHUNK", 1)
    monkeypatch.setattr(fsck_log, "CHUNK", 1)
    evidence.anchor()
    assert evidence.check() == []
    patient = hospital.patient("1")
    alter_one_byte(hospital, evidence, patient)

    [finding] = evidence.check()

    assert (finding.resource, finding.code) == (f"Patient/{patient['id']}", "bytes-differ")


@pytest.mark.parametrize("sequenced", [True, False], ids=["in the log", "still waiting"])
def test_one_altered_byte_is_found_and_named(hospital: Hospital, evidence: Evidence, sequenced: bool) -> None:
    """Table, resource and version; nothing of the content, neither before nor after."""
    if sequenced:
        evidence.anchor()
    patient = hospital.patient("1")
    alter_one_byte(hospital, evidence, patient)

    [finding] = evidence.check()

    assert (finding.table, finding.code) == ("resource_version", "bytes-differ")
    assert (finding.resource, finding.version) == (f"Patient/{patient['id']}", int(patient["meta"]["versionId"]))
    assert not [secret for secret in SECRETS if secret in str(finding) + json.dumps(finding.to_json())]


def test_every_byte_of_a_body_counts(hospital: Hospital, evidence: Evidence) -> None:
    """Also in an older version, and also where JSON would read the same."""
    evidence.anchor()
    key = hospital.key_of(hospital.patient("1"))
    body = next(r["body"] for r in hospital.rows("resource_version") if (r["resource_key"], r["version"]) == (key, 1))
    for place in range(0, len(body), 29):
        evidence.alter(
            "resource_version",
            {"resource_key": key, "version": 1},
            body=body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :],
        )
        assert ("resource_version", "bytes-differ") in codes(evidence.check(outside=False))
    evidence.alter("resource_version", {"resource_key": key, "version": 1}, body=body[:-1] + b" }")
    assert ("resource_version", "bytes-differ") in codes(evidence.check(outside=False))


Act = Callable[[Hospital, Evidence], None]


def _resource(hospital: Hospital, kind: str) -> dict[str, Any]:
    return next(dict(row) for row in hospital.rows("resource") if row["type"] == kind)


def _swap_ids(hospital: Hospital, evidence: Evidence) -> None:
    one, other = [row for row in hospital.rows("resource") if row["type"] == "Patient"][:2]
    evidence.alter("resource", {"resource_key": one["resource_key"]}, fhir_id="between")
    evidence.alter("resource", {"resource_key": other["resource_key"]}, fhir_id=one["fhir_id"])
    evidence.alter("resource", {"resource_key": one["resource_key"]}, fhir_id=other["fhir_id"])


def _hole(hospital: Hospital, evidence: Evidence) -> None:
    row = next(row for row in hospital.rows("resource") if row["version"] > 1)
    evidence.remove("resource_version", resource_key=row["resource_key"], version=1)


def _roll_back_resource(hospital: Hospital, evidence: Evidence) -> None:
    """The newest version taken away, and the row set back to the one before."""
    row = next(row for row in hospital.rows("resource") if row["type"] == "Patient" and row["version"] > 1)
    key, version = row["resource_key"], row["version"]
    [old] = [r for r in hospital.rows("resource_version") if (r["resource_key"], r["version"]) == (key, version - 1)]
    evidence.remove("resource_version", resource_key=key, version=version)
    content = content_bytes(content_of(old["body"]))
    evidence.alter(
        "resource",
        {"resource_key": key},
        version=version - 1,
        last_updated_us=old["last_updated_us"],
        content_digest=content_digest(content),
    )


def _roll_back_consent(hospital: Hospital, evidence: Evidence) -> None:
    """A revoked consent set back to what it was when it was in force: nothing in the row itself is wrong."""
    [before] = hospital.rows("consent_state")
    hospital.feed(consent(hospital, "inactive", "2024-03-02T10:00:00Z"))
    evidence.anchor()
    evidence.alter("consent_state", {"consent_key": before["consent_key"]}, **before)


def _other_patient(hospital: Hospital, evidence: Evidence) -> None:
    row = _resource(hospital, "Observation")
    other = hospital.key_of(hospital.patient("2"))
    assert row["patient_key"] != other
    evidence.alter("resource", {"resource_key": row["resource_key"]}, patient_key=other)


def _of(table: str, column: str, value: Any, **where: Any) -> Act:
    def act(hospital: Hospital, evidence: Evidence) -> None:
        row = next(row for row in hospital.rows(table) if all(row[name] == one for name, one in where.items()))
        first = next(iter(row))
        keys = {first: row[first]} | ({"version": row["version"]} if table == "resource_version" else {})
        keys |= {
            name: row[name]
            for name in ("leaf_index", "size", "level", "node_index")
            if name in row and table != "anchor"
        }
        assert row[column] != value
        evidence.alter(table, keys, **{column: value})

    return act


def _without(table: str, **where: Any) -> Act:
    def act(hospital: Hospital, evidence: Evidence) -> None:
        row = next(row for row in hospital.rows(table) if all(row[name] == one for name, one in where.items()))
        evidence.remove(table, **{name: value for name, value in row.items() if value is not None and name in _KEYS})

    return act


def _without_accesses(hospital: Hospital, evidence: Evidence, **commitment: Any) -> None:
    """All records of a request taken away, and their leaf given to something else."""
    for row in hospital.rows("access_record"):
        evidence.remove("access_record", access_id=row["access_id"])
    [leaf] = [row for row in hospital.rows("commitment") if row["kind"] == "disclosure"]
    evidence.alter("commitment", {"leaf_id": leaf["leaf_id"]}, **commitment)


def _access_as(kind: str) -> Act:
    return lambda hospital, evidence: _without_accesses(hospital, evidence, kind=kind)


def _access_as_consent(version: int) -> Act:
    """Of an earlier state of a consent nothing is stored but its leaf."""

    def act(hospital: Hospital, evidence: Evidence) -> None:
        hospital.feed(consent(hospital, "inactive", "2024-03-02T10:00:00Z"))
        evidence.anchor()
        [state] = hospital.rows("consent_state")
        assert state["version"] > 1
        subject = {"subject_key": state["consent_key"], "subject_version": version}
        _without_accesses(hospital, evidence, kind="consent", **subject)

    return act


def _access_as_erased(hospital: Hospital, evidence: Evidence) -> None:
    """Another actor, and the leaf called one of a patient whose key was destroyed."""
    [record_uuid] = [
        row["record_uuid"] for row in hospital.rows("resource") if row["fhir_id"] == hospital.patient("2")["id"]
    ]
    evidence.alter("record_key", {"owner_uuid": record_uuid}, wrapped_key=b"", destroyed_us=1)
    [leaf] = [row for row in hospital.rows("commitment") if row["kind"] == "disclosure"]
    evidence.alter("commitment", {"leaf_id": leaf["leaf_id"]}, owner_uuid=record_uuid)


_KEYS = {
    "resource_key", "version", "leaf_id", "event_key", "consent_key", "access_id", "origin", "leaf_index", "size", "owner_uuid",
    "dead_key", "raw_key",
}  # fmt: skip

ALTERATIONS: dict[str, tuple[Act, set[tuple[str, str]]]] = {
    "a version taken away": (_hole, {("resource_version", "version-hole"), ("resource_version", "row-missing")}),
    "the only version taken away": (_without("resource_version", version=1), {("resource", "version-missing")}),
    "the resource set back": (_roll_back_resource, {("resource_version", "row-missing")}),
    "a resource taken away": (_without("resource", type="Observation"), {("resource", "resource-missing")}),
    "ids exchanged": (_swap_ids, {("resource", "name-differs")}),
    "a resource of another patient": (_other_patient, {("resource", "patient-differs")}),
    "no record UUID": (_of("resource", "record_uuid", "", type="Encounter"), {("resource_version", "commitment-differs")}),
    "a resource of no patient": (_of("resource", "patient_key", None, type="Observation"), {("resource", "patient-differs")}),
    "a Patient of no patient": (_of("resource", "patient_key", None, type="Patient"), {("resource", "patient-differs")}),
    "another current version": (_of("resource", "version", 9, type="Encounter"), {("resource", "version-missing")}),
    "a resource undeleted": (_of("resource", "deleted", True, type="Encounter"), {("resource", "current-differs")}),
    "another digest": (_of("resource", "content_digest", bytes(16), type="Encounter"), {("resource", "content-digest-differs")}),
    "another time": (_of("resource_version", "last_updated_us", 5, version=1), {("resource_version", "meta-differs")}),
    "a time beyond all times": (_of("resource_version", "last_updated_us", 2**62, version=1), {("resource_version", "meta-differs")}),
    "a version called a deletion": (_of("resource_version", "deleted", True, version=1), {("resource_version", "commitment-differs")}),
    "another person in a link": (_of("link_event", "person_to", 99, kind="link"), {("link_event", "bytes-differ")}),
    "another survivor": (_of("link_event", "record_key", 99, kind="merge"), {("link_event", "bytes-differ")}),
    "another order of links": (_of("link_event", "tie", "x", kind="merge"), {("link_event", "bytes-differ")}),
    "another certainty": (_of("link_event", "certainty", "possible", kind="link"), {("link_event", "bytes-differ")}),
    "another time of a decision": (_of("link_event", "decided_us", 5, kind="link"), {("link_event", "bytes-differ")}),
    "a link event taken away": (_without("link_event", kind="merge"), {("link_event", "row-missing")}),
    "a consent in force": (_of("consent_state", "status", "revoked"), {("consent_state", "bytes-differ"), ("consent_state", "rule-differs")}),
    "another rule": (_of("consent_state", "rule", b"{}"), {("consent_state", "rule-differs"), ("consent_state", "bytes-differ")}),
    "another custodian": (_of("consent_state", "custodian", "x"), {("consent_state", "bytes-differ")}),
    "a consent of another patient": (_of("consent_state", "patient_key", 99), {("consent_state", "bytes-differ")}),
    "a consent state taken away": (_without("consent_state"), {("consent_state", "row-missing")}),
    "a revocation undone": (_roll_back_consent, {("consent_state", "state-older-than-leaf")}),
    "another actor": (_of("access_record", "actor", "nobody"), {("access_record", "bytes-differ")}),
    "another hidden patient": (_of("access_record", "patient_key", 99), {("access_record", "bytes-differ")}),
    "an access moved to another leaf": (_of("access_record", "leaf_id", b"x" * 16), {("access_record", "commitment-missing")}),
    "an access taken away": (_without("access_record"), {("access_record", "row-missing")}),
    "an access called a heartbeat": (_access_as("heartbeat"), {("commitment", "kind-unknown")}),
    "an access called nothing known": (_access_as("x"), {("commitment", "kind-unknown")}),
    "an access called a consent": (_access_as_consent(1), {("commitment", "leaf-twice")}),
    "an access called a consent that never was": (_access_as_consent(0), {("consent_state", "row-missing")}),
    "an access called erased": (_access_as_erased, {("access_record", "record-key-missing")}),
    "another context": (_of("commitment", "context", b"{}", kind="record-version"), {("resource_version", "commitment-differs")}),
    "a commitment taken away": (_without("commitment", kind="record-version"), {("resource_version", "commitment-missing"), ("log_leaf", "commitment-missing")}),
    "another leaf": (_of("log_leaf", "leaf", b"\x01" + bytes(32), leaf_index=3), {("log_leaf", "leaf-hash-differs"), ("checkpoint", "root-differs")}),
    "another leaf hash": (_of("log_leaf", "leaf_hash", bytes(32), leaf_index=3), {("log_leaf", "leaf-hash-differs")}),
    "a leaf taken away": (_without("log_leaf", leaf_index=3), {("log_leaf", "leaf-missing")}),
    "another root": (_of("checkpoint", "root", bytes(32)), {("checkpoint", "note-differs"), ("checkpoint", "root-differs")}),
    "another note": (_of("checkpoint", "note", "x"), {("checkpoint", "note-malformed")}),
    "another state": (_of("log_state", "root", bytes(32)), {("log_state", "state-differs")}),
    "another anchor": (_of("anchor", "root", bytes(32)), {("anchor", "root-differs")}),
    "totals": (_of("source_position", "stored", 99, source="north"), {("source_position", "totals-differ"), ("raw_message", "messages-differ")}),
    "a dead letter taken away": (_without("dead_letter"), {("dead_letter", "dead-letters-differ")}),
    "a message taken away": (_without("raw_message", outcome="stored"), {("raw_message", "messages-differ")}),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERATIONS)
def test_what_is_changed_behind_the_bridges_back_is_found(name: str, hospital: Hospital, evidence: Evidence) -> None:
    """Whatever row is changed or taken away; and the finding holds nothing that the row said."""
    read_by_someone(hospital)
    evidence.anchor()
    act, expected = ALTERATIONS[name]
    act(hospital, evidence)

    findings = evidence.check()

    assert expected <= codes(findings)
    assert not [secret for secret in SECRETS if secret in " ".join(map(str, findings))]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000], ids=repr)
def test_bytes_that_nothing_can_read_hide_nothing_else(hospital: Hospital, evidence: Evidence, body: bytes) -> None:
    """The check goes on behind them, whatever they are: a Consent's bytes, and units' states, which have no leaf."""
    evidence.anchor()
    row = _resource(hospital, "Consent")
    evidence.alter("resource_version", {"resource_key": row["resource_key"]}, body=body)
    evidence.alter("resource", {"resource_key": _resource(hospital, "Encounter")["resource_key"]}, state=body)
    evidence.alter("source_position", {"source": "north"}, stored=99)

    assert codes(evidence.check()) >= {
        ("resource_version", "bytes-differ"),
        ("consent_state", "rule-differs"),
        ("resource", "resource-unreadable"),
        ("source_position", "totals-differ"),
    }


def test_a_key_that_is_called_destroyed_and_is_there_hides_nothing(hospital: Hospital, evidence: Evidence) -> None:
    """Else one mark in the vault would make altered bytes an erased record."""
    evidence.anchor()
    patient = hospital.patient("1")
    alter_one_byte(hospital, evidence, patient)
    [row] = [row for row in hospital.rows("resource") if row["fhir_id"] == patient["id"]]
    evidence.alter("record_key", {"owner_uuid": row["record_uuid"]}, destroyed_us=1)

    assert ("resource_version", "bytes-differ") in codes(evidence.check())


def test_bytes_of_an_erased_record_that_nothing_can_read_are_named(hospital: Hospital, evidence: Evidence) -> None:
    """Nothing vouches for them, and nothing stops at them."""
    evidence.anchor()
    row = _resource(hospital, "Patient")
    evidence.alter("record_key", {"owner_uuid": row["record_uuid"]}, wrapped_key=b"", destroyed_us=1)
    evidence.alter("resource_version", {"resource_key": row["resource_key"]}, body=b"{")

    assert ("resource", "bytes-unreadable") in codes(evidence.check())


@pytest.mark.parametrize(("table", "kept"), [("nonce", "nonce-missing"), ("record_key", "record-key-missing")])
def test_a_vault_that_lost_something_is_found(table: str, kept: str, hospital: Hospital, evidence: Evidence) -> None:
    """Only a key that was destroyed on purpose, and says so, is none."""
    evidence.anchor()
    [row] = [row for row in hospital.rows("resource") if row["fhir_id"] == hospital.patient("1")["id"]]
    version = next(r for r in hospital.rows("resource_version") if r["resource_key"] == row["resource_key"])
    where = {"leaf_id": version["leaf_id"]} if table == "nonce" else {"owner_uuid": row["record_uuid"]}
    evidence.remove(table, **where)

    assert ("resource_version", kept) in codes(evidence.check())


def test_a_nonce_of_another_length_is_found(hospital: Hospital, evidence: Evidence) -> None:
    """It makes no salt, and does not end the check."""
    evidence.anchor()
    version = hospital.rows("resource_version")[0]
    evidence.alter("nonce", {"leaf_id": version["leaf_id"]}, nonce=b"short")

    assert ("resource_version", "nonce-missing") in codes(evidence.check())


def test_a_subtree_is_found(hospital: Hospital, evidence: Evidence) -> None:
    """The hash of 256 leaves, altered or taken away."""
    hospital.feed(*[hl7("ADT^A04", pid(f"{n}^^^ARCHIVE^MR", f"Fir^Number{n}"), pv1(f"A{n}")) for n in range(90)])
    evidence.anchor()
    assert evidence.check() == []
    where = {"level": 1, "node_index": 0}
    evidence.alter("log_subtree", where, hash=bytes(32))
    assert codes(evidence.check()) == {("log_subtree", "subtree-differs")}
    evidence.remove("log_subtree", **where)
    assert codes(evidence.check()) == {("log_subtree", "subtree-missing")}


def test_a_rewritten_log_is_found_against_a_head_held_outside(hospital: Hospital, evidence: Evidence) -> None:
    """The operator makes everything agree again, signature included: only who holds an older head can tell."""
    evidence.anchor()
    rewrite(hospital, evidence)

    assert evidence.check(outside=False) == []
    found = evidence.check()
    assert ("log_leaf", "root-differs") in codes(found)
    assert "head" in found[0].place


def rewrite(hospital: Hospital, evidence: Evidence) -> None:
    """Changes one resource and re-makes search rows, leaf, log, checkpoint and state; the anchor's row goes too."""

    patient = hospital.patient("1")
    alter_one_byte(hospital, evidence, patient)
    key = hospital.key_of(patient)
    [version] = [
        r
        for r in hospital.rows("resource_version")
        if (r["resource_key"], r["version"]) == (key, int(patient["meta"]["versionId"]))
    ]
    with hospital.database.transaction(read_only=True) as txn:
        row = leaves.commitments(txn, [version["leaf_id"]])[version["leaf_id"]]
        nonce = vault.nonces(txn, [row.leaf_id])[row.leaf_id]
        owner = vault.record_keys(txn, [row.owner_uuid])[row.owner_uuid]
        leaf = leaves.leaves_by_id(txn, [row.leaf_id])[row.leaf_id]
    salt = derive_salt(KEYS.unwrap(WrappedKey(owner.key_id, owner.wrapped_key)), nonce)
    forged = leaf_data(commit(salt, row.context, version["body"]))
    evidence.alter("log_leaf", {"leaf_index": leaf.leaf_index}, leaf=forged, leaf_hash=hash_leaf(forged))
    content = content_digest(content_bytes(content_of(version["body"])))
    index = extract(loads_stored(version["body"]))
    digest = index_digest(index.terms, index.strings)
    evidence.alter("resource", {"resource_key": key}, content_digest=content, index_digest=digest)
    for row in hospital.rows("resource_string"):
        if row["resource_key"] == key and row["value"] == "ash":
            evidence.alter("resource_string", row, value="axh")
    tree = CompactRange()
    tree.extend([row["leaf_hash"] for row in sorted(hospital.rows("log_leaf"), key=lambda row: row["leaf_index"])])
    note = sign_checkpoint(ORIGIN, tree.head(), SIGNER)
    evidence.alter("checkpoint", {"size": tree.size}, root=tree.root(), note=note)
    evidence.alter("log_state", {"origin": ORIGIN}, root=tree.root(), compact_range=tree.to_bytes())
    evidence.remove("anchor", size=tree.size)


def test_an_older_database_is_found_against_the_heads_held_outside(hospital: Hospital, evidence: Evidence) -> None:
    """What a restored backup looks like: in order in itself, and shorter than what the chain and the signer know."""
    evidence.anchor()
    size = evidence.watermark.read()
    assert size is not None
    longer = replace(size, size=size.size + 5)
    check = evidence.fsck()
    check._watermark = longer

    assert codes(list(check.run())) == {("log_leaf", "beyond-the-log")}


def test_an_anchor_that_the_chain_does_not_hold_is_found(
    hospital: Hospital, evidence: Evidence, tmp_path: Path
) -> None:
    """The table says final, and the chain knows nothing of it."""
    evidence.anchor()
    evidence.chain.close()
    for file in tmp_path.glob("chain.sqlite*"):
        file.unlink()
    assert evidence.chain.read_anchor(LogId.of_origin(ORIGIN)) is None

    assert codes(evidence.check()) == {("anchor", "anchor-not-on-chain")}


def test_what_came_before_its_patient_is_in_order(hospital: Hospital, tmp_path: Path) -> None:
    """Its key was reserved for the name, whether the Patient is still to come or turned out to be a known one."""
    evidence = Evidence(hospital, tmp_path)
    reference = {"reference": "Patient/p1"}
    hospital.feed(
        {"resourceType": "Observation", "id": "o1", "status": "final", "code": {"text": "K"}, "subject": reference}
    )
    evidence.sequence()
    evidence.anchor()
    waiting = evidence.check()
    hospital.feed(hl7("ADT^A01", pid("77^^^NORTH^MR"), pv1()))
    named = {"identifier": [{"system": "urn:test:north", "type": {"coding": [{"code": "MR"}]}, "value": "77"}]}
    hospital.feed({"resourceType": "Patient", "id": "p1", **named})
    evidence.sequence()
    evidence.anchor()

    assert waiting == evidence.check() == []
    evidence.close()
