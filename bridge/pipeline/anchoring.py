"""Anchoring: the newest signed head, and consent words, on their way to the chain.

At fixed times in fixed-size batches, so that traffic tells nothing. Everything is prepared, stored, then sent, and what became
of it is read from the chain; so a crash, a chain that is down for hours or a lost transaction costs time and nothing else. One
anchor covers everything before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from bridge.errors import BridgeError, Conflict, Forbidden
from bridge.ledger.chain import (
    Anchor,
    ChainBackend,
    ConsentWord,
    ConsentWrite,
    Handle,
    LogId,
    PolicyTag,
    Prepared,
    Root,
    SubmissionState,
    SubmissionStatus,
)
from bridge.ledger.submission import Settlement, settle, submit
from bridge.record.consents import CHAIN_DESTINATION, ConsentPayload
from bridge.store import anchors, leases, leaves, outbox
from bridge.store.database import Database
from bridge.store.partitions import ensure_partitions
from bridge.store.rows import AnchorRow, AnchorState, Lease, OutboxRow
from bridge.telemetry import metrics
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

_PARTITIONS_SECONDS: Final = 24 * 3600.0
_PARTITIONS_RETRY_SECONDS: Final = 60.0

_STATES = {
    SubmissionState.UNSEEN: AnchorState.SENT,
    SubmissionState.PENDING: AnchorState.SENT,
    SubmissionState.INCLUDED: AnchorState.INCLUDED,
    SubmissionState.FINAL: AnchorState.FINAL,
    SubmissionState.REFUSED: AnchorState.LOST,
    SubmissionState.LOST: AnchorState.LOST,
}


class AnchorOutbox:
    """:class:`bridge.ledger.submission.SubmissionOutbox` over the table ``anchor``, for one anchor at a time."""

    def __init__(self, database: Database, backend: str, anchor: Anchor | None = None) -> None:
        self._database = database
        self._backend = backend
        self._anchor = anchor

    def outstanding(self) -> Sequence[Prepared]:
        """Anchors that are neither final nor lost, oldest first."""
        with self._database.transaction(read_only=True) as txn:
            rows = anchors.unsettled(txn, self._backend)
        return [Prepared(row.transaction_id or b"", row.prepared) for row in rows]

    def persist(self, prepared: Prepared) -> None:
        """Stores the signed bytes of the anchor."""
        assert self._anchor is not None
        anchor = self._anchor
        with self._database.transaction() as txn:
            now_us = txn.now_us()
            [key] = txn.allocate("anchor", 1)
            anchors.write(
                txn,
                AnchorRow(
                    key,
                    self._backend,
                    anchor.log.value,
                    anchor.size,
                    anchor.root.value,
                    AnchorState.PREPARED,
                    prepared.raw,
                    prepared.id,
                    None,
                    None,
                    now_us,
                    now_us,
                ),
            )

    def settle(self, prepared: Prepared, status: SubmissionStatus) -> None:
        """Notes what the chain said."""
        block = status.block
        with self._database.transaction() as txn:
            for row in anchors.unsettled(txn, self._backend):
                if row.transaction_id == prepared.id:
                    settled = row._replace(
                        state=_STATES[status.state],
                        block_number=block.number if block else None,
                        block_hash=block.hash if block else None,
                        updated_us=txn.now_us(),
                    )
                    anchors.write(txn, settled)


class ConsentOutbox:
    """:class:`bridge.ledger.submission.SubmissionOutbox` over outbox rows that carry their prepared transaction."""

    def __init__(self, database: Database, rows: Sequence[OutboxRow] = ()) -> None:
        self._database = database
        self._rows = rows

    def outstanding(self) -> Sequence[Prepared]:
        """Prepared batches that are not final, oldest first."""
        with self._database.transaction(read_only=True) as txn:
            sending = outbox.sending(txn, CHAIN_DESTINATION)
        return [Prepared(raw[:32], raw[32:]) for raw in sending]

    def persist(self, prepared: Prepared) -> None:
        """Stores the signed bytes with every word of the batch."""
        with self._database.transaction() as txn:
            outbox.mark_sending(txn, [row.outbox_key for row in self._rows], prepared.id + prepared.raw)

    def settle(self, prepared: Prepared, status: SubmissionStatus) -> None:
        """Deletes the words that are final; those of a refused or lost batch wait again."""
        with self._database.transaction() as txn:
            if status.state is SubmissionState.FINAL:
                outbox.sent(txn, CHAIN_DESTINATION, prepared.id + prepared.raw)
            else:
                outbox.not_sent(txn, CHAIN_DESTINATION, prepared.id + prepared.raw)


class Anchorer:
    """Sends anchors and consent words at their times, and keeps the store's partitions; one process at a time, by lease.

    Args:
        database: the store, used by this role alone.
        backend: the chain.
        origin: of the log.
        holder: name of this process in the lease.
        anchor_interval_seconds, consent_interval_seconds: time between two anchors, two batches of words.
        consent_batch_words: words in a batch; a batch is filled up with words under random handles.
    """

    def __init__(
        self,
        database: Database,
        backend: ChainBackend,
        origin: str,
        holder: str,
        *,
        anchor_interval_seconds: float = 60.0,
        consent_interval_seconds: float = 5.0,
        consent_batch_words: int = 16,
        lease_seconds: float = 10.0,
    ) -> None:
        self._database = database
        self._backend = backend
        self._log_id = LogId.of_origin(origin)
        self._origin = origin
        self._holder = holder
        self._anchor_interval = anchor_interval_seconds
        self._consent_interval = consent_interval_seconds
        self._batch_words = consent_batch_words
        self._lease_us = int(lease_seconds * 1e6)
        self._kind = backend.capabilities().kind
        self._lease: Lease | None = None
        self._renew_at = 0.0  # by the monotonic clock: the wall clocks here and at the database may differ, and be set
        self._partitions_at = 0.0  # by the monotonic clock
        self._held_size: int | None = None  # of the head on chain; None until the chain or the store has told

    def run(self, stop: Stop) -> None:
        """Works until ``stop`` is set."""
        next_anchor = next_consent = 0.0
        while not stop.is_set:
            now = time.monotonic()
            due: list[Callable[[], object]] = []
            if now >= next_anchor:
                due.append(self.anchor)
                next_anchor = now + self._anchor_interval
            if now >= next_consent:
                due.append(self.publish_consents)
                next_consent = now + self._consent_interval
            for act in (self.keep_partitions, *due, self.observe, self.measure):
                if stop.wait(0):
                    break  # a chain that does not answer takes its time to say so at every question
                self._try(act)
            stop.wait(min(1.0, self._anchor_interval, self._consent_interval))
        if self._lease is not None:
            self._try(self._release)

    def anchor(self) -> bool:
        """Anchors the newest checkpoint if the chain has an older head; answers whether it sent one."""
        if not self._hold_lease():
            return False
        self._settle_anchors()
        with self._database.transaction(read_only=True) as txn:
            newest = leaves.latest_checkpoint(txn, self._origin)
            waiting = anchors.unsettled(txn, self._kind)
        if newest is None or newest.size == 0 or any(row.size >= newest.size for row in waiting):
            return False
        held = self._backend.read_anchor(self._log_id)
        if held is not None and held.size >= newest.size:
            return False
        anchor = Anchor(self._log_id, newest.size, Root(newest.root))
        submit(self._backend, AnchorOutbox(self._database, self._kind, anchor), [anchor])
        _log.info("anchor-sent", size=newest.size, backend=self._kind)
        self._settle_anchors()
        return True

    def publish_consents(self) -> int:
        """Sends one batch of waiting consent words; answers how many real ones were in it."""
        if not self._hold_lease():
            return 0
        self._settle_consents()
        with self._database.transaction(read_only=True) as txn:
            rows = outbox.unsent(txn, CHAIN_DESTINATION, self._batch_words)
        if not rows:
            return 0
        writes = [_write(row) for row in rows]
        writes += [_filler() for _ in range(self._batch_words - len(writes))]
        submit(self._backend, ConsentOutbox(self._database, rows), writes)
        _log.info("consent-words-sent", words=self._batch_words, backend=self._kind)
        self._settle_consents()
        return len(rows)

    def observe(self) -> None:
        """Settles what the chain has decided, and learns which head it holds."""
        if not self._hold_lease():
            return
        self._settle_anchors()
        self._settle_consents()
        metrics.mark(metrics.CHAIN_HEAD_AGE, self._backend.head().time_us)
        held = self._backend.read_anchor(self._log_id)
        self._held_size = held.size if held else 0

    def measure(self) -> None:
        """Brings the metrics up to date by the store alone, so that ages rise while the chain does not answer."""
        if not self._hold_lease():
            metrics.ANCHOR_AGE.set_function(lambda: math.nan)  # whoever holds the lease knows
            return
        with self._database.transaction(read_only=True) as txn:
            if self._held_size is None:
                known = anchors.held(txn, self._kind, self._log_id.value)
                self._held_size = known.size if known else 0
            uncovered = leaves.checkpoint_covering(txn, self._origin, self._held_size + 1)
            counts = {count.destination: count.number for count in outbox.waiting(txn)}
        metrics.OUTBOX_WAITING.labels(CHAIN_DESTINATION).set(counts.get(CHAIN_DESTINATION, 0))
        if uncovered is None:
            metrics.ANCHOR_AGE.set_function(lambda: 0.0)
        else:
            metrics.mark(metrics.ANCHOR_AGE, uncovered.signed_us)

    def keep_partitions(self) -> None:
        """Makes the store's partitions of the months to come, daily; rows of a month without one still find a place."""
        if time.monotonic() < self._partitions_at or not self._hold_lease():
            return
        self._partitions_at = time.monotonic() + _PARTITIONS_RETRY_SECONDS
        try:
            with self._database.transaction() as txn:
                made = ensure_partitions(txn)
        except BridgeError as error:
            _log.warning("partitions-not-made", code=error.code, remedy=error.remedy)
            return
        self._partitions_at = time.monotonic() + _PARTITIONS_SECONDS
        if made:
            _log.info("partitions-made", partitions=made)

    def _settle_anchors(self) -> list[Settlement]:
        return settle(self._backend, AnchorOutbox(self._database, self._kind))

    def _settle_consents(self) -> list[Settlement]:
        return settle(self._backend, ConsentOutbox(self._database))

    def _hold_lease(self) -> bool:
        now = time.monotonic()
        if self._lease is not None and now < self._renew_at:
            return True
        with self._database.transaction() as txn:
            self._lease = leases.acquire(txn, f"anchor:{self._origin}", self._holder, self._lease_us)
        self._renew_at = now + self._lease_us / 2e6
        return self._lease is not None

    def _release(self) -> None:
        assert self._lease is not None
        with self._database.transaction() as txn:
            leases.release(txn, self._lease)

    @staticmethod
    def _try(act: Callable[[], object]) -> None:
        try:
            act()
        except (Conflict, Forbidden) as error:
            _log.error("anchoring-stopped", code=error.code, remedy=error.remedy)
        except BridgeError as error:
            if not error.transient:
                raise
            _log.warning("chain-waits", code=error.code)


def _write(row: OutboxRow) -> ConsentWrite:
    payload = msgspec.json.decode(row.payload, type=ConsentPayload)
    tag = PolicyTag(payload.tag)
    if payload.granted:
        return ConsentWrite(Handle(payload.handle), ConsentWord.granted(payload.version, payload.not_after_us, tag))
    return ConsentWrite(Handle(payload.handle), ConsentWord.revoked(payload.version, tag))


def _filler() -> ConsentWrite:
    """A word under a handle that names nothing, alike to any other from outside."""
    return ConsentWrite(Handle.random(), ConsentWord.revoked(1, PolicyTag(Handle.random().value[: PolicyTag.SIZE])))
