"""The operator's own chain: an append-only SQLite file of hash-linked, signed blocks.

It countersigns heads where there is no other chain yet. Every block is final at once, and because the operator alone
runs it, it proves nothing against the operator: ``verify`` calls it "operator's own chain".

A block is the ASCII bytes of a JSON object with sorted keys and no white space::

    {"chain":name,"entries":[…],"number":n,"previous":hash,"time_us":t,"v":1}

    entry = {"anchor":{"log":…,"root":…,"size":n}} or {"consent":{"handle":…,"word":…}}          bytes as lower-case hex

Hash and signature are SHA-256 and Ed25519 over ``"hie-bridge/local-block/v1" ‖ 0x00 ‖ bytes``. Block 0 has no entries and
a previous hash of zeroes.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.errors import Conflict, Forbidden, Incorrect, NotFound, Unavailable
from bridge.keys.ports import KeyProvider, Signer, SignerPurpose
from bridge.ledger.chain import (
    Anchor,
    AnchoredHead,
    BlockRef,
    Capabilities,
    ChainBackend,
    ChainEvidence,
    ChainFault,
    ConsentStatus,
    ConsentWord,
    ConsentWrite,
    Handle,
    LogId,
    Prepared,
    Root,
    SeenWord,
    Sight,
    SubmissionState,
    SubmissionStatus,
)

_DOMAIN: Final = b"hie-bridge/local-block/v1\x00"
_BUSY_SECONDS: Final = 10.0
_PAGE: Final = 500
_Entries = dict[str, dict[bytes, tuple[Any, ...]]]
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS block(
  number INTEGER PRIMARY KEY, hash BLOB NOT NULL, time_us INTEGER NOT NULL, body BLOB NOT NULL, signature BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS submission(
  id BLOB PRIMARY KEY, block INTEGER NOT NULL REFERENCES block, refused INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS anchored(
  log BLOB PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, block INTEGER NOT NULL REFERENCES block);
CREATE TABLE IF NOT EXISTS consent(
  handle BLOB PRIMARY KEY, word BLOB NOT NULL, block INTEGER NOT NULL REFERENCES block);
CREATE TRIGGER IF NOT EXISTS block_kept BEFORE DELETE ON block BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS block_fixed BEFORE UPDATE ON block BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


class LocalChainSettings(BaseModel):
    """The operator's own chain in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="The file; keep it apart from the database.", examples=["data/chain.sqlite"])
    name: str = Field(
        pattern=r"^[^\s+]{1,200}$",
        description="Name of the chain, under which policies list its key.",
        examples=["example.org/chain"],
    )


def open_local_chain(settings: LocalChainSettings, keys: KeyProvider) -> ChainBackend:
    """Builds the backend; the file is opened, and created if absent, at the first use.

    Raises:
        Incorrect: ``signing-key-missing``.
    """
    return LocalChain(settings.path, keys.signer(SignerPurpose.LOCAL_CHAIN, settings.name))


