"""What every chain backend promises: heads never fall, revoked is absorbing, twice is once, truth is chain state."""

from __future__ import annotations

import secrets

import pytest

from bridge.config.adapters import CHAINS, adapter_names
from bridge.errors import Conflict, Incorrect, NotFound
from bridge.ledger.chain import (
    Anchor,
    ConsentStatus,
    ConsentWord,
    ConsentWrite,
    Handle,
    LogId,
    PolicyTag,
    Prepared,
    Root,
    Sight,
    SubmissionState,
)
from bridge.ledger.submission import settle, submit
from tests.contract.chain_harness import deploy, evm_harness, local_harness

BACKENDS = ["local", pytest.param("evm", marks=pytest.mark.ci)]
LOG = LogId.of_origin("example.org/log")
TAG = PolicyTag(bytes(range(16)))


@pytest.fixture(scope="module")
def contract(request, tmp_path_factory):
    """Address of one contract for the whole module; deployed when the first test on an EVM asks."""
    return deploy(request.getfixturevalue("anvil"), tmp_path_factory.mktemp("deployer"))


@pytest.fixture(params=BACKENDS)
def harness(request, tmp_path):
    if request.param == "local":
        return local_harness(tmp_path)
    return evm_harness(request.getfixturevalue("anvil"), tmp_path, request.getfixturevalue("contract"))


@pytest.fixture
def backend(harness):
    backend = harness.open()
    yield backend
    backend.close()


class MemoryOutbox:
    """The outbox that the store keeps durably."""

    def __init__(self) -> None:
        self.waiting: list[Prepared] = []
        self.settled: dict[bytes, SubmissionState] = {}

    def outstanding(self) -> list[Prepared]:
        return list(self.waiting)

    def persist(self, prepared) -> None:
        self.waiting.append(prepared)

    def settle(self, prepared, status) -> None:
        self.waiting.remove(prepared)
        self.settled[prepared.id] = status.state


def anchor(size: int, seed: int = 0, log: LogId = LOG) -> Anchor:
    return Anchor(log, size, Root(bytes([seed]) * 32))


def grant(handle: Handle, version: int = 1) -> ConsentWrite:
    return ConsentWrite(handle, ConsentWord.granted(version, None, TAG))


def revoke(handle: Handle, version: int = 2) -> ConsentWrite:
    return ConsentWrite(handle, ConsentWord.revoked(version, TAG))


def done(harness, backend, *prepared: Prepared) -> list[SubmissionState]:
    """Sends what was prepared and answers how it ended."""
    for item in prepared:
        backend.send(item)
    harness.settle()
    return [backend.status(item).state for item in prepared]


def write(harness, backend, *writes: ConsentWrite) -> None:
    assert done(harness, backend, backend.prepare_consents(writes, [])) == [SubmissionState.FINAL]


def stands(backend, handle: Handle) -> ConsentWord | None:
    return backend.read_consent(handle, sight=Sight.FINAL).word


def test_every_registered_backend_is_tested() -> None:
    """A backend that is installed by entry point has a harness here."""
    assert set(adapter_names(CHAINS)) <= {"local", "evm"}


def test_an_anchor_becomes_final_and_is_read_back(harness, backend) -> None:
    """What was anchored is what the chain answers, in a block that the status names, seen at a head no older."""
    prepared = backend.prepare_anchors([anchor(7, 1)], [])
    assert done(harness, backend, prepared) == [SubmissionState.FINAL]

    found = backend.read_anchor(LOG, sight=Sight.FINAL)
    assert (found.size, found.root) == (7, Root(b"\1" * 32))
    assert backend.status(prepared).block.number <= found.seen.number <= backend.head().number
    assert backend.head(Sight.FINAL).number <= backend.head().number


