"""The trust policy: whom an auditor believes, chosen by the auditor and never taken from a proof.

A policy is JSON::

    {"format": "hie-bridge-policy/v1",
     "logs":   [{"key": "example.org/log+1a2b3c4d+…"}],
     "chains": [{"kind": "local", "key": "example.org/chain+…"},
                {"kind": "evm", "chain_id": 1, "contract": "0x…", "writer": "0x…", "code_hash": "0x…",
                 "confirmations": 12, "blocks": [{"hash": "0x…", "final": true}]}]}

A log's key is its C2SP verifier key, named by the log's origin. A local chain's key authenticates its blocks. On an EVM
chain ``code_hash`` is the Keccak-256 of the contract's code, and ``blocks`` are hashes that the auditor got from someone
trusted for them (an own node, several explorers); ``final`` says that they know the block to be final, ``confirmations``
(optional) that a block counts as final under that many later ones. No blocks: chain evidence is checked for consistency,
and the chain stays unauthenticated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridge.errors import BridgeError, Incorrect
from bridge.ledger.note import VerifierKey
from bridge.ledger.strict_json import StrictObject, parse_json

FORMAT: Final = "hie-bridge-policy/v1"
_HEX: Final = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class LocalChainPolicy:
    """An operator's own chain, known by its key."""

    key: VerifierKey


@dataclass(frozen=True, slots=True)
class EvmChainPolicy:
    """One contract and writer on one chain, and the blocks that are known from elsewhere.

    Attributes:
        chain_id: EIP-155.
        contract: address, 20 bytes.
        writer: address whose anchors count, 20 bytes.
        code_hash: Keccak-256 of the contract's code.
        blocks: trusted block hash → whether it is known to be final.
        confirmations: later blocks under which a block counts as final; None = only ``blocks`` say so.
    """

    chain_id: int
    contract: bytes
    writer: bytes
    code_hash: bytes
    blocks: Mapping[bytes, bool]
    confirmations: int | None


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that is trusted: log keys by origin, and chains."""

    logs: Mapping[str, VerifierKey]
    local_chains: tuple[LocalChainPolicy, ...] = ()
    evm_chains: tuple[EvmChainPolicy, ...] = ()


def load_policy(text: str | bytes) -> Policy:
    """Reads a policy file's content.

    Raises:
        Incorrect: ``policy-malformed``, with the place in the document.
    """
    try:
        top = StrictObject.of(parse_json(text), "policy")
        if top.text("format") != FORMAT:
            raise _malformed(f"format is not {FORMAT}")
        logs = [_key(StrictObject.of(item, f"logs[{at}]")) for at, item in enumerate(top.array("logs"))]
        local: list[LocalChainPolicy] = []
        evm: list[EvmChainPolicy] = []
        for at, item in enumerate(top.array("chains") if top.has("chains") else []):
            chain = StrictObject.of(item, f"chains[{at}]")
            kind = chain.text("kind")
            if kind == "local":
                local.append(LocalChainPolicy(_key(chain)))
            elif kind == "evm":
                evm.append(_evm(chain))
            else:
                raise _malformed(f"chains[{at}].kind is neither local nor evm")
        top.finish()
    except BridgeError as error:
        if error.code == "policy-malformed":
            raise
        raise _malformed(error.message) from None
    if not logs or len({key.name for key in logs}) != len(logs):
        raise _malformed("logs names no log, or one twice")
    return Policy({key.name: key for key in logs}, tuple(local), tuple(evm))


def _key(item: StrictObject) -> VerifierKey:
    key = VerifierKey.parse(item.text("key"))
    item.finish()
    return key


def _evm(chain: StrictObject) -> EvmChainPolicy:
    blocks: dict[bytes, bool] = {}
    for at, item in enumerate(chain.array("blocks") if chain.has("blocks") else []):
        block = StrictObject.of(item, f"{chain.place}.blocks[{at}]")
        blocks[_bytes(block, "hash", 32)] = block.flag("final") if block.has("final") else False
        block.finish()
    policy = EvmChainPolicy(
        chain.integer("chain_id"),
        _bytes(chain, "contract", 20),
        _bytes(chain, "writer", 20),
        _bytes(chain, "code_hash", 32),
        blocks,
        chain.integer("confirmations") if chain.has("confirmations") else None,
    )
    chain.finish()
    return policy


def _bytes(item: StrictObject, name: str, size: int) -> bytes:
    match = _HEX.fullmatch(item.text(name))
    if match is None or len(match[1]) != 2 * size:
        raise _malformed(f"{item.place}.{name} is not {size} bytes in hex")
    return bytes.fromhex(match[1])


def _malformed(why: str) -> Incorrect:
    return Incorrect("policy-malformed", f"the trust policy is malformed: {why}", remedy="Mend the policy file.")


def policy_json(policy: Policy) -> dict[str, Any]:
    """The document that :func:`load_policy` reads back, e.g. to hand to an auditor as a start."""
    chains: list[dict[str, Any]] = [{"kind": "local", "key": chain.key.encode()} for chain in policy.local_chains]
    for chain in policy.evm_chains:
        item: dict[str, Any] = {
            "kind": "evm",
            "chain_id": chain.chain_id,
            "contract": "0x" + chain.contract.hex(),
            "writer": "0x" + chain.writer.hex(),
            "code_hash": "0x" + chain.code_hash.hex(),
            "blocks": [{"hash": "0x" + value.hex(), "final": final} for value, final in chain.blocks.items()],
        }
        if chain.confirmations is not None:
            item["confirmations"] = chain.confirmations
        chains.append(item)
    return {"format": FORMAT, "logs": [{"key": key.encode()} for key in policy.logs.values()], "chains": chains}
