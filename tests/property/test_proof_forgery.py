"""A campaign of forged proofs: every structural class of forgery is refused, or claims nothing that it should not."""

from __future__ import annotations

import copy
import json
from base64 import b64decode, b64encode
from dataclasses import replace

import pytest
import rlp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bridge.errors import BridgeError, Forbidden, Incorrect
from bridge.keys.ed25519 import Ed25519Signer
from bridge.ledger.chain_evidence import ChainLevel
from bridge.ledger.checkpoint import Checkpoint, sign_checkpoint
from bridge.ledger.commitment import commit, leaf_data
from bridge.ledger.merkle import CompactRange, TreeHead, hash_leaf
from bridge.ledger.note import VerifierKey, sign_note
from bridge.ledger.patricia import keccak256
from bridge.ledger.policy import LocalChainPolicy, Policy
from bridge.ledger.proof import LogProof, Opening, ProofBundle, parse_bundle
from bridge.ledger.verify import verify
from tests.unit.ledger import example

TRIES = settings(max_examples=300, deadline=None)
BUNDLE = example.bundle()
TEXT = BUNDLE.encode()
DOCUMENT = json.loads(TEXT)
POLICY = example.policy()
GOOD = verify(BUNDLE, POLICY)
THIEF = Ed25519Signer(example.ORIGIN, bytes(range(5, 37)))


def refused(document, policy=POLICY) -> None:
    """The document is refused with one of our errors, whatever stage finds it."""
    with pytest.raises(BridgeError) as caught:
        verify(parse_bundle(document if isinstance(document, (str, bytes)) else json.dumps(document)), policy)
    assert isinstance(caught.value, (Incorrect, Forbidden))


def refused_or_less(text: str) -> None:
    """The file is refused, or believed in less: what it still claims, the honest one claims too.

    A block of which the policy knows nothing is no contradiction: it only proves nothing about the chain.
    """
    try:
        verdict = verify(parse_bundle(text), POLICY)
    except (Incorrect, Forbidden):
        return
    assert (verdict.checkpoint, verdict.index, verdict.opening) == (GOOD.checkpoint, GOOD.index, GOOD.opening)
    authenticated = [claim for claim in verdict.claims if claim.level is not ChainLevel.CONSISTENT]
    assert all(claim in GOOD.claims for claim in authenticated)
    assert parse_bundle(text) == BUNDLE or len(authenticated) < len(GOOD.claims)


def flip(data: bytes, bit: int) -> bytes:
    """One bit of ``data`` turned over."""
    bit %= len(data) * 8
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def changed(path: list, value):
    """The document with one value replaced."""
    document = copy.deepcopy(DOCUMENT)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


def binary_places() -> list[tuple[list, str]]:
    """Every place of the document that holds bytes, and their encoding."""
    places = [(["leaf"], "base64"), (["opening", "content"], "base64"), (["opening", "salt"], "base64")]
    for at, anchor in enumerate(DOCUMENT["anchors"]):
        places.append((["anchors", at, "root"], "base64"))
        places += [(["anchors", at, "consistency", n], "base64") for n in range(len(anchor["consistency"]))]
        for name, value in anchor["evidence"].items():
            encoding = "base64" if anchor["kind"] == "local" else "hex"
            if isinstance(value, list):
                places += [(["anchors", at, "evidence", name, n], encoding) for n in range(len(value))]
            elif isinstance(value, str):
                places.append((["anchors", at, "evidence", name], encoding))
    return places


PLACES = binary_places()


def value_at(path: list):
    place = DOCUMENT
    for step in path:
        place = place[step]
    return place


def test_the_honest_bundle_holds_at_every_level() -> None:
    """What the campaign starts from is accepted in full; otherwise refusing everything would pass."""
    assert [claim.level for claim in GOOD.claims] == [ChainLevel.FINAL, ChainLevel.FINAL]
    assert verify(parse_bundle(TEXT), POLICY) == GOOD


