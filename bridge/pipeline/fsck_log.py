"""Re-derives the log from its leaves: leaf hashes, subtrees, roots, checkpoints, anchors, and heads held outside."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Final

from bridge.errors import BridgeError
from bridge.ledger.chain import LogId
from bridge.ledger.checkpoint import open_checkpoint
from bridge.ledger.commitment import LEAF_DATA_SIZE, LEAF_FORMAT
from bridge.ledger.merkle import MAX_SIZE, TILE_HEIGHT, CompactRange, StoredNode, TreeHead, hash_leaf
from bridge.ledger.note import VerifierKey
from bridge.pipeline.findings import Finding, Tally
from bridge.store import leaves, scans
from bridge.store.database import Transaction
from bridge.store.rows import CheckpointRow, LogLeaf

CHUNK: Final = 10_000


@dataclass(frozen=True, slots=True)
class HeldHead:
    """A head of the log that is kept outside the store: by a chain, by the signer's watermark."""

    holder: str
    head: TreeHead


@dataclass(frozen=True, slots=True)
class _Claim:
    """What something says the root at a size is."""

    size: int
    root: bytes
    table: str
    place: str


class LogCheck:
    """One pass over the leaves of a log. Memory does not grow with the log.

    Args:
        key: the log's key; its name is the origin.
        held: heads held outside.
        tally: counts what was checked.
    """

    def __init__(self, key: VerifierKey, held: Sequence[HeldHead], tally: Tally) -> None:
        self._key = key
        self._origin = key.name
        self._held = held
        self._tally = tally
        self._tree = CompactRange()
        self._whole = True  # no leaf is missing so far: hashes of the tree mean something
        self._differing_roots = 0

    def run(self, txn: Transaction) -> Iterator[Finding]:
        """Findings in the order of the log. No other stream may be open meanwhile."""
        refused: list[Finding] = []
        claims = self._claims(txn, refused)
        claim = next(claims, None)
        for chunk in leaves.stream_leaves(txn, self._origin, 0, MAX_SIZE, chunk=CHUNK):
            hashes = yield from self._leaf_hashes(chunk)
            completed: list[StoredNode] = []
            start = 0
            while claim is not None and self._whole and claim.size <= self._tree.size + len(hashes) - start:
                end = start + claim.size - self._tree.size
                completed += self._tree.extend(hashes[start:end])
                start = end
                yield from self._compare(claim)
                claim = next(claims, None)
            completed += self._tree.extend(hashes[start:])
            yield from self._subtrees(txn, completed)
            yield from _drained(refused)
        while claim is not None:
            if self._whole and claim.size > self._tree.size:
                yield self._finding(
                    claim.table,
                    "beyond-the-log",
                    f"it covers more than the log's {self._tree.size} leaves",
                    claim.place,
                )
            elif self._whole:
                yield from self._compare(claim)
            claim = next(claims, None)
        yield from _drained(refused)
        yield from self._end(txn)

    def _leaf_hashes(self, chunk: Sequence[LogLeaf]) -> Generator[Finding, None, list[bytes]]:
        """Yields findings about the leaves; returns their recomputed hashes."""
        hashes: list[bytes] = []
        expected = self._tree.size
        for leaf in chunk:
            place = f"leaf {leaf.leaf_index}"
            if leaf.leaf_index != expected and self._whole:
                self._whole = False
                yield self._finding(
                    "log_leaf", "leaf-missing", f"leaves {expected} to {leaf.leaf_index - 1} are not there", place
                )
            expected = leaf.leaf_index + 1
            if len(leaf.leaf) != LEAF_DATA_SIZE or not leaf.leaf.startswith(LEAF_FORMAT):
                yield self._finding("log_leaf", "leaf-malformed", "the leaf data is of no known format", place)
            computed = hash_leaf(leaf.leaf)
            if computed != leaf.leaf_hash:
                yield self._finding(
                    "log_leaf", "leaf-hash-differs", "the stored hash is not the hash of the leaf data", place
                )
            hashes.append(computed)
        self._tally.checked["leaves"] += len(chunk)
        return hashes

    def _claims(self, txn: Transaction, refused: list[Finding]) -> Iterator[_Claim]:
        """Everything that says what a root is, by size; checks the checkpoints' signatures on the way."""
        checkpoints = (self._checkpoint(row, refused) for row in scans.checkpoints(txn, self._origin))
        anchors = (
            _Claim(row.size, row.root, "anchor", f"anchor of {row.size} leaves")
            for row in scans.anchors(txn, LogId.of_origin(self._origin).value)
        )
        held = sorted(
            (_Claim(each.head.size, each.head.root, "log_leaf", each.holder) for each in self._held), key=_size_of
        )
        return merge(checkpoints, anchors, held, key=_size_of)

    def _checkpoint(self, row: CheckpointRow, refused: list[Finding]) -> _Claim:
        place = f"checkpoint of {row.size} leaves"
        self._tally.checked["checkpoints"] += 1
        try:
            said = open_checkpoint(row.note, self._key)
        except BridgeError as error:
            refused.append(self._finding("checkpoint", error.code, error.message, place))
        else:
            if said.head != TreeHead(row.size, row.root):
                refused.append(
                    self._finding("checkpoint", "note-differs", "its note signs another size or root", place)
                )
        return _Claim(row.size, row.root, "checkpoint", place)

    def _compare(self, claim: _Claim) -> Iterator[Finding]:
        self._tally.checked["heads"] += 1
        if self._tree.root() == claim.root:
            return
        self._differing_roots += 1
        if self._differing_roots == 1:  # from here on every root differs
            yield self._finding(
                claim.table,
                "root-differs",
                f"its root is not the root of the first {claim.size} leaves",
                claim.place,
            )

    def _subtrees(self, txn: Transaction, completed: Sequence[StoredNode]) -> Iterator[Finding]:
        if not self._whole:
            return
        stored = leaves.subtrees(txn, self._origin, [(node.level, node.index) for node in completed])
        for node in completed:
            if stored.get((node.level, node.index)) != node.hash:
                code = "subtree-differs" if (node.level, node.index) in stored else "subtree-missing"
                first = node.index << (node.level * TILE_HEIGHT)
                last = first + (1 << (node.level * TILE_HEIGHT)) - 1
                yield self._finding(
                    "log_subtree",
                    code,
                    "the stored hash is not that of its leaves",
                    f"subtree of leaves {first} to {last}",
                )
        self._tally.checked["subtrees"] += len(completed)

    def _end(self, txn: Transaction) -> Iterator[Finding]:
        if self._differing_roots > 1:
            yield self._finding(
                "checkpoint",
                "roots-differ",
                f"{self._differing_roots - 1} more roots of checkpoints and anchors differ",
                "the heads after it",
            )
        if not self._whole:
            return
        state, head = leaves.state(txn, self._origin), self._tree.head()
        stored = TreeHead(state.size, state.root) if state is not None else TreeHead(0, head.root)
        if stored != head or (state is not None and state.compact_range != self._tree.to_bytes()):
            yield self._finding(
                "log_state", "state-differs", f"it is not the state of the log's {head.size} leaves", self._origin
            )
        complete = sum(head.size >> (level * TILE_HEIGHT) for level in range(1, 8))
        if scans.subtree_count(txn, self._origin) > complete:
            yield self._finding("log_subtree", "subtree-surplus", "there are subtrees of leaves that are not", "")

    @staticmethod
    def _finding(table: str, code: str, message: str, place: str) -> Finding:
        return Finding(table, code, message, place=place)


def _size_of(claim: _Claim) -> int:
    return claim.size


def _drained(findings: list[Finding]) -> list[Finding]:
    found = findings[:]
    findings.clear()
    return found
