"""Evidence that a head stood in the contract's storage at a block: header, account proof, storage proofs.

The body's members are hex without prefix: ``headers`` (RLP; the first holds the state root that the proofs start from),
``contract`` and ``writer`` (20 bytes), ``account`` (Merkle-Patricia nodes from the state root), ``root`` and ``size`` (nodes
from the contract's storage root); and ``chain_id``, a number. Source: Yellow Paper sections 4.3 and D, EIP-1186.
"""

from __future__ import annotations

from typing import Any, Final

from bridge.errors import Unsupported
from bridge.ledger.chain import LogId

from .rpc import Rpc, at_block, unhex
from .web3_family import keccak, rlp

HEADS_SLOT: Final = 0
# Yellow Paper section 4.4, then EIP-1559, 4895, 4844, 4788, 7685; quantities lose leading zeroes, bytes keep theirs.
_QUANTITIES: Final = frozenset(
    {"difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas", "blobGasUsed", "excessBlobGas"}
)
_ORDER: Final = [
    "parentHash",
    "sha3Uncles",
    "miner",
    "stateRoot",
    "transactionsRoot",
    "receiptsRoot",
    "logsBloom",
    "difficulty",
    "number",
    "gasLimit",
    "gasUsed",
    "timestamp",
    "extraData",
    "mixHash",
    "nonce",
    "baseFeePerGas",
    "withdrawalsRoot",
    "blobGasUsed",
    "excessBlobGas",
    "parentBeaconBlockRoot",
    "requestsHash",
]


def head_slots(writer: bytes, log: LogId) -> tuple[bytes, bytes]:
    """Storage keys (32 bytes) of ``heads[writer][log]``: the root's and the size's. Solidity storage layout, mappings."""
    outer = keccak(writer.rjust(32, b"\0") + HEADS_SLOT.to_bytes(32, "big"))
    root = keccak(log.value + outer)
    return root, ((int.from_bytes(root, "big") + 1) % (1 << 256)).to_bytes(32, "big")


def header_rlp(block: dict[str, Any]) -> bytes:
    """The header as its hash is computed over; later forks append fields, absent ones end the list.

    Raises:
        Unsupported: ``block-header-unknown``; a field is not known here, so the hash does not come out.
    """
    fields = [
        _quantity(block[name]) if name in _QUANTITIES else unhex(block[name])
        for name in _ORDER
        if block.get(name) is not None
    ]
    header: bytes = rlp.encode(fields)
    if keccak(header) != unhex(block["hash"]):
        raise Unsupported(
            "block-header-unknown",
            "the chain's block headers have a form that is not known here, so no evidence can be made",
            remedy="Report the kind of chain and its fork.",
        )
    return header


def head_evidence(
    rpc: Rpc, *, chain_id: int, contract: str, writer: bytes, log: LogId, block: dict[str, Any]
) -> dict[str, Any]:
    """The body of the evidence: asks the node for the proofs of a head at ``block``, by its hash.

    Raises:
        Refused: it has no proofs of that block (any more), or the block is no longer of its chain.
        Unsupported: ``block-header-unknown``.
    """
    slots = ["0x" + slot.hex() for slot in head_slots(writer, log)]  # 32 bytes in full: shorter keys are misread
    proof = rpc.call("eth_getProof", contract, slots, at_block(block))
    root, size = (_nodes(item["proof"]) for item in proof["storageProof"])
    return {
        "chain_id": chain_id,
        "contract": unhex(contract).hex(),
        "writer": writer.hex(),
        "headers": [header_rlp(block).hex()],
        "account": _nodes(proof["accountProof"]),
        "root": root,
        "size": size,
    }


def _nodes(proof: list[str]) -> list[str]:
    return [unhex(node).hex() for node in proof]


def _quantity(text: str) -> bytes:
    value = int(text, 16)
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
