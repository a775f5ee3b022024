"""The verdict names each level by itself, trust comes from the policy, and bad files are named for what they are."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import rlp

from bridge.errors import Forbidden, Incorrect
from bridge.ledger.chain_evidence import ChainLevel
from bridge.ledger.patricia import keccak256
from bridge.ledger.policy import LocalChainPolicy, Policy, load_policy, policy_json
from bridge.ledger.proof import LogProof, build_bundle, parse_bundle
from bridge.ledger.verify import verify
from tests.reference import ROOT
from tests.unit.ledger import example

BLOCK = bytes.fromhex(example.recorded()["block"]["hash"])


def level(policy, bundle=None) -> ChainLevel:
    claims = verify(bundle or example.bundle(chains="evm"), policy).claims
    return claims[0].level


def evm(**changes) -> Policy:
    return Policy({example.ORIGIN: example.KEY}, (), (replace(example.evm_policy(), **changes),))


def test_logged_needs_the_log_key_only() -> None:
    """With nothing but the log's key a proof is logged, its time the operator's claim, its chains unchecked."""
    verdict = verify(example.bundle(), Policy({example.ORIGIN: example.KEY}))

    assert (verdict.claims, verdict.unchecked, verdict.attested) == ((), ("local", "evm"), None)
    assert verdict.lines()[0] == "logged: leaf 7 of example.org/log, under a signed checkpoint of 37 leaves"
    assert "time: operator's claim" in verdict.lines()
    assert json.loads(json.dumps(verdict.to_json()))["existed_no_later_than"] is None


def test_the_operators_own_chain_gives_no_time() -> None:
    """A local chain is final and says so, but it is the operator's word."""
    verdict = verify(
        example.bundle(chains="local"), Policy({example.ORIGIN: example.KEY}, (LocalChainPolicy(example.CHAIN_KEY),))
    )

    assert (verdict.claims[0].level, verdict.claims[0].own_chain) == (ChainLevel.FINAL, True)
    assert verdict.attested is None
    assert any("operator's own chain" in line for line in verdict.lines())


def test_chain_levels_follow_what_the_policy_knows() -> None:
    """Unknown block: consistent. Known: included. Known to be final: final."""
    assert level(evm()) is ChainLevel.CONSISTENT
    assert level(evm(blocks={BLOCK: False})) is ChainLevel.INCLUDED
    assert level(evm(blocks={BLOCK: True})) is ChainLevel.FINAL
    assert level(evm(blocks={BLOCK: False}, confirmations=1)) is ChainLevel.INCLUDED
    assert level(evm(blocks={BLOCK: False}, confirmations=0)) is ChainLevel.FINAL


def test_a_later_known_block_vouches_for_earlier_ones() -> None:
    """Headers that lead from the proved block to a known one authenticate it; enough of them make it final."""
    bundle = example.bundle(chains="evm")
    headers = list(bundle.anchors[0].evidence["headers"])
    fields = rlp.decode(bytes.fromhex(headers[0]))
    for _ in range(3):
        fields = [keccak256(bytes.fromhex(headers[-1])), *fields[1:8], bytes([fields[8][0] + 1]), *fields[9:]]
        headers.append(rlp.encode(fields).hex())
    anchor = replace(bundle.anchors[0], evidence=dict(bundle.anchors[0].evidence) | {"headers": headers})
    longer = replace(bundle, anchors=(anchor,))
    last = keccak256(bytes.fromhex(headers[-1]))

    assert level(evm(), longer) is ChainLevel.CONSISTENT
    assert level(evm(blocks={last: False}), longer) is ChainLevel.INCLUDED
    assert level(evm(blocks={last: False}, confirmations=3), longer) is ChainLevel.FINAL
    assert level(evm(blocks={last: False}, confirmations=4), longer) is ChainLevel.INCLUDED
    assert level(evm(blocks={last: True}), longer) is ChainLevel.FINAL
    broken = replace(anchor, evidence=dict(anchor.evidence) | {"headers": [headers[0], headers[2]]})
    with pytest.raises(Incorrect, match="chain-evidence-malformed"):
        level(evm(), replace(bundle, anchors=(broken,)))


def test_an_authenticated_block_gives_the_time() -> None:
    """ "No later than" is the block's time, by the chain's word."""
    verdict = verify(example.bundle(), example.policy(final=False))

    assert verdict.attested.time_us == example.recorded()["block"]["time_us"]
    assert any(line.startswith("time: existed no later than 20") and "eip155:31337" in line for line in verdict.lines())
    assert verdict.to_json()["attested_by"] == "eip155:31337"


@pytest.mark.parametrize("size", [8, 19, 20, 21, 37])
def test_the_anchor_may_be_older_or_newer_than_the_checkpoint(size) -> None:
    """Consistency runs from the smaller head to the larger, whichever is anchored."""
    assert len(verify(example.bundle(7, size), example.policy()).claims) == 2


def test_a_closed_proof_shows_only_the_leaf() -> None:
    """Neither content, context nor salt is in a closed bundle; it still verifies as logged."""
    closed = example.bundle(closed=True)

    assert "opening" not in closed.to_json()
    assert verify(parse_bundle(closed.encode()), example.policy()).opening is None


def test_no_bundle_holds_what_the_salt_was_made_from() -> None:
    """The members of an opening are exactly content, context and salt."""
    assert set(example.bundle().to_json()["opening"]) == {"content", "context", "salt"}


