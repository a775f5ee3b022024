"""Kafka as a source and as an intake, on a real broker."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from adapters.sources.kafka import KafkaSource, KafkaSourceSettings
from adapters.sources.kafka_client import KafkaSasl, KafkaTls
from adapters.sources.kafka_intake import KafkaIntake, KafkaIntakeSettings
from bridge.errors import BridgeError, Incorrect, Unavailable
from bridge.pipeline.ports import ContentKind, Fetched, Partition, PositionOutOfRange, RawMessage
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


def test_the_assignment_says_where_to_read_not_the_group(kafka: Kafka) -> None:
    """Offsets committed to the group are for lag tools; the answer of the store wins."""
    topic = kafka.create_topic()
    produce(kafka, topic, numbered(50))
    reader = source(kafka, topic)
    places = Places()
    reader.open(places)
    drain(reader, 50)
    reader.commit({places.gained[0]: 50})
    reader.close()

    again = source(kafka, topic)
    again.open(Places(start=lambda _: 45))
    got = drain(again, 5)
    again.close()

    assert [f.offset for f in got] == [45, 46, 47, 48, 49]


def test_a_second_member_takes_over_some_partitions_and_all_after_the_first_leaves(kafka: Kafka) -> None:
    """Both are told, and nothing is read by two members after the rebalance."""
    topic = kafka.create_topic(partitions=4)
    first, second = source(kafka, topic), source(kafka, topic)
    at_first, at_second = Places(), Places()
    first.open(at_first)
    drain(first, 1, 3)
    second.open(at_second)
    until = time.monotonic() + 30
    while len(at_second.gained) < 2 and time.monotonic() < until:
        first.poll(10, 0.1)
        second.poll(10, 0.1)

    assert len(at_first.gone) == 2
    assert set(at_first.gone) == set(at_second.gained)

    first.close()
    while len(at_second.gained) < 4 and time.monotonic() < until:
        second.poll(10, 0.1)
    second.close()
    assert {p.number for p in at_second.gained} == {0, 1, 2, 3}


def test_a_paused_partition_gives_nothing_until_resumed(kafka: Kafka) -> None:
    """Back-pressure keeps the assignment."""
    topic = kafka.create_topic()
    reader, places = source(kafka, topic), Places()
    reader.open(places)
    drain(reader, 1, 3)
    reader.pause(places.gained)
    produce(kafka, topic, numbered(5))

    assert drain(reader, 1, 2) == []

    reader.resume(places.gained)
    assert len(drain(reader, 5)) == 5
    reader.close()


def test_a_recreated_topic_has_another_identity(kafka: Kafka) -> None:
    """So that position 0 of the new one is not taken for position 0 of the old one."""
    topic = kafka.create_topic()
    before = Places()
    reader = source(kafka, topic)
    reader.open(before)
    drain(reader, 1, 3)
    reader.close()
    kafka.delete_topic(topic)
    time.sleep(1)
    kafka.create_topic(topic)

    after = Places()
    reader = source(kafka, topic)
    reader.open(after)
    drain(reader, 1, 3)
    reader.close()

    assert before.gained[0].topic_id != after.gained[0].topic_id
    assert before.gained[0].topic_id


def test_committing_a_partition_that_is_not_owned_does_nothing(kafka: Kafka) -> None:
    """The client would accept it silently."""
    topic = kafka.create_topic()
    reader = source(kafka, topic)
    reader.open(Places())
    drain(reader, 1, 3)

    reader.commit({Partition("adt", "elsewhere", 7): 3})
    reader.close()


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


@pytest.mark.parametrize(("stored", "first"), [(2, 10), (999, 10)], ids=["overtaken-by-retention", "cut-or-restored"])
def test_a_position_that_the_topic_does_not_hold_is_said(kafka: Kafka, stored: int, first: int) -> None:
    """Never skipped, never read again from the start as if nothing were."""
    from kafka import KafkaAdminClient, TopicPartition

    topic = kafka.create_topic()
    produce(kafka, topic, numbered(20))
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.delete_records({TopicPartition(topic, 0): first})
    admin.close()
    reader, places = source(kafka, topic), Places(start=lambda _: stored)
    reader.open(places)

    with pytest.raises(PositionOutOfRange) as caught:
        drain(reader, 1)

    assert caught.value.first == {places.gained[0]: first}
    reader.seek(places.gained[0], first)
    assert [f.offset for f in drain(reader, 10)] == list(range(10, 20))
    reader.close()
