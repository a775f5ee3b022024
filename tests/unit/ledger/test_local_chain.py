"""The operator's own chain: linked, signed, append-only, shared by processes, and refused when it is not ours."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from pydantic import ValidationError

from adapters.chains import local
from adapters.chains.local import LocalChain, LocalChainSettings, adapter
from bridge.errors import Forbidden, Unavailable
from bridge.keys.ed25519 import Ed25519Signer
from bridge.keys.ports import SignerPurpose
from bridge.ledger.chain import ConsentWord, ConsentWrite, Handle, PolicyTag, SubmissionState
from tests.reference import ROOT
from tests.unit.ledger.example import CHAIN_KEY, CHAIN_SIGNER, LOG, anchor

DOMAIN = b"hie-bridge/local-block/v1\x00"


@pytest.fixture
def chain(tmp_path):
    chain = LocalChain(tmp_path / "chain.sqlite", CHAIN_SIGNER)
    yield chain
    chain.close()


def blocks(tmp_path) -> list[tuple]:
    db = sqlite3.connect(tmp_path / "chain.sqlite")
    try:
        return db.execute("SELECT number, hash, time_us, body, signature FROM block ORDER BY number").fetchall()
    finally:
        db.close()


def test_blocks_are_linked_and_signed(chain, tmp_path) -> None:
    """Each block names the hash of the one before, time never falls, and each signature verifies under the chain's key."""
    for size in (1, 2, 5):
        chain.send(chain.prepare_anchors([anchor(size)], []))
    rows = blocks(tmp_path)
    previous, time_us = bytes(32), 0
    for number, (stored, digest, when, body, signature) in enumerate(rows):
        block = json.loads(body)
        assert (stored, block["number"], block["previous"]) == (number, number, previous.hex())
        assert digest == sha256(DOMAIN + body).digest()
        assert CHAIN_KEY.verify(DOMAIN + body, signature)
        assert when == block["time_us"] >= time_us
        previous, time_us = digest, when

    assert len(rows) == 4


@pytest.mark.parametrize("statement", ["DELETE FROM block", "UPDATE block SET time_us = 0"])
def test_blocks_are_append_only(chain, tmp_path, statement) -> None:
    """The file itself refuses to lose or change a block."""
    chain.send(chain.prepare_anchors([anchor(1)], []))
    db = sqlite3.connect(tmp_path / "chain.sqlite")

    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
    db.close()


def test_commits_wait_for_the_disk(chain) -> None:
    """Every commit is synchronous: final means on disk."""
    with chain._open() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


WRITER = """
import sys
from pathlib import Path
from adapters.chains.local import LocalChain
from bridge.ledger.chain import ConsentWord, ConsentWrite, Handle, PolicyTag
from tests.unit.ledger.example import CHAIN_SIGNER
chain = LocalChain(Path(sys.argv[1]), CHAIN_SIGNER)
for number in range(20):
    handle = Handle(sys.argv[2].encode() * 31 + bytes([number]))
    chain.send(chain.prepare_consents([ConsentWrite(handle, ConsentWord.granted(1, None, PolicyTag(bytes(16))))], []))
"""


def test_processes_share_a_chain(chain, tmp_path) -> None:
    """Two processes writing at once make one linked chain with every block of both."""
    commands = [[sys.executable, "-c", WRITER, str(tmp_path / "chain.sqlite"), name] for name in "ab"]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda command: subprocess.run(command, cwd=ROOT, check=False).returncode, commands))
    rows = blocks(tmp_path)

    assert results == [0, 0]
    assert len(rows) == 41
    assert all(json.loads(row[3])["previous"] == before[1].hex() for before, row in itertools.pairwise(rows))
    for name in "ab":
        assert chain.read_consent(Handle(name.encode() * 31 + b"\x13")).word is not None


def test_a_chain_signed_by_another_key_is_refused(chain, tmp_path) -> None:
    """A file that another key wrote is not continued, also when only its last block was exchanged."""
    chain.send(chain.prepare_anchors([anchor(1)], []))
    other = LocalChain(tmp_path / "chain.sqlite", Ed25519Signer("example.org/chain", bytes(32)))

    with pytest.raises(Forbidden, match="chain-mismatch"):
        other.head()