@TRIES
@given(st.sampled_from(PLACES), st.integers(0, 1 << 20))
def test_bit_flips_in_every_binary_value(place, bit) -> None:
    """One bit in leaf, content, salt, root, proof, block, signature, header or trie node."""
    path, encoding = place
    value = value_at(path)
    if encoding == "base64":
        document = changed(path, b64encode(flip(b64decode(value), bit)).decode())
    else:
        document = changed(path, flip(bytes.fromhex(value), bit).hex())
    if "headers" in path or "block" in path:
        refused_or_less(json.dumps(document))
    else:
        refused(document)


@TRIES
@given(st.integers(0, len(TEXT) - 1), st.characters(min_codepoint=32, max_codepoint=126))
def test_any_character_of_the_file(position, character) -> None:
    """One character of the file changed: refused, or nothing believed that the honest file does not say."""
    altered = TEXT[:position] + character + TEXT[position + 1 :]
    assume(altered != TEXT)
    refused_or_less(altered)


@TRIES
@given(st.data())
def test_swapped_and_moved_siblings(data) -> None:
    """Hashes of a path in another order, one doubled, one left out, one put in."""
    path = list(BUNDLE.log_proof.path)
    forged = data.draw(
        st.one_of(
            st.permutations(path),
            st.integers(0, len(path) - 1).map(lambda at: path[:at] + path[at + 1 :]),
            st.integers(0, len(path) - 1).map(lambda at: path[: at + 1] + path[at:]),
            st.tuples(st.integers(0, len(path)), st.binary(min_size=32, max_size=32)).map(
                lambda new: [*path[: new[0]], new[1], *path[new[0] :]]
            ),
        )
    )
    assume(forged != path)
    proof = replace(BUNDLE.log_proof, path=tuple(forged))
    with pytest.raises(Incorrect, match="inclusion-proof-invalid"):
        verify(replace(BUNDLE, log_proof=proof), POLICY)


@TRIES
@given(st.integers(0, 200), st.integers(1, 200))
def test_wrong_index_and_wrong_size(index, size) -> None:
    """The path under another index, and any size or root that the log's key has not signed."""
    proof = BUNDLE.log_proof
    if index != proof.index:
        with pytest.raises(Incorrect):
            verify(replace(BUNDLE, log_proof=replace(proof, index=index)), POLICY)
    text = proof.checkpoint.replace(f"\n{example.SIZE}\n", f"\n{size}\n", 1)
    if size != example.SIZE:
        with pytest.raises(Forbidden, match="note-signature-invalid"):
            verify(replace(BUNDLE, log_proof=replace(proof, checkpoint=text)), POLICY)


@TRIES
@given(st.integers(0, example.SIZE - 1), st.integers(0, example.SIZE - 1), st.integers(1, 7))
def test_replay_to_another_record(one, other, parts) -> None:
    """Leaf, opening or inclusion of another record of the same log, in every mixture."""
    assume(one != other)
    mine, theirs = example.bundle(one, chains=""), example.bundle(other, chains="")
    mixed = replace(
        mine,
        leaf=theirs.leaf if parts & 1 else mine.leaf,
        opening=theirs.opening if parts & 2 else mine.opening,
        log_proof=theirs.log_proof if parts & 4 else mine.log_proof,
    )
    if parts == 7:
        assert verify(mixed, POLICY).opening == example.OPENINGS[other]
        return
    with pytest.raises(Incorrect):
        verify(mixed, POLICY)


@TRIES
@given(st.sampled_from(["kind", "record", "version", "form", "extra", "origin"]), st.integers(1, 2**53 - 1))
def test_another_context(member, number) -> None:
    """What the leaf is about, restated: another kind, record, version, form, further digest or log."""
    other = {
        "kind": ["deletion", "consent", "disclosure"][number % 3],
        "record": example.OPENINGS[number % 36 + 1 if number % 36 + 1 != 7 else 0].context.record,
        "version": number if number != BUNDLE.opening.context.version else number + 1,
        "form": f"form-{number}",
        "extra": {"jcs": f"{number:064x}"},
        "origin": f"example.org/{number}",
    }[member]
    refused(changed(["opening", "context", member], other))