def test_bundles_round_trip() -> None:
    """What is written is read back the same."""
    bundle = example.bundle()

    assert parse_bundle(bundle.encode()) == bundle
    assert parse_bundle(bundle.encode().encode()) == bundle
    assert LogProof.parse(bundle.log_proof.encode()) == bundle.log_proof


def test_a_leaf_beyond_the_checkpoint_has_no_proof_yet() -> None:
    """A leaf that no signed checkpoint covers is recorded and not provable."""
    with pytest.raises(Incorrect, match="log-range"):
        build_bundle(example.READER, leaf=example.LEAVES[30], index=30, checkpoint=example.checkpoint(30), opening=None)


def test_a_log_that_the_policy_does_not_name_is_not_trusted() -> None:
    """Another origin in the policy is no trust in this one."""
    with pytest.raises(Forbidden, match="log-not-trusted"):
        verify(example.bundle(), Policy({"example.org/other": example.KEY}))


GOOD = example.bundle().to_json()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format":"hie-bridge-proof/v1","format":"hie-bridge-proof/v1"}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '["]", ' * 100_000,
        json.dumps(GOOD | {"format": "hie-bridge-proof/v2"}),
        json.dumps(GOOD | {"more": 1}),
        json.dumps({name: value for name, value in GOOD.items() if name != "anchors"}),
        json.dumps(GOOD | {"leaf": 5}),
        json.dumps(GOOD | {"leaf": "AR=="}),
        json.dumps(GOOD | {"tlog_proof": GOOD["tlog_proof"].replace("index 7", "index 07")}),
        json.dumps(GOOD | {"tlog_proof": GOOD["tlog_proof"].replace("@v1", "@v2")}),
        json.dumps(GOOD | {"tlog_proof": "\ud800"}),
        json.dumps(GOOD | {"anchors": [GOOD["anchors"][0] | {"size": -1}]}),
        json.dumps(GOOD | {"anchors": [GOOD["anchors"][0] | {"size": 1.0}]}),
        json.dumps(GOOD | {"anchors": GOOD["anchors"] * 9}),
        json.dumps(GOOD | {"opening": GOOD["opening"] | {"nonce": ""}}),
        json.dumps(GOOD)[: len(json.dumps(GOOD)) // 2],
        b"\xff\xfe",
    ],
)
def test_files_that_are_no_bundle_are_refused(text) -> None:
    """Truncated, doubled, nested, of another version, with members missing, unknown or of another type."""
    with pytest.raises(Incorrect, match="proof-malformed"):
        parse_bundle(text)


def test_nesting_is_bounded_whatever_the_process_allows() -> None:
    """A parser that recurses to the interpreter's limit could overflow the C stack; ours does not come that far."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(Incorrect, match="nested deeper"):
            parse_bundle("[" * 90_000 + "]" * 90_000)
    finally:
        sys.setrecursionlimit(limit)


def test_importing_the_evm_backend_leaves_the_recursion_limit() -> None:
    """One of web3's relatives raises it to a depth at which nested input kills the process."""
    code = "import sys; before = sys.getrecursionlimit(); import adapters.chains.evm.backend; assert sys.getrecursionlimit() == before"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["", "fabric"])
def test_evidence_of_an_unknown_kind_is_refused(kind) -> None:
    """What can't be checked is not passed over as if it had been."""
    bundle = example.bundle()
    with pytest.raises(Incorrect, match="chain-evidence-malformed"):
        verify(replace(bundle, anchors=(replace(bundle.anchors[0], kind=kind),)), example.policy())


def test_policies_round_trip() -> None:
    """A policy written for an auditor is read back the same."""
    policy = example.policy()
    policy = replace(policy, evm_chains=(replace(policy.evm_chains[0], confirmations=12),))

    assert load_policy(json.dumps(policy_json(policy))) == policy
    assert load_policy(json.dumps(policy_json(policy)).encode()) == policy


POLICY = policy_json(example.policy())
EVM = POLICY["chains"][1]


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"format": "other", "logs": POLICY["logs"]},
        {"format": POLICY["format"], "logs": []},
        POLICY | {"logs": POLICY["logs"] * 2},
        POLICY | {"logs": [{"key": "example.org/log"}]},
        POLICY | {"logs": [{"key": example.KEY.encode(), "origin": "x"}]},
        POLICY | {"chains": [{"kind": "fabric"}]},
        POLICY | {"chains": [EVM | {"contract": "0x00"}]},
        POLICY | {"chains": [EVM | {"chain_id": "1"}]},
        POLICY | {"chains": [EVM | {"blocks": [{"hash": "0x" + "00" * 32, "final": 1}]}]},
        POLICY | {"chains": [{name: value for name, value in EVM.items() if name != "code_hash"}]},
        POLICY | {"trust": "all"},
    ],
)
def test_files_that_are_no_policy_are_refused(document) -> None:
    """Every mistake in a policy is an error: a policy that means less than it says would be believed."""
    with pytest.raises(Incorrect, match="policy-malformed"):
        load_policy(json.dumps(document))


def test_a_policy_that_is_no_json_names_the_place() -> None:
    """Line and column of the mistake are in the message."""
    with pytest.raises(Incorrect, match="line 2 column"):
        load_policy('{"format": "hie-bridge-policy/v1",\n nonsense}')
