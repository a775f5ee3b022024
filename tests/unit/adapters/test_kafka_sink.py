"""What the Kafka sink does beyond the contract of sinks: topics, headers, and failures that only some messages meet."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kafka import errors as kafka_errors

from adapters.sinks.kafka import KafkaSink, KafkaSinkSettings
from bridge.errors import Unavailable
from bridge.pipeline.ports import Delivery, DeliveryKind, DeliveryState
from tests.contract.sink_harness import deletion, version

DELIVERED, REFUSED, HELD = DeliveryState.DELIVERED, DeliveryState.REFUSED, DeliveryState.HELD


class Sent:
    """What the client answers for one message."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def get(self, timeout: float) -> None:
        assert timeout >= 0
        if self._error is not None:
            raise self._error


class Producer:
    """The client's side of brokers that take what they are told to."""

    def __init__(self, fails: Callable[[bytes], Exception | None] = lambda _: None) -> None:
        self.messages: list[tuple[str, bytes, dict[str, bytes], bytes]] = []
        self.closed = False
        self._fails = fails

    def send(self, topic: str, value: bytes, *, key: bytes, headers: list[tuple[str, bytes]]) -> Sent:
        self.messages.append((topic, key, dict(headers), value))
        return Sent(self._fails(value))

    def close(self, timeout: float) -> None:
        self.closed = True


def sink(producer: Producer, **settings: Any) -> KafkaSink:
    made = KafkaSink("events", KafkaSinkSettings(bootstrap_servers=("127.0.0.1:1",), topic="all", **settings))
    made._producer = producer
    return made


def always() -> bool:
    return True


def test_a_message_says_whose_it_is_and_what():
    """Key, headers and the bytes as stored; a deletion and the events are told in JSON, each to its topic."""
    producer = Producer()
    event = Delivery(DeliveryKind.LINK, "Patient/p", "link/7", b'{"event":"merge"}')
    consent = Delivery(DeliveryKind.CONSENT, "Patient/p", "consent/c/1", b'{"event":"consent"}')
    stored = version("Observation", "o", key="Patient/p")

    sink(producer, link_topic="links").deliver([stored, deletion("Patient", "p", 2), event, consent], always)

    assert [(topic, key, headers["event"], headers["id"]) for topic, key, headers, _ in producer.messages] == [
        ("all", b"Patient/p", b"resource", b"Observation/o/_history/1"),
        ("all", b"Patient/p", b"deletion", b"Patient/p/_history/2"),
        ("links", b"Patient/p", b"link", b"link/7"),
        ("all", b"Patient/p", b"consent", b"consent/c/1"),
    ]
    assert producer.messages[0][3] == stored.content
    assert json.loads(producer.messages[1][3]) == {"event": "deletion", "resource": "Patient/p", "version": 2}
    assert producer.messages[2][3] == event.content


def test_what_brokers_took_behind_a_refusal_is_not_called_delivered():
    """It comes again behind what was refused, so that the last message is the newest; other keys are not touched."""
    too_large = kafka_errors.MessageSizeTooLargeError()
    producer = Producer(lambda value: too_large if b'"versionId": "1"' in value and b'"a"' in value else None)
    given = [version("Patient", "a"), version("Patient", "b"), version("Patient", "a", 2)]

    answers = sink(producer).deliver(given, always)

    assert [answer.state for answer in answers] == [REFUSED, DELIVERED, HELD]


def test_what_came_before_a_failure_of_the_brokers_is_answered():
    """And the client is given up with what it still holds, so that nothing of it arrives behind what is sent anew."""
    producer = Producer(lambda value: kafka_errors.KafkaTimeoutError() if b'"b"' in value else None)

    answers = sink(producer).deliver([version("Patient", name) for name in "abc"], always)

    assert [answer.state for answer in answers] == [DELIVERED]
    assert producer.closed


def test_a_failure_of_everything_is_the_brokers():
    """Nothing was settled: it is said why."""
    producer = Producer(lambda _: kafka_errors.KafkaTimeoutError())

    with pytest.raises(Unavailable, match="write topic all"):
        sink(producer).deliver([version("Patient", "a")], always)
    assert producer.closed
