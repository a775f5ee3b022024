"""Chain evidence, checked offline: what a block says about a log's head, and whether the policy knows that block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

from bridge.errors import BridgeError, Forbidden, Incorrect
from bridge.ledger.chain import LogId
from bridge.ledger.merkle import HASH_SIZE, TreeHead
from bridge.ledger.patricia import Item, keccak256, prove, rlp_decode
from bridge.ledger.policy import EvmChainPolicy, LocalChainPolicy
from bridge.ledger.strict_json import StrictObject, parse_json

_LOCAL_DOMAIN: Final = b"hie-bridge/local-block/v1\x00"
_HEADS_SLOT: Final = 0
_MAX_HEADERS: Final = 1024
# Places in a block header: Yellow Paper section 4.4
_PARENT, _STATE_ROOT, _NUMBER, _TIMESTAMP = 0, 3, 8, 11


class ChainLevel(StrEnum):
    """How far chain evidence goes under the policy; each includes the ones before."""

    CONSISTENT = "chain evidence consistent, chain not authenticated"
    INCLUDED = "included"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class ChainClaim:
    """What checked evidence says.

    Attributes:
        chain: name of the chain.
        level: how far it goes.
        own_chain: whether the log's operator alone runs the chain.
        block: number of the block that the evidence is about.
        block_hash: its hash, 32 bytes.
        time_us: its time, µs UTC; worth as much as the level and who runs the chain.
    """

    chain: str
    level: ChainLevel
    own_chain: bool
    block: int
    block_hash: bytes
    time_us: int


def check_local(
    evidence: dict[str, object], head: TreeHead, log: LogId, policies: Sequence[LocalChainPolicy]
) -> ChainClaim | None:
    """Checks a signed block of an operator's own chain; None where the policy names no such chain.

    Raises:
        Incorrect: ``chain-evidence-malformed``, ``chain-evidence-of-another-head``.
        Forbidden: ``block-not-signed``; not by the key that the policy has for that chain.
    """
    try:
        item = StrictObject.of(evidence, "evidence")
        body, signature = item.base64("block"), item.base64("signature")
        item.finish()
        block = StrictObject.of(parse_json(body), "block")
        name, number, time_us = block.text("chain"), block.integer("number"), block.integer("time_us")
        if block.integer("v") != 1 or len(block.hex("previous")) != HASH_SIZE:
            raise _malformed("block.v or block.previous")
        anchored = [_local_anchor(entry) for entry in block.array("entries", 100_000)]
        block.finish()
    except BridgeError as error:
        raise _malformed(error.message) from None
    keys = [policy.key for policy in policies if policy.key.name == name]
    if not keys:
        return None
    if not any(key.verify(_LOCAL_DOMAIN + body, signature) for key in keys):
        raise Forbidden(
            "block-not-signed",
            "the local chain's block is not signed by the key that the policy has for it",
            remedy="Compare the chain's key in the policy with the operator's.",
        )
    if (log, head) not in anchored:
        raise _another_head()
    block_hash = sha256(_LOCAL_DOMAIN + body).digest()
    return ChainClaim(f"local:{name}", ChainLevel.FINAL, True, number, block_hash, time_us)


def _local_anchor(entry: object) -> tuple[LogId, TreeHead] | None:
    item = StrictObject.of(entry, "entry")
    if not item.has("anchor"):
        return None
    anchor = item.object("anchor")
    found = LogId(anchor.hex("log")), TreeHead(anchor.integer("size"), anchor.hex("root"))
    anchor.finish()
    item.finish()
    return found


def check_evm(
    evidence: dict[str, object], head: TreeHead, log: LogId, policies: Sequence[EvmChainPolicy]
) -> ChainClaim | None:
    """Checks that a contract's storage holds ``head`` at a block, and whether the policy knows that block.

    None where the policy names no chain of that id.

    Raises:
        Incorrect: ``chain-evidence-malformed``, ``chain-evidence-of-another-head``, ``trie-proof-invalid``.
        Forbidden: ``contract-not-trusted``, ``contract-code-mismatch``.
    """
    try:
        item = StrictObject.of(evidence, "evidence")
        chain_id, contract, writer = item.integer("chain_id"), item.hex("contract"), item.hex("writer")
        headers = item.hex_array("headers", _MAX_HEADERS)
        account, root_proof, size_proof = (item.hex_array(name, 100) for name in ("account", "root", "size"))
        item.finish()
    except BridgeError as error:
        raise _malformed(error.message) from None
    known = [policy for policy in policies if policy.chain_id == chain_id]
    if not known:
        return None
    policy = next((each for each in known if (each.contract, each.writer) == (contract, writer)), None)
    if policy is None:
        raise Forbidden(
            "contract-not-trusted", "the evidence is of a contract or a writer that the policy does not name"
        )
    hashes, first = _link(headers)
    storage_root, code_hash = _account(prove(first.state_root, contract, account))
    if code_hash != policy.code_hash:
        raise Forbidden("contract-code-mismatch", "the contract's code is not the one that the policy names")
    root_slot, size_slot = head_slots(writer, log)
    root = _word(prove(storage_root, root_slot, root_proof))
    size = int.from_bytes(_word(prove(storage_root, size_slot, size_proof)), "big")
    if head != TreeHead(size, root):
        raise _another_head()
    level = _authenticated(policy, hashes)
    return ChainClaim(f"eip155:{chain_id}", level, False, first.number, hashes[0], first.time_us)


def named_contract(evidence: dict[str, object]) -> EvmChainPolicy:
    """The contract, writer and code that EVM evidence is about, as a policy without any trusted block.

    A start for whoever writes a policy: they compare each value with what they know from elsewhere.

    Raises:
        Incorrect: ``chain-evidence-malformed``, ``trie-proof-invalid``.
    """
    item = StrictObject.of(evidence, "evidence")
    contract, headers = item.hex("contract"), item.hex_array("headers", _MAX_HEADERS)
    _, first = _link(headers)
    _, code_hash = _account(prove(first.state_root, contract, item.hex_array("account", 100)))
    return EvmChainPolicy(item.integer("chain_id"), contract, item.hex("writer"), code_hash, {}, None)


def head_slots(writer: bytes, log: LogId) -> tuple[bytes, bytes]:
    """Storage keys of a head's root and size in the contract: ``heads[writer][log]`` at slot 0, Solidity layout."""
    outer = keccak256(writer.rjust(32, b"\0") + _HEADS_SLOT.to_bytes(32, "big"))
    root = keccak256(log.value + outer)
    return root, ((int.from_bytes(root, "big") + 1) % (1 << 256)).to_bytes(32, "big")


