"""The Merkle tree of the log: hashes, roots, proofs and their verification.

Source: RFC 6962 section 2.1 (tree, proofs), RFC 9162 sections 2.1.3 and 2.1.4 (verification). Hashes are 32 bytes of
SHA-256 throughout; leaves are counted from 0.

What is stored and how a proof is made from it: the log keeps its leaf hashes and, so that a log of millions proves fast,
the hash of every complete subtree of 256 leaves, of 65,536 leaves and so on. That is tile level 0 (leaves), 1, 2, … with
``256**level`` leaves below each hash, the layout of C2SP tlog-tiles. :class:`CompactRange` says which of them an append
completes; :class:`TreeReader` asks for runs of them and answers roots and proofs at any size up to the stored one.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from bridge.errors import Fault, Incorrect

HASH_SIZE: Final = 32
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
EMPTY_ROOT: Final = sha256(b"").digest()
MAX_SIZE: Final = (1 << 63) - 1

ReadHashes = Callable[[int, int, int], Sequence[bytes]]
"""``(tile level, first index, count) -> hashes``: a run of stored hashes that lies within one tile of 256."""


def hash_leaf(data: bytes) -> bytes:
    """The leaf hash of ``data``: SHA-256(0x00 ‖ data). RFC 6962 section 2.1."""
    return sha256(b"\x00" + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 ‖ left ‖ right). RFC 6962 section 2.1."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What one state of a log is: ``size`` leaves under ``root`` (32 bytes)."""

    size: int
    root: bytes


EMPTY_HEAD: Final = TreeHead(0, EMPTY_ROOT)


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A complete subtree to store: ``index`` counts the subtrees of its tile ``level`` (≥ 1) from 0."""

    level: int
    index: int
    hash: bytes


class CompactRange:
    """The right edge of the tree: enough to append and to give the root, in O(log n) memory.

    Not thread-safe. ``size`` is the number of leaves.
    """

    __slots__ = ("_hashes", "size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        """Takes the hashes of the complete subtrees that make up ``size`` leaves, the largest first.

        Raises:
            Incorrect: ``compact-range-malformed``; number or length of the hashes does not fit ``size``.
        """
        self.size = size
        self._hashes = list(hashes)
        if not 0 <= size <= MAX_SIZE or len(self._hashes) != size.bit_count():
            raise Incorrect("compact-range-malformed", f"{len(self._hashes)} subtree hashes do not make {size} leaves")
        if any(len(value) != HASH_SIZE for value in self._hashes):
            raise Incorrect("compact-range-malformed", "a subtree hash is not 32 bytes")

    def extend(self, leaf_hashes: Iterable[bytes]) -> list[StoredNode]:
        """Appends leaf hashes in order; answers the subtrees completed that the log must store, in order."""
        completed: list[StoredNode] = []
        stack, size = self._hashes, self.size
        for leaf in leaf_hashes:
            node, level, bits = leaf, 0, size
            while bits & 1:
                node = sha256(b"\x01" + stack.pop() + node).digest()
                bits >>= 1
                level += 1
                if not level % TILE_HEIGHT:
                    completed.append(StoredNode(level // TILE_HEIGHT, size >> level, node))
            stack.append(node)
            size += 1
        self.size = size
        return completed

    def root(self) -> bytes:
        """The root hash, MTH(D[size]) of RFC 6962; of no leaves SHA-256 of nothing."""
        return _fold(self._hashes)

    def head(self) -> TreeHead:
        """Size and root together."""
        return TreeHead(self.size, self.root())

    def to_bytes(self) -> bytes:
        """``size`` as 8 bytes big-endian, then the subtree hashes, the largest first."""
        return struct.pack(">Q", self.size) + b"".join(self._hashes)

    @classmethod
    def from_bytes(cls, data: bytes) -> CompactRange:
        """Reads what :meth:`to_bytes` wrote.

        Raises:
            Incorrect: ``compact-range-malformed``.
        """
        if len(data) < 8 or (len(data) - 8) % HASH_SIZE:
            raise Incorrect("compact-range-malformed", f"{len(data)} bytes are no compact range")
        size = int.from_bytes(data[:8], "big")
        return cls(size, (data[at : at + HASH_SIZE] for at in range(8, len(data), HASH_SIZE)))


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Joins the complete subtrees of a range, largest first, into the hash of the range."""
    if not hashes:
        return EMPTY_ROOT
    node = hashes[-1]
    for left in reversed(hashes[:-1]):
        node = sha256(b"\x01" + left + node).digest()
    return node


