"""One transaction a batch: effects, raw messages, dead letters and the source position change together (law *Batch*)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from bridge.errors import BridgeError, Conflict, Fault
from bridge.keys.envelope import Envelope
from bridge.mapping.operations import Merge
from bridge.pipeline.ports import Partition
from bridge.pipeline.prepare import Prepared, Stage
from bridge.record import restrictions
from bridge.record.recorder import LOCKED_TYPES, Recorder
from bridge.record.work import Change
from bridge.store import alarms, dead_letters, message_seen, positions, raw_messages, source_control
from bridge.store import restrictions as restriction_rows
from bridge.store.database import Database, Transaction
from bridge.store.rows import Counts, DeadLetterRow, DeadState, Outcome, RawMessageRow, RawState, SeenKey
from bridge.telemetry import metrics
from bridge.telemetry.failpoints import failpoint
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

RawKey = tuple[int, int]
"""Key and time of receipt (µs) of a raw message."""

QUEUE_TOPIC = "queue"
"""Topic id under which the embedded queue's totals stand in ``source_position``."""

CONSENT_ALARM = "consent-without-patient"
_MATCHING_KEYS = 12  # old and new ones of a usual patient
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 5.0


class _NotReplayed(Exception):  # noqa: N818 - it only carries the reason out of a transaction to be rolled back
    def __init__(self, error: BridgeError) -> None:
        super().__init__(error.code)
        self.error = error


class PartitionLost(Conflict):
    """Another worker owns the partition now; nothing more of it may be committed here.

    Attributes:
        committed: verdicts on those messages of the batch that were committed before, in order.
    """

    def __init__(self) -> None:
        super().__init__(
            "partition-lost", "Another worker reads this partition now.", remedy="Nothing; it goes on there."
        )
        self.committed: Sequence[Verdict] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """A prepared message and its place: an offset of the batch's partition, or a row of the embedded queue.

    Exactly one of ``offset`` and ``row`` is set.
    """

    prepared: Prepared
    offset: int | None = None
    row: RawKey | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch of a partition stands: the offset it must start at, and the epoch that must still be ours."""

    partition: Partition
    expected: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one message."""

    item: Item
    outcome: Outcome
    error: BridgeError | None = None
    stage: Stage = Stage.RECORD