@TRIES
@given(st.binary(max_size=100))
def test_salts_of_another_length(salt) -> None:
    """HMAC accepts keys of any length; a salt is exactly 32 bytes, and the right ones."""
    assume(salt != BUNDLE.opening.salt)
    refused(changed(["opening", "salt"], b64encode(salt).decode()))
    padded = BUNDLE.opening.salt + bytes(len(salt) + 1)
    refused(changed(["opening", "salt"], b64encode(padded).decode()))


@TRIES
@given(st.binary(min_size=32, max_size=32), st.sampled_from([example.ORIGIN, "example.org/other"]))
def test_a_valid_proof_under_a_substituted_key(seed, name) -> None:
    """The same tree signed by a key that the policy does not name, under the log's name or its own."""
    forger = Ed25519Signer(name, seed)
    assume(forger.public_key() != example.SIGNER.public_key())
    note = sign_checkpoint(name, example.head(example.SIZE), forger)
    with pytest.raises(Forbidden, match=r"note-not-signed|log-not-trusted"):
        verify(replace(BUNDLE, log_proof=replace(BUNDLE.log_proof, checkpoint=note)), POLICY)
    key = VerifierKey(name, forger.public_key())
    with pytest.raises(BridgeError):
        verify(BUNDLE, Policy({name: key}, POLICY.local_chains, POLICY.evm_chains))


@TRIES
@given(st.integers(0, 2**32 - 1))
def test_stripped_and_forged_signature_lines(key_id) -> None:
    """No signature line, one of an unknown key, one with the right key id and other bytes."""
    text, _, line = BUNDLE.log_proof.checkpoint.rpartition("\n\n")
    name, encoded = line.removeprefix("— ").strip().split(" ")
    signature = b64decode(encoded)
    right = signature[:4]
    forged = key_id.to_bytes(4, "big") + (signature[4:] if key_id.to_bytes(4, "big") != right else bytes(64))
    broken = right + flip(signature[4:], key_id)
    for lines in ("", f"— {name} {b64encode(forged).decode()}\n", f"— {name} {b64encode(broken).decode()}\n"):
        proof = LogProof(BUNDLE.log_proof.index, BUNDLE.log_proof.path, f"{text}\n\n{lines}")
        refused(changed(["tlog_proof"], proof.encode()))


