"""The embedded queue: waiting rows of ``raw_message``, for listeners without Kafka behind them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from bridge.errors import BridgeError, Busy, Fault, Incorrect, Unavailable
from bridge.keys.envelope import Envelope, open_envelope, seal
from bridge.keys.ports import KeyWrapper
from bridge.pipeline.batch import QUEUE_TOPIC, Batcher, Item
from bridge.pipeline.ports import ContentKind, RawMessage, Receipt, Settled
from bridge.pipeline.prepare import Prepared, Preparer, aad, detect
from bridge.pipeline.worker import report
from bridge.store import positions, raw_messages, source_control
from bridge.store.database import Database, Transaction
from bridge.store.rows import RawMessageRow, RawState
from bridge.telemetry.failpoints import failpoint
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

_GROUP = 500
_IDLE_SECONDS = 0.1
_COUNT_INTERVAL_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_ROW = "raw_message/"


@dataclass(slots=True, eq=False)
class _Watched:
    row: tuple[int, int]  # raw_key, received_us
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Settled]


@dataclass(slots=True)
class _Waiting:
    raw: RawMessage
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Receipt]


class QueueIntake:
    """See :class:`bridge.pipeline.ports.Intake`: durable in the store's own transaction log.

    Accepts that wait at the same time share one transaction (group commit); a thread of its own writes them, so the event
    loop of the listeners never waits for the disk.
    """

    def __init__(self, database: Database, preparer: Preparer, wrapper: KeyWrapper, waiting_messages: int) -> None:
        self._database = database
        self._preparer = preparer
        self._wrapper = wrapper
        self._limit = waiting_messages
        self._queue: deque[_Waiting] = deque()
        self._watched: set[_Watched] = set()
        self._looked_at = 0.0
        self._filled = threading.Condition()
        self._closing = False
        self._backlog = 0  # waiting rows, as of the last count and what was added since
        self._paused: dict[str, int] = {}  # those of paused sources, which count for nobody else
        self._counted_at = -_COUNT_INTERVAL_SECONDS
        self._thread = threading.Thread(target=self._run, name="queue-intake", daemon=True)
        self._thread.start()

    async def accept(self, raw: RawMessage) -> Receipt:
        """Returns when the encrypted raw row is committed."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(raw, loop, loop.create_future())
        with self._filled:
            if self._closing:
                raise Unavailable("intake-closed", "The intake is closing.", remedy="Send again after the restart.")
            if len(self._queue) + self._backlog + self._paused.get(raw.source, 0) >= self._limit:
                raise Busy("intake-full", "Too many messages wait to be stored.", remedy="Send again later.")
            self._queue.append(waiting)
            self._filled.notify()
        return await waiting.done

    async def outcome(self, raw: RawMessage, receipt: Receipt) -> Settled:
        """See :class:`bridge.pipeline.ports.TellsOutcome`; one query every 20 ms for all who ask."""
        loop = asyncio.get_running_loop()
        row = (int(receipt.reference.removeprefix(_ROW)), raw.received_us)
        watched = _Watched(row, loop, loop.create_future())
        with self._filled:
            self._watched.add(watched)
            self._filled.notify()
        try:
            return await watched.done
        finally:
            with self._filled:
                self._watched.discard(watched)

    def close(self) -> None:
        """Writes what waits, then ends the thread and the connection."""
        with self._filled:
            self._closing = True
            self._filled.notify()
        self._thread.join()
        self._database.close()

    def _run(self) -> None:
        while True:
            with self._filled:
                if not self._queue and not self._closing:
                    self._filled.wait(_LOOK_SECONDS if self._watched else _COUNT_INTERVAL_SECONDS)
                if not self._queue and self._closing:
                    return
                group = [self._queue.popleft() for _ in range(min(_GROUP, len(self._queue)))]
            if group:
                self._settle(group)
            else:
                self._recount()
            self._look()

    def _look(self) -> None:
        """Tells those who ask what became of their messages."""
        with self._filled:
            watched = list(self._watched)
        now = time.monotonic()
        if not watched or now - self._looked_at < _LOOK_SECONDS / 2:
            return
        self._looked_at = now
        with suppress(BridgeError), self._database.transaction(read_only=True) as txn:
            states = raw_messages.settled(txn, {one.row for one in watched})
            for one in watched:
                if (state := states.get(one.row[0])) is not None:
                    settled = Settled.DEAD if state is RawState.DEAD else Settled.DONE
                    with suppress(RuntimeError):  # the loop of whoever asked is closed
                        one.loop.call_soon_threadsafe(_told, one.done, settled)

    def _settle(self, group: list[_Waiting]) -> None:
        """Writes and answers a group; halves one that cannot be stored, until the culprit alone hears why."""
        failure: BridgeError
        try:
            receipts = self._write([waiting.raw for waiting in group])
        except BridgeError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the listeners must hear of it, whatever it was
            failure = Fault("intake-broken", f"Storing raw messages failed ({type(error).__name__}).")
        else:
            for waiting, receipt in zip(group, receipts, strict=True):
                _answer(waiting, receipt)
            return
        if len(group) > 1 and not failure.transient:
            middle = len(group) // 2
            self._settle(group[:middle])
            self._settle(group[middle:])
            return
        _log.warning("intake-failed", code=failure.code, messages=len(group))
        for waiting in group:
            _answer(waiting, failure)

    def _write(self, group: list[RawMessage]) -> list[Receipt]:
        envelopes = [seal(raw.content, aad(raw), self._wrapper) for raw in group]
        failpoint("intake.before-durable")
        with self._database.transaction() as txn:
            keys = txn.allocate("raw_message", len(group))
            rows = [self._row(key, raw, envelope) for key, raw, envelope in zip(keys, group, envelopes, strict=True)]
            raw_messages.insert(txn, rows)
            if time.monotonic() - self._counted_at >= _COUNT_INTERVAL_SECONDS:
                self._count(txn)
            else:
                self._backlog += len(rows)
        failpoint("intake.after-durable")
        return [Receipt(f"{_ROW}{key}") for key in keys]

    def _count(self, txn: Transaction) -> None:
        waiting = raw_messages.waiting_by_source(txn)
        self._paused = {source: waiting.pop(source, 0) for source in source_control.paused(txn)}
        self._backlog = sum(waiting.values())
        self._counted_at = time.monotonic()

    def _recount(self) -> None:
        """Looks how far the worker has come while senders are made to wait."""
        most = self._backlog + max(self._paused.values(), default=0)
        if most < self._limit or time.monotonic() - self._counted_at < _COUNT_INTERVAL_SECONDS:
            return
        with suppress(BridgeError), self._database.transaction(read_only=True) as txn:
            self._count(txn)

    def _row(self, key: int, raw: RawMessage, envelope: Envelope) -> RawMessageRow:
        site = self._preparer.site_of(raw.source)
        kind = raw.kind or detect(raw.content)
        sealed = (envelope.key_id, envelope.wrapped_key, envelope.nonce, envelope.ciphertext)
        nothing = (None, None, None, None)
        return RawMessageRow(
            key,
            raw.received_us,
            raw.source,
            None,
            None,
            None,
            site.site,
            str(kind),
            RawState.WAITING,
            None,
            0,
            *nothing,
            *sealed,
        )