def test_a_place_that_can_not_be_used_is_unavailable(tmp_path) -> None:
    """A missing folder or a file that is no database is an error to mend and retry, without the library's text."""
    (tmp_path / "text").write_text("this is no database, but long enough to look at" * 100)
    for path in (tmp_path / "absent" / "chain.sqlite", tmp_path / "text"):
        with pytest.raises(Unavailable, match="chain-unreachable"):
            LocalChain(path, CHAIN_SIGNER).head()


def test_a_submission_in_a_failed_transaction_left_nothing(chain, tmp_path) -> None:
    """A signer that fails while the block is made leaves neither block nor submission; sending again succeeds."""
    prepared = chain.prepare_anchors([anchor(3)], [])

    class Failing(Ed25519Signer):
        def sign(self, message: bytes) -> bytes:
            if b'"entries":[{' in message:
                raise Unavailable("signer-unreachable", "the signer does not answer")
            return super().sign(message)

    failing = LocalChain(tmp_path / "chain.sqlite", Failing("example.org/chain", bytes(range(1, 33))))
    with pytest.raises(Unavailable, match="signer-unreachable"):
        failing.send(prepared)

    assert chain.status(prepared).state is SubmissionState.UNSEEN
    assert chain.read_anchor(LOG) is None
    chain.send(prepared)
    assert chain.status(prepared).state is SubmissionState.FINAL
    failing.close()


def test_nothing_but_opaque_bytes_is_in_the_file(chain, tmp_path) -> None:
    """A block's entries hold exactly log, size and root, or handle and word, in hex."""
    word = ConsentWord.granted(1, 1_800_000_000_000_000, PolicyTag(b"\7" * 16))
    chain.send(chain.prepare_anchors([anchor(3)], []))
    chain.send(chain.prepare_consents([ConsentWrite(Handle(b"\5" * 32), word)], []))
    entries = [entry for row in blocks(tmp_path) for entry in json.loads(row[3])["entries"]]

    assert entries == [
        {"anchor": {"log": LOG.value.hex(), "size": 3, "root": anchor(3).root.value.hex()}},
        {"consent": {"handle": "05" * 32, "word": word.pack().hex()}},
    ]


def test_the_adapter_asks_for_its_own_signer(tmp_path) -> None:
    """Built from settings, the backend signs with the key for local chains, under the chain's name."""
    asked = []

    class Keys:
        def signer(self, purpose, name):
            asked.append((purpose, name))
            return CHAIN_SIGNER

    settings = LocalChainSettings(path=tmp_path / "chain.sqlite", name="example.org/chain")
    backend = adapter.build(settings, Keys())

    assert asked == [(SignerPurpose.LOCAL_CHAIN, "example.org/chain")]
    assert backend.capabilities().own_chain
    assert not (tmp_path / "chain.sqlite").exists()


@pytest.mark.parametrize(
    "settings", [{}, {"path": "x"}, {"path": "x", "name": "a b"}, {"path": "x", "name": "a", "y": 1}]
)
def test_settings_are_strict(settings) -> None:
    """Missing, malformed and unknown settings are refused."""
    with pytest.raises(ValidationError):
        LocalChainSettings.model_validate(settings)


def words(number: int) -> list[ConsentWrite]:
    return [
        ConsentWrite(Handle(bytes([number, at]) * 16), ConsentWord.revoked(1, PolicyTag(bytes(16)))) for at in (1, 2)
    ]


@pytest.fixture
def long_chain(chain, tmp_path, monkeypatch):
    """Six blocks: the first one, three anchors of one log, two batches of words; read two at a time, triggers off."""
    monkeypatch.setattr(local, "_PAGE", 2)
    for size in (1, 2, 5):
        chain.send(chain.prepare_anchors([anchor(size)], []))
    for number in (7, 8):
        chain.send(chain.prepare_consents(words(number), []))
    db = sqlite3.connect(tmp_path / "chain.sqlite", isolation_level=None)
    db.execute("DROP TRIGGER block_kept")
    db.execute("DROP TRIGGER block_fixed")
    yield chain, db
    db.close()


