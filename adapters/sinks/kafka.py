"""Kafka as a sink: resource versions, link events and consent events for subscribers, keyed by patient."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from kafka import KafkaProducer
from kafka import errors as kafka_errors
from pydantic import Field

from adapters.sources.kafka_client import KafkaConnection, closed_error, explained, let_go
from bridge.config.adapters import AdapterSpec
from bridge.errors import BridgeError
from bridge.pipeline.ports import Answer, Delivery, DeliveryKind, DeliveryState

_METADATA_SECONDS: Final = 5.0
_REFUSALS: Final = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidRecordError,
)
_HELD: Final = Answer(DeliveryState.HELD)
_DELIVERED: Final = Answer(DeliveryState.DELIVERED)
_TOO_LARGE: Final = Answer(DeliveryState.REFUSED, "message-too-large")


class KafkaSinkSettings(KafkaConnection):
    """Topics that subscribers read; they exist beforehand, and must not be compacted: the key is the patient."""

    topic: str = Field(description="Topic of resource versions and deletions.", examples=["hie-resources"])
    link_topic: str = Field(default="", description="Topic of link and merge events; default: `topic`.")
    consent_topic: str = Field(default="", description="Topic of consent events; default: `topic`.")
    delivery_timeout_seconds: float = Field(
        default=20, gt=0, le=300, description="After this without acknowledgement the same is sent again."
    )
    max_message_bytes: int = Field(
        default=1_000_000,
        gt=0,
        description="Larger messages are set aside; the topics' max.message.bytes must allow it.",
    )


class KafkaSink:
    """See :class:`bridge.pipeline.ports.Sink`: ``acks=all``, idempotent; a message is delivered when all in-sync replicas have it.

    A message's key is the delivery's, its headers say ``event`` (``resource``, ``deletion``, ``link``, ``consent``), ``id`` and
    ``content-type``. After a failure the same and what follows it of its key are sent again, so that the last message of each
    resource is its newest version.
    """

    kinds = frozenset(DeliveryKind)
    links = False

    def __init__(self, name: str, settings: KafkaSinkSettings) -> None:
        self.name = name
        self.request_seconds = settings.delivery_timeout_seconds + 1 + _METADATA_SECONDS
        self._settings = settings
        self._topics = {
            DeliveryKind.RESOURCE: settings.topic,
            DeliveryKind.LINK: settings.link_topic or settings.topic,
            DeliveryKind.CONSENT: settings.consent_topic or settings.topic,
        }
        self._producer: Any = None

    def deliver(self, deliveries: Sequence[Delivery], go_on: Callable[[], bool]) -> Sequence[Answer]:
        """See the port."""
        if self._producer is None:
            self._producer = self._opened()
        waiting, error = self._sent(deliveries, go_on)
        answers: list[Answer] = []
        for answer in self._answers(deliveries, waiting):
            if isinstance(answer, BridgeError):
                error = answer
                break
            answers.append(answer)
        if error is not None:
            self._abandon()
            if not any(answer.state is not DeliveryState.HELD for answer in answers):
                raise error
        return answers

    def close(self) -> None:
        """Closes the producer; what it has not got acknowledged stays due."""
        self._abandon()

    def _opened(self) -> Any:
        settings = self._settings
        timeout_ms = int(settings.delivery_timeout_seconds * 1000)
        with explained(f"write topic {settings.topic}"):
            return KafkaProducer(
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                batch_size=131_072,
                delivery_timeout_ms=timeout_ms,
                request_timeout_ms=max(1000, timeout_ms - 6),
                max_block_ms=int(_METADATA_SECONDS * 1000),
                max_request_size=settings.max_message_bytes + 65_536,
                **settings.client_arguments(),
            )

    def _sent(self, deliveries: Sequence[Delivery], go_on: Callable[[], bool]) -> tuple[list[Any], BridgeError | None]:
        """A future, or already the answer, of each that was handed to the producer; and why it took no more."""
        waiting: list[Any] = []
        refused: set[str] = set()
        for delivery in deliveries:
            if delivery.key in refused:
                waiting.append(_HELD)
                continue
            value, headers = _message(delivery)
            if len(value) > self._settings.max_message_bytes:
                refused.add(delivery.key)
                waiting.append(_TOO_LARGE)
                continue
            if not go_on():
                return waiting, None
            topic = self._topics[delivery.kind]
            try:
                waiting.append(self._producer.send(topic, value, key=delivery.key.encode(), headers=headers))
            except (kafka_errors.KafkaError, ValueError) as error:
                return waiting, closed_error(error, f"write topic {topic}")
        return waiting, None

    def _answers(self, deliveries: Sequence[Delivery], waiting: Sequence[Any]) -> Iterator[Answer | BridgeError]:
        deadline = time.monotonic() + self._settings.delivery_timeout_seconds + 1
        failed: set[str] = set()
        for delivery, sent in zip(deliveries, waiting, strict=False):
            if isinstance(sent, Answer):
                answer = sent
            else:
                try:
                    sent.get(timeout=max(0.0, deadline - time.monotonic()))
                    answer = _DELIVERED
                except _REFUSALS:
                    answer = _TOO_LARGE
                except kafka_errors.KafkaError as error:
                    yield closed_error(error, f"write topic {self._topics[delivery.kind]}")
                    return
            if delivery.key in failed:
                answer = _HELD  # even if the brokers have it: it comes again behind what was not taken
            if answer is not _DELIVERED:
                failed.add(delivery.key)
            yield answer

    def _abandon(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            let_go(producer, 0)


def _message(delivery: Delivery) -> tuple[bytes, list[tuple[str, bytes]]]:
    value, event, kind = delivery.content, str(delivery.kind), b"application/json"
    if delivery.kind is DeliveryKind.RESOURCE:
        kind = b"application/fhir+json"
        if value is None:
            event, kind = "deletion", b"application/json"
            resource = f"{delivery.resource_type}/{delivery.resource_id}"
            value = msgspec.json.encode({"event": event, "resource": resource, "version": delivery.version})
    assert value is not None
    return value, [("event", event.encode()), ("id", delivery.id.encode()), ("content-type", kind)]


adapter = AdapterSpec(name="kafka", settings=KafkaSinkSettings, build=KafkaSink)
