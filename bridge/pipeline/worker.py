"""The worker of one source: pulls, prepares, stores, and moves the position with its effects (law *Position*)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import structlog

from bridge.errors import BridgeError
from bridge.pipeline.batch import Batcher, Item, PartitionLost, Place, Verdict, counts_of
from bridge.pipeline.ports import Fetched, Partition, PositionOutOfRange, Source
from bridge.pipeline.prepare import Preparer
from bridge.store import alarms, positions, source_control
from bridge.store.database import Database
from bridge.telemetry import metrics
from bridge.telemetry.failpoints import failpoint
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

GAP_ALARM = "position-out-of-range"
_POLL_SECONDS = 0.2
_COMMIT_INTERVAL_SECONDS = 1.0
_CONTROL_INTERVAL_SECONDS = 1.0
_REOPEN_SECONDS = 2.0


class SourceWorker:
    """Works one source off on one thread, with one database connection.

    Correctness rests on the row of the position alone: a worker that was paused, cut off or replaced finds another epoch
    there and commits nothing. Offsets committed to the broker are for lag tools.
    """

    def __init__(
        self, source: Source, preparer: Preparer, batcher: Batcher, database: Database, batch_messages: int = 100
    ) -> None:
        self._source = source
        self._preparer = preparer
        self._batcher = batcher
        self._database = database
        self._batch_messages = batch_messages
        self._places: dict[Partition, Place] = {}
        self._committed: dict[Partition, int] = {}
        self._paused = False
        self._gaps: dict[Partition, int] = {}
        self._held: set[Partition] = set()  # partitions that the source was told to pause

    def run(self, stop: Stop) -> None:
        """Works until ``stop`` is set; reopens the source when its brokers go away, or another has taken a partition."""
        while not stop.is_set:
            try:
                self._source.open(self)
                self._work(stop)
            except BridgeError as error:
                if not error.transient:
                    raise
                _log.warning("source-unavailable", source=self._source.name, code=error.code)
                stop.wait(_REOPEN_SECONDS)
            finally:
                self._close()

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Takes over partitions: a new epoch each, from the stored position on."""
        offsets: dict[Partition, int] = {}
        with self._database.transaction() as txn:
            for partition in partitions:
                position = positions.claim(txn, partition.source, partition.topic_id, partition.number)
                self._places[partition] = Place(partition, position.next_offset, position.epoch)
                offsets[partition] = position.next_offset
        self._held.difference_update(partitions)
        _log.info("partitions-assigned", source=self._source.name, partitions=[p.number for p in partitions])
        return offsets

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Forgets partitions; no batch is under way, since polling and storing take turns on one thread."""
        for partition in partitions:
            self._places.pop(partition, None)
            self._committed.pop(partition, None)
            self._held.discard(partition)
            self._gaps.pop(partition, None)
        _log.info("partitions-revoked", source=self._source.name, partitions=[p.number for p in partitions])

    lost = revoked

    def _work(self, stop: Stop) -> None:
        committed_at = controlled_at = 0.0
        while not stop.is_set:
            now = time.monotonic()
            if now - controlled_at >= _CONTROL_INTERVAL_SECONDS:
                self._obey()
                controlled_at = now
            self._hold()
            try:
                fetched = self._source.poll(self._batch_messages, _POLL_SECONDS)
            except PositionOutOfRange as gap:
                self._gap(gap)
                continue
            for batch in _by_partition(fetched):
                self._batch(batch, stop)
            if self._committed and time.monotonic() - committed_at >= _COMMIT_INTERVAL_SECONDS:
                self._tell_broker()
                committed_at = time.monotonic()

    def _batch(self, batch: Sequence[Fetched], stop: Stop) -> None:
        partition = batch[0].partition
        place = self._places.get(partition)
        if place is None:
            return
        if batch[0].offset < place.expected:
            batch = [fetched for fetched in batch if fetched.offset >= place.expected]
            if not batch:
                return
        items = [Item(self._preparer.prepare(fetched.raw), offset=fetched.offset) for fetched in batch]
        try:
            verdicts = self._batcher.store(items, place, stop)
        except PartitionLost as lost:
            report(self._source.name, lost.committed)
            if not self._still_ours(place):
                raise  # opened anew, the source asks whoever assigns partitions whose it is
            return
        if verdicts:
            last = verdicts[-1].item.offset
            assert last is not None
            self._places[partition] = Place(partition, last + 1, place.epoch)
            self._committed[partition] = last + 1
        report(self._source.name, verdicts)

    def _gap(self, gap: PositionOutOfRange) -> None:
        """A new partition starts where its source still begins; any other gap waits for an operator."""
        for partition, first in gap.first.items():
            place = self._places.get(partition)
            if place is not None and place.expected == 0:
                self._source.seek(partition, first)
            elif place is not None:
                self._gaps[partition] = first
        if self._gaps:
            name = self._source.name
            with self._database.transaction() as txn:
                alarms.raise_alarm(
                    txn, GAP_ALARM, name, "The source no longer holds the stored position; intake waits."
                )
                source_control.pause(txn, name, GAP_ALARM)
            self._paused = True
            self._hold()
            _log.error("position-out-of-range", source=name, partitions=[p.number for p in self._gaps])

    def _accept_gaps(self) -> None:
        """The operator has let the source go on: from what it still holds, where repeated messages are known again."""
        for partition, first in self._gaps.items():
            place = self._places.get(partition)
            if place is None:
                continue
            with self._database.transaction() as txn:
                kept = positions.reset(
                    txn,
                    partition.source,
                    partition.topic_id,
                    partition.number,
                    epoch=place.epoch,
                    next_offset=first,
                )
                alarms.clear(txn, GAP_ALARM, self._source.name)
            if kept:
                self._places[partition] = Place(partition, first, place.epoch)
                self._source.seek(partition, first)
        self._gaps.clear()

    def _still_ours(self, place: Place) -> bool:
        """Whether the partition has no other holder; then the work goes on where the store stands.

        That happens when a connection broke at the commit itself and the commit had happened.
        """
        partition = place.partition
        with self._database.transaction(read_only=True) as txn:
            position = positions.find(txn, partition.source, partition.topic_id, partition.number)
        if position is None or position.epoch != place.epoch:
            return False
        self._places[partition] = Place(partition, position.next_offset, place.epoch)
        self._source.seek(partition, position.next_offset)
        return True

    def _tell_broker(self) -> None:
        self._source.commit(self._committed)
        failpoint("worker.after-offset-commit")
        self._committed = {}

    def _obey(self) -> None:
        with self._database.transaction(read_only=True) as txn:
            wanted = self._source.name in source_control.paused(txn)
        if wanted is not self._paused:
            self._paused = wanted
            if not wanted:
                self._accept_gaps()
            _log.warning("source-paused" if wanted else "source-resumed", source=self._source.name)

    def _hold(self) -> None:
        """Pauses what was assigned since the last poll too: a rebalance must not let a paused source go on."""
        if self._paused and self._held != self._places.keys():
            self._source.pause(list(self._places))
            self._held = set(self._places)
        elif not self._paused and self._held:
            self._source.resume(list(self._held))
            self._held.clear()

    def _close(self) -> None:
        try:
            if self._committed:
                self._tell_broker()
        except BridgeError as error:
            _log.info("offsets-not-told", source=self._source.name, code=error.code)
        self._source.close()
        self._places.clear()
        self._committed.clear()
        self._held.clear()
        self._gaps.clear()


def report(source: str, verdicts: Sequence[Verdict]) -> None:
    """Counts what became of messages, and logs each dead letter without any of its content."""
    counts = counts_of(verdicts)
    metrics.RECEIVED.labels(source).inc(counts.received)
    metrics.STORED.labels(source).inc(counts.stored)
    metrics.FILTERED.labels(source).inc(counts.filtered)
    metrics.DUPLICATES.labels(source).inc(counts.duplicate)
    now_us = time.time_ns() // 1000
    for verdict in verdicts:
        metrics.RECORDED_SECONDS.observe(max(0, now_us - verdict.item.prepared.raw.received_us) / 1e6)
        if verdict.error is not None:
            metrics.DEAD_LETTERS.labels(source, str(verdict.error.category)).inc()
            _log.warning("dead-letter", source=source, stage=str(verdict.stage), code=verdict.error.code)


def _by_partition(fetched: Sequence[Fetched]) -> list[list[Fetched]]:
    batches: dict[Partition, list[Fetched]] = {}
    for item in fetched:
        batches.setdefault(item.partition, []).append(item)
    return list(batches.values())
