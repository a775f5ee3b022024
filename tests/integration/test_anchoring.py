"""Anchoring: the newest head and every consent word reach the chain once, whatever fails on the way."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from bridge.errors import Unavailable
from bridge.keys.ed25519 import Ed25519Signer
from bridge.ledger.chain import (
    ChainBackend,
    ConsentStatus,
    Handle,
    LogId,
    PolicyTag,
    Prepared,
    Sight,
    SubmissionStatus,
)
from bridge.ledger.watermark import FileWatermark
from bridge.pipeline.anchoring import Anchorer
from bridge.pipeline.sequencer import Sequencer
from bridge.record.consents import CHAIN_DESTINATION, ConsentPayload
from bridge.store import anchors, leaves, outbox
from bridge.store.database import Database, open_database
from bridge.store.rows import AnchorState, PendingLeaf
from bridge.telemetry import metrics
from tests.contract.chain_harness import Harness, deploy, evm_harness, local_harness

ORIGIN = "log.test.example/hie"
BATCH = 4


@pytest.fixture(params=["local", pytest.param("evm", marks=pytest.mark.ci)])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    """The operator's own chain, and a real EVM node."""
    if request.param == "local":
        return local_harness(tmp_path)
    node = request.getfixturevalue("anvil")
    return evm_harness(node, tmp_path, deploy(node, tmp_path / "deploy"))


class Unreliable:
    """A backend that can be cut off before and after what it is told reaches the chain."""

    def __init__(self, backend: ChainBackend) -> None:
        self._backend = backend
        self.cut_off = False
        self.swallow_sends = False
        self.sent: list[Prepared] = []

    def __getattr__(self, name: str) -> object:
        if self.cut_off and name != "capabilities":
            raise Unavailable("chain-unreachable", "The chain does not answer.")
        return getattr(self._backend, name)

    def send(self, prepared: Prepared) -> None:
        if self.cut_off:
            raise Unavailable("chain-unreachable", "The chain does not answer.")
        self.sent.append(prepared)
        if not self.swallow_sends:
            self._backend.send(prepared)

    def status(self, prepared: Prepared) -> SubmissionStatus:
        return self.__getattr__("status")(prepared)  # type: ignore[operator, no-any-return]


@pytest.fixture
def backend(chain: Harness) -> Iterator[Unreliable]:
    """The chain through a line that can fail."""
    opened = chain.open()
    yield Unreliable(opened)
    opened.close()


@pytest.fixture
def anchorer(store_url: str, backend: Unreliable) -> Iterator[Anchorer]:
    """The service under test."""
    database = open_database(store_url)
    yield Anchorer(database, backend, ORIGIN, "one", consent_batch_words=BATCH)  # type: ignore[arg-type]
    database.close()


