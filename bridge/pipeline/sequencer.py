"""The sequencer: numbers pending leaves into the log and signs its committed heads (law *Sequencer*).

One process at a time, by lease; every transaction checks the lease's epoch, so that a holder that was stopped past its lease
changes nothing when it wakes. Numbering and signing are two transactions: a head is signed only once it is committed, so a
crash in between costs a signature that is made again, never a signed head that the database does not hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from bridge.errors import BridgeError, Forbidden
from bridge.keys.ports import Signer
from bridge.ledger.checkpoint import sign_checkpoint
from bridge.ledger.merkle import CompactRange, TreeHead, TreeReader, hash_leaf
from bridge.ledger.watermark import Watermark
from bridge.store import alarms, leases, leaves
from bridge.store.database import Database, Transaction
from bridge.store.rows import CheckpointRow, Lease, LogLeaf, LogState
from bridge.telemetry import metrics
from bridge.telemetry.failpoints import failpoint
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

SIGNING_ALARM = "log-signing-stopped"
_ALARMED_PAUSE_SECONDS = 5.0


class Sequencer:
    """Numbers, commits, signs. See :meth:`run`.

    Args:
        database: the store, used by this role alone.
        signer: the log's key; its name is the origin.
        watermark: the signer's memory, outside the database.
        holder: name of this process in the lease.
        sequence_interval_seconds: pause between two rounds of numbering.
        checkpoint_interval_seconds: least time between two checkpoints.
        lease_seconds: silent for longer, another process may take over.
    """

    def __init__(
        self,
        database: Database,
        signer: Signer,
        watermark: Watermark,
        holder: str,
        *,
        sequence_interval_seconds: float = 0.2,
        checkpoint_interval_seconds: float = 1.0,
        lease_seconds: float = 10.0,
    ) -> None:
        self._database = database
        self._signer = signer
        self._origin = signer.name
        self._watermark = watermark
        self._holder = holder
        self._sequence_interval = sequence_interval_seconds
        self._checkpoint_interval = checkpoint_interval_seconds
        self._lease_us = int(lease_seconds * 1e6)
        self._lease_name = f"sequencer:{self._origin}"
        self._lease: Lease | None = None
        self._renew_at = 0.0  # by the monotonic clock: the wall clocks here and at the database may differ, and be set
        self._signed_at = 0.0
        self._started = False
        self._alarmed: str | None = None  # None: what the store says is not known yet

    def run(self, stop: Stop) -> None:
        """Sequences until ``stop`` is set, then signs what is numbered and gives the lease back."""
        while not stop.wait(self._sequence_interval):
            self._round(stop)
        self._signed_at = 0.0
        self._round(stop)
        self._release()

    def step(self) -> None:
        """One round: take or renew the lease, number what is pending, sign if a checkpoint is due.

        Raises:
            Forbidden: the watermark forbids signing (``head-behind-watermark`` and the like).
            Unavailable, Conflict: try again.
        """
        if not self._hold_lease():
            return
        started = time.perf_counter()
        numbered = self._number()
        if numbered:
            metrics.STAGE_SECONDS.labels(metrics.Stage.SEQUENCE).observe((time.perf_counter() - started) / numbered)
        if time.monotonic() - self._signed_at >= self._checkpoint_interval:
            self._sign()
        if numbered:
            _log.debug("leaves-numbered", leaves=numbered)

    def _round(self, stop: Stop) -> None:
        try:
            self.step()
            self._alarm(None)
        except Forbidden as error:
            self._alarm(error)
            stop.wait(min(_ALARMED_PAUSE_SECONDS, self._lease_us / 2e6))
        except BridgeError as error:
            if not error.transient:
                raise
            _log.warning("sequencer-waits", code=error.code)

    def _hold_lease(self) -> bool:
        now = time.monotonic()
        if self._lease is not None and now < self._renew_at:
            return True  # every transaction checks it anyway; renewing it costs a commit
        with self._database.transaction() as txn:
            self._lease = leases.acquire(txn, self._lease_name, self._holder, self._lease_us)
        self._renew_at = now + self._lease_us / 2e6
        return self._lease is not None

    def _release(self) -> None:
        if self._lease is None:
            return
        try:
            with self._database.transaction() as txn:
                leases.release(txn, self._lease)
        except BridgeError as error:
            _log.info("lease-not-released", code=error.code)

    def _fence(self, txn: Transaction) -> bool:
        """Whether the lease is still ours, holding it against others to the end of the transaction."""
        if self._lease is not None and not leases.check(txn, self._lease):
            self._lease = None  # taken: ask for it anew
        return self._lease is not None

    def _number(self) -> int:
        with self._database.transaction() as txn:
            if not self._fence(txn):
                return 0
            state = leaves.state(txn, self._origin)
            tree = CompactRange.from_bytes(state.compact_range) if state else CompactRange()
            if not self._started:
                self._watermark.start(tree.head())
                self._started = True
            pending = leaves.take_pending(txn)
            if not pending and state is not None:
                return 0
            first = tree.size
            hashes = [hash_leaf(leaf.leaf) for leaf in pending]
            completed = tree.extend(hashes)
            leaves.append(
                txn,
                [
                    LogLeaf(self._origin, first + number, leaf.leaf_id, leaf.leaf, leaf_hash)
                    for number, (leaf, leaf_hash) in enumerate(zip(pending, hashes, strict=True))
                ],
            )
            leaves.write_subtrees(txn, self._origin, [(node.level, node.index, node.hash) for node in completed])
            assert self._lease is not None
            leaves.set_state(txn, LogState(self._origin, tree.size, tree.root(), tree.to_bytes(), self._lease.epoch))
            failpoint("sequencer.before-commit")
        failpoint("sequencer.after-commit")
        metrics.LOG_LEAVES.set(tree.size)
        return len(pending)

    def _sign(self) -> None:
        with self._database.transaction() as txn:
            if not self._fence(txn):
                return
            state = leaves.state(txn, self._origin)
            if state is None or state.size == 0:
                return
            newest = leaves.latest_checkpoint(txn, self._origin)
            head = TreeHead(state.size, state.root)
            if newest is not None and (newest.size, newest.root) == (head.size, head.root):
                self._watermark.advance(head, lambda _old, _new: ())
                metrics.CHECKPOINT_AGE.set_function(_age_of(newest.signed_us))
                return
            reader = tree_reader(txn, self._origin)
            failpoint("sequencer.before-sign")
            self._watermark.advance(head, reader.consistency)
            note = sign_checkpoint(self._origin, head, self._signer)
            failpoint("sequencer.after-sign")
            now_us = txn.now_us()
            leaves.put_checkpoint(txn, CheckpointRow(self._origin, head.size, head.root, note, now_us))
        failpoint("sequencer.after-publish")
        self._signed_at = time.monotonic()
        metrics.CHECKPOINT_AGE.set_function(_age_of(now_us))

    def _alarm(self, error: BridgeError | None) -> None:
        code = error.code if error is not None else ""
        if code == self._alarmed:
            return
        try:
            with self._database.transaction() as txn:
                if error is None:
                    alarms.clear(txn, SIGNING_ALARM, self._origin)
                else:
                    alarms.raise_alarm(txn, SIGNING_ALARM, self._origin, f"{error.code}: {error.remedy}")
                    _log.error("log-signing-stopped", code=error.code, remedy=error.remedy)
        except BridgeError as failed:
            _log.warning("alarm-not-stored", code=failed.code)
            return
        self._alarmed = code
        metrics.ALARMS.labels(SIGNING_ALARM).set(0 if error is None else 1)


def tree_reader(txn: Transaction, origin: str) -> TreeReader:
    """Proofs from the stored log, as long as ``txn`` lasts."""

    def read(level: int, first: int, count: int) -> list[bytes]:
        if level == 0:
            return leaves.leaf_hashes(txn, origin, first, first + count)
        found = leaves.subtrees(txn, origin, [(level, index) for index in range(first, first + count)])
        return [found[level, index] for index in range(first, first + count) if (level, index) in found]

    return TreeReader(read)


def _age_of(signed_us: int) -> Callable[[], float]:
    return lambda: max(0.0, time.time() - signed_us / 1e6)
