"""State proofs agree with tries built by another encoder, for presence and for absence, and nothing else passes."""

from __future__ import annotations

import pytest
import rlp
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import Incorrect
from bridge.ledger.patricia import EMPTY_TRIE, keccak256, prove, rlp_decode
from tests.unit.ledger.example import recorded


def hex_prefix(digits: str, leaf: bool) -> bytes:
    """Yellow Paper appendix C."""
    flag = 2 * leaf + len(digits) % 2
    return bytes.fromhex(f"{flag:x}" + ("" if len(digits) % 2 else "0") + digits)


class Trie:
    """A secure trie built the plain way, from the definition (appendix D)."""

    def __init__(self, items: dict[bytes, bytes]) -> None:
        self.node = self._build({keccak256(key).hex(): value for key, value in items.items()})
        self.root = keccak256(rlp.encode(self.node))

    def _build(self, items: dict[str, bytes]):
        if not items:
            return b""
        keys = sorted(items)
        if len(keys) == 1:
            return [hex_prefix(keys[0], True), items[keys[0]]]
        shared = 0
        while keys[0][shared] == keys[-1][shared]:
            shared += 1
        if shared:
            return [
                hex_prefix(keys[0][:shared], False),
                self._child({key[shared:]: value for key, value in items.items()}),
            ]
        branches = [
            self._child({key[1:]: value for key, value in items.items() if key[0] == f"{n:x}"}) for n in range(16)
        ]
        return [*branches, b""]

    def _child(self, items: dict[str, bytes]):
        node = self._build(items)
        return keccak256(rlp.encode(node)) if len(rlp.encode(node)) >= 32 else node

    def prove(self, key: bytes, nodes: dict[bytes, bytes]) -> list[bytes]:
        """The nodes on the path to ``key``, as a node's eth_getProof gives them."""
        path, proof, node = keccak256(key).hex(), [rlp.encode(self.node)], self.node
        while node:
            if len(node) == 17:
                child, path = node[int(path[0], 16)], path[1:]
            else:
                flagged = node[0].hex()
                digits = flagged[1:] if int(flagged[0], 16) & 1 else flagged[2:]
                if int(flagged[0], 16) >= 2 or not path.startswith(digits):
                    break
                child, path = node[1], path[len(digits) :]
            if isinstance(child, bytes) and child:
                proof.append(nodes[child])
                child = rlp.decode(nodes[child])
            node = child
        return proof


def all_nodes(trie: Trie, items: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Every hashed node of the trie, by hash."""
    found: dict[bytes, bytes] = {}

    def visit(part: dict[str, bytes]) -> None:
        node = trie._build(part)
        found[keccak256(rlp.encode(node))] = rlp.encode(node)
        for length in range(1, 65):
            groups: dict[str, dict[str, bytes]] = {}
            for key, value in part.items():
                groups.setdefault(key[:length], {})[key[length:]] = value
            for group in groups.values():
                node = trie._build(group)
                found[keccak256(rlp.encode(node))] = rlp.encode(node)

    visit({keccak256(key).hex(): value for key, value in items.items()})
    return found


ITEMS = st.dictionaries(st.binary(min_size=1, max_size=3), st.binary(min_size=1, max_size=40), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(ITEMS, st.binary(min_size=1, max_size=4))
def test_presence_and_absence_are_proved(items, stranger) -> None:
    """Every key has its value; a key that is not there is proved absent; a node altered or added refuses."""
    trie = Trie(items)
    nodes = all_nodes(trie, items)
    for key in [*list(items)[:5], stranger]:
        proof = trie.prove(key, nodes)
        assert prove(trie.root, key, proof) == items.get(key)
        with pytest.raises(Incorrect):
            prove(trie.root, key, [*proof, proof[-1]])
        with pytest.raises(Incorrect):
            prove(trie.root, key, proof[:-1])
        with pytest.raises(Incorrect):
            prove(trie.root, key, [*proof[:-1], proof[-1][:-1] + bytes([proof[-1][-1] ^ 1])])


def test_the_empty_trie_has_nothing() -> None:
    """Without nodes only the empty trie's root proves, and it proves absence."""
    assert prove(EMPTY_TRIE, b"key", []) is None
    with pytest.raises(Incorrect, match="trie-proof-invalid"):
        prove(bytes(32), b"key", [])


def test_a_real_node_proof_holds() -> None:
    """The account proof of a recorded real block leads to an account whose code is the contract's."""
    body = recorded()["body"]
    state_root = rlp.decode(bytes.fromhex(body["headers"][0]))[3]
    account = prove(state_root, bytes.fromhex(body["contract"]), [bytes.fromhex(node) for node in body["account"]])

    assert rlp_decode(account)[3].hex() == recorded()["code_hash"]


values = st.recursive(st.binary(max_size=70), lambda inner: st.lists(inner, max_size=5), max_leaves=20)


@given(values)
def test_rlp_is_read_as_others_write_it(value) -> None:
    """Whatever another encoder writes is read back."""
    assert rlp_decode(rlp.encode(value)) == value


@given(st.binary(max_size=80))
def test_rlp_has_one_spelling(data) -> None:
    """Bytes that are accepted are exactly what an encoder would write; the rest is refused."""
    try:
        value = rlp_decode(data)
    except Incorrect:
        return
    assert rlp.encode(value) == data


@pytest.mark.parametrize(
    "text", ["", "8100", "b800", "b90001", "f800", "c1", "8261", "c0c0", "bf" + "ff" * 8, "c381ff"]
)
def test_other_spellings_are_refused(text) -> None:
    """Long forms of short values, lengths with leading zeroes, bytes beyond the end or after it."""
    with pytest.raises(Incorrect, match="rlp-malformed"):
        rlp_decode(bytes.fromhex(text))


@pytest.mark.parametrize(
    "node",
    [
        b"text",
        [b"\x20"],
        [b"", b"v"],
        [b"\x45", b"v"],
        [b"\x2f", b"v", b"w"],
        [b"\x00", bytes(32)],
        [b"\x11", b"short"],
    ],
)
def test_what_is_no_trie_node_is_refused(node) -> None:
    """Wrong numbers of items, unknown flags, empty extensions, references of another length."""
    encoded = rlp.encode(node)
    key = next(n.to_bytes(4, "big") for n in range(99_999) if keccak256(n.to_bytes(4, "big")).hex()[0] == "1")
    with pytest.raises(Incorrect, match="trie-proof-invalid"):
        prove(keccak256(encoded), key, [encoded])
