"""The published vectors of RFC 6962 trees, positive and negative, agree with our hashes and our verification."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest

from bridge.errors import Incorrect
from bridge.ledger.merkle import (
    EMPTY_ROOT,
    CompactRange,
    TreeHead,
    hash_leaf,
    verify_consistency,
    verify_inclusion,
    verify_subtree_consistency,
    verify_subtree_inclusion,
)
from tests.reference import reference_data

FOLDER = ("merkle", "rfc6962-transparency-dev-merkle")


def _verdicts(kind: str, check) -> tuple[int, int, list[str]]:
    """How many vectors must hold, how many must fail, and which came out otherwise."""
    wrong, good, bad = [], 0, 0
    for path in sorted(reference_data(*FOLDER, "testdata", kind).rglob("*.json")):
        vector = json.loads(path.read_text("utf-8"))
        proof = [b64decode(item) for item in vector["proof"] or ()]
        try:
            check(vector, proof)
            held = True
        except Incorrect:
            held = False
        good, bad = good + (not vector["wantErr"]), bad + vector["wantErr"]
        if held == vector["wantErr"]:
            wrong.append(f"{path.parent.name}/{path.name}")
    return good, bad, wrong


def test_every_inclusion_vector_agrees() -> None:
    """98 inclusion proofs: 6 hold, 92 are refused."""

    def check(v, proof) -> None:
        verify_inclusion(b64decode(v["leafHash"]), v["leafIdx"], v["treeSize"], proof, b64decode(v["root"]))

    assert _verdicts("inclusion", check) == (6, 92, [])


def test_every_consistency_vector_agrees() -> None:
    """98 consistency proofs: 6 hold, 92 are refused."""

    def check(v, proof) -> None:
        old, new = TreeHead(v["size1"], b64decode(v["root1"])), TreeHead(v["size2"], b64decode(v["root2"]))
        verify_consistency(old, new, proof)

    assert _verdicts("consistency", check) == (6, 92, [])


def test_every_subtree_inclusion_vector_agrees() -> None:
    """204 inclusion proofs within subtrees: 12 hold, the rest are refused."""

    def check(v, proof) -> None:
        verify_subtree_inclusion(
            b64decode(v["leafHash"]), v["leafIdx"], v["start"], v["end"], proof, b64decode(v["root"])
        )

    assert _verdicts("subtreeinclusion", check) == (12, 192, [])


def test_every_subtree_consistency_vector_agrees() -> None:
    """118 consistency proofs of subtrees: 12 hold, the rest are refused."""

    def check(v, proof) -> None:
        tree = TreeHead(v["size"], b64decode(v["root2"]))
        verify_subtree_consistency(v["start"], v["end"], b64decode(v["root1"]), tree, proof)

    assert _verdicts("subtreeconsistency", check) == (12, 106, [])


def test_reference_tree_roots() -> None:
    """The eight-leaf reference tree has the published root at every size, the empty tree included."""
    tree = json.loads(reference_data(*FOLDER, "reference-tree-8.json").read_text("utf-8"))
    edge = CompactRange()
    roots = {0: edge.root()}
    for size, leaf in enumerate(tree["leaves"], start=1):
        edge.extend([hash_leaf(bytes.fromhex(leaf))])
        roots[size] = edge.root()

    assert {str(size): root.hex() for size, root in roots.items()} == tree["roots"]
    assert roots[0] == EMPTY_ROOT


@pytest.mark.parametrize("size", range(1, 16))
def test_a_real_tiled_log(size: int) -> None:
    """The roots of a real tlog-tiles log follow from its level-0 tiles."""
    log = reference_data("merkle", "tessera-testlog", "testdata", "log")
    tile = (log / "tile" / "0" / "000.p" / str(size)).read_bytes()
    edge = CompactRange()
    edge.extend(tile[at : at + 32] for at in range(0, len(tile), 32))

    assert edge.root() == b64decode((log / f"checkpoint.{size}").read_text("utf-8").split("\n")[2])
