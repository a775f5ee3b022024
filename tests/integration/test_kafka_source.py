"""Kafka as a source and as an intake, on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from adapters.sources.kafka import KafkaSource, KafkaSourceSettings
from adapters.sources.kafka_client import KafkaSasl, KafkaTls
from adapters.sources.kafka_intake import KafkaIntake, KafkaIntakeSettings
from adapters.sources.mllp import MllpListener, MllpSettings
from bridge.errors import BridgeError, Busy, Incorrect, Unavailable
from bridge.hl7v2.mllp import frame
from bridge.pipeline.ports import ContentKind, Fetched, Partition, RawMessage, Receipt
from bridge.telemetry.stop import Stop
from tests.services.kafka import Kafka

# A client that never reached a broker leaves its sockets to the garbage collector; that is kafka-python's to mend.
pytestmark = [pytest.mark.ci, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collects those sockets here, where that is forgiven, and not in the middle of someone else's test."""
    yield
    gc.collect()


class Places:
    """Remembers assignments and answers where to read next."""

    def __init__(self, start: Callable[[Partition], int] = lambda _: 0) -> None:
        self.start = start
        self.gained: list[Partition] = []
        self.gone: list[Partition] = []

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self.gained.extend(partitions)
        return {partition: self.start(partition) for partition in partitions}

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.gone.extend(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        self.gone.extend(partitions)


def source(kafka: Kafka, topic: str, **settings: object) -> KafkaSource:
    return KafkaSource(
        "adt",
        KafkaSourceSettings(
            bootstrap_servers=(kafka.bootstrap,), topic=topic, group_id=topic, session_timeout_seconds=2, **settings
        ),
    )


def drain(reader: KafkaSource, count: int, seconds: float = 30) -> list[Fetched]:
    until = time.monotonic() + seconds
    got: list[Fetched] = []
    while len(got) < count and time.monotonic() < until:
        got.extend(reader.poll(100, 0.2))
    return got


def produce(kafka: Kafka, topic: str, messages: Sequence[RawMessage]) -> list[str]:
    async def send() -> list[str]:
        intake = KafkaIntake("out", KafkaIntakeSettings(bootstrap_servers=(kafka.bootstrap,), topic=topic))
        try:
            return [receipt.reference for receipt in await asyncio.gather(*(intake.accept(m) for m in messages))]
        finally:
            intake.close()

    return asyncio.run(send())


def numbered(count: int, kind: ContentKind | None = None) -> list[RawMessage]:
    return [RawMessage("out", b"%d" % n, kind, key=b"k%d" % (n % 3)) for n in range(count)]


def test_what_the_intake_acknowledged_is_read_back_in_order_per_key(kafka: Kafka) -> None:
    """Content, kind and key survive; every receipt names another place."""
    topic = kafka.create_topic(partitions=3)
    receipts = produce(kafka, topic, numbered(200, ContentKind.HL7V2))
    reader = source(kafka, topic)
    reader.open(Places())

    got = drain(reader, 200)
    reader.close()

    assert len(set(receipts)) == 200
    assert sorted(int(f.raw.content) for f in got) == list(range(200))
    assert {f.raw.kind for f in got} == {ContentKind.HL7V2}
    for key in (b"k0", b"k1", b"k2"):
        of_key = [int(f.raw.content) for f in got if f.raw.key == key]
        assert of_key == sorted(of_key)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"tls": KafkaTls()}, "kafka-"),
        ({"sasl": {"mechanism": "SCRAM-SHA-512", "username": "app", "password": {"env": "HOME"}}}, "kafka-"),
        ({"bootstrap_servers": ("127.0.0.1:1",)}, "kafka-unreachable"),
    ],
)
def test_a_failed_start_names_its_cause(kafka: Kafka, settings: dict[str, object], code: str) -> None:
    """kafka-python says "unable to bootstrap" to all of them."""
    given = {"bootstrap_servers": (kafka.bootstrap,), "topic": "t", "connect_timeout_seconds": 2, **settings}
    if isinstance(given.get("sasl"), dict):
        given["sasl"] = KafkaSasl.model_validate(given["sasl"])

    with pytest.raises(BridgeError) as caught:
        KafkaSource("adt", KafkaSourceSettings(**given)).open(Places())

    assert caught.value.code.startswith(code)