class TreeReader:
    """Roots and proofs of a stored log, from runs of stored hashes.

    A proof reads one run of at most 256 hashes per tile level. Interiors of full tiles never change and are kept for
    the ``cache_tiles`` last used; one object may serve a growing log for as long as it is append-only. Not thread-safe.
    """

    def __init__(self, read: ReadHashes, *, cache_tiles: int = 256) -> None:
        self._read = read
        self._cache_tiles = cache_tiles
        self._cache: OrderedDict[tuple[int, int], list[list[bytes]]] = OrderedDict()

    def root(self, size: int) -> bytes:
        """MTH(D[size]).

        Raises:
            Incorrect: ``log-range``; size is negative or not an index of the log.
            Fault: ``log-hashes-missing``; the store gave fewer hashes than the size calls for.
        """
        _check_range(0 <= size <= MAX_SIZE, size)
        return self._range(0, size, _Sight(self, size))

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """PATH(index, D[size]) of RFC 6962 section 2.1.1, from the leaf's sibling upwards. Raises as :meth:`root`."""
        _check_range(0 <= index < size <= MAX_SIZE, size)
        sight = _Sight(self, size)
        first, end = 0, size
        ranges: list[tuple[int, int]] = []
        while end - first > 1:
            middle = first + _split(end - first)
            if index < middle:
                ranges.append((middle, end))
                end = middle
            else:
                ranges.append((first, middle))
                first = middle
        return [self._range(start, stop, sight) for start, stop in reversed(ranges)]

    def consistency(self, old: int, size: int) -> list[bytes]:
        """PROOF(old, D[size]) of RFC 6962 section 2.1.2; empty where ``old`` is 0 or ``size``. Raises as :meth:`root`."""
        _check_range(0 <= old <= size <= MAX_SIZE, size)
        if old in {0, size}:
            return []
        sight = _Sight(self, size)
        first, end = 0, size
        ranges: list[tuple[int, int]] = []
        while end != old:
            middle = first + _split(end - first)
            if old <= middle:
                ranges.append((middle, end))
                end = middle
            else:
                ranges.append((first, middle))
                first = middle
        if first:  # the old tree's last subtree is not the whole old tree, so its hash is not known to the verifier
            ranges.append((first, end))
        return [self._range(start, stop, sight) for start, stop in reversed(ranges)]

    def _range(self, first: int, end: int, sight: _Sight) -> bytes:
        """The hash of leaves [first, end): complete subtrees, the largest first, folded from the right."""
        hashes: list[bytes] = []
        while first < end:
            level = (end - first).bit_length() - 1
            hashes.append(sight.subtree(level, first >> level))
            first += 1 << level
        return _fold(hashes)

    def tile(self, level: int, index: int, width: int) -> list[list[bytes]]:
        """The interior of a tile: per height 0…8 the hashes of its complete subtrees. ``width``: hashes there are."""
        key = (level, index)
        if width == TILE_WIDTH:
            known = self._cache.get(key)
            if known is not None:
                self._cache.move_to_end(key)
                return known
        hashes = list(self._read(level, index << TILE_HEIGHT, width))
        if len(hashes) != width:
            raise Fault(
                "log-hashes-missing",
                f"tile {index} of level {level} has {len(hashes)} stored hashes where the log's size calls for {width}",
                remedy="Run hiebridge fsck: the stored log is incomplete.",
            )
        rows = [hashes]
        for _ in range(TILE_HEIGHT):
            below = rows[-1]
            rows.append([sha256(b"\x01" + below[i] + below[i + 1]).digest() for i in range(0, len(below) - 1, 2)])
        if width == TILE_WIDTH:
            self._cache[key] = rows
            if len(self._cache) > self._cache_tiles:
                self._cache.popitem(last=False)
        return rows


