"""A small log with known leaves, its proofs, and chain evidence about it: what the proof tests start from."""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from adapters.chains.local import LocalChain
from bridge.keys.ed25519 import Ed25519Signer
from bridge.ledger.chain import Anchor, AnchoredHead, BlockRef, ChainEvidence, LogId, Root
from bridge.ledger.checkpoint import sign_checkpoint
from bridge.ledger.commitment import Context, LeafKind, commit, derive_salt, leaf_data
from bridge.ledger.merkle import CompactRange, TreeHead, TreeReader, hash_leaf
from bridge.ledger.note import VerifierKey
from bridge.ledger.policy import EvmChainPolicy, LocalChainPolicy, Policy
from bridge.ledger.proof import Opening, ProofBundle, build_bundle

ORIGIN = "example.org/log"
LOG = LogId.of_origin(ORIGIN)
SIGNER = Ed25519Signer(ORIGIN, bytes(range(32)))
KEY = VerifierKey(ORIGIN, SIGNER.public_key())
CHAIN_SIGNER = Ed25519Signer("example.org/chain", bytes(range(1, 33)))
CHAIN_KEY = VerifierKey("example.org/chain", CHAIN_SIGNER.public_key())
SIZE, ANCHORED = 37, 20
RECORDED = Path(__file__).with_name("evm_evidence.json")


def _opening(number: int) -> Opening:
    def secret(what: str) -> bytes:
        return sha256(f"{what} {number}".encode()).digest()

    record = UUID(bytes=secret("record")[:16], version=4)
    content = json.dumps({"resourceType": "Basic", "id": str(number)}).encode()
    context = Context(LeafKind.RECORD_VERSION, ORIGIN, str(record), number % 3 + 1, "application/fhir+json")
    return Opening(content, context, derive_salt(secret("key"), secret("nonce")))


OPENINGS = [_opening(number) for number in range(SIZE)]
LEAVES = [leaf_data(commit(item.salt, item.context.encode(), item.content)) for item in OPENINGS]
HASHES = [hash_leaf(leaf) for leaf in LEAVES]
READER = TreeReader(lambda level, first, count: HASHES[first : first + count])


def head(size: int) -> TreeHead:
    """The log's head at a size."""
    edge = CompactRange()
    edge.extend(HASHES[:size])
    return edge.head()


def anchor(size: int) -> Anchor:
    """That head as it goes to a chain."""
    return Anchor(LOG, size, Root(head(size).root))


def checkpoint(size: int) -> str:
    """The log's signed checkpoint at a size."""
    return sign_checkpoint(ORIGIN, head(size), SIGNER)


@cache
def local_evidence(size: int = ANCHORED) -> ChainEvidence:
    """Evidence of an operator's own chain for the head at ``size``."""
    with TemporaryDirectory() as folder:
        chain = LocalChain(Path(folder) / "chain.sqlite", CHAIN_SIGNER)
        chain.send(chain.prepare_anchors([anchor(size)], []))
        found = chain.evidence(LOG)
        chain.close()
    return found


def recorded() -> dict[str, Any]:
    """Evidence as a real node gave it (``record_evm_evidence.py``), for the head at ``ANCHORED``."""
    value: dict[str, Any] = json.loads(RECORDED.read_text("ascii"))
    return value


def evm_evidence() -> ChainEvidence:
    """The recorded evidence of an EVM contract's storage."""
    block = recorded()["block"]
    seen = BlockRef(block["number"], bytes.fromhex(block["hash"]), block["time_us"])
    return ChainEvidence("evm", AnchoredHead(ANCHORED, anchor(ANCHORED).root, seen), recorded()["body"])


def evm_policy(blocks: dict[bytes, bool] | None = None, confirmations: int | None = None) -> EvmChainPolicy:
    """Trust in the recorded contract and writer, and in the blocks given."""
    body = recorded()["body"]
    contract, writer = bytes.fromhex(body["contract"]), bytes.fromhex(body["writer"])
    code = bytes.fromhex(recorded()["code_hash"])
    return EvmChainPolicy(body["chain_id"], contract, writer, code, blocks or {}, confirmations)


def bundle(index: int = 7, size: int = SIZE, *, closed: bool = False, chains: str = "local evm") -> ProofBundle:
    """The proof of a leaf, with evidence of the chains named."""
    anchored = []
    if "local" in chains:
        anchored.append((head(ANCHORED), local_evidence()))
    if "evm" in chains:
        anchored.append((head(ANCHORED), evm_evidence()))
    return build_bundle(
        READER,
        leaf=LEAVES[index],
        index=index,
        checkpoint=checkpoint(size),
        opening=None if closed else OPENINGS[index],
        anchored=anchored,
    )


def policy(*, final: bool = True) -> Policy:
    """Trust in the log, the local chain, and the recorded block."""
    block = bytes.fromhex(recorded()["block"]["hash"])
    return Policy({ORIGIN: KEY}, (LocalChainPolicy(CHAIN_KEY),), (evm_policy({block: final}),))
