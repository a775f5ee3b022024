"""How the contract suite reaches what stands behind each registered sink."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from kafka import KafkaConsumer, TopicPartition

from bridge.pipeline.ports import Delivery, DeliveryKind
from tests.contract.fhir_receiver import Receiver
from tests.services.kafka import Kafka

SYSTEM = "https://bridge.test/id"
SECRET = "Umbridge"
"""A name in every resource, which no error may show."""


def version(kind: str, name: str, number: int = 1, *, key: str = "", **elements: Any) -> Delivery:
    """A version of a resource: its bytes are as the store has them."""
    resource = {
        "resourceType": kind,
        "id": name,
        "meta": {"versionId": str(number), "lastUpdated": "2024-03-01T12:00:00.000000Z", "source": f"#{number}"},
        **elements,
    }
    if kind == "Patient":
        resource |= {"name": [{"family": SECRET}]}
    key = key or f"{kind}/{name}"
    content = json.dumps(resource).encode()
    return Delivery(DeliveryKind.RESOURCE, key, f"{kind}/{name}/_history/{number}", content, kind, name, number)


def deletion(kind: str, name: str, number: int, *, key: str = "") -> Delivery:
    """A version that is a deletion."""
    place = f"{kind}/{name}"
    return Delivery(DeliveryKind.RESOURCE, key or place, f"{place}/_history/{number}", None, kind, name, number)


class Destination(Protocol):
    """Something of the test's own that a sink delivers to."""

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Settings of a sink that delivers to it."""

    def unreachable(self) -> dict[str, Any]:
        """Well-formed settings of something that is not there."""

    def got(self) -> list[tuple[str, int]]:
        """(Type/id, version; 0 for a deletion) in the order in which they were committed there, repeats included."""

    def poison(self, name: str, key: str) -> Delivery:
        """A Patient that is refused for good."""

    @contextmanager
    def away(self) -> Iterator[None]:
        """It can't be reached for a while."""


class Topic:
    """A Kafka topic of one partition."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self.name = kafka.create_topic()

    def settings(self, **changes: Any) -> dict[str, Any]:
        return {
            "bootstrap_servers": [self._kafka.bootstrap],
            "topic": self.name,
            "max_message_bytes": 10_000,
            "delivery_timeout_seconds": 3,
            **changes,
        }

    def unreachable(self) -> dict[str, Any]:
        return self.settings(bootstrap_servers=["127.0.0.1:1"], connect_timeout_seconds=1)

    def messages(self) -> list[Any]:
        """Everything in the topic."""
        consumer = KafkaConsumer(
            bootstrap_servers=self._kafka.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
        )
        try:
            partition = TopicPartition(self.name, 0)
            consumer.assign([partition])
            end = consumer.end_offsets([partition])[partition]
            found: list[Any] = []
            deadline = time.monotonic() + 30
            while (not found or found[-1].offset < end - 1) and end:
                assert time.monotonic() < deadline
                found += [record for records in consumer.poll(timeout_ms=200).values() for record in records]
            return found
        finally:
            consumer.close()

    def got(self) -> list[tuple[str, int]]:
        told = []
        for message in self.messages():
            headers = dict(message.headers)
            place, _, number = headers["id"].decode().partition("/_history/")
            told.append((place, 0 if headers["event"] == b"deletion" else int(number)))
        return told

    def poison(self, name: str, key: str) -> Delivery:
        return version("Patient", name, key=key, text={"status": "generated", "div": "x" * 20_000})

    @contextmanager
    def away(self) -> Iterator[None]:
        self._kafka.stop()
        try:
            yield
        finally:
            self._kafka.start()


class StrictServer:
    """The FHIR server of :mod:`tests.contract.fhir_receiver`."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def settings(self, **changes: Any) -> dict[str, Any]:
        return {"base_url": self.receiver.base, "identifier_system": SYSTEM, "timeout_seconds": 5, **changes}

    def unreachable(self) -> dict[str, Any]:
        return self.settings(base_url="http://127.0.0.1:1/fhir")

    def got(self) -> list[tuple[str, int]]:
        names: dict[tuple[str, str], str] = {}
        told = []
        for kind, server_id, resource in self.receiver.log:
            if resource is not None:
                [names[kind, server_id]] = [i["value"] for i in resource["identifier"] if i["system"] == SYSTEM]
            number = int(resource["meta"]["source"][1:]) if resource is not None else 0
            told.append((f"{kind}/{names[kind, server_id]}", number))
        return told

    def poison(self, name: str, key: str) -> Delivery:
        return version("Patient", name, key=key, birthDate="yesterday")

    @contextmanager
    def away(self) -> Iterator[None]:
        with self.receiver.away():
            yield


def unique(name: str) -> str:
    """A resource id of the test's own."""
    return f"{name}-{uuid.uuid4().hex[:8]}"
