"""The MLLP listener under many senders, and through an outage of what stands behind it."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from adapters.sources.kafka_intake import KafkaIntake, KafkaIntakeSettings
from adapters.sources.mllp import MllpListener, MllpSettings
from adapters.sources.mllp_client import MllpSender
from bridge.errors import Unavailable
from bridge.hl7v2.mllp import frame
from bridge.pipeline.ports import Intake
from bridge.pipeline.queue import QueueIntake, opened
from bridge.store import raw_messages
from bridge.store.database import open_database
from bridge.telemetry.stop import Stop
from tests.integration.hospital import KEYS, Hospital
from tests.services.kafka import Kafka

pytestmark = pytest.mark.ci

SENDERS, EACH, HOSTILE = 500, 10, 20
OUTAGE_SECONDS = 30


@pytest.fixture
def collected() -> Iterator[None]:
    """Collects the sockets that kafka-python loses with a broker here, where that is forgiven; kept log records would hold them."""
    logger = logging.getLogger("kafka")
    before, others = logger.level, set(threading.enumerate())
    logger.setLevel(logging.CRITICAL + 1)
    yield
    for thread in threading.enumerate():
        if "kafka" in thread.name and thread not in others:
            thread.join(20)
    logger.setLevel(before)
    gc.collect()


def message(number: int) -> bytes:
    return b"MSH|^~\\&|LAB|NORTH|EHR|SOUTH|2026||ADT^A08|%d|P|2.5.1\rPID|1||77^^^NORTH^MR||Doe\r" % number


async def with_listener(intake: Intake, senders, **settings: object):
    """Runs ``senders(port)`` while a listener hands on to ``intake``; answers what they answer."""
    listener, stop = MllpListener("north", MllpSettings(port=0, **settings)), Stop()
    task = asyncio.create_task(listener.run(intake, stop))
    try:
        return await senders(await asyncio.wait_for(listener.listening(), 10))
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


def test_500_senders_at_once_are_each_answered_once_durable(hospital: Hospital) -> None:
    """Every message of 500 open connections is acknowledged under its own control id and durable in the store; those that
    send half a message, or noise, harm nobody.
    """

    async def sender(port: int, first: int, ready: asyncio.Barrier) -> Counter[str]:
        async with MllpSender("127.0.0.1", port, timeout_seconds=120) as one:
            answers = [await one.send(message(first))]
            await ready.wait()  # all connections are open now
            answers += [await one.send(message(first + number)) for number in range(1, EACH)]
        assert [answer.control_id for answer in answers] == [str(first + number) for number in range(EACH)]
        return Counter(answer.code for answer in answers)

    async def hostile(port: int, number: int) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(frame(message(number))[:40] if number % 2 else b"noise" * 1000)
        await writer.drain()
        return writer

    async def senders(port: int) -> Counter[str]:
        ready = asyncio.Barrier(SENDERS)
        others = await asyncio.gather(*(hostile(port, number) for number in range(HOSTILE)))
        told = await asyncio.gather(*(sender(port, 1 + EACH * number, ready) for number in range(SENDERS)))
        for writer in others:
            writer.close()
        return sum(told, Counter())

    intake = QueueIntake(open_database(hospital.url), hospital.preparer, KEYS, 100_000)
    try:
        told = asyncio.run(with_listener(intake, senders, max_connections=SENDERS + HOSTILE))
    finally:
        intake.close()
    with hospital.database.transaction(read_only=True) as txn:
        kept = [opened(row, KEYS).content for row in raw_messages.waiting(txn, 100_000, ["north"])]

    assert told == {"AA": SENDERS * EACH}
    assert sorted(kept) == sorted(message(1 + number) for number in range(SENDERS * EACH))


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_sender_that_skips_after_an_error_loses_nothing_while_the_broker_is_down(kafka: Kafka) -> None:
    """It goes on to the next message after any answer but AA, as many do, and sends again only where it hears nothing. The
    broker is killed in the middle of its feed and is away for half a minute: every message is in the topic.
    """
    topic = kafka.create_topic(partitions=1)
    settings = KafkaIntakeSettings(bootstrap_servers=(kafka.bootstrap,), topic=topic, delivery_timeout_seconds=5)
    skipped: list[int] = []
    unanswered = 0

    async def outage(half_sent: asyncio.Event) -> None:
        await half_sent.wait()
        await asyncio.to_thread(kafka.kill)
        await asyncio.sleep(OUTAGE_SECONDS)
        await asyncio.to_thread(kafka.start)

    async def senders(port: int) -> None:
        nonlocal unanswered
        half_sent = asyncio.Event()
        away = asyncio.create_task(outage(half_sent))
        async with MllpSender("127.0.0.1", port, timeout_seconds=60) as one:
            for number in range(1, 401):
                if number == 200:
                    half_sent.set()
                while True:
                    try:
                        answer = await one.send(message(number))
                    except Unavailable:
                        unanswered += 1
                        await asyncio.sleep(0.2)
                        continue
                    if answer.code != "AA":
                        skipped.append(number)
                    break
                if number >= 200 and not away.done():
                    await asyncio.sleep(0.05)  # so that the feed outlasts the kill
        await away

    intake = KafkaIntake("adt", settings)
    try:
        asyncio.run(with_listener(intake, senders))
    finally:
        if not kafka.running:
            kafka.start()
        intake.close()
    kept = consumed(kafka, topic)

    assert skipped == []
    assert unanswered > 0
    assert set(kept) == {message(number) for number in range(1, 401)}


def consumed(kafka: Kafka, topic: str) -> list[bytes]:
    """Everything in a topic of one partition."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=[kafka.bootstrap], metrics_enabled=False)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    end = consumer.end_offsets([partition])[partition]
    found: list[bytes] = []
    while consumer.position(partition) < end:
        for records in consumer.poll(timeout_ms=1000).values():
            found += [record.value for record in records]
    consumer.close()
    return found
