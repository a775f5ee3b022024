"""Commitments follow their published definition byte for byte, and nothing malformed is committed to."""

from __future__ import annotations

import json
import runpy
from uuid import uuid4

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Incorrect
from bridge.ledger.commitment import (
    Context,
    LeafKind,
    commit,
    derive_salt,
    leaf_data,
    new_nonce,
    new_record_key,
)
from bridge.ledger.merkle import hash_leaf
from tests.reference import ROOT, reference_data

REFERENCE = ROOT / "docs" / "reference"
VECTORS = json.loads((REFERENCE / "commitment-vectors.json").read_text("ascii"))["vectors"]
GOOD = Context(LeafKind.RECORD_VERSION, "example.org/log", str(uuid4()), 1, "application/fhir+json")


def test_published_vectors_are_what_the_definition_yields() -> None:
    """The published file is the output of the script beside it, which knows nothing of the bridge."""
    script = runpy.run_path(str(REFERENCE / "commitment_vectors.py"))

    assert script["document"]() == (REFERENCE / "commitment-vectors.json").read_text("ascii")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_published_vectors_are_reproduced(vector) -> None:
    """Context, salt, leaf data and leaf hash of every vector come out the same."""
    context = Context.from_json(vector["context"])
    salt = derive_salt(bytes.fromhex(vector["record_key_hex"]), bytes.fromhex(vector["nonce_hex"]))
    leaf = leaf_data(commit(salt, context.encode(), bytes.fromhex(vector["content_hex"])))

    assert context.encode().hex() == vector["context_bytes_hex"]
    assert context.to_json() == vector["context"]
    assert (salt.hex(), leaf.hex(), len(leaf)) == (vector["salt_hex"], vector["leaf_data_hex"], 33)
    assert hash_leaf(leaf).hex() == vector["leaf_hash_hex"]


names = st.from_regex(r"[a-z0-9][a-z0-9.+/#-]{0,20}", fullmatch=True)
origins = st.text(min_size=1, max_size=40).filter(
    lambda text: text.isprintable() and "+" not in text and " " not in text
)
contexts = st.builds(
    Context,
    st.sampled_from(LeafKind),
    origins,
    st.uuids(version=4).map(str),
    st.integers(1, 2**53 - 1),
    names,
    st.dictionaries(names, st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=4),
)


@given(contexts)
def test_contexts_are_rfc_8785(context) -> None:
    """The fast writer yields what an RFC 8785 library yields, and reads back the same."""
    assert context.encode() == rfc8785.dumps(context.to_json())
    assert Context.from_json(json.loads(context.encode())) == context


def test_the_rfc_8785_library_passes_its_published_vectors() -> None:
    """The oracle of the test above is itself checked against the six published documents."""
    folder = reference_data("merkle", "jcs-cyberphone", "testdata")
    inputs = sorted((folder / "input").iterdir())

    assert len(inputs) == 6
    for path in inputs:
        assert rfc8785.dumps(json.loads(path.read_text("utf-8"))) == (folder / "output" / path.name).read_bytes()


@given(contexts, contexts, st.binary(max_size=64), st.binary(max_size=64))
def test_a_commitment_binds_context_and_content(one, other, content, another) -> None:
    """Another context or other bytes give another commitment under the same salt."""
    salt = bytes(32)
    first, second = commit(salt, one.encode(), content), commit(salt, other.encode(), another)

    assert (first == second) == ((one, content) == (other, another))


def test_fresh_secrets_differ_and_hide() -> None:
    """Keys and nonces are 32 fresh bytes, and either changes the salt."""
    key, nonce = new_record_key(), new_nonce()

    assert len({key, nonce, new_record_key(), new_nonce()}) == 4
    assert derive_salt(key, nonce) != derive_salt(key, new_nonce()) != derive_salt(new_record_key(), nonce)


@pytest.mark.parametrize("length", [0, 31, 33, 64, 65])
def test_salts_and_keys_of_another_length_are_refused(length) -> None:
    """HMAC pads short keys and hashes long ones, so another length would open under a second salt."""
    with pytest.raises(Incorrect, match="salt-length"):
        commit(bytes(length), GOOD.encode(), b"")
    with pytest.raises(Incorrect, match="commitment-key-length"):
        derive_salt(bytes(length), bytes(32))
    with pytest.raises(Incorrect, match="commitment-key-length"):
        derive_salt(bytes(32), bytes(length))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"kind": "other"},
        {"kind": None},
        {"origin": "a b"},
        {"origin": "a+b"},
        {"origin": ""},
        {"origin": "a\nb"},
        {"record": "example"},
        {"record": "3E9B8A3C-6B0E-4E0E-8F4C-0A2E5D7C9B11"},
        {"record": "3e9b8a3c-6b0e-1e0e-8f4c-0a2e5d7c9b11"},
        {"version": 0},
        {"version": "1"},
        {"version": True},
        {"version": 1.0},
        {"version": 2**53},
        {"form": ""},
        {"form": 'a"b'},
        {"extra": {"jcs": "00"}},
        {"extra": {"J": "00" * 32}},
        {"extra": []},
        {"more": 1},
    ],
)
def test_a_malformed_context_is_refused(change) -> None:
    """Each member has one type and range, and there are exactly seven."""
    with pytest.raises(Incorrect, match=r"context-malformed|origin-malformed"):
        Context.from_json(GOOD.to_json() | change)


@pytest.mark.parametrize("member", sorted(GOOD.to_json()))
def test_a_context_without_a_member_is_refused(member) -> None:
    """No member has a default."""
    value = GOOD.to_json()
    del value[member]

    with pytest.raises(Incorrect, match="context-malformed"):
        Context.from_json(value)
