"""Between persist and final: what is persisted is sent until the chain has decided, and nothing is sent unpersisted."""

from __future__ import annotations

import pytest

from adapters.chains.local import LocalChain
from bridge.errors import Conflict, Unavailable
from bridge.ledger.chain import SubmissionState, SubmissionStatus
from bridge.ledger.submission import settle, submit
from tests.unit.ledger.example import CHAIN_SIGNER, LOG, anchor


class Outbox:
    def __init__(self) -> None:
        self.waiting, self.ended, self.fails = [], [], False

    def outstanding(self):
        return list(self.waiting)

    def persist(self, prepared) -> None:
        if self.fails:
            raise Unavailable("store-unreachable", "the store does not answer")
        self.waiting.append(prepared)

    def settle(self, prepared, status) -> None:
        self.waiting.remove(prepared)
        self.ended.append(status.state)


class Flaky(LocalChain):
    """A chain that can be told to be away when something is sent, or to answer a state."""

    away = False
    says: SubmissionState | None = None
    sent = 0

    def send(self, prepared) -> None:
        if self.away:
            raise Unavailable("chain-unreachable", "the chain does not answer")
        self.sent += 1
        super().send(prepared)

    def status(self, prepared):
        return SubmissionStatus(self.says) if self.says else super().status(prepared)


@pytest.fixture
def chain(tmp_path):
    chain = Flaky(tmp_path / "chain.sqlite", CHAIN_SIGNER)
    yield chain
    chain.close()


def test_a_chain_that_is_away_loses_nothing(chain) -> None:
    """Submitting while the chain is away persists; settling sends it when the chain is back, once."""
    outbox, chain.away = Outbox(), True
    prepared = submit(chain, outbox, [anchor(3)])
    assert [item.status.state for item in settle(chain, outbox)] == [SubmissionState.UNSEEN]
    chain.away = False
    settle(chain, outbox)
    settle(chain, outbox)

    assert (chain.sent, outbox.waiting, outbox.ended) == (1, [], [SubmissionState.FINAL])
    assert chain.status(prepared).state is SubmissionState.FINAL
    assert settle(chain, outbox) == []


def test_nothing_is_sent_that_was_not_persisted(chain) -> None:
    """A store that fails keeps the chain untouched."""
    outbox = Outbox()
    outbox.fails = True
    with pytest.raises(Unavailable, match="store-unreachable"):
        submit(chain, outbox, [anchor(3)])

    assert (chain.sent, chain.read_anchor(LOG)) == (0, None)


def test_a_refusal_to_prepare_persists_nothing(chain) -> None:
    """A stale anchor is a conflict before anything is written."""
    outbox = Outbox()
    submit(chain, outbox, [anchor(9)])
    with pytest.raises(Conflict, match="anchor-not-above-head"):
        submit(chain, outbox, [anchor(4)])

    assert len(outbox.waiting) == 1


@pytest.mark.parametrize("state", list(SubmissionState))
def test_only_decided_submissions_are_settled(chain, state) -> None:
    """Final, refused and lost leave the outbox; unseen is sent again; pending and included wait."""
    outbox = Outbox()
    submit(chain, outbox, [anchor(3)])
    chain.says = state
    settle(chain, outbox)

    decided = state in {SubmissionState.FINAL, SubmissionState.REFUSED, SubmissionState.LOST}
    assert outbox.ended == ([state] if decided else [])
    assert chain.sent == (2 if state is SubmissionState.UNSEEN else 1)
