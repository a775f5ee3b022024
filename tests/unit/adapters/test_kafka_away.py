"""What the Kafka intake, source and sink do with a client whose brokers are away."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka import errors as kafka_errors

from adapters.sinks.kafka import KafkaSink, KafkaSinkSettings
from adapters.sources.kafka import KafkaSource, KafkaSourceSettings
from adapters.sources.kafka_client import let_go
from adapters.sources.kafka_intake import KafkaIntake, KafkaIntakeSettings
from bridge.errors import Unavailable
from bridge.pipeline.ports import Partition, RawMessage

# A client that never reached a broker leaves its sockets to the garbage collector; that is kafka-python's to mend.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collects those sockets here, where that is forgiven, and not in the middle of someone else's test."""
    yield
    gc.collect()


@contextmanager
def unreachable() -> Iterator[Any]:
    """A real producer that knows a topic's partition and reaches no broker."""
    made = KafkaProducer(bootstrap_servers=[NOWHERE], api_version=(3, 9), acks="all", enable_idempotence=True)
    made._metadata.topics = lambda: {"adt", "all"}
    made._metadata.partitions_for_topic = made._metadata.available_partitions_for_topic = lambda _topic: {0}
    try:
        yield made
    finally:
        made._sender.force_close()
        made._sender.join(10)


def test_what_waits_in_a_producer_that_is_let_go_fails_and_is_never_sent() -> None:
    """Its thread ends too: brokers that stay away would otherwise gather threads, and messages to send much later."""
    with unreachable() as producer:
        sent = producer.send("adt", b"MSH")

        let_go(producer, 0)

        with pytest.raises(kafka_errors.KafkaError):
            sent.get(timeout=10)
        producer._sender.join(10)
        assert not producer._sender.is_alive()


def test_a_sink_closes_while_messages_wait() -> None:
    """Closing is not one more failure: it would set aside deliveries that were only not taken yet."""
    sink = KafkaSink("events", KafkaSinkSettings(bootstrap_servers=(NOWHERE,), topic="all"))
    with unreachable() as producer:
        sink._producer = producer
        producer.send("all", b"{}")

        sink.close()

        producer._sender.join(10)
        assert not producer._sender.is_alive()


def test_an_intake_closes_without_brokers() -> None:
    """A stop is not held up by messages whose senders are gone, however long they might be waited for before."""
    made = KafkaIntakeSettings(bootstrap_servers=(NOWHERE,), topic="adt", delivery_timeout_seconds=3600)
    intake = KafkaIntake("out", made)
    with unreachable() as producer:
        intake._producer = producer
        producer.send("adt", b"MSH")

        intake.close()

        producer._sender.join(10)
        assert not producer._sender.is_alive()


def test_a_source_is_left_whatever_its_brokers_do() -> None:
    """Telling lag tools has a limit, and leaving a group that does not answer ends no worker."""

    class Consumer:
        def commit(self, _offsets: object, *, timeout_ms: int | None = None) -> None:
            raise kafka_errors.KafkaTimeoutError if timeout_ms else AssertionError("waits as long as it takes")

        def close(self, **_: object) -> None:
            raise kafka_errors.KafkaTimeoutError

    source = KafkaSource("adt", KafkaSourceSettings(bootstrap_servers=(NOWHERE,), topic="adt"))
    partition = Partition("adt", "t", 0)
    source._consumer, source._owned = Consumer(), {TopicPartition("adt", 0): partition}

    with pytest.raises(Unavailable):
        source.commit({partition: 7})
    source.close()


def test_a_secret_that_is_not_there_is_no_refusal_of_a_message() -> None:
    """Incorrect would be told the sender as AR, and it would skip a message that nobody has."""
    sasl = {"mechanism": "PLAIN", "username": "bridge", "password": {"env": "NOT_SET_ANYWHERE"}}
    intake = KafkaIntake("out", KafkaIntakeSettings(bootstrap_servers=(NOWHERE,), topic="adt", sasl=sasl))

    with pytest.raises(Unavailable):
        asyncio.run(intake.accept(RawMessage("door", b"MSH")))
