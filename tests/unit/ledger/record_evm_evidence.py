"""Records evidence from a real node: ``python -m tests.unit.ledger.record_evm_evidence``.

Other writers and logs are anchored first, so that the proofs run through a storage trie of some depth.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory

from adapters.chains.evm.artifact import artifact
from bridge.ledger.chain import Anchor, LogId, Root
from bridge.ledger.patricia import keccak256
from tests.contract.chain_harness import deploy, evm_harness
from tests.services import anvil
from tests.unit.ledger.example import ANCHORED, LOG, RECORDED, anchor


def main() -> None:
    """Writes ``evm_evidence.json``."""
    with TemporaryDirectory() as folder, anvil.start(block_seconds=None) as node:
        contract = deploy(node, Path(folder) / "deployer")
        backend = evm_harness(node, Path(folder), contract, finality="immediate").open()
        crowd = [Anchor(LogId(secrets.token_bytes(32)), 1, Root(secrets.token_bytes(32))) for _ in range(60)]
        backend.send(backend.prepare_anchors(crowd, []))
        backend.send(backend.prepare_anchors([anchor(ANCHORED)], []))
        found = backend.evidence(LOG)
    value = {
        "block": {"number": found.block.number, "hash": found.block.hash.hex(), "time_us": found.block.time_us},
        "code_hash": keccak256(artifact().runtime).hex(),
        "body": found.body,
    }
    RECORDED.write_text(json.dumps(value, indent=1) + "\n", "ascii")


if __name__ == "__main__":
    main()
