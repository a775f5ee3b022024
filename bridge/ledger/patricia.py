"""Merkle-Patricia proofs of Ethereum-class chains, checked offline.

Source: Ethereum Yellow Paper, appendices B (RLP), C (hex-prefix) and D (trie); EIP-1186 (the form of proofs). Strict: an
encoding that is not the canonical one, or a node that the path does not need, refuses the proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from Crypto.Hash import keccak

from bridge.errors import Incorrect

Item: TypeAlias = "bytes | list[Item]"

EMPTY_TRIE: Final = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")
_MAX_DEPTH: Final = 80


def keccak256(data: bytes) -> bytes:
    """Keccak-256, 32 bytes (not the later SHA3-256)."""
    return keccak.new(digest_bits=256, data=data).digest()


def rlp_decode(data: bytes) -> Item:
    """The item that ``data`` is the canonical RLP of: bytes, or a list of items.

    Raises:
        Incorrect: ``rlp-malformed``.
    """
    item, end = _item(data, 0, 0)
    if end != len(data):
        raise _bad_rlp()
    return item


def _item(data: bytes, at: int, depth: int) -> tuple[Item, int]:
    if at >= len(data) or depth > _MAX_DEPTH:
        raise _bad_rlp()
    first = data[at]
    if first < 0x80:
        return data[at : at + 1], at + 1
    start, end = _extent(data, at)
    if first < 0xC0:
        value = data[start:end]
        if len(value) == 1 and value[0] < 0x80:
            raise _bad_rlp()
        return value, end
    items: list[Item] = []
    while start < end:
        item, start = _item(data, start, depth + 1)
        items.append(item)
    if start != end:
        raise _bad_rlp()
    return items, end


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """Where the payload of the string or list at ``at`` starts and ends."""
    kind = data[at] - (0x80 if data[at] < 0xC0 else 0xC0)
    start = at + 1
    length = kind
    if kind > 55:
        digits = data[start : start + kind - 55]
        start += kind - 55
        length = int.from_bytes(digits, "big")
        if not digits or not digits[0] or length <= 55:
            raise _bad_rlp()
    if start + length > len(data):
        raise _bad_rlp()
    return start, start + length


def prove(root: bytes, key: bytes, nodes: Sequence[bytes]) -> bytes | None:
    """The value under ``key`` in the secure trie with root hash ``root``, as ``nodes`` prove it; None if proved absent.

    Args:
        root: 32 bytes.
        key: the key before hashing (an address, a storage key of 32 bytes).
        nodes: RLP of the nodes from the root on, as ``eth_getProof`` gives them.

    Raises:
        Incorrect: ``trie-proof-invalid``, ``rlp-malformed``.
    """
    if not nodes:
        if root == EMPTY_TRIE:
            return None
        raise _bad_proof("it has no nodes")
    path: str | None = keccak256(key).hex()
    rest = iter(nodes)
    child: Item = root
    while path is not None and child != b"":
        node = child if isinstance(child, list) else _fetch(child, rest)
        path, child = _step(node, path)
    if next(rest, None) is not None:
        raise _bad_proof("it has nodes that the path does not need")
    if isinstance(child, list):
        raise _bad_proof("a value is a list")
    return child or None


def _fetch(expected: bytes, rest: Iterator[bytes]) -> list[Item]:
    encoded = next(rest, None)
    if encoded is None or keccak256(encoded) != expected:
        raise _bad_proof("a node is missing or has another hash")
    node = rlp_decode(encoded)
    if not isinstance(node, list):
        raise _bad_proof("a node is no list")
    return node


def _step(node: list[Item], path: str) -> tuple[str | None, Item]:
    """One node further: the path that is left, in hex digits, and the child there; empty bytes = nothing there.

    The path is None where a leaf's value was reached. Keys are hashes of one length, so no key ends in a branch.
    """
    if len(node) == 17 and path:
        return path[1:], _reference(node[int(path[0], 16)])
    if len(node) != 2 or not isinstance(node[0], bytes) or not node[0]:
        raise _bad_proof("a node is neither branch, extension nor leaf")
    digits = node[0].hex()
    flag = int(digits[0], 16)
    if flag > 3 or (not flag & 1 and digits[1] != "0"):
        raise _bad_proof("a path is not hex-prefix encoded")
    segment = digits[1:] if flag & 1 else digits[2:]
    leaf = flag >= 2
    if leaf:
        return (None, node[1]) if segment == path else (path, b"")
    if not segment or len(segment) >= len(path):
        raise _bad_proof("an extension is empty or too long")
    if not path.startswith(segment):
        return path, b""
    return path[len(segment) :], _reference(node[1])


def _reference(child: Item) -> Item:
    """A child: hash of 32 bytes, the node itself where it is shorter, or nothing."""
    if isinstance(child, bytes) and len(child) not in {0, 32}:
        raise _bad_proof("a reference is neither a hash nor a node")
    return child


def _bad_rlp() -> Incorrect:
    return Incorrect("rlp-malformed", "the bytes are not canonical RLP")


def _bad_proof(why: str) -> Incorrect:
    return Incorrect("trie-proof-invalid", f"the state proof does not hold: {why}")
