"""Kafka as an intake: what listeners receive is durable once the brokers have acknowledged it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

from kafka import KafkaProducer
from kafka import errors as kafka_errors
from pydantic import Field

from adapters.sources.kafka_client import KafkaConnection, closed_error, explained, let_go
from bridge.config.adapters import AdapterSpec
from bridge.errors import BridgeError, Busy, Incorrect, Unavailable
from bridge.pipeline.ports import ContentKind, RawMessage, Receipt

_METADATA_SECONDS: Final = 5.0
_BEYOND_SECONDS: Final = 1.0  # after which the producer itself should have given up
_CLOSING_SECONDS: Final = 3.0  # nobody is told any more what becomes of a message
_CONTENT_TYPES = {ContentKind.HL7V2: b"x-application/hl7-v2+er7", ContentKind.FHIR_JSON: b"application/fhir+json"}


class KafkaIntakeSettings(KafkaConnection):
    """A topic that listeners write to; a Kafka source of the same topic reads it back."""

    topic: str = Field(description="Topic to write.", examples=["adt"])
    delivery_timeout_seconds: float = Field(
        default=30, gt=0, description="After this without acknowledgement the sender hears nothing."
    )
    linger_milliseconds: int = Field(
        default=2, ge=0, le=1000, description="How long to gather messages into one request."
    )
    max_message_bytes: int = Field(default=16 * 2**20, gt=0, description="Larger messages are refused for good.")
    max_waiting: int = Field(
        default=10_000, gt=0, description="More unacknowledged messages than this are refused for now."
    )
    max_waiting_bytes: int = Field(
        default=256 * 2**20,
        gt=0,
        description="More unacknowledged bytes than this are refused for now; one message is always let in.",
    )


class KafkaIntake:
    """See :class:`bridge.pipeline.ports.Intake`: ``acks=all``, idempotent, acknowledged from the producer's callback.

    Many accepts wait at once, so that the producer can batch them; order per key is kept by the idempotent producer.
    ``accept`` never blocks its event loop: whatever the producer would wait for (brokers, the topic's metadata) is waited
    for on a thread, and what waits for the brokers is bounded in number and in bytes.
    """

    def __init__(self, name: str, settings: KafkaIntakeSettings) -> None:
        self.name = name
        self._settings = settings
        self._producer: Any = None
        self._preparing: asyncio.Future[Any] | None = None
        self._lock = threading.Lock()  # of opening and closing, both off the loop
        self._waiting = 0
        self._waiting_bytes = 0

    async def accept(self, raw: RawMessage) -> Receipt:
        """Returns once all in-sync replicas have the message."""
        settings = self._settings
        size = len(raw.content)
        self._admit(size)
        loop = asyncio.get_running_loop()
        self._waiting += 1
        self._waiting_bytes += size
        try:
            producer = self._producer
            if producer is None or not _knows(producer, settings.topic):
                producer = await self._prepared(loop)
            done: asyncio.Future[Receipt] = loop.create_future()
            headers = [("content-type", _CONTENT_TYPES[raw.kind])] if raw.kind else []
            try:
                sent = producer.send(settings.topic, raw.content, key=raw.key, headers=headers)
            except (kafka_errors.KafkaError, ValueError) as error:
                raise _refusal(error, settings.topic) from error

            def settle(receipt: Receipt | None, error: Exception | None) -> None:
                if done.done():
                    return
                if receipt is not None:
                    done.set_result(receipt)
                elif error is not None:
                    done.set_exception(_refusal(error, settings.topic))

            def acknowledged(metadata: Any) -> None:
                receipt = Receipt(f"{metadata.topic}-{metadata.partition}@{metadata.offset}")
                loop.call_soon_threadsafe(settle, receipt, None)

            def failed(error: Exception) -> None:
                loop.call_soon_threadsafe(settle, None, error)

            sent.add_callback(acknowledged)
            sent.add_errback(failed)
            return await self._delivered(done, producer)
        finally:
            self._waiting -= 1
            self._waiting_bytes -= size

    async def _delivered(self, done: asyncio.Future[Receipt], producer: Any) -> Receipt:
        """Waits for a delivery, and parts with a producer that fails it: the next message opens another.

        After a batch has expired kafka-python's idempotent producer may wait for a producer id for ever, and then expires no
        batch any more. What still waits in it fails, and is sent again by its senders.
        """
        settings = self._settings
        try:
            async with asyncio.timeout(settings.delivery_timeout_seconds + _BEYOND_SECONDS):
                return await done
        except (TimeoutError, Unavailable) as error:
            if self._producer is producer:
                self._producer = None
                asyncio.get_running_loop().run_in_executor(None, let_go, producer, 0)
            raise _refusal(error, settings.topic) from None

    def _admit(self, size: int) -> None:
        settings = self._settings
        if size > settings.max_message_bytes:
            raise Incorrect(
                "message-too-large",
                "The message is larger than the intake takes.",
                remedy="Raise max_message_bytes here and at the brokers.",
            )
        if self._waiting >= settings.max_waiting or (
            self._waiting and self._waiting_bytes + size > settings.max_waiting_bytes
        ):
            raise Busy("intake-full", "Too many messages wait for the brokers.", remedy="Send again later.")

    async def _prepared(self, loop: asyncio.AbstractEventLoop) -> Any:
        """The producer; all wait for one opening, so that they go on in the order they came: order per key starts here."""
        if self._preparing is None or self._preparing.done():
            self._preparing = loop.run_in_executor(None, self._prepare)
        return await asyncio.shield(self._preparing)

    def close(self) -> None:
        """Closes the producer; what waits has a moment to be sent, and none of it was acknowledged."""
        with self._lock:
            producer, self._producer, self._preparing = self._producer, None, None
            if producer is not None:
                let_go(producer, min(_CLOSING_SECONDS, self._settings.delivery_timeout_seconds))

    def _prepare(self) -> Any:
        """Opens the producer, if it is not, and waits until it knows the topic's partitions. Blocks."""
        settings = self._settings
        try:
            with self._lock, explained(f"write topic {settings.topic}"):
                producer = self._producer  # the loop may part with it meanwhile
                if producer is None:
                    producer = self._producer = self._opened()
                producer.partitions_for(settings.topic)
        except Incorrect as error:
            raise _for_now(error) from error
        return producer

    def _opened(self) -> Any:
        settings = self._settings
        timeout_ms = int(settings.delivery_timeout_seconds * 1000)
        return KafkaProducer(
            acks="all",
            enable_idempotence=True,
            linger_ms=settings.linger_milliseconds,
            batch_size=131_072,
            delivery_timeout_ms=timeout_ms,
            request_timeout_ms=max(1000, timeout_ms - settings.linger_milliseconds - 1),
            max_block_ms=int(_METADATA_SECONDS * 1000),
            max_request_size=settings.max_message_bytes + 65_536,
            **settings.client_arguments(),
        )


def _knows(producer: Any, topic: str) -> bool:
    """Whether ``send`` would not wait for metadata; the public ``partitions_for`` waits for it itself."""
    return producer._metadata.partitions_for_topic(topic) is not None  # noqa: SLF001


def _for_now(error: BridgeError) -> BridgeError:
    """What is wrong with our own settings or secrets is no fault of a message: its sender must send it again."""
    return Unavailable(error.code, error.message, remedy=error.remedy) if isinstance(error, Incorrect) else error


def _refusal(error: Exception, topic: str) -> Exception:
    if isinstance(error, BridgeError):
        return error
    if isinstance(error, kafka_errors.MessageSizeTooLargeError | kafka_errors.RecordListTooLargeError):
        return Incorrect(
            "message-too-large",
            "The brokers do not take a message of this size.",
            remedy="Raise message.max.bytes of the topic.",
        )
    return _for_now(closed_error(error, f"write topic {topic}"))


adapter = AdapterSpec(name="kafka", settings=KafkaIntakeSettings, build=KafkaIntake)