class Batcher:
    """Brings batches into the store. One instance serves one thread and owns its database connection's use.

    Args:
        database: the store.
        recorder: what changes resources.
        restriction_key: 32 bytes that key restrictions waiting for an unknown patient.
        batch_lock_keys: a transaction that would take more is divided.
    """

    def __init__(
        self, database: Database, recorder: Recorder, restriction_key: bytes, *, batch_lock_keys: int = 2000
    ) -> None:
        self._lock_keys = batch_lock_keys
        self._database = database
        self._recorder = recorder
        self._restriction_key = restriction_key

    def store(self, items: Sequence[Item], place: Place | None, stop: Stop) -> list[Verdict]:
        """Stores a batch, in as many transactions as its culprits need; retries what is transient until ``stop``.

        Args:
            items: messages of one partition in offset order, or of the embedded queue.
            place: of the partition; None for the embedded queue.
            stop: gives up retrying; what is not committed then stays where it is.

        Returns:
            A verdict for each item that was committed, in order; fewer than ``items`` only after ``stop``.

        Raises:
            PartitionLost: from the first transaction that found another owner; it brings the verdicts of those before.
        """
        verdicts: list[Verdict] = []
        waiting: list[tuple[Sequence[Item], BridgeError | None]] = [(part, None) for part in self._closed(items)]
        while waiting:
            part, culprit = waiting.pop(0)
            try:
                done = self._until_it_holds(part, place, culprit, stop)
            except PartitionLost as lost:
                lost.committed = verdicts
                raise
            except BridgeError as error:  # none that a retry would mend
                if len(part) == 1:
                    if culprit is not None:
                        raise  # even its dead letter cannot be stored
                    waiting.insert(0, (part, error))
                else:
                    middle = len(part) // 2
                    waiting[:0] = [(part[:middle], None), (part[middle:], None)]
                continue
            if done is None:
                return verdicts
            verdicts += done
            if place is not None:
                last = part[-1].offset
                assert last is not None
                place = Place(place.partition, last + 1, place.epoch)
        return verdicts

    def _closed(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """The items in batches that take no more lock keys than one transaction may; a message is never divided."""
        part: list[Item] = []
        keys = 0
        for item in items:
            needed = lock_keys(item.prepared)
            if part and keys + needed > self._lock_keys:
                yield part
                part, keys = [], 0
            part.append(item)
            keys += needed
        if part:
            yield part

    def _until_it_holds(
        self, part: Sequence[Item], place: Place | None, culprit: BridgeError | None, stop: Stop
    ) -> list[Verdict] | None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._once(part, place, culprit)
            except PartitionLost:
                raise
            except BridgeError as error:
                if not error.transient:
                    raise
                _log.warning("batch-retried", code=error.code, messages=len(part))
            except Exception as error:
                # Whatever one message does to the code after its own stage, the others go on: halving finds it.
                raise Fault(
                    "record-failed",
                    f"Recording the message failed ({type(error).__name__}).",
                    remedy="Report it with its structure.",
                ) from error
            if stop.wait(pause):
                return None
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def replay(self, prepared: Prepared, dead: DeadLetterRow, *, by: str, reason: str) -> Verdict:
        """Does a dead letter again, with the mapping in force; moves it from dead to stored if it succeeds.

        The message is done even if its like was stored since: a replay is asked for by a person.

        Raises:
            Conflict: transient; ask again.
        """
        item = Item(prepared, row=(dead.raw_key, dead.raw_received_us))
        if prepared.error is not None or prepared.conversion is None:
            outcome = Outcome.DEAD if prepared.error is not None else Outcome.FILTERED
            return Verdict(item, outcome, prepared.error, prepared.stage)
        try:
            return self._replayed(item, dead, by, reason)
        except _NotReplayed as refused:
            return Verdict(item, Outcome.DEAD, refused.error)

    def _replayed(self, item: Item, dead: DeadLetterRow, by: str, reason: str) -> Verdict:
        prepared = item.prepared
        assert prepared.conversion is not None
        with self._database.transaction() as txn:
            if dead.topic_id is not None:
                # In the order of whoever works the partition: its position first, then locks and rows.
                self._recount_replayed(txn, dead, dead.topic_id)
            if not dead_letters.close(txn, dead.dead_key, state=DeadState.REPLAYED, closed_by=by, reason=reason):
                raise Conflict(
                    "dead-letter-closed", "The dead letter was closed meanwhile.", remedy="Look at it again."
                )
            [outcome_or_error] = self._recorder.record(txn, [Change(prepared.conversion, prepared.site.site, item.row)])
            if isinstance(outcome_or_error, BridgeError):
                raise _NotReplayed(outcome_or_error)
            raw_messages.finish(txn, [(dead.raw_key, dead.raw_received_us, RawState.DONE, str(outcome_or_error))])
            if prepared.seen is not None:
                message_seen.insert(txn, [(*prepared.seen, dead.raw_key, txn.now_us())])
            lift_restrictions(txn, dead.dead_key, by, "the consent was understood")
            if dead.topic_id is None:  # workers of the queue share its totals, and so touch them last
                self._recount_replayed(txn, dead, QUEUE_TOPIC)
        return Verdict(item, outcome_or_error)

    @staticmethod
    def _recount_replayed(txn: Transaction, dead: DeadLetterRow, topic_id: str) -> None:
        positions.recount(txn, dead.source, topic_id, dead.partition or 0, Counts(stored=1, dead=-1))

    def _once(self, part: Sequence[Item], place: Place | None, culprit: BridgeError | None) -> list[Verdict]:
        with self._database.transaction() as txn:
            if place is not None:
                self._hold(txn, place)
            if place is None:
                part = self._still_waiting(txn, part)
            raw_keys = self._raw_keys(txn, part, place)
            verdicts = self._decide(txn, part, raw_keys, culprit)
            self._write(txn, verdicts, raw_keys, place)
            failpoint("worker.before-commit")
        failpoint("worker.after-commit")
        metrics.BATCH_MESSAGES.observe(len(part))
        return verdicts

    @staticmethod
    def _hold(txn: Transaction, place: Place) -> None:
        partition = place.partition
        held = positions.hold(
            txn, partition.source, partition.topic_id, partition.number, expected=place.expected, epoch=place.epoch
        )
        if not held:
            raise PartitionLost

    @staticmethod
    def _still_waiting(txn: Transaction, part: Sequence[Item]) -> Sequence[Item]:
        """Without the rows that another worker has done, or is doing, meanwhile."""
        held = raw_messages.hold_waiting(txn, [item.row for item in part if item.row is not None])
        return [item for item in part if item.row is not None and item.row[0] in held]

    @staticmethod
    def _raw_keys(txn: Transaction, part: Sequence[Item], place: Place | None) -> list[RawKey]:
        if place is None:
            return [item.row for item in part if item.row is not None]
        keys = txn.allocate("raw_message", len(part))
        return [(key, item.prepared.raw.received_us) for key, item in zip(keys, part, strict=True)]

    def _decide(
        self, txn: Transaction, part: Sequence[Item], raw_keys: Sequence[RawKey], culprit: BridgeError | None
    ) -> list[Verdict]:
        verdicts: list[Verdict | None] = [None] * len(part)
        if culprit is not None:
            return [Verdict(item, Outcome.DEAD, culprit, Stage.STORE) for item in part]
        known = message_seen.known(txn, [item.prepared.seen for item in part if item.prepared.seen])
        fresh: list[tuple[int, Change]] = []
        first: dict[SeenKey, int] = {}
        again: list[tuple[int, int]] = []  # of the same message: number of the later one, of the first one
        for number, item in enumerate(part):
            prepared = item.prepared
            if prepared.error is not None:
                verdicts[number] = Verdict(item, Outcome.DEAD, prepared.error, prepared.stage)
            elif prepared.conversion is None:
                verdicts[number] = Verdict(item, Outcome.FILTERED)
            elif prepared.seen in known:
                verdicts[number] = Verdict(item, Outcome.DUPLICATE)
            elif prepared.seen in first:
                again.append((number, first[prepared.seen]))
            else:
                if prepared.seen is not None:
                    first[prepared.seen] = number
                fresh.append((number, Change(prepared.conversion, prepared.site.site, raw_keys[number])))
        outcomes = self._recorder.record(txn, [change for _, change in fresh]) if fresh else []
        recorded = {number: outcome for (number, _), outcome in zip(fresh, outcomes, strict=True)}
        for number, before in again:  # of what had no effect it is no duplicate
            recorded[number] = recorded[before] if isinstance(recorded[before], BridgeError) else Outcome.DUPLICATE
        for number, outcome in recorded.items():
            verdicts[number] = _recorded(part[number], outcome)
        return [verdict for verdict in verdicts if verdict is not None]

    def _write(
        self, txn: Transaction, verdicts: Sequence[Verdict], raw_keys: Sequence[RawKey], place: Place | None
    ) -> None:
        if place is None:
            raw_messages.finish(
                txn,
                [
                    (*raw_key, _raw_state(verdict.outcome), str(verdict.outcome))
                    for verdict, raw_key in zip(verdicts, raw_keys, strict=True)
                ],
            )
        else:
            rows = zip(verdicts, raw_keys, strict=True)
            raw_messages.insert(txn, [_raw_row(key, verdict, place.partition) for verdict, (key, _) in rows])
        now_us = txn.now_us()
        message_seen.insert(
            txn,
            [
                (*verdict.item.prepared.seen, raw_key[0], now_us)
                for verdict, raw_key in zip(verdicts, raw_keys, strict=True)
                if verdict.item.prepared.seen and verdict.outcome in {Outcome.STORED, Outcome.SUPERSEDED}
            ],
        )
        dead = [(v, raw_key) for v, raw_key in zip(verdicts, raw_keys, strict=True) if v.outcome is Outcome.DEAD]
        if dead:
            self._bury(txn, dead, place)
        if place is not None:
            last = verdicts[-1].item.offset
            assert last is not None
            partition = place.partition
            positions.advance(
                txn,
                partition.source,
                partition.topic_id,
                partition.number,
                expected=place.expected,
                epoch=place.epoch,
                next_offset=last + 1,
                counts=counts_of(verdicts),
            )
            return
        by_source: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            by_source.setdefault(verdict.item.prepared.raw.source, []).append(verdict)
        for source, of_source in sorted(by_source.items()):
            positions.recount(txn, source, QUEUE_TOPIC, 0, counts_of(of_source))

    def _bury(self, txn: Transaction, dead: Sequence[tuple[Verdict, RawKey]], place: Place | None) -> None:
        keys = txn.allocate("dead_letter", len(dead))
        now_us = txn.now_us()
        rows: list[DeadLetterRow] = []
        consents: list[tuple[int, Prepared]] = []
        for dead_key, (verdict, raw_key) in zip(keys, dead, strict=True):
            assert verdict.error is not None
            prepared = verdict.item.prepared.failed(verdict.error, verdict.stage)
            rows.append(_dead_row(dead_key, raw_key, verdict, prepared, place, now_us))
            if prepared.consent:
                consents.append((dead_key, prepared))
        self._restrict(txn, consents)
        dead_letters.insert(txn, rows)

    def _restrict(self, txn: Transaction, consents: Sequence[tuple[int, Prepared]]) -> None:
        """Closes whomever consents that became dead letters name; raises the alarm for those who may have been missed."""
        names = {name for _, prepared in consents for name in prepared.patients}
        held = len(names) <= self._lock_keys
        if held and names:
            self._recorder.hold_names(txn, names)  # or a patient introduced meanwhile would be known to neither side
        for dead_key, prepared in consents:
            restrictions.restrict(txn, prepared.patients, "consent-dead-letter", self._restriction_key, dead_key)
            if prepared.others or not held:
                words = "A consent that could not be read names no patient, or not all, or too many; intake waits."
                alarms.raise_alarm(txn, CONSENT_ALARM, prepared.raw.source, words)
                source_control.pause(txn, prepared.raw.source, CONSENT_ALARM)


def _recorded(item: Item, outcome: Outcome | BridgeError) -> Verdict:
    return Verdict(item, Outcome.DEAD, outcome) if isinstance(outcome, BridgeError) else Verdict(item, outcome)


def lock_keys(prepared: Prepared) -> int:
    """At most how many lock keys a message needs: its names, and for a patient old and new matching keys."""
    if prepared.conversion is None:
        return len(prepared.patients)
    targets = (op.survivor if isinstance(op, Merge) else op.target for op in prepared.conversion.operations)
    fhir = prepared.conversion.kind == "fhir"
    return sum(
        len(target.keys) + (_MATCHING_KEYS if target.resource_type == "Patient" else 0)
        for target in targets
        if fhir or target.resource_type in LOCKED_TYPES
    )


def lift_restrictions(txn: Transaction, dead_key: int, by: str, reason: str) -> int:
    """Lifts the restrictions that came with a dead letter; answers how many."""
    return restrictions.lift(txn, restriction_rows.of_dead_letters(txn, [dead_key]), by=by, reason=reason)


def counts_of(verdicts: Sequence[Verdict]) -> Counts:
    """The totals of a batch, for its position (promise P2)."""
    of: Callable[[Outcome], int] = [verdict.outcome for verdict in verdicts].count
    return Counts(
        received=len(verdicts),
        stored=of(Outcome.STORED) + of(Outcome.SUPERSEDED),
        filtered=of(Outcome.FILTERED),
        duplicate=of(Outcome.DUPLICATE),
        dead=of(Outcome.DEAD),
    )


def _raw_state(outcome: Outcome) -> str:
    return RawState.DEAD if outcome is Outcome.DEAD else RawState.DONE


def _raw_row(key: int, verdict: Verdict, partition: Partition) -> RawMessageRow:
    prepared = verdict.item.prepared
    envelope: Envelope = prepared.envelope
    # What the database itself refused may be in the very fields that name the message.
    seen = prepared.seen if verdict.stage is not Stage.STORE else None
    return RawMessageRow(
        key,
        prepared.raw.received_us,
        prepared.raw.source,
        partition.topic_id,
        partition.number,
        verdict.item.offset,
        prepared.site.site,
        str(prepared.kind),
        _raw_state(verdict.outcome),
        str(verdict.outcome),
        1,
        seen.sender if seen else None,
        seen.control_id if seen else None,
        seen.digest if seen else None,
        None,
        envelope.key_id,
        envelope.wrapped_key,
        envelope.nonce,
        envelope.ciphertext,
    )


def _dead_row(
    dead_key: int, raw_key: RawKey, verdict: Verdict, prepared: Prepared, place: Place | None, now_us: int
) -> DeadLetterRow:
    error = verdict.error
    assert error is not None
    return DeadLetterRow(
        dead_key,
        *raw_key,
        prepared.raw.source,
        place.partition.topic_id if place else None,
        place.partition.number if place else None,
        verdict.item.offset,
        prepared.site.site,
        prepared.event,
        str(verdict.stage),
        str(error.category),
        error.code,
        f"{error.message} {error.remedy}".strip(),
        prepared.structure,
        DeadState.OPEN,
        now_us,
    )