def test_a_message_over_the_limit_is_refused_for_good_and_a_missing_topic_is_not(kafka: Kafka) -> None:
    """A listener answers AR to the first, and nothing to the second."""
    topic = kafka.create_topic()

    async def send(raw: bytes, to: str) -> None:
        intake = KafkaIntake(
            "out",
            KafkaIntakeSettings(
                bootstrap_servers=(kafka.bootstrap,), topic=to, max_message_bytes=1000, delivery_timeout_seconds=2
            ),
        )
        try:
            await intake.accept(RawMessage("out", raw))
        finally:
            intake.close()

    with pytest.raises(Incorrect):
        asyncio.run(send(b"x" * 1001, topic))
    with pytest.raises(Unavailable):
        asyncio.run(send(b"x", "no-such-topic"))


async def told(port: int, content: bytes) -> bytes:
    """What an MLLP sender reads until it is answered or the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(frame(content))
    found = await reader.read(10_000)
    writer.close()
    return found


@pytest.mark.parametrize("trouble", ["never-reached", "hanging", "no-such-topic", "topic-deleted"])
def test_an_intake_in_trouble_holds_up_no_other_connection(kafka: Kafka, trouble: str) -> None:
    """While one message waits for the brokers, others are answered; in the end its connection closes without a word."""
    first, message = (b"MSH|^~\\&|LAB|NORTH|EHR|SOUTH|2026||ADT^A08|%d|P|2.5.1\r" % number for number in (1, 2))
    topic = "no-such-topic" if trouble == "no-such-topic" else kafka.create_topic()
    settings = {"topic": topic, "delivery_timeout_seconds": 2, "connect_timeout_seconds": 2}
    intake = KafkaIntake("out", KafkaIntakeSettings(bootstrap_servers=(kafka.bootstrap,), **settings))

    async def scenario() -> None:
        listener, stop = MllpListener("door", MllpSettings(port=0)), Stop()
        task = asyncio.create_task(listener.run(intake, stop))
        port = await listener.listening()
        if trouble in ("hanging", "topic-deleted"):
            assert b"|AA|" in await told(port, first)
        if trouble == "topic-deleted":
            kafka.delete_topic(topic)
            while intake._producer._metadata.partitions_for_topic(topic) is not None:
                intake._producer._metadata.request_update()
                await asyncio.sleep(0.05)
        with kafka.paused() if trouble in ("never-reached", "hanging") else contextlib.nullcontext():
            waiting = asyncio.create_task(told(port, message))
            for _ in range(3):
                assert b"|AR|" in await told(port, b"not HL7")
                assert not waiting.done()
                await asyncio.sleep(0.05)
            assert await asyncio.wait_for(waiting, 60) == b""
        stop.set()
        await asyncio.wait_for(task, 60)

    try:
        asyncio.run(scenario())
    finally:
        intake.close()


def test_what_waits_for_the_brokers_is_bounded_in_bytes(kafka: Kafka) -> None:
    """One message is always let in; what would go beyond the bound is Busy, and later taken."""
    topic = kafka.create_topic()

    async def scenario() -> list[object]:
        intake = KafkaIntake(
            "out", KafkaIntakeSettings(bootstrap_servers=(kafka.bootstrap,), topic=topic, max_waiting_bytes=1000)
        )
        large = RawMessage("out", b"x" * 2000)
        try:
            both = await asyncio.gather(intake.accept(large), intake.accept(large), return_exceptions=True)
            return [*both, await intake.accept(large)]
        finally:
            intake.close()

    first, second, third = asyncio.run(scenario())

    assert isinstance(first, Receipt)
    assert isinstance(second, Busy)
    assert isinstance(third, Receipt)