class _Sight:
    """One proof's view of the log at one size: partial tiles are read once."""

    __slots__ = ("_partial", "_reader", "_size")

    def __init__(self, reader: TreeReader, size: int) -> None:
        self._reader = reader
        self._size = size
        self._partial: dict[tuple[int, int], list[list[bytes]]] = {}

    def subtree(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree of ``2**level`` leaves that is number ``index`` of its level."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        tile_index, inside = divmod(index << height, TILE_WIDTH)
        key = (tile_level, tile_index)
        rows = self._partial.get(key)
        if rows is None:
            stored = self._size >> (tile_level * TILE_HEIGHT)
            width = min(stored - (tile_index << TILE_HEIGHT), TILE_WIDTH)
            rows = self._partial[key] = self._reader.tile(tile_level, tile_index, width)
        return rows[height][inside >> height]


def _split(size: int) -> int:
    """The largest power of two below ``size`` (≥ 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_range(holds: bool, size: int) -> None:
    if not holds:
        raise Incorrect("log-range", f"the log has no such leaf or size (asked within {size} leaves)")


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Checks that the leaf hash ``leaf`` is number ``index`` of the tree (``size``, ``root``). RFC 9162 section 2.1.3.2.

    Raises:
        Incorrect: ``inclusion-proof-invalid``.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise _bad_inclusion(f"leaf {index} lies outside a tree of {size}")
    if not _all_hashes([leaf, root, *proof]):
        raise _bad_inclusion("a hash is not 32 bytes")
    node, here, last = leaf, index, size - 1
    for sibling in proof:
        if not last:
            raise _bad_inclusion("it is too long")
        if here & 1 or here == last:
            node = hash_node(sibling, node)
            while not here & 1 and here:
                here >>= 1
                last >>= 1
        else:
            node = hash_node(node, sibling)
        here >>= 1
        last >>= 1
    if last:
        raise _bad_inclusion("it is too short")
    if node != root:
        raise _bad_inclusion("it leads to another root")


def verify_consistency(old: TreeHead, new: TreeHead, proof: Sequence[bytes]) -> None:
    """Checks that the tree ``old`` (at least one leaf) is a prefix of the tree ``new``. RFC 9162 section 2.1.4.2.

    Raises:
        Incorrect: ``consistency-proof-invalid``; also where ``old`` is empty, since that would prove nothing.
    """
    if old.size < 1:
        raise _bad_consistency("the empty tree proves nothing")
    verify_subtree_consistency(0, old.size, old.root, new, proof)


def verify_subtree_inclusion(
    leaf: bytes, index: int, start: int, end: int, proof: Sequence[bytes], subtree_root: bytes
) -> None:
    """Checks that ``leaf`` is number ``index`` of the log within its subtree of leaves [start, end).

    Source: draft-ietf-plants-merkle-tree-certs, section "Subtree Inclusion Proofs".

    Raises:
        Incorrect: ``inclusion-proof-invalid``.
    """
    if not _is_subtree(start, end) or not start <= index < end:
        raise _bad_inclusion("the range is no subtree around the leaf")
    verify_inclusion(leaf, index - start, end - start, proof, subtree_root)


def verify_subtree_consistency(
    start: int, end: int, subtree_root: bytes, tree: TreeHead, proof: Sequence[bytes]
) -> None:
    """Checks that leaves [start, end) of ``tree`` hash to ``subtree_root``.

    Source: draft-ietf-plants-merkle-tree-certs, section "Subtree Consistency Proofs", of which the consistency proof of
    RFC 9162 is the case ``start = 0``. An empty range is consistent with every tree, so its proof must be empty.

    Raises:
        Incorrect: ``consistency-proof-invalid``.
    """
    if not _is_subtree(start, end) or end > tree.size or tree.size > MAX_SIZE:
        raise _bad_consistency("the range is no subtree of the tree")
    if proof and not _all_hashes([subtree_root, *proof]):  # where nothing is hashed, roots are only compared
        raise _bad_consistency("a hash is not 32 bytes")
    if start == end:
        if proof or subtree_root != EMPTY_ROOT:
            raise _bad_consistency("an empty range has the empty root and no proof")
        return
    first, inner, last = start, end - 1, tree.size - 1
    at_the_edge = inner == last
    while first != inner and (at_the_edge or inner & 1):
        first, inner, last = first >> 1, inner >> 1, last >> 1
    rest = iter(proof)
    seed = subtree_root if first == inner else next(rest, None)
    if seed is None:
        raise _bad_consistency("it is too short")
    if _climb((first, inner, last), seed, rest) != (subtree_root, tree.root):
        raise _bad_consistency("it leads to other roots")


def _climb(place: tuple[int, int, int], seed: bytes, rest: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Joins the siblings on the way up; answers the roots of the subtree and of the tree that they lead to."""
    first, inner, last = place
    old_node = new_node = seed
    for sibling in rest:
        if not last:
            raise _bad_consistency("it is too long")
        if inner & 1 or inner == last:
            if first < inner:
                old_node = hash_node(sibling, old_node)
            new_node = hash_node(sibling, new_node)
            while not inner & 1 and inner:
                first, inner, last = first >> 1, inner >> 1, last >> 1
        else:
            new_node = hash_node(new_node, sibling)
        first, inner, last = first >> 1, inner >> 1, last >> 1
    if last:
        raise _bad_consistency("it is too short")
    return old_node, new_node


def _is_subtree(start: int, end: int) -> bool:
    """Whether [start, end) is a subtree: start is a multiple of the smallest power of two not below its length."""
    if not 0 <= start <= end <= MAX_SIZE:
        return False
    return start == end or start % (1 << (end - start - 1).bit_length()) == 0


def _all_hashes(values: Iterable[bytes]) -> bool:
    return all(len(value) == HASH_SIZE for value in values)


def _bad_inclusion(why: str) -> Incorrect:
    return Incorrect("inclusion-proof-invalid", f"the inclusion proof does not hold: {why}")


def _bad_consistency(why: str) -> Incorrect:
    return Incorrect("consistency-proof-invalid", f"the consistency proof does not hold: {why}")
