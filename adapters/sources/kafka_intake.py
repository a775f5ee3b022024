"""Kafka as an intake: what listeners receive is durable once the brokers have acknowledged it."""

from __future__ import annotations

import asyncio
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors
from pydantic import Field

from adapters.sources.kafka_client import KafkaConnection, closed_error, explained
from bridge.config.adapters import AdapterSpec
from bridge.errors import Busy, Incorrect
from bridge.pipeline.ports import ContentKind, RawMessage, Receipt

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


class KafkaIntake:
    """See :class:`bridge.pipeline.ports.Intake`: ``acks=all``, idempotent, acknowledged from the producer's callback.

    Many accepts wait at once, so that the producer can batch them; order per key is kept by the idempotent producer.
    """

    def __init__(self, name: str, settings: KafkaIntakeSettings) -> None:
        self.name = name
        self._settings = settings
        self._producer: Any = None
        self._opening: asyncio.Future[Any] | None = None
        self._waiting = 0

    async def accept(self, raw: RawMessage) -> Receipt:
        """Returns once all in-sync replicas have the message."""
        settings = self._settings
        if len(raw.content) > settings.max_message_bytes:
            raise Incorrect(
                "message-too-large",
                "The message is larger than the intake takes.",
                remedy="Raise max_message_bytes here and at the brokers.",
            )
        if self._waiting >= settings.max_waiting:
            raise Busy("intake-full", "Too many messages wait for the brokers.", remedy="Send again later.")
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            producer = await self._opened(loop)
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
            return await done
        finally:
            self._waiting -= 1

    async def _opened(self, loop: asyncio.AbstractEventLoop) -> Any:
        """The producer; all wait for one opening, so that they go on in the order they came: order per key starts here."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = loop.run_in_executor(None, self._open)
        return self._producer if self._opening.done() else await asyncio.shield(self._opening)

    def close(self) -> None:
        """Sends what waits and closes the producer."""
        producer, self._producer, self._opening = self._producer, None, None
        if producer is not None:
            producer.close(timeout=self._settings.delivery_timeout_seconds)

    def _open(self) -> Any:
        timeout_ms = int(self._settings.delivery_timeout_seconds * 1000)
        with explained(f"write topic {self._settings.topic}"):
            self._producer = KafkaProducer(
                acks="all",
                enable_idempotence=True,
                linger_ms=self._settings.linger_milliseconds,
                batch_size=131_072,
                delivery_timeout_ms=timeout_ms,
                request_timeout_ms=max(1000, timeout_ms - self._settings.linger_milliseconds - 1),
                max_block_ms=5000,
                max_request_size=self._settings.max_message_bytes + 65_536,
                **self._settings.client_arguments(),
            )
        return self._producer


def _refusal(error: Exception, topic: str) -> Exception:
    if isinstance(error, kafka_errors.MessageSizeTooLargeError | kafka_errors.RecordListTooLargeError):
        return Incorrect(
            "message-too-large",
            "The brokers do not take a message of this size.",
            remedy="Raise message.max.bytes of the topic.",
        )
    return closed_error(error, f"write topic {topic}")


adapter = AdapterSpec(name="kafka", settings=KafkaIntakeSettings, build=KafkaIntake)