def _answer(waiting: _Waiting, answer: Receipt | BridgeError) -> None:
    """Tells whoever waits; where their loop is closed nobody does any more, and others must hear theirs."""
    with suppress(RuntimeError):
        waiting.loop.call_soon_threadsafe(_settled, waiting.done, answer)


def _told(done: asyncio.Future[Settled], settled: Settled) -> None:
    if not done.done():
        done.set_result(settled)


def _settled(done: asyncio.Future[Receipt], answer: Receipt | BridgeError) -> None:
    if done.done():
        return
    if isinstance(answer, Receipt):
        done.set_result(answer)
    else:
        done.set_exception(answer)


class QueueWorker:
    """Works the embedded queue off: claims waiting rows in order of receipt, stores them as batches.

    Args:
        preparer: the pure stage.
        batcher: stores what it makes of them, on ``database`` too.
        wrapper: opens the rows.
        database: of this worker alone, whose session holds its claims.
        sources: the listeners whose totals are counted.
        batch_messages: most rows claimed at once.
    """

    def __init__(
        self,
        preparer: Preparer,
        batcher: Batcher,
        wrapper: KeyWrapper,
        database: Database,
        sources: Sequence[str],
        *,
        batch_messages: int = 100,
    ) -> None:
        self._sources = sources
        self._preparer = preparer
        self._batcher = batcher
        self._wrapper = wrapper
        self._database = database
        self._batch_messages = batch_messages

    def run(self, stop: Stop) -> None:
        """Works until ``stop`` is set. What is not committed then is still waiting."""
        opened = False
        while not stop.is_set:
            try:
                if not opened:
                    self.open()
                    opened = True
                busy = self.work_once(stop)
            except BridgeError as error:
                if not error.transient:
                    raise
                _log.warning("queue-unavailable", code=error.code)
                busy = False
            if not busy:
                stop.wait(_IDLE_SECONDS)

    def open(self) -> None:
        """Makes the rows in which the totals of the listeners are counted."""
        with self._database.transaction() as txn:
            for source in self._sources:
                positions.claim(txn, source, QUEUE_TOPIC, 0)
            unknown = sorted(raw_messages.waiting_by_source(txn).keys() - self._preparer.sources)
        if unknown:
            _log.error("queue-source-unknown", sources=unknown, remedy="Configure them until their messages are done.")

    def work_once(self, stop: Stop) -> bool:
        """One batch; answers whether there was anything to do."""
        with self._database.transaction(read_only=True) as txn:
            sources = self._preparer.sources - source_control.paused(txn).keys()
            rows = raw_messages.waiting(txn, self._batch_messages, sources)
        if not rows:
            return False
        started = time.perf_counter()
        try:
            items = [Item(self._prepared(row), row=(row.raw_key, row.received_us)) for row in rows]
            verdicts = self._batcher.store(items, None, stop)
        finally:
            self._release()
        _log.debug("queue-batch", messages=len(verdicts), seconds=round(time.perf_counter() - started, 3))
        for source in {verdict.item.prepared.raw.source for verdict in verdicts}:
            report(source, [v for v in verdicts if v.item.prepared.raw.source == source])
        return True

    def _release(self) -> None:
        # A connection that is gone has taken its claims with it.
        with suppress(BridgeError), self._database.transaction(read_only=True) as txn:
            raw_messages.release(txn)

    def _prepared(self, row: RawMessageRow) -> Prepared:
        envelope = envelope_of(row)
        try:
            raw = opened(row, self._wrapper)
        except Incorrect as error:
            closed = RawMessage(row.source, b"", None, None, row.received_us)
            return self._preparer.unreadable(closed, envelope, error)
        return self._preparer.prepare(raw, envelope)


def envelope_of(row: RawMessageRow) -> Envelope:
    """The encrypted bytes of a stored row."""
    return Envelope(row.key_id, row.wrapped_key, row.nonce, row.ciphertext)


def opened(row: RawMessageRow, wrapper: KeyWrapper) -> RawMessage:
    """The raw message of a stored row, decrypted.

    Raises:
        Unavailable: its wrapping key is not there.
        Incorrect: the row was altered.
    """
    if row.kind not in set(ContentKind):
        raise Incorrect(
            "raw-message-altered",
            "The row of a raw message was altered.",
            remedy="Restore it from a backup, or have the sender send it again and resolve the dead letter.",
        )
    raw = RawMessage(row.source, b"", ContentKind(row.kind), None, row.received_us)
    content = open_envelope(envelope_of(row), aad(raw), wrapper)
    return replace(raw, content=content)
