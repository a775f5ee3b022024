"""Verifies a proof bundle against a trust policy, offline.

A bundle in which anything is wrong is refused as a whole. What holds is then named level by level: logged, chain evidence
consistent, included, final, and since when by whose word. Trust comes from the policy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge.errors import Forbidden, Incorrect
from bridge.ledger.chain import LogId
from bridge.ledger.chain_evidence import ChainClaim, ChainLevel, check_evm, check_local
from bridge.ledger.checkpoint import Checkpoint, open_checkpoint
from bridge.ledger.commitment import LEAF_DATA_SIZE, LEAF_FORMAT, commit, leaf_data
from bridge.ledger.merkle import hash_leaf, verify_consistency, verify_inclusion
from bridge.ledger.note import parse_note
from bridge.ledger.policy import Policy
from bridge.ledger.proof import AnchorProof, Opening, ProofBundle


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a bundle proves under a policy.

    Attributes:
        checkpoint: the signed head that the leaf is under.
        index: the leaf's number in the log.
        opening: what was committed to; None for a closed proof.
        claims: what the chains say, one per anchor whose chain the policy names.
        unchecked: kinds of anchors whose chain the policy does not name.
    """

    checkpoint: Checkpoint
    index: int
    opening: Opening | None
    claims: tuple[ChainClaim, ...]
    unchecked: tuple[str, ...]

    @property
    def attested(self) -> ChainClaim | None:
        """The earliest claim by someone else than the operator whose block the policy authenticates; None = none."""
        outside = [claim for claim in self.claims if not claim.own_chain and claim.level != ChainLevel.CONSISTENT]
        return min(outside, key=lambda claim: claim.time_us, default=None)

    def lines(self) -> list[str]:
        """The verdict for people, a level a line. Shows names and numbers of the context, never the content."""
        origin, size = self.checkpoint.origin, self.checkpoint.head.size
        lines = [f"logged: leaf {self.index} of {origin}, under a signed checkpoint of {size} leaves"]
        if self.opening is None:
            lines.append("closed: what the leaf commits to is not shown")
        else:
            context = self.opening.context
            lines.append(
                f"opened: {context.kind}, record {context.record}, version {context.version},"
                f" {len(self.opening.content)} bytes of {context.form}"
            )
        for claim in self.claims:
            own = " (operator's own chain)" if claim.own_chain else ""
            lines.append(f"chain {claim.chain}{own}: {claim.level}; block {claim.block} {claim.block_hash.hex()}")
        lines += [
            f"chain evidence of kind {kind}: not checked, the policy names no such chain" for kind in self.unchecked
        ]
        if self.attested is None:
            lines.append("time: operator's claim")
            lines.append("rewriting by the operator: not excluded, no head held outside was used")
        else:
            chain = self.attested.chain
            lines.append(f"time: existed no later than {_iso(self.attested.time_us)}, by chain {chain}")
            lines.append(f"rewriting by the operator: excluded up to the head held by chain {chain}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The verdict for programs."""
        attested = self.attested
        return {
            "logged": True,
            "origin": self.checkpoint.origin,
            "size": self.checkpoint.head.size,
            "index": self.index,
            "context": self.opening.context.to_json() if self.opening else None,
            "chains": [
                {
                    "chain": claim.chain,
                    "level": claim.level.name.lower(),
                    "own_chain": claim.own_chain,
                    "block": claim.block,
                    "block_hash": claim.block_hash.hex(),
                    "time": _iso(claim.time_us),
                }
                for claim in self.claims
            ],
            "unchecked": list(self.unchecked),
            "existed_no_later_than": _iso(attested.time_us) if attested else None,
            "attested_by": attested.chain if attested else None,
        }


def verify(bundle: ProofBundle, policy: Policy) -> Verdict:
    """Checks everything that ``bundle`` contains.

    Raises:
        Incorrect: a check failed: ``leaf-malformed``, ``salt-length``, ``commitment-mismatch``,
            ``context-of-another-log``, ``inclusion-proof-invalid``, ``consistency-proof-invalid``,
            ``anchor-before-leaf``, and those of notes, checkpoints and chain evidence.
        Forbidden: what is shown is not trusted: ``log-not-trusted``, ``note-not-signed``, ``note-signature-invalid``,
            ``block-not-signed``, ``contract-not-trusted``, ``contract-code-mismatch``.
    """
    checkpoint = _checkpoint(bundle, policy)
    if len(bundle.leaf) != LEAF_DATA_SIZE or not bundle.leaf.startswith(LEAF_FORMAT):
        raise Incorrect("leaf-malformed", "the leaf is not of the one format known here: 33 bytes that start with 1")
    if bundle.opening is not None:
        _check_opening(bundle.opening, bundle.leaf, checkpoint.origin)
    proof = bundle.log_proof
    verify_inclusion(hash_leaf(bundle.leaf), proof.index, checkpoint.head.size, proof.path, checkpoint.head.root)
    claims: list[ChainClaim] = []
    unchecked: list[str] = []
    for anchor in bundle.anchors:
        claim = _check_anchor(anchor, checkpoint, proof.index, policy)
        if claim is None:
            unchecked.append(anchor.kind)
        else:
            claims.append(claim)
    return Verdict(checkpoint, proof.index, bundle.opening, tuple(claims), tuple(unchecked))


def _checkpoint(bundle: ProofBundle, policy: Policy) -> Checkpoint:
    origin = Checkpoint.parse(parse_note(bundle.log_proof.checkpoint).text).origin  # only to choose the key
    key = policy.logs.get(origin)
    if key is None:
        raise Forbidden("log-not-trusted", "the policy does not name the log that the proof is from")
    return open_checkpoint(bundle.log_proof.checkpoint, key)


def _check_opening(opening: Opening, leaf: bytes, origin: str) -> None:
    if opening.context.origin != origin:
        raise Incorrect("context-of-another-log", "the opening's context names another log than the checkpoint")
    if leaf_data(commit(opening.salt, opening.context.encode(), opening.content)) != leaf:
        raise Incorrect(
            "commitment-mismatch", "the leaf does not commit to these bytes: content, context or salt was changed"
        )


def _check_anchor(anchor: AnchorProof, checkpoint: Checkpoint, index: int, policy: Policy) -> ChainClaim | None:
    log, evidence = LogId.of_origin(checkpoint.origin), dict(anchor.evidence)
    if anchor.kind == "local":
        claim = check_local(evidence, anchor.head, log, policy.local_chains)
    elif anchor.kind == "evm":
        claim = check_evm(evidence, anchor.head, log, policy.evm_chains)
    else:
        raise Incorrect("chain-evidence-malformed", "the chain evidence is of a kind that is not known here")
    if index >= anchor.head.size:
        raise Incorrect("anchor-before-leaf", "the anchored head is older than the leaf and says nothing about it")
    old, new = sorted((anchor.head, checkpoint.head), key=lambda head: head.size)
    verify_consistency(old, new, anchor.consistency)
    return claim


def _iso(time_us: int) -> str:
    """A time in UTC to the second, rounded up, as "no later than" asks."""
    try:
        return datetime.fromtimestamp(-(-time_us // 1_000_000), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{time_us} µs"
