"""The contract of an intake: what it has accepted survives, what it could not keep it never claims. On every intake.

Registered intakes: the embedded queue (both stores), another system's MLLP port, and Kafka.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.sources.kafka_intake import KafkaIntake, KafkaIntakeSettings
from adapters.sources.mllp import MllpListener, MllpSettings
from adapters.sources.mllp_client import MllpIntake, MllpIntakeSettings
from bridge.config.adapters import INTAKES, adapter_names
from bridge.errors import BridgeError, Unavailable
from bridge.pipeline.ports import ContentKind, Intake, RawMessage, Receipt
from bridge.pipeline.prepare import Preparer
from bridge.pipeline.queue import QueueIntake, opened
from bridge.store import raw_messages
from bridge.store.database import open_database
from bridge.store.migrate import migrate
from bridge.telemetry.stop import Stop
from tests.integration.hospital import KEYS, SITES, rules
from tests.services.kafka import Kafka

SOURCE = "north"


@dataclass
class Case:
    """An intake, what it keeps, and how to take its storage away."""

    make: Callable[[], Intake]
    kept: Callable[[], list[bytes]]
    break_storage: Callable[[], None]
    mend_storage: Callable[[], None]


def queue_case(url: str) -> Case:
    def kept() -> list[bytes]:
        with open_database(url) as database, database.transaction(read_only=True) as txn:
            return [opened(row, KEYS).content for row in raw_messages.waiting(txn, 10_000, [SOURCE])]

    class Breakable:
        broken = False

    def make() -> Intake:
        database = open_database(url)
        transaction = database.transaction

        def sometimes(**options: bool) -> object:
            if Breakable.broken:
                raise Unavailable("store-unreachable", "The store does not answer.")
            return transaction(**options)

        database.transaction = sometimes  # type: ignore[method-assign, assignment]
        return QueueIntake(database, Preparer(rules(), SITES, KEYS, bytes(32), 1 << 20), KEYS, waiting_messages=1000)

    return Case(make, kept, lambda: setattr(Breakable, "broken", True), lambda: setattr(Breakable, "broken", False))


def kafka_case(kafka: Kafka) -> Case:
    from kafka import KafkaConsumer, TopicPartition

    topic = kafka.create_topic(partitions=2)

    def kept() -> list[bytes]:
        consumer = KafkaConsumer(bootstrap_servers=[kafka.bootstrap], metrics_enabled=False)
        partitions = [TopicPartition(topic, number) for number in range(2)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = sum(consumer.end_offsets(partitions).values())
        found: list[bytes] = []
        while len(found) < ends:
            found += [record.value for records in consumer.poll(timeout_ms=500).values() for record in records]
        consumer.close()
        return found

    def make() -> Intake:
        return KafkaIntake(
            "out", KafkaIntakeSettings(bootstrap_servers=(kafka.bootstrap,), topic=topic, delivery_timeout_seconds=2)
        )

    return Case(make, kept, kafka.pause, kafka.resume)


class Elsewhere:
    """Another system behind an MLLP listener, on a thread of its own."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.broken = False
        self.port = 0
        self._stop = Stop()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._listens.wait(30)

    async def _run(self) -> None:
        listener = MllpListener("elsewhere", MllpSettings(port=0))
        running = asyncio.create_task(listener.run(self, self._stop))
        self.port = await listener.listening()
        self._listens.set()
        await running

    async def accept(self, raw: RawMessage) -> Receipt:
        if self.broken:
            raise Unavailable("elsewhere-broken", "The other system's storage is not there.")
        self.kept.append(raw.content)
        return Receipt(str(len(self.kept)))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    """A system to hand messages on to."""
    system = Elsewhere()
    yield system
    system.close()


def mllp_case(system: Elsewhere) -> Case:
    settings = MllpIntakeSettings(host="127.0.0.1", port=system.port, timeout_seconds=5)
    return Case(
        lambda: MllpIntake("out", settings),
        lambda: system.kept,
        lambda: setattr(system, "broken", True),
        lambda: setattr(system, "broken", False),
    )


@pytest.fixture(
    params=["queue-sqlite", "mllp", *(pytest.param(n, marks=pytest.mark.ci) for n in ("queue-postgresql", "kafka"))]
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    """Each registered intake."""
    if request.param == "mllp":
        return mllp_case(request.getfixturevalue("elsewhere"))
    if request.param == "kafka":
        return kafka_case(request.getfixturevalue("kafka"))
    url = f"sqlite:///{tmp_path}/s.db" if request.param == "queue-sqlite" else request.getfixturevalue("database_url")
    migrate(url)
    return queue_case(url)


@pytest.fixture
def intake(case: Case) -> Iterator[Intake]:
    """One instance."""
    made = case.make()
    yield made
    made.close()


def message(number: int) -> RawMessage:
    content = b"MSH|^~\\&|PAS|F|HIE|HIE|20240301120000||ADT^A08|C%06d|P|2.5\r" % number
    return RawMessage(SOURCE, content, ContentKind.HL7V2, b"k", 1_700_000_000_000_000 + number)


def run(work: Callable[[], Awaitable[object]]) -> object:
    async def main() -> object:
        return await work()

    return asyncio.run(main())


def test_every_registered_intake_is_under_this_contract() -> None:
    """A new one must be added here; the embedded queue needs no entry point."""
    assert set(adapter_names(INTAKES)) <= {"kafka", "mllp"}


def test_what_was_accepted_is_kept_once_with_a_receipt_of_its_own(case: Case, intake: Intake) -> None:
    """Two hundred at the same time."""

    async def accept_all() -> list[str]:
        return [receipt.reference for receipt in await asyncio.gather(*(intake.accept(message(n)) for n in range(200)))]

    receipts = run(accept_all)

    assert len(set(receipts)) == 200  # type: ignore[call-overload]
    assert sorted(case.kept()) == [message(n).content for n in range(200)]


def test_one_after_another_stays_in_order(case: Case, intake: Intake) -> None:
    """A listener that waits for each receipt relies on it."""

    async def accept_all() -> None:
        for number in range(20):
            await intake.accept(message(number))

    run(accept_all)

    assert case.kept() == [message(n).content for n in range(20)]


def test_without_storage_nothing_is_claimed_and_afterwards_it_goes_on(case: Case, intake: Intake) -> None:
    """The error is transient: whoever listens stays silent and the sender sends again."""
    run(lambda: intake.accept(message(1)))
    case.break_storage()
    try:
        with pytest.raises(BridgeError) as caught:
            run(lambda: intake.accept(message(2)))
    finally:
        case.mend_storage()

    assert caught.value.transient
    run(lambda: intake.accept(message(3)))
    assert {message(1).content, message(3).content} <= set(case.kept())


def test_closing_finishes_what_was_accepted_and_may_be_repeated(case: Case) -> None:
    """Nothing that has a receipt depends on the process."""
    intake = case.make()
    run(lambda: intake.accept(message(1)))

    intake.close()
    intake.close()

    assert case.kept() == [message(1).content]
