"""Tree, compact range, stored tiles and proofs agree with the recursive definitions of RFC 6962, whatever the size."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Fault, Incorrect
from bridge.ledger.merkle import (
    EMPTY_ROOT,
    CompactRange,
    TreeHead,
    TreeReader,
    hash_leaf,
    hash_node,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [hash_leaf(number.to_bytes(4, "big")) for number in range(70_000)]
SIZES = st.one_of(st.integers(1, 40), st.integers(200, 1_100), st.sampled_from([65_535, 65_536, 65_537, 70_000]))


def recursive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hash_node(recursive_root(leaves[:split]), recursive_root(leaves[split:]))


class StoredLog:
    """What the store keeps: leaf hashes, and the completed subtrees that appends named."""

    def __init__(self, batches: list[int]) -> None:
        self.edge = CompactRange()
        self.levels: dict[int, list[bytes]] = {0: []}
        self.reads = 0
        for batch in batches:
            leaves = LEAVES[self.edge.size : self.edge.size + batch]
            self.levels[0] += leaves
            for node in self.edge.extend(leaves):
                stored = self.levels.setdefault(node.level, [])
                assert node.index == len(stored)
                stored.append(node.hash)

    def read(self, level: int, first: int, count: int) -> list[bytes]:
        assert first // 256 == (first + count - 1) // 256
        self.reads += 1
        return self.levels[level][first : first + count]


BIG = StoredLog([30_000, 1, 35_535, 4_464])


@given(st.lists(st.integers(0, 90), max_size=8))
def test_compact_range_gives_the_recursive_root_at_every_batch(batches) -> None:
    """However leaves are batched, root and serialised state are those of the definition."""
    log = StoredLog(batches)
    again = CompactRange.from_bytes(log.edge.to_bytes())

    assert log.edge.root() == recursive_root(LEAVES[: sum(batches)])
    assert (again.head(), again.to_bytes()) == (log.edge.head(), log.edge.to_bytes())


@given(st.data())
def test_inclusion_proofs_hold_and_only_for_their_leaf(data) -> None:
    """Every proof made from stored tiles verifies for its leaf, index and size, and for no other leaf or index."""
    size = data.draw(SIZES)
    index = data.draw(st.integers(0, size - 1))
    reader = TreeReader(BIG.read)
    root, proof = reader.root(size), reader.inclusion(index, size)

    verify_inclusion(LEAVES[index], index, size, proof, root)
    with pytest.raises(Incorrect):
        verify_inclusion(LEAVES[index + 1 if index + 1 < len(LEAVES) else 0], index, size, proof, root)
    if size > 1:
        with pytest.raises(Incorrect):
            verify_inclusion(LEAVES[index], index ^ 1 if index ^ 1 < size else index - 1, size, proof, root)


@given(st.data())
def test_consistency_proofs_hold_and_only_between_their_heads(data) -> None:
    """Every proof made from stored tiles verifies between its two heads and refuses any other root."""
    size = data.draw(SIZES)
    old = data.draw(st.integers(1, size))
    reader = TreeReader(BIG.read)
    before, after = TreeHead(old, reader.root(old)), TreeHead(size, reader.root(size))
    proof = reader.consistency(old, size)

    verify_consistency(before, after, proof)
    with pytest.raises(Incorrect):
        verify_consistency(TreeHead(old, EMPTY_ROOT), after, proof)
    with pytest.raises(Incorrect):
        verify_consistency(before, TreeHead(size, EMPTY_ROOT), proof)


@given(st.integers(1, 70_000))
def test_a_proof_reads_one_run_per_tile_level(size) -> None:
    """Making a proof in a log of 70,000 leaves asks the store for at most two runs per level, and tiles are kept."""
    reader = TreeReader(BIG.read)
    before = BIG.reads
    reader.inclusion(0, size)

    assert BIG.reads - before <= 2 * 3
    if size == 65_536:
        asked = BIG.reads
        reader.inclusion(1, size)
        assert BIG.reads == asked


def test_small_trees_exhaustively() -> None:
    """All leaves and all pairs of sizes up to 40: roots are recursive, proofs verify."""
    reader = TreeReader(BIG.read)
    for size in range(41):
        assert reader.root(size) == recursive_root(LEAVES[:size])
    for size in range(1, 41):
        new = TreeHead(size, reader.root(size))
        for index in range(size):
            verify_inclusion(LEAVES[index], index, size, reader.inclusion(index, size), new.root)
            old = TreeHead(index + 1, reader.root(index + 1))
            verify_consistency(old, new, reader.consistency(index + 1, size))


@given(st.integers(2, 70_000), st.data())
def test_a_root_is_no_leaf_and_a_path_has_one_length(size, data) -> None:
    """The root offered as its own leaf without a path, a path cut short at an inner node, and one too long are refused."""
    reader = TreeReader(BIG.read)
    index = data.draw(st.integers(0, size - 1))
    root, proof = reader.root(size), reader.inclusion(index, size)
    with pytest.raises(Incorrect, match="inclusion-proof-invalid"):
        verify_inclusion(root, index, size, [], root)
    with pytest.raises(Incorrect, match="inclusion-proof-invalid"):
        verify_inclusion(LEAVES[index], index, size, proof[:-1], root)
    with pytest.raises(Incorrect, match="inclusion-proof-invalid"):
        verify_inclusion(LEAVES[index], index, size, [*proof, root], root)


def test_missing_stored_hashes_are_named() -> None:
    """A store that lost hashes raises a fault; it never yields a proof."""
    reader = TreeReader(lambda level, first, count: LEAVES[: count - 1])

    with pytest.raises(Fault, match="log-hashes-missing"):
        reader.inclusion(3, 10)


@pytest.mark.parametrize(("index", "size"), [(5, 5), (-1, 5), (0, 0), (0, 1 << 63)])
def test_questions_outside_the_log_are_refused(index, size) -> None:
    """An index at or beyond the size has no proof."""
    with pytest.raises(Incorrect, match="log-range"):
        TreeReader(BIG.read).inclusion(index, size)


@pytest.mark.parametrize("data", [b"", b"1234567", (3).to_bytes(8, "big") + bytes(32), (1).to_bytes(8, "big")])
def test_a_damaged_compact_range_is_refused(data) -> None:
    """Bytes that are no compact range are refused, not guessed at."""
    with pytest.raises(Incorrect, match="compact-range-malformed"):
        CompactRange.from_bytes(data)
