"""Proofs from the store: they hold offline, and none leaves that does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.errors import BridgeError
from bridge.ledger.chain_evidence import ChainLevel
from bridge.ledger.policy import Policy, load_policy, policy_json
from bridge.ledger.proof import parse_bundle
from bridge.ledger.verify import verify
from bridge.pipeline.proving import template_policy
from tests.contract.chain_harness import deploy, evm_harness
from tests.integration.evidence import LOG_KEY, POLICY, SECRETS, Evidence, alter_one_byte, feed
from tests.integration.hospital import ORIGIN, Hospital, hl7, pid, pv1
from tests.services.anvil import Anvil


def test_a_proof_of_every_version_verifies_offline(hospital: Hospital, evidence: Evidence) -> None:
    """The bundle, written and read again, holds under a policy of someone else's making and shows the stored bytes."""
    evidence.anchor()
    versions = {(row["resource_key"], row["version"]): row["body"] for row in hospital.rows("resource_version")}
    proved = 0
    for row in hospital.rows("resource"):
        for version in range(1, row["version"] + 1):
            bundle = evidence.prove(row["type"], row["fhir_id"], version).bundle
            verdict = verify(parse_bundle(bundle.encode()), POLICY)
            proved += 1

            assert verdict.opening is not None
            assert verdict.opening.content == versions[row["resource_key"], version]
            assert verdict.opening.context.record == row["record_uuid"]
            assert verdict.opening.context.version == version
            assert [claim.own_chain for claim in verdict.claims] == [True]

    assert proved == len(versions) > 5


def test_the_anchor_may_be_older_or_newer_than_the_checkpoint(hospital: Hospital, evidence: Evidence) -> None:
    """More leaves after the anchor change nothing for what it covers, and it says nothing of what it does not cover."""
    evidence.anchor()
    old = hospital.patient("1")
    hospital.feed(hl7("ADT^A04", pid("3^^^NORTH^MR", "Oak^Una"), pv1("V3")))
    evidence.sequence()

    covered, later = evidence.prove("Patient", old["id"]), evidence.prove("Patient", hospital.patient("3")["id"])

    assert len(covered.bundle.anchors) == 1
    assert later.bundle.anchors == ()
    assert "time: operator's claim" in verify(later.bundle, POLICY).lines()


def test_without_chain_the_chain_is_not_asked(hospital: Hospital, evidence: Evidence) -> None:
    """A proof can be had while the chain is away."""
    evidence.anchor()

    bundle = evidence.prove("Patient", hospital.patient("1")["id"], chain=False).bundle

    assert bundle.anchors == ()
    verify(bundle, POLICY)


def test_what_is_not_provable_says_why(hospital: Hospital, evidence: Evidence) -> None:
    """Recorded is not yet provable: that is a matter of seconds, and told apart from what will never be."""
    patient = hospital.patient("1")["id"]

    assert refused(lambda: evidence.prove("Patient", patient)) == ("leaf-not-sequenced", True)
    evidence.sequence()
    evidence.remove("checkpoint", origin=ORIGIN)
    assert refused(lambda: evidence.prove("Patient", patient)) == ("leaf-not-signed", True)
    assert refused(lambda: evidence.prove("Patient", "nobody")) == ("resource-absent", False)
    assert refused(lambda: evidence.prove("Observation", patient)) == ("resource-absent", False)
    assert refused(lambda: evidence.prove("Patient", patient, 99)) == ("version-absent", False)


def test_no_proof_of_altered_bytes_leaves(hospital: Hospital, evidence: Evidence) -> None:
    """The operator learns it before anyone else does."""
    evidence.anchor()
    patient = hospital.patient("1")
    alter_one_byte(hospital, evidence, patient)

    assert refused(lambda: evidence.prove("Patient", patient["id"])) == ("stored-bytes-altered", True)


def test_an_erased_record_has_no_proof(hospital: Hospital, evidence: Evidence) -> None:
    """Without the record's key its commitments are only numbers; that is no finding either."""
    evidence.anchor()
    patient = hospital.patient("2")
    [row] = [row for row in hospital.rows("resource") if row["fhir_id"] == patient["id"]]
    evidence.alter("record_key", {"owner_uuid": row["record_uuid"]}, wrapped_key=b"", destroyed_us=1)

    assert refused(lambda: evidence.prove("Patient", patient["id"])) == ("record-erased", False)
    check = evidence.fsck()
    assert list(check.run()) == []
    assert check.tally.checked["erased"] > 0


def test_a_store_behind_its_chain_proves_nothing(hospital: Hospital, evidence: Evidence, tmp_path: Path) -> None:
    """A head on the chain that the log does not lead to is said, never left out of the bundle in silence."""
    evidence.anchor()
    evidence.alter("log_leaf", {"leaf_index": 0}, leaf_hash=bytes(32))

    assert refused(lambda: evidence.prove("Patient", hospital.patient("1")["id"])) == ("anchored-head-differs", True)


def test_the_template_policy_holds_what_an_auditor_must_compare(evidence: Evidence) -> None:
    """Keys of the log and of the own chain, in the form that verify reads."""
    policy, found = template_policy(LOG_KEY, evidence.chain)
    assert found is None
    evidence.anchor()
    again, found = template_policy(LOG_KEY, evidence.chain)

    assert policy == again == POLICY
    assert found is not None
    assert load_policy(json.dumps(policy_json(policy))) == POLICY


def refused(attempt: Callable[[], object]) -> tuple[str, bool]:
    """Code of the error, and whether trying again may help."""
    with pytest.raises(BridgeError) as caught:
        attempt()
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    return caught.value.code, caught.value.transient


def test_a_proof_made_before_holds_when_the_store_is_gone(
    hospital: Hospital, evidence: Evidence, tmp_path: Path
) -> None:
    """Nothing but the file and the policy is needed."""
    evidence.anchor()
    text = evidence.prove("Patient", hospital.patient("1")["id"]).bundle.encode()
    hospital.close()
    for file in tmp_path.glob("store.db*"):
        shutil.move(file, tmp_path / f"gone-{file.name}")

    verdict = verify(parse_bundle(text), POLICY)

    assert verdict.checkpoint.origin == ORIGIN
    with pytest.raises(BridgeError):
        verify(parse_bundle(text), Policy({}))


@pytest.mark.ci
def test_a_chain_of_others_attests_the_time(hospital: Hospital, anvil: Anvil, tmp_path: Path) -> None:
    """The template names contract and code; with the block's hash from an own node the verdict says since when."""
    harness = evm_harness(
        anvil, tmp_path, deploy(anvil, tmp_path / "deployer"), finality="confirmations", confirmations=2
    )
    feed(hospital)
    evidence = Evidence(hospital, tmp_path, harness.open())
    evidence.anchor()
    harness.settle()
    evidence.anchor()
    assert evidence.check() == []

    bundle = parse_bundle(evidence.prove("Patient", hospital.patient("1")["id"]).bundle.encode())
    [chain] = template_policy(LOG_KEY, evidence.chain)[0].evm_chains
    [claim] = verify(bundle, Policy({ORIGIN: LOG_KEY}, (), (chain,))).claims
    known = replace(chain, blocks={claim.block_hash: True})
    verdict = verify(bundle, Policy({ORIGIN: LOG_KEY}, (), (known,)))

    assert claim.level is ChainLevel.CONSISTENT
    assert verdict.attested is not None
    assert verdict.attested.level is ChainLevel.FINAL
    assert "operator's claim" not in " ".join(verdict.lines())
    evidence.close()
