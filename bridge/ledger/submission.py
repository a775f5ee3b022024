"""Sending to a chain so that a crash at any point loses nothing and doubles nothing.

The signed bytes are durable before anyone outside sees them; after a crash the same bytes go out again, and what became
of them is read from the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.errors import Unavailable
from bridge.ledger.chain import Anchor, ChainBackend, ConsentWrite, Prepared, SubmissionState, SubmissionStatus
from bridge.telemetry.failpoints import failpoint


class SubmissionOutbox(Protocol):
    """Durable memory of what was prepared and is not final."""

    def outstanding(self) -> Sequence[Prepared]:
        """All that was persisted and not yet settled, oldest first."""
        ...

    def persist(self, prepared: Prepared) -> None:
        """Keeps ``prepared``; durable on return."""
        ...

    def settle(self, prepared: Prepared, status: SubmissionStatus) -> None:
        """Forgets ``prepared``: it is final (mark its batch done), or refused or lost (its batch waits again).

        The raw bytes of a final one may be kept for inspection; they are no longer outstanding.
        """
        ...


@dataclass(frozen=True, slots=True)
class Settlement:
    """What :func:`settle` found for one outstanding submission."""

    prepared: Prepared
    status: SubmissionStatus


def submit(
    backend: ChainBackend, outbox: SubmissionOutbox, batch: Sequence[Anchor] | Sequence[ConsentWrite]
) -> Prepared:
    """Prepares, persists and sends a batch of anchors or of consent words (not both, at least one).

    Answers what was persisted. A chain that does not answer after that is no error: :func:`settle` sends again.

    Raises:
        Conflict, Busy, Unavailable, Forbidden: from preparing; nothing was persisted or sent.
    """
    outstanding = outbox.outstanding()
    anchors = [item for item in batch if isinstance(item, Anchor)]
    consents = [item for item in batch if isinstance(item, ConsentWrite)]
    prepared = (
        backend.prepare_anchors(anchors, outstanding) if anchors else backend.prepare_consents(consents, outstanding)
    )
    failpoint("anchor.before-persist")
    outbox.persist(prepared)
    failpoint("anchor.after-persist")
    _send(backend, prepared)
    return prepared


def settle(backend: ChainBackend, outbox: SubmissionOutbox) -> list[Settlement]:
    """Asks the chain about everything outstanding: sends again what it does not know, settles what is decided.

    Call it at the start and then regularly. Answers one entry per outstanding submission, oldest first.

    Raises:
        Unavailable, Forbidden: the chain can't be asked; nothing was settled that it had not answered for.
    """
    found: list[Settlement] = []
    for prepared in outbox.outstanding():
        status = backend.status(prepared)
        if status.state is SubmissionState.UNSEEN:
            _send(backend, prepared)
        elif status.state in {SubmissionState.FINAL, SubmissionState.REFUSED, SubmissionState.LOST}:
            outbox.settle(prepared, status)
            failpoint("anchor.after-acknowledge")
        found.append(Settlement(prepared, status))
    return found


def _send(backend: ChainBackend, prepared: Prepared) -> None:
    try:
        backend.send(prepared)
    except Unavailable:
        return  # persisted already: it is sent again when the chain answers
    failpoint("anchor.after-send")