@TRIES
@given(st.integers(0, 1 << 16), st.sampled_from(["state", "number", "time", "parent", "append"]))
def test_forged_headers(number, what) -> None:
    """A header with another state, number, time or parent is not the block that the policy knows."""
    at = next(n for n, anchor in enumerate(BUNDLE.anchors) if anchor.kind == "evm")
    headers = list(BUNDLE.anchors[at].evidence["headers"])
    fields = rlp.decode(bytes.fromhex(headers[0]))
    place = {"state": 3, "number": 8, "time": 11, "parent": 0}.get(what)
    if place is None:
        fields = [*fields, b"\1"]
    elif place in (8, 11):
        other = int.from_bytes(fields[place], "big") + number + 1
        fields[place] = other.to_bytes((other.bit_length() + 7) // 8, "big")
    else:
        fields[place] = flip(fields[place], number)
    forged = rlp.encode(fields).hex()
    document = changed(["anchors", at, "evidence", "headers"], [forged])
    if what == "state":
        refused(document)
        return
    claim = verify(parse_bundle(json.dumps(document)), POLICY).claims[1]
    assert claim.level is ChainLevel.CONSISTENT
    assert verify(parse_bundle(json.dumps(document)), POLICY).attested is None
    refused(changed(["anchors", at, "evidence", "headers"], [forged, headers[0]]))


@TRIES
@given(st.binary(min_size=20, max_size=20), st.sampled_from(["contract", "writer"]))
def test_another_contract_or_writer(address, member) -> None:
    """Evidence of a contract or writer that the policy does not name, and a policy that names another."""
    at = next(n for n, anchor in enumerate(BUNDLE.anchors) if anchor.kind == "evm")
    trusted = POLICY.evm_chains[0]
    assume(address != getattr(trusted, member))
    refused(changed(["anchors", at, "evidence", member], address.hex()))
    other = Policy(POLICY.logs, POLICY.local_chains, (replace(trusted, **{member: address}),))
    refused(DOCUMENT, other)
    both = json.dumps(changed(["anchors", at, "evidence", member], address.hex()))
    refused(both, other)


@TRIES
@given(st.binary(min_size=32, max_size=32))
def test_stale_and_foreign_policies(value) -> None:
    """Another code hash refuses; other block hashes never yield more than consistency; another chain is not checked."""
    trusted = POLICY.evm_chains[0]
    assume(value not in trusted.blocks)
    with pytest.raises(Forbidden, match="contract-code-mismatch"):
        verify(BUNDLE, Policy(POLICY.logs, (), (replace(trusted, code_hash=value),)))
    stale = verify(BUNDLE, Policy(POLICY.logs, (), (replace(trusted, blocks={value: True}, confirmations=0),)))
    foreign = verify(BUNDLE, Policy(POLICY.logs, (), (replace(trusted, chain_id=value[0] + 1),)))

    assert [claim.level for claim in stale.claims] == [ChainLevel.CONSISTENT]
    assert (stale.attested, foreign.attested, foreign.claims) == (None, None, ())
    assert foreign.unchecked == ("local", "evm")


@TRIES
@given(st.integers(1, 60), st.binary(min_size=32, max_size=32), st.sampled_from([0, 1]))
def test_another_anchored_head(size, root, at) -> None:
    """The evidence's head restated: another size or root, also where the log itself really had that head."""
    anchors = list(BUNDLE.anchors)
    genuine = example.head(size) if size <= example.SIZE else TreeHead(size, root)
    for head in (TreeHead(size, root), genuine):
        if head == anchors[at].head:
            continue
        first, second = sorted((head.size, example.SIZE))
        proof = tuple(example.READER.consistency(first, second)) if second <= example.SIZE else ()
        forged = [*anchors]
        forged[at] = replace(anchors[at], head=head, consistency=proof)
        with pytest.raises(BridgeError):
            verify(replace(BUNDLE, anchors=tuple(forged)), POLICY)


@TRIES
@given(st.binary(min_size=32, max_size=32))
def test_a_local_block_by_another_key(seed) -> None:
    """A block of the operator's own chain counts by the key in the policy only."""
    key = VerifierKey("example.org/chain", Ed25519Signer("x", seed).public_key())
    assume(key != example.CHAIN_KEY)
    with pytest.raises(Forbidden, match="block-not-signed"):
        verify(BUNDLE, Policy(POLICY.logs, (LocalChainPolicy(key),)))


@TRIES
@given(st.integers(0, example.SIZE - 1), st.integers(1, example.SIZE))
def test_the_wrong_log_with_everything_else_right(index, size) -> None:
    """A whole valid proof of a thief's log that calls itself like ours is refused, and so is one under another name."""
    assume(index < size)
    note = sign_checkpoint(example.ORIGIN, example.head(size), THIEF)
    proof = LogProof(index, tuple(example.READER.inclusion(index, size)), note)
    with pytest.raises(Forbidden, match="note-not-signed"):
        verify(replace(example.bundle(index, chains=""), log_proof=proof), POLICY)


@TRIES
@given(st.integers(0, 1 << 20), st.booleans())
def test_headers_that_are_not_linked(bit, right_number) -> None:
    """A forged state before the known block: the number fits, and the known block names another parent."""
    at = next(n for n, anchor in enumerate(BUNDLE.anchors) if anchor.kind == "evm")
    known = BUNDLE.anchors[at].evidence["headers"][0]
    fields = rlp.decode(bytes.fromhex(known))
    before = int.from_bytes(fields[8], "big") - (1 if right_number else 2)
    forged = [
        *fields[:3],
        fields[3],
        *fields[4:8],
        bytes([before]),
        *fields[9:12],
        bit.to_bytes(4, "big"),
        *fields[13:],
    ]
    with pytest.raises(Incorrect, match="chain-evidence-malformed"):
        verify(with_evidence(at, "headers", [rlp.encode(forged).hex(), known]), POLICY)


@TRIES
@given(st.sampled_from(["account", "root", "size"]), st.binary(min_size=1, max_size=40))
def test_surplus_and_missing_trie_nodes(member, node) -> None:
    """A state proof has exactly the nodes of its path."""
    at = next(n for n, anchor in enumerate(BUNDLE.anchors) if anchor.kind == "evm")
    nodes = BUNDLE.anchors[at].evidence[member]
    for forged in ([*nodes, node.hex()], [*nodes, nodes[-1]], nodes[:-1], nodes[1:], nodes[::-1], []):
        with pytest.raises(Incorrect, match="trie-proof-invalid"):
            verify(with_evidence(at, member, forged), POLICY)


def with_evidence(at: int, member: str, value) -> ProofBundle:
    anchors = list(BUNDLE.anchors)
    anchors[at] = replace(anchors[at], evidence=dict(anchors[at].evidence) | {member: value})
    return replace(BUNDLE, anchors=tuple(anchors))


def logged(leaf: bytes, opening: Opening | None, signer=example.SIGNER, origin: str = example.ORIGIN) -> ProofBundle:
    """A bundle for a leaf that its operator really logged, whatever it is."""
    edge = CompactRange()
    edge.extend([hash_leaf(leaf)])
    note = sign_note(Checkpoint(origin, edge.head()).encode(), signer)
    return ProofBundle(leaf, LogProof(0, (), note), opening)


@TRIES
@given(st.binary(max_size=40))
def test_leaves_of_another_format(leaf) -> None:
    """A leaf that is really logged and not of the known format is not passed off as a commitment."""
    assume(len(leaf) != 33 or leaf[0] != 1)
    with pytest.raises(Incorrect, match="leaf-malformed"):
        verify(logged(leaf, None), POLICY)


@TRIES
@given(st.from_regex(r"[a-z]{1,20}/[a-z]{1,20}", fullmatch=True))
def test_contexts_and_checkpoints_of_another_log(origin) -> None:
    """An opening made for another log does not count in this one, nor a checkpoint of another log by this one's key."""
    mine = example.OPENINGS[0]
    opening = replace(mine, context=replace(mine.context, origin=origin))
    leaf = leaf_data(commit(opening.salt, opening.context.encode(), opening.content))
    with pytest.raises(Incorrect, match="context-of-another-log"):
        verify(logged(leaf, opening), POLICY)
    elsewhere = logged(leaf, opening, origin=origin)
    with pytest.raises(Forbidden, match="checkpoint-of-another-log"):
        verify(elsewhere, Policy({origin: example.KEY}))


@pytest.mark.parametrize("index", [0, 19, 20, 36])
def test_an_anchor_covers_only_what_was_before_it(index) -> None:
    """A bundle names only anchors that cover its leaf, and one that is slipped in is refused."""
    honest = example.bundle(index)

    assert len(honest.anchors) == (2 if index < example.ANCHORED else 0)
    assert len(verify(honest, POLICY).claims) == len(honest.anchors)
    if not honest.anchors:
        with pytest.raises(Incorrect, match="anchor-before-leaf"):
            verify(replace(honest, anchors=BUNDLE.anchors), POLICY)


def test_keccak_is_the_original_padding() -> None:
    """Keccak-256 of nothing, as Ethereum defines it."""
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