def test_an_untouched_chain_is_in_order(long_chain) -> None:
    """Every block is looked at once, and nothing is found, also where a word was written twice in one batch."""
    chain, _ = long_chain
    handle = Handle(b"h" * 32)
    twice = [ConsentWrite(handle, ConsentWord.granted(version, None, PolicyTag(bytes(16)))) for version in (1, 2)]
    chain.send(chain.prepare_consents(twice, []))
    seen = []

    assert list(chain.audit(lambda: seen.append(1))) == []
    assert len(seen) == 7


def signed(body: bytes) -> tuple[bytes, bytes]:
    return sha256(DOMAIN + body).digest(), CHAIN_SIGNER.sign(DOMAIN + body)


def resigned(db, number: int, old: bytes, new: bytes) -> None:
    """The operator, who has the key, writes another block in the place of one."""
    body = db.execute("SELECT body FROM block WHERE number = ?", (number,)).fetchone()[0]
    assert old in body
    digest, signature = signed(body.replace(old, new))
    db.execute(
        "UPDATE block SET body = ?, hash = ?, signature = ? WHERE number = ?",
        (body.replace(old, new), digest, signature, number),
    )


TAMPERED = {
    "a byte": ("UPDATE block SET body = CAST(replace(body, '\"v\":1', '\"v\":3') AS BLOB) WHERE number = 2",
               {("block-not-signed", "block 2"), ("block-hash-differs", "block 2")}),
    "another key's signature": ("UPDATE block SET signature = zeroblob(64) WHERE number = 1", {("block-not-signed", "block 1")}),
    "another hash": ("UPDATE block SET hash = zeroblob(32) WHERE number = 1",
                     {("block-hash-differs", "block 1"), ("block-not-linked", "block 2")}),
    "another time": ("UPDATE block SET time_us = 5 WHERE number = 3", {("block-differs", "block 3"), ("block-earlier", "block 3")}),
    "a block taken away": ("DELETE FROM block WHERE number = 2", {("block-missing", "block 3"), ("block-not-linked", "block 3")}),
    "no block at all": ("UPDATE block SET body = 'text' WHERE number = 0",
                        {("block-not-signed", "block 0"), ("block-hash-differs", "block 0"), ("block-malformed", "block 0")}),
    "an older head": ("UPDATE anchored SET size = 2, block = 2", {("chain-state-differs", f"anchored {LOG}")}),
    "another root": ("UPDATE anchored SET root = zeroblob(32)", {("chain-state-differs", f"anchored {LOG}")}),
    "a word undone": (f"UPDATE consent SET word = zeroblob(32) WHERE handle = x'{'0701' * 16}'",
                      {("chain-state-differs", f"consent {'0701' * 16}")}),
    "a word taken away": (f"DELETE FROM consent WHERE handle = x'{'0702' * 16}'",
                          {("chain-state-differs", f"consent {'0702' * 16}")}),
    "a word that no block wrote": ("INSERT INTO consent VALUES (zeroblob(32), zeroblob(32), 4)",
                                   {("chain-state-differs", f"consent {'00' * 32}")}),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_changed_in_the_file_is_named(long_chain, name) -> None:
    """Also in blocks far behind the last one, which alone is checked when the file is opened."""
    chain, db = long_chain
    statement, expected = TAMPERED[name]
    db.execute("PRAGMA foreign_keys = OFF")
    assert db.execute(statement).rowcount == 1

    found = {(fault.code, fault.place) for fault in chain.audit()}

    # an older head contradicts itself and what later blocks wrote; the rows of a block that is gone have no block
    assert expected <= found
    assert all(code == "chain-state-differs" for code, _ in found - expected)


def test_a_block_signed_anew_breaks_the_link(long_chain) -> None:
    """Even who has the key can't exchange a block without every later one."""
    chain, db = long_chain
    resigned(db, 2, b'"size":2', b'"size":3')

    assert [(fault.code, fault.place) for fault in chain.audit()] == [("block-not-linked", "block 3")]