@pytest.fixture
def grow(store: Database, store_url: str, tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """Appends leaves, signs a checkpoint, answers the size of the log."""
    signer = Ed25519Signer(ORIGIN, bytes(32))
    own = open_database(store_url)
    sequencer = Sequencer(own, signer, FileWatermark(tmp_path / "w", ORIGIN), "s", checkpoint_interval_seconds=0)

    def append(count: int) -> int:
        with store.transaction() as txn:
            ids = leaves.new_leaf_ids(count, txn.now_us())
            rows = [PendingLeaf(i, b"\x01" + secrets.token_bytes(32), "record-version", txn.now_us()) for i in ids]
            leaves.put_pending(txn, rows)
        sequencer.step()
        with store.transaction(read_only=True) as txn:
            state = leaves.state(txn, ORIGIN)
        assert state is not None
        return state.size

    yield append
    own.close()


def word(store: Database, *, granted: bool, handle: bytes | None = None, version: int = 1) -> Handle:
    handle = handle or secrets.token_bytes(32)
    payload = ConsentPayload(handle, granted, version, None, secrets.token_bytes(PolicyTag.SIZE))
    with store.transaction() as txn:
        outbox.cancel(txn, CHAIN_DESTINATION, handle.hex())
        outbox.put(txn, [(CHAIN_DESTINATION, handle.hex(), msgspec.json.encode(payload))])
    return Handle(handle)


def settled(chain: Harness, anchorer: Anchorer) -> None:
    for _ in range(5):
        chain.settle()
        anchorer.observe()


def anchored(backend: Unreliable) -> int:
    held = backend.read_anchor(LogId.of_origin(ORIGIN), sight=Sight.FINAL)  # type: ignore[operator]
    return held.size if held else 0


def anchor_age() -> float:
    return metrics.REGISTRY.get_sample_value("hiebridge_anchor_age_seconds") or 0


def waiting(store: Database) -> int:
    with store.transaction(read_only=True) as txn:
        return sum(count.number for count in outbox.waiting(txn))


def test_one_anchor_covers_everything_before_it(
    chain: Harness, anchorer: Anchorer, backend: Unreliable, grow: Callable[[int], int], store: Database
) -> None:
    """The newest head goes out; what the chain holds already is not sent again."""
    grow(3)
    size = grow(4)

    assert anchorer.anchor() is True
    settled(chain, anchorer)
    assert anchored(backend) == size
    assert anchorer.anchor() is False
    with store.transaction(read_only=True) as txn:
        latest = anchors.latest(txn, backend.capabilities().kind, LogId.of_origin(ORIGIN).value)  # type: ignore[operator]
    assert latest is not None
    assert (latest.size, latest.state) == (size, AnchorState.FINAL)


def test_an_empty_log_is_not_anchored(anchorer: Anchorer, backend: Unreliable) -> None:
    """There is nothing to countersign."""
    assert anchorer.anchor() is False
    assert backend.sent == []


def test_hours_without_the_chain_are_repaired_by_one_anchor(
    chain: Harness, anchorer: Anchorer, backend: Unreliable, grow: Callable[[int], int]
) -> None:
    """The log goes on growing, the age of the anchor rises, and one anchor covers it all afterwards."""
    grow(2)
    backend.cut_off = True
    for _ in range(3):
        size = grow(2)
        with pytest.raises(Unavailable):
            anchorer.anchor()
    with pytest.raises(Unavailable):
        anchorer.observe()
    anchorer.measure()
    age = anchor_age()
    backend.cut_off = False

    anchorer.anchor()
    settled(chain, anchorer)
    anchorer.measure()

    assert age > 0
    assert anchored(backend) == size
    assert len(backend.sent) == 1
    assert anchor_age() == 0


def test_what_the_chain_never_saw_is_sent_again_byte_for_byte(
    chain: Harness, anchorer: Anchorer, backend: Unreliable, grow: Callable[[int], int]
) -> None:
    """A crash or a lost message between storing and sending costs a repetition, never a second submission."""
    size = grow(2)
    backend.swallow_sends = True
    anchorer.anchor()
    backend.swallow_sends = False

    settled(chain, anchorer)

    assert anchored(backend) == size
    assert len({prepared.raw for prepared in backend.sent}) == 1
    assert len(backend.sent) >= 2


def test_consent_words_go_out_in_batches_of_one_size(
    chain: Harness, anchorer: Anchorer, backend: Unreliable, store: Database
) -> None:
    """Grants and revocations arrive under their handles; the batch is filled up, so its size tells nothing."""
    grant, revocation = word(store, granted=True), word(store, granted=False)

    assert anchorer.publish_consents() == 2
    settled(chain, anchorer)

    assert backend.read_consent(grant).word.status is ConsentStatus.GRANTED  # type: ignore[operator]
    assert backend.read_consent(revocation).word.status is ConsentStatus.REVOKED  # type: ignore[operator]
    assert waiting(store) == 0
    assert len(backend.sent) == 1


def test_a_revocation_cancels_its_unsent_grant(
    anchorer: Anchorer, backend: Unreliable, chain: Harness, store: Database
) -> None:
    """The grant never reaches the chain."""
    handle = word(store, granted=True)
    word(store, granted=False, handle=handle.value, version=2)

    assert anchorer.publish_consents() == 1
    settled(chain, anchorer)

    assert backend.read_consent(handle).word.status is ConsentStatus.REVOKED  # type: ignore[operator]


def test_a_revocation_after_a_sent_grant_wins_for_good(
    anchorer: Anchorer, backend: Unreliable, chain: Harness, store: Database
) -> None:
    """Also when both are on their way at the same time."""
    handle = word(store, granted=True)
    anchorer.publish_consents()
    word(store, granted=False, handle=handle.value, version=2)
    anchorer.publish_consents()
    settled(chain, anchorer)

    assert backend.read_consent(handle).word.status is ConsentStatus.REVOKED  # type: ignore[operator]
    assert waiting(store) == 0


def test_words_wait_while_the_chain_is_away(
    anchorer: Anchorer, backend: Unreliable, chain: Harness, store: Database
) -> None:
    """None is lost, none is doubled."""
    handles = [word(store, granted=True) for _ in range(BATCH + 1)]
    backend.cut_off = True
    with pytest.raises(Unavailable):
        anchorer.publish_consents()
    backend.cut_off = False

    assert [anchorer.publish_consents() for _ in range(3)] == [BATCH, 1, 0]
    settled(chain, anchorer)

    assert all(backend.read_consent(handle).word is not None for handle in handles)  # type: ignore[operator]
    assert waiting(store) == 0


def test_two_services_do_not_race(
    store_url: str, anchorer: Anchorer, backend: Unreliable, grow: Callable[[int], int]
) -> None:
    """One holds the lease; the other does nothing."""
    grow(1)
    anchorer.anchor()
    grow(1)
    other = open_database(store_url)

    assert Anchorer(other, backend, ORIGIN, "two").anchor() is False  # type: ignore[arg-type]
    other.close()