def test_nothing_happens_before_it_is_sent(harness, backend) -> None:
    """Preparing signs and sends nothing."""
    prepared = backend.prepare_anchors([anchor(7)], [])
    harness.settle()

    assert backend.status(prepared).state is SubmissionState.UNSEEN
    assert backend.read_anchor(LOG) is None


def test_sending_twice_is_sending_once(harness, backend) -> None:
    """The same bytes sent again, before and after inclusion and by another process, change nothing."""
    prepared = backend.prepare_consents([grant(Handle.random())], [])
    backend.send(prepared)
    backend.send(prepared)
    harness.settle()
    block = backend.status(prepared).block
    again = harness.open()
    again.send(prepared)
    harness.settle()

    assert again.status(prepared).state is SubmissionState.FINAL
    assert again.status(prepared).block == block
    again.close()


def test_a_crash_between_persist_and_send_loses_nothing(harness, backend) -> None:
    """Another process finds the persisted bytes, sends them, and finds them final; once."""
    outbox = MemoryOutbox()
    outbox.persist(backend.prepare_anchors([anchor(3, 3)], []))
    backend.close()
    after = harness.open()
    first = settle(after, outbox)
    harness.settle()
    settle(after, outbox)

    assert [item.status.state for item in first] == [SubmissionState.UNSEEN]
    assert (outbox.waiting, list(outbox.settled.values())) == ([], [SubmissionState.FINAL])
    assert after.read_anchor(LOG, sight=Sight.FINAL).size == 3
    after.close()


def test_several_outstanding_submissions_all_arrive(harness, backend) -> None:
    """Preparing while others are under way takes no one's place."""
    outbox, handles = MemoryOutbox(), [Handle.random() for _ in range(3)]
    submit(backend, outbox, [anchor(1, 1)])
    for handle in handles:
        submit(backend, outbox, [grant(handle)])
    submit(backend, outbox, [anchor(2, 2)])
    harness.settle()
    settle(backend, outbox)

    assert list(outbox.settled.values()) == [SubmissionState.FINAL] * 5
    assert backend.read_anchor(LOG, sight=Sight.FINAL).size == 2
    assert all(stands(backend, handle) == grant(handle).word for handle in handles)


def test_a_head_never_falls(harness, backend) -> None:
    """A smaller head, or this size with another root, is neither prepared nor, if already under way, obeyed."""
    late = [backend.prepare_anchors([anchor(20, 1)], [])]
    late.append(backend.prepare_anchors([anchor(10, 1)], late))
    late.append(backend.prepare_anchors([anchor(20, 2)], late))

    assert done(harness, backend, *late) == [SubmissionState.FINAL, SubmissionState.REFUSED, SubmissionState.REFUSED]
    assert backend.read_anchor(LOG, sight=Sight.FINAL).root == Root(b"\1" * 32)
    for other in (anchor(19, 1), anchor(20, 2)):
        with pytest.raises(Conflict, match="anchor-not-above-head"):
            backend.prepare_anchors([other], [])
    assert done(harness, backend, backend.prepare_anchors([anchor(20, 1)], [])) == [SubmissionState.FINAL]


def test_logs_are_anchored_apart_and_together(harness, backend) -> None:
    """One submission anchors several logs; each keeps its own head; one stale head refuses all of its submission."""
    logs = [LogId(secrets.token_bytes(32)) for _ in range(3)]
    assert done(
        harness, backend, backend.prepare_anchors([anchor(5 + n, n, log) for n, log in enumerate(logs)], [])
    ) == [SubmissionState.FINAL]
    under_way = [backend.prepare_anchors([anchor(50, 1, logs[0])], [])]
    under_way.append(backend.prepare_anchors([anchor(60, 1, logs[1]), anchor(40, 1, logs[0])], under_way))
    assert done(harness, backend, *under_way) == [SubmissionState.FINAL, SubmissionState.REFUSED]

    assert [backend.read_anchor(log, sight=Sight.FINAL).size for log in logs] == [50, 6, 7]


