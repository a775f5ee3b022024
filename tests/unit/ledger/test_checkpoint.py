"""Notes and checkpoints are those of C2SP: others' verify here, and what was altered or signed by no one is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BridgeError, Forbidden, Incorrect
from bridge.keys.ed25519 import Ed25519Signer
from bridge.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from bridge.ledger.merkle import EMPTY_HEAD, TreeHead
from bridge.ledger.note import VerifierKey, open_note, parse_note, sign_note
from tests.reference import reference_data

ORIGIN = "example.org/log"
SIGNER = Ed25519Signer(ORIGIN, bytes(range(32)))
KEY = VerifierKey(ORIGIN, SIGNER.public_key())
OTHER = Ed25519Signer("witness.example", bytes(range(1, 33)))
OTHER_KEY = VerifierKey("witness.example", OTHER.public_key())
HEAD = TreeHead(12, bytes(range(100, 132)))
NOTE = sign_checkpoint(ORIGIN, HEAD, SIGNER)


def test_the_published_example_note_verifies() -> None:
    """The specification's own example: key text round-trips, signature verifies, text comes out."""
    example = json.loads(reference_data("merkle", "c2sp-signed-note", "vectors.json").read_text("utf-8"))[0]
    key = VerifierKey.parse(example["vkey"])

    assert key.encode() == example["vkey"]
    assert open_note(example["note"], [key]) == ("This is an example message.\n", (key,))


def test_checkpoints_of_a_foreign_log_verify() -> None:
    """Every signed checkpoint of another implementation's log opens with the size in its name."""
    folder = reference_data("merkle", "tessera-testlog")
    key = VerifierKey.parse((folder / "VKEY.txt").read_text("ascii").strip())
    sizes = set()
    for path in (folder / "testdata" / "log").glob("checkpoint.*"):
        checkpoint = open_checkpoint(path.read_text("utf-8"), key)
        assert checkpoint.head.size == int(path.suffix[1:])
        sizes.add(checkpoint.head.size)

    assert sizes == set(range(16))


def test_our_checkpoint_has_three_lines_and_round_trips() -> None:
    """Origin, size and root, in the form that others read; the same head signs to the same note."""
    text, signed_by = open_note(NOTE, [KEY])

    assert text.count("\n") == 3
    assert signed_by == (KEY,)
    assert open_checkpoint(NOTE, VerifierKey.parse(KEY.encode())) == Checkpoint(ORIGIN, HEAD)
    assert sign_checkpoint(ORIGIN, HEAD, SIGNER) == NOTE
    assert open_checkpoint(sign_checkpoint(ORIGIN, EMPTY_HEAD, SIGNER), KEY).head == EMPTY_HEAD


@given(st.integers(0, len(NOTE) - 1), st.integers(0, 6))
def test_any_flipped_bit_is_refused(position, bit) -> None:
    """One bit flipped anywhere in a note by one key: nothing opens."""
    altered = NOTE[:position] + chr(ord(NOTE[position]) ^ (1 << bit)) + NOTE[position + 1 :]

    with pytest.raises(BridgeError, match=r"note-|checkpoint-"):
        open_checkpoint(altered, KEY)


def test_unknown_signatures_are_ignored_known_ones_must_hold() -> None:
    """A stranger's line changes nothing; a trusted key's bad line refuses the note even beside a good one."""
    text = Checkpoint(ORIGIN, HEAD).encode()
    cosigned = NOTE + sign_note(text, OTHER).removeprefix(text + "\n")
    forged = NOTE + sign_note("other\n", OTHER).removeprefix("other\n\n")

    assert open_note(cosigned, [KEY])[1] == (KEY,)
    assert open_note(cosigned, [OTHER_KEY, KEY])[1] == (KEY, OTHER_KEY)
    assert open_note(forged, [KEY])[1] == (KEY,)
    with pytest.raises(Forbidden, match="note-signature-invalid"):
        open_note(forged, [KEY, OTHER_KEY])


@pytest.mark.parametrize("keys", [[], [OTHER_KEY], [VerifierKey("example.org/lag", SIGNER.public_key())]])
def test_a_note_signed_by_no_trusted_key_is_refused(keys) -> None:
    """Neither the right key under another name nor no key at all opens a note."""
    with pytest.raises(Forbidden, match="note-not-signed"):
        open_note(NOTE, keys)


def test_a_log_key_does_not_speak_for_another_origin() -> None:
    """A key's checkpoint over another log's origin is refused, and is not made either."""
    foreign = sign_note(Checkpoint("example.org/other", HEAD).encode(), SIGNER)

    with pytest.raises(Forbidden, match="checkpoint-of-another-log"):
        open_checkpoint(foreign, KEY)
    with pytest.raises(Incorrect, match="signer-not-origin"):
        sign_checkpoint("example.org/other", HEAD, SIGNER)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n— name\n",
        "te\txt\n\n— name AAAAAAAA\n",
        "text\n\n— name AAAAAAAA",
        "x" * 1_000_001,
    ],
)
def test_what_is_no_note_is_refused(note) -> None:
    """Missing separator, signature, or final newline, and control characters."""
    with pytest.raises(Incorrect, match="note-malformed"):
        parse_note(note)


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n12\n",
        f"{ORIGIN}\n012\nAAAA\n",
        f"{ORIGIN}\n-1\n" + "A" * 43 + "=\n",
        f"{ORIGIN}\n1\n" + "A" * 42 + "B=\n",
        f"{ORIGIN}\n1\nAAAA\n",
        f"{ORIGIN}\n\n" + "A" * 43 + "=\n",
        f"{ORIGIN}\n9999999999999999999\n" + "A" * 43 + "=\n",
        f"{ORIGIN}\n1\n" + "A" * 43 + "=",
    ],
)
def test_what_is_no_checkpoint_is_refused(text) -> None:
    """Lines missing or empty, sizes with zeroes or signs, roots of another length or spelling."""
    with pytest.raises(Incorrect, match="checkpoint-malformed"):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "text", ["", "a+b", "name+00000000+AAAA", KEY.encode().replace("+", "+0", 1), KEY.encode()[:-4]]
)
def test_what_is_no_verifier_key_is_refused(text) -> None:
    """Wrong form, wrong type byte, a hash that does not fit."""
    with pytest.raises(Incorrect, match="verifier-key-malformed"):
        VerifierKey.parse(text)


def test_only_ed25519_signs_notes() -> None:
    """A signer of another algorithm is refused before it signs."""

    class Rsa:
        name, algorithm = ORIGIN, "rsa"

    with pytest.raises(Incorrect, match="signer-not-ed25519"):
        sign_note("text\n", Rsa())
    with pytest.raises(Incorrect, match="note-malformed"):
        sign_note("text", SIGNER)