class LocalChain:
    """:class:`bridge.ledger.chain.ChainBackend` over one SQLite file; several processes may share it."""

    def __init__(self, path: Path, signer: Signer) -> None:
        self._path = path
        self._signer = signer
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._writer = signer.public_key()

    def capabilities(self) -> Capabilities:
        """As the port says."""
        return Capabilities(
            kind="local",
            chain=f"local:{self._signer.name}",
            finality="every block is final when its signature is on disk",
            may_reorganize=False,
            anchor_writer=self._writer,
            consent_writer=self._writer,
            own_chain=True,
        )

    def prepare_anchors(self, anchors: Sequence[Anchor], outstanding: Sequence[Prepared]) -> Prepared:  # noqa: ARG002 - no order among submissions here
        """As the port says."""
        with self._open() as db:
            for anchor in anchors:
                if _stale(db, anchor):
                    raise Conflict(
                        "anchor-not-above-head",
                        f"the chain's head of this log is above size {anchor.size}, or beside it",
                        remedy="Read the anchored head: another database may be signing this log.",
                    )
        return _prepared([_anchor_entry(anchor) for anchor in anchors])

    def prepare_consents(self, writes: Sequence[ConsentWrite], outstanding: Sequence[Prepared]) -> Prepared:  # noqa: ARG002 - as above
        """As the port says."""
        return _prepared([_consent_entry(write) for write in writes])

    def send(self, prepared: Prepared) -> None:
        """As the port says; on return the block is on disk."""
        anchors, writes = _entries(prepared.raw)
        with self._open() as db, _transaction(db):
            if db.execute("SELECT 1 FROM submission WHERE id = ?", (prepared.id,)).fetchone():
                return
            head = _head(db)
            if any(_stale(db, anchor) for anchor in anchors):
                db.execute("INSERT INTO submission VALUES (?, ?, 1)", (prepared.id, head.number))
                return
            number = head.number + 1
            entries = [_anchor_entry(anchor) for anchor in anchors if _take_anchor(db, anchor, number)]
            entries += [_consent_entry(write) for write in writes if _take_consent(db, write, number)]
            self._append(db, head, entries)
            db.execute("INSERT INTO submission VALUES (?, ?, 0)", (prepared.id, number))

    def status(self, prepared: Prepared) -> SubmissionStatus:
        """As the port says; never PENDING, INCLUDED or LOST."""
        with self._open() as db:
            row = db.execute("SELECT block, refused FROM submission WHERE id = ?", (prepared.id,)).fetchone()
            if row is None:
                return SubmissionStatus(SubmissionState.UNSEEN)
            state = SubmissionState.REFUSED if row[1] else SubmissionState.FINAL
            return SubmissionStatus(state, _block(db, row[0]))

    def head(self, sight: Sight = Sight.LATEST) -> BlockRef:  # noqa: ARG002 - every block is final
        """As the port says."""
        with self._open() as db:
            return _head(db)

    def read_anchor(
        self,
        log: LogId,
        *,
        writer: bytes | None = None,
        sight: Sight = Sight.LATEST,  # noqa: ARG002 - as above
    ) -> AnchoredHead | None:
        """As the port says; nobody but the operator writes here."""
        with self._open() as db, _transaction(db):
            row = db.execute("SELECT size, root FROM anchored WHERE log = ?", (log.value,)).fetchone()
            if row is None or writer not in {None, self._writer}:
                return None
            return AnchoredHead(row[0], Root(row[1]), _head(db))

    def read_consent(
        self,
        handle: Handle,
        *,
        writer: bytes | None = None,
        sight: Sight = Sight.LATEST,  # noqa: ARG002 - as above
    ) -> SeenWord:
        """As the port says."""
        with self._open() as db, _transaction(db):
            row = db.execute("SELECT word FROM consent WHERE handle = ?", (handle.value,)).fetchone()
            ours = row is not None and writer in {None, self._writer}
            return SeenWord(ConsentWord.unpack(row[0]) if ours else None, _head(db))

    def evidence(
        self,
        log: LogId,
        *,
        writer: bytes | None = None,
        sight: Sight = Sight.FINAL,  # noqa: ARG002 - as above
    ) -> ChainEvidence:
        """As the port says: the signed block that anchored the head."""
        with self._open() as db:
            row = db.execute(
                "SELECT size, root, number, hash, time_us, body, signature"
                " FROM anchored JOIN block ON block = number WHERE log = ?",
                (log.value,),
            ).fetchone()
        if row is None or writer not in {None, self._writer}:
            raise NotFound("anchor-absent", "nothing of this log is anchored on the local chain yet")
        size, root, *block, body, signature = row
        shown = {"block": b64encode(body).decode("ascii"), "signature": b64encode(signature).decode("ascii")}
        return ChainEvidence("local", AnchoredHead(size, Root(root), BlockRef(*block)), shown)

    def audit(self, checked: Callable[[], object] = lambda: None) -> Iterator[ChainFault]:
        """As :class:`bridge.ledger.chain.Auditable` says; memory does not grow with the chain."""
        previous: BlockRef | None = None
        while page := self._rows("block", "number", previous.number if previous else -1):
            for row in page:
                block, signature = BlockRef(*row[:3]), row[4]
                body = row[3] if isinstance(row[3], bytes) else b""  # the column takes text, too
                genuine = self._signer.sign(_DOMAIN + body) == signature  # Ed25519 has only one
                yield from _audit_block(block, body, previous, genuine=genuine)
                yield from self._overtaken(block.number, body)
                previous = block
                checked()
        for table, key in (("anchored", "log"), ("consent", "handle")):
            last = b""
            while page := self._rows(table, key, last):
                for row in page:
                    if previous is not None and row[-1] <= previous.number and not self._written(table, row):
                        yield _differs(table, row[0])
                last = page[-1][0]

    def _rows(self, table: str, key: str, after: int | bytes) -> list[Any]:
        with self._open() as db:
            query = f"SELECT * FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {_PAGE}"  # noqa: S608 - names of ours
            return db.execute(query, (after,)).fetchall()

    def _written(self, table: str, row: Sequence[Any]) -> bool:
        """Whether the block that a row of the state names says what the row says."""
        key, *values, number = row
        with self._open() as db:
            found = db.execute("SELECT body FROM block WHERE number = ?", (number,)).fetchone()
        return found is not None and _written_by(found[0])[table].get(key) == tuple(values)

    def _overtaken(self, number: int, body: bytes) -> Iterator[ChainFault]:
        """Finds what the state has forgotten: each entry of a block stands there, or a later block's does."""
        for table, entries in _written_by(body).items():
            key = "log" if table == "anchored" else "handle"
            for name in entries:
                with self._open() as db:
                    query = f"SELECT block FROM {table} WHERE {key} = ?"  # noqa: S608 - names of ours
                    row = db.execute(query, (name,)).fetchone()
                if row is None or row[0] < number:
                    yield _differs(table, name)

    def close(self) -> None:
        """As the port says."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection, alone, with SQLite's errors as ours."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
            except sqlite3.Error as error:
                raise Unavailable(
                    "chain-unreachable",
                    f"the local chain {self._path} can't be used: {error.sqlite_errorname}",
                    remedy="Check that its folder exists, has room, and may be written.",
                ) from None

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
            with _transaction(db):
                if not db.execute("SELECT 1 FROM block").fetchone():
                    self._append(db, None, [])
            self._check_last(db)
        except BaseException:
            db.close()
            raise
        return db

    def _append(self, db: sqlite3.Connection, head: BlockRef | None, entries: list[dict[str, Any]]) -> None:
        now = time.time_ns() // 1000
        block = {
            "v": 1,
            "chain": self._signer.name,
            "number": head.number + 1 if head else 0,
            "previous": head.hash.hex() if head else bytes(32).hex(),
            "time_us": max(now, head.time_us) if head else now,
            "entries": entries,
        }
        body = json.dumps(block, sort_keys=True, separators=(",", ":")).encode("ascii")
        signature = self._signer.sign(_DOMAIN + body)
        row = (block["number"], sha256(_DOMAIN + body).digest(), block["time_us"], body, signature)
        db.execute("INSERT INTO block VALUES (?, ?, ?, ?, ?)", row)

    def _check_last(self, db: sqlite3.Connection) -> None:
        """Whether the file is ours: its last block carries the signature that our key gives (Ed25519 has only one)."""
        body, signature = db.execute("SELECT body, signature FROM block ORDER BY number DESC LIMIT 1").fetchone()
        if self._signer.sign(_DOMAIN + body) != signature:
            raise Forbidden(
                "chain-mismatch",
                f"the last block of the local chain {self._path} is not signed by the configured key",
                remedy="Check the chain's path and the key; a chain never changes its key.",
            )


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _prepared(entries: list[dict[str, Any]]) -> Prepared:
    if not entries:
        raise Incorrect("submission-empty", "a submission to a chain has at least one entry")
    nonce = secrets.token_hex(16)  # two alike batches are two submissions
    raw = json.dumps({"v": 1, "nonce": nonce, "entries": entries}, separators=(",", ":")).encode("ascii")
    return Prepared(sha256(raw).digest(), raw)


def _entries(raw: bytes) -> tuple[list[Anchor], list[ConsentWrite]]:
    """What :func:`_prepared` wrote."""
    anchors: list[Anchor] = []
    writes: list[ConsentWrite] = []
    try:
        for entry in json.loads(raw)["entries"]:
            if "anchor" in entry:
                value = entry["anchor"]
                root = Root(bytes.fromhex(value["root"]))
                anchors.append(Anchor(LogId(bytes.fromhex(value["log"])), value["size"], root))
            else:
                value = entry["consent"]
                word = ConsentWord.unpack(bytes.fromhex(value["word"]))
                if word is not None:
                    writes.append(ConsentWrite(Handle(bytes.fromhex(value["handle"])), word))
    except (ValueError, KeyError, TypeError):
        raise Incorrect("submission-malformed", "the persisted bytes are no submission to a local chain") from None
    return anchors, writes


def _anchor_entry(anchor: Anchor) -> dict[str, Any]:
    return {"anchor": {"log": anchor.log.value.hex(), "size": anchor.size, "root": anchor.root.value.hex()}}


def _consent_entry(write: ConsentWrite) -> dict[str, Any]:
    return {"consent": {"handle": write.handle.value.hex(), "word": write.word.pack().hex()}}


def _stale(db: sqlite3.Connection, anchor: Anchor) -> bool:
    row = db.execute("SELECT size, root FROM anchored WHERE log = ?", (anchor.log.value,)).fetchone()
    return row is not None and (row[0] > anchor.size or (row[0] == anchor.size and row[1] != anchor.root.value))


def _take_anchor(db: sqlite3.Connection, anchor: Anchor, number: int) -> bool:
    """Moves the head; False where it stands there already, so that evidence stays with the earliest block."""
    done = db.execute(
        "INSERT INTO anchored VALUES (?, ?, ?, ?) ON CONFLICT (log) DO UPDATE SET size = excluded.size,"
        " root = excluded.root, block = excluded.block WHERE excluded.size > size",
        (anchor.log.value, anchor.size, anchor.root.value, number),
    )
    return done.rowcount == 1


def _take_consent(db: sqlite3.Connection, write: ConsentWrite, number: int) -> bool:
    """Writes the word unless the one that stands is revoked, or is not older and the new one no revocation."""
    row = db.execute("SELECT word FROM consent WHERE handle = ?", (write.handle.value,)).fetchone()
    stands = ConsentWord.unpack(row[0]) if row else None
    if stands is not None:
        if stands.status is ConsentStatus.REVOKED:
            return False
        if write.word.status is not ConsentStatus.REVOKED and write.word.version <= stands.version:
            return False
    db.execute("INSERT OR REPLACE INTO consent VALUES (?, ?, ?)", (write.handle.value, write.word.pack(), number))
    return True


def _differs(table: str, name: bytes) -> ChainFault:
    return ChainFault("chain-state-differs", "what is read is not what the blocks say", f"{table} {name.hex()}")


def _block(db: sqlite3.Connection, number: int) -> BlockRef:
    return BlockRef(*db.execute("SELECT number, hash, time_us FROM block WHERE number = ?", (number,)).fetchone())


def _head(db: sqlite3.Connection) -> BlockRef:
    return BlockRef(*db.execute("SELECT number, hash, time_us FROM block ORDER BY number DESC LIMIT 1").fetchone())


adapter = AdapterSpec("local", LocalChainSettings, open_local_chain)


def _audit_block(block: BlockRef, body: bytes, previous: BlockRef | None, *, genuine: bool) -> Iterator[ChainFault]:
    """What is wrong with one block.

    Args:
        block: the columns beside its bytes.
        body: its bytes.
        previous: the block before; None for the first.
        genuine: whether its signature is that of the chain's key.
    """
    place = f"block {block.number}"
    number = previous.number + 1 if previous else 0
    if block.number != number:
        yield ChainFault("block-missing", f"blocks {number} to {block.number - 1} are not there", place)
    if not genuine:
        yield ChainFault("block-not-signed", "its signature is not that of the chain's key", place)
    if sha256(_DOMAIN + body).digest() != block.hash:
        yield ChainFault("block-hash-differs", "the stored hash is not that of its bytes", place)
    try:
        said = json.loads(body)
        columns = (said["number"], said["time_us"])
        linked = bytes.fromhex(said["previous"]) == (previous.hash if previous else bytes(32))
        _written_by(body)
    except (ValueError, KeyError, TypeError, AttributeError):
        yield ChainFault("block-malformed", "its bytes are no block", place)
        return
    if columns != (block.number, block.time_us):
        yield ChainFault("block-differs", "number or time is not that of its bytes", place)
    if not linked:
        yield ChainFault("block-not-linked", "it does not name the hash of the block before it", place)
    if previous is not None and block.time_us < previous.time_us:
        yield ChainFault("block-earlier", "it is older than the block before it", place)


def _written_by(body: bytes) -> _Entries:
    """What a block wrote to the state: by table, by log or handle, the values; of two the later. Empty if it is no block."""
    found: _Entries = {"anchored": {}, "consent": {}}
    try:
        for entry in json.loads(body)["entries"]:
            if "anchor" in entry:
                value = entry["anchor"]
                found["anchored"][bytes.fromhex(value["log"])] = (value["size"], bytes.fromhex(value["root"]))
            else:
                value = entry["consent"]
                found["consent"][bytes.fromhex(value["handle"])] = (bytes.fromhex(value["word"]),)
    except (ValueError, KeyError, TypeError):
        return {"anchored": {}, "consent": {}}
    return found