@dataclass(frozen=True, slots=True)
class _Header:
    parent: bytes
    state_root: bytes
    number: int
    time_us: int


def _header(encoded: bytes) -> _Header:
    try:
        fields = rlp_decode(encoded)
    except Incorrect:
        raise _malformed("a header is no RLP") from None
    if not isinstance(fields, list) or not 15 <= len(fields) <= 64:
        raise _malformed("a header has another number of fields")
    parent, state_root = _field(fields[_PARENT], 32), _field(fields[_STATE_ROOT], 32)
    number, seconds = _integer(fields[_NUMBER]), _integer(fields[_TIMESTAMP])
    return _Header(parent, state_root, number, seconds * 1_000_000)


def _field(item: Item, size: int) -> bytes:
    if not isinstance(item, bytes) or len(item) != size:
        raise _malformed("a field has another length")
    return item


def _integer(item: Item) -> int:
    if not isinstance(item, bytes) or len(item) > 8 or item.startswith(b"\0"):
        raise _malformed("a field is no number")
    return int.from_bytes(item, "big")


def _link(headers: Sequence[bytes]) -> tuple[list[bytes], _Header]:
    """Hashes of the headers, and the first of them; each must be the parent of the next."""
    if not headers:
        raise _malformed("it has no header")
    parsed = [_header(header) for header in headers]
    hashes = [keccak256(header) for header in headers]
    for at in range(1, len(parsed)):
        if parsed[at].parent != hashes[at - 1] or parsed[at].number != parsed[at - 1].number + 1:
            raise _malformed("a header is not the child of the one before it")
    return hashes, parsed[0]


def _authenticated(policy: EvmChainPolicy, hashes: Sequence[bytes]) -> ChainLevel:
    """The level under the policy: a later block that it knows vouches for all before it."""
    known = [at for at, value in enumerate(hashes) if value in policy.blocks]
    if not known:
        return ChainLevel.CONSISTENT
    deep = policy.confirmations is not None and known[-1] >= policy.confirmations
    final = deep or any(policy.blocks[hashes[at]] for at in known)
    return ChainLevel.FINAL if final else ChainLevel.INCLUDED


def _account(value: bytes | None) -> tuple[bytes, bytes]:
    """Storage root and code hash of an account. Yellow Paper section 4.1."""
    fields = rlp_decode(value) if value is not None else None
    if not isinstance(fields, list) or len(fields) != 4:
        raise _malformed("the contract's account is absent or no account")
    return _field(fields[2], 32), _field(fields[3], 32)


def _word(value: bytes | None) -> bytes:
    """A storage slot as 32 bytes; an absent one is zero."""
    word = rlp_decode(value) if value is not None else b""
    if not isinstance(word, bytes) or len(word) > 32 or word.startswith(b"\0"):
        raise _malformed("a storage slot is no word")
    return word.rjust(32, b"\0")


def _another_head() -> Incorrect:
    return Incorrect("chain-evidence-of-another-head", "the chain evidence is not about this head of this log")


def _malformed(why: str) -> Incorrect:
    return Incorrect("chain-evidence-malformed", f"the chain evidence is malformed: {why}")