def test_consent_words_follow_their_versions(harness, backend) -> None:
    """A newer word replaces an older one; an older or equal one has no effect."""
    handle = Handle.random()
    write(harness, backend, grant(handle, 3))
    write(harness, backend, grant(handle, 2))
    write(harness, backend, ConsentWrite(handle, ConsentWord.granted(3, 10**15, TAG)))
    assert stands(backend, handle) == grant(handle, 3).word

    write(harness, backend, grant(handle, 4))
    assert stands(backend, handle) == grant(handle, 4).word


def test_revoked_is_absorbing(harness, backend) -> None:
    """A revocation needs no version above the grant's, and no later word changes the handle."""
    handle = Handle.random()
    write(harness, backend, grant(handle, 9))
    write(harness, backend, revoke(handle, 1))
    write(harness, backend, grant(handle, 10))
    write(harness, backend, revoke(handle, 11))

    assert stands(backend, handle) == revoke(handle, 1).word


def test_a_revocation_before_its_grant_holds(harness, backend) -> None:
    """A revocation of an empty slot succeeds, and the grant that arrives late, even in one batch, changes nothing."""
    handle, other = Handle.random(), Handle.random()
    write(harness, backend, revoke(handle))
    write(harness, backend, grant(handle, 5), revoke(other), grant(other, 7))

    assert stands(backend, handle).status is ConsentStatus.REVOKED
    assert stands(backend, other).status is ConsentStatus.REVOKED


def test_a_barred_word_holds_up_no_other(harness, backend) -> None:
    """Words without effect leave the rest of their batch alone."""
    barred, others = Handle.random(), [Handle.random() for _ in range(4)]
    write(harness, backend, revoke(barred))
    write(harness, backend, grant(others[0]), grant(barred, 9), *map(grant, others[1:]))

    assert all(stands(backend, handle) == grant(handle).word for handle in others)


def test_what_nobody_wrote_is_absent(harness, backend) -> None:
    """Unknown logs, handles and writers have nothing, and nothing is not a grant."""
    handle = Handle.random()
    write(harness, backend, grant(handle))
    stranger = bytes(len(backend.capabilities().consent_writer))
    stranger = stranger[:-1] + b"\1"

    assert backend.read_consent(Handle.random()).word is None
    assert backend.read_consent(handle, writer=stranger).word is None
    assert backend.read_consent(handle, writer=backend.capabilities().consent_writer).word == grant(handle).word
    assert backend.read_anchor(LogId(secrets.token_bytes(32))) is None
    assert backend.read_anchor(LOG, writer=stranger) is None
    with pytest.raises(NotFound, match="anchor-absent"):
        backend.evidence(LogId(secrets.token_bytes(32)))


def test_evidence_is_about_the_anchored_head(harness, backend) -> None:
    """Evidence names its kind and a block that is there."""
    done(harness, backend, backend.prepare_anchors([anchor(7, 1)], []))
    evidence = backend.evidence(LOG)

    assert evidence.kind == backend.capabilities().kind
    assert evidence.block.number <= backend.head(Sight.FINAL).number


def test_empty_submissions_are_refused(backend) -> None:
    """A submission of nothing is a mistake of the caller's."""
    with pytest.raises(Incorrect, match="submission-empty"):
        backend.prepare_anchors([], [])
    with pytest.raises(Incorrect, match="submission-empty"):
        backend.prepare_consents([], [])


def test_bytes_that_are_no_submission_are_refused(backend) -> None:
    """Damaged outbox rows are named, not sent."""
    backend.head()
    with pytest.raises(Incorrect, match="submission-malformed"):
        backend.send(Prepared(bytes(32), b"\x02nonsense"))


def test_alike_batches_are_two_submissions(backend) -> None:
    """Two batches of the same content have ids of their own."""
    first = backend.prepare_anchors([anchor(1)], [])

    assert backend.prepare_anchors([anchor(1)], [first]).id != first.id
