"""An MLLP listener: HL7 v2 over TCP, acknowledged once durable.

Source: HL7 "Transport Specification: MLLP, Release 1"; HL7 v2.9 chapter 2.9.2 (original mode), 2.9.3 (enhanced mode).

What the sender is told:

- AA, in enhanced mode CA: the message is durable here. It says nothing of its content.
- AR, in enhanced mode CR: it can never be accepted (no HL7 v2 header, too large, refused by the intake): sending it again is
  of no use.
- AE, only in original mode with ``acknowledge: application``, where AA says that the message had its effect: it is a dead
  letter. Nothing is lost by skipping it.
- Nothing, and the connection goes on: in enhanced mode, where MSH-15 does not ask for that answer.
- Nothing, and the connection is closed: it could not be stored; send it again. Most senders skip a message after AE or CE,
  so neither is sent for that.

Messages of one connection are taken one after the other, in order. A frame that breaks the rules harms no other: bytes between
frames and halves of messages are left out, and reported by their number only.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import ssl
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog
from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.config.secrets import SecretRef
from bridge.errors import BridgeError, Incorrect, Unavailable
from bridge.hl7v2.acknowledge import AckCode, AckError, Asked, ack_error, acknowledge, read_asked
from bridge.hl7v2.mllp import Frame, FrameReader, Stray, frame
from bridge.hl7v2.repeats import Answered, Repeats, digest_of, sender_key
from bridge.pipeline.ports import ContentKind, Intake, RawMessage, Receipt, Settled, TellsOutcome
from bridge.telemetry import metrics
from bridge.telemetry.failpoints import failpoint
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

_CHUNK: Final = 65_536
_MAX_STRAY_BYTES: Final = 65_536
_AFTER_FS_SECONDS: Final = 1.0

_DEAD: Final = AckError("dead-letter")

_PROCESS: Final = secrets.token_hex(4).upper()
_answers: Final = itertools.count(1)


class MllpTls(BaseModel):
    """TLS of the listener; files are PEM."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    certificate_file: Path = Field(description="Own certificate, followed by its chain.")
    key_file: Path = Field(description="Private key of the certificate.")
    key_password: SecretRef | None = Field(default=None, description="Password of the private key.")
    client_ca_file: Path | None = Field(
        default=None, description="Certificates that senders' must chain to; set = mutual TLS, every sender needs one."
    )

    def context(self) -> ssl.SSLContext:
        """The server's TLS context, TLS 1.2 or later. Raises Incorrect ``mllp-certificate-invalid``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        password = self.key_password.resolve() if self.key_password else ""  # '' rather than a prompt
        try:
            context.load_cert_chain(self.certificate_file, self.key_file, password)
            if self.client_ca_file is not None:
                context.load_verify_locations(self.client_ca_file)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:  # ssl.SSLError is one
            raise Incorrect(
                "mllp-certificate-invalid",
                f"the certificate, key or client CA file cannot be used ({type(error).__name__})",
                remedy="Check certificate_file, key_file, key_password and client_ca_file.",
            ) from None
        return context


class AckMode(StrEnum):
    """Which rules of acknowledgement hold on a port."""

    AS_ASKED = "as-asked"  # enhanced mode where MSH-15 or MSH-16 is valued, else original mode
    ORIGINAL = "original"


class Acknowledge(StrEnum):
    """What an answer in original mode states."""

    DURABLE = "durable"
    APPLICATION = "application"


class OtherContent(StrEnum):
    """What becomes of a message whose control id stood on another one."""

    ACCEPT = "accept"
    REJECT = "reject"


class RepeatSettings(BaseModel):
    """Messages that come again, known by sending application, facility, control id and their bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    remember_messages: int = Field(
        default=10_000, ge=0, description="How many accepted messages are remembered, in memory; 0 = none."
    )
    answer_again_seconds: float = Field(
        default=60,
        ge=0,
        description="How long the same bytes get the same acknowledgement without being stored again; later they are stored "
        "again, and without effect.",
    )
    other_content: OtherContent = Field(
        default=OtherContent.ACCEPT,
        description="A remembered control id on other bytes: `accept` = a message like any other, `reject` = AR, in enhanced "
        "mode CR.",
    )


class MllpSettings(BaseModel):
    """A TCP port that takes HL7 v2 messages by MLLP."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 = every IPv4 interface.")
    port: int = Field(default=2575, ge=0, le=65_535, description="Port to listen on; 0 = any free one.")
    tls: MllpTls | None = Field(default=None, description="TLS; absent = plain text.")
    max_message_bytes: int = Field(
        default=16 * 2**20, ge=1024, description="Larger messages are refused with AR, and never held."
    )
    idle_timeout_seconds: float = Field(
        default=3600, gt=0, description="How long a connection may stay without a message before it is closed."
    )
    read_timeout_seconds: float = Field(
        default=30,
        gt=0,
        description="How long one message may take from its first byte to its last, and an answer to leave.",
    )
    max_connections: int = Field(
        default=256,
        gt=0,
        description="Further connections are closed at once; memory is at most this times max_message_bytes.",
    )
    stop_timeout_seconds: float = Field(
        default=5, ge=0, description="How long a message may take to finish once stopping was asked for."
    )
    acknowledgement_mode: AckMode = Field(
        default=AckMode.AS_ASKED,
        description="`as-asked`: enhanced mode for messages with MSH-15 or MSH-16, which then say what is answered, original "
        "mode for others. `original`: every message is answered with AA or AR.",
    )
    acknowledge: Acknowledge = Field(
        default=Acknowledge.DURABLE,
        description="What original mode states: `durable` = receipt; `application` = AA once the worker has stored what the "
        "message says, AE where it became a dead letter. Needs `intake: queue`; enhanced mode states receipt either way.",
    )
    application_wait_seconds: float = Field(
        default=10,
        gt=0,
        description="With `acknowledge: application`: after this without outcome nothing is answered and the connection closed.",
    )
    repeats: RepeatSettings = Field(default=RepeatSettings(), description="Messages that come again.")


class _Counts:
    """The metrics of one listener, with its label applied once."""

    def __init__(self, name: str) -> None:
        self.open = metrics.CONNECTIONS_OPEN.labels(name)
        self.let_in = metrics.CONNECTIONS_ACCEPTED.labels(name)
        self.refused = metrics.CONNECTIONS_REFUSED.labels(name)
        self.messages = metrics.LISTENER_MESSAGES.labels(name)
        self.bytes = metrics.LISTENER_BYTES.labels(name)
        told = metrics.Acknowledgement
        self.unanswered = metrics.ACKNOWLEDGEMENTS.labels(name, told.NONE)
        self.answered = {
            AckCode.ACCEPT: metrics.ACKNOWLEDGEMENTS.labels(name, told.ACCEPTED),
            AckCode.ERROR: metrics.ACKNOWLEDGEMENTS.labels(name, told.APPLICATION_ERROR),
            AckCode.REJECT: metrics.ACKNOWLEDGEMENTS.labels(name, told.REJECTED),
            AckCode.COMMIT_ACCEPT: metrics.ACKNOWLEDGEMENTS.labels(name, told.COMMIT_ACCEPTED),
            AckCode.COMMIT_REJECT: metrics.ACKNOWLEDGEMENTS.labels(name, told.COMMIT_REJECTED),
            None: metrics.ACKNOWLEDGEMENTS.labels(name, told.NOT_ASKED),
        }
        self.too_large = metrics.OVER_LIMIT.labels(name, metrics.Limit.SIZE)
        self.too_slow = metrics.OVER_LIMIT.labels(name, metrics.Limit.TIME)


class MllpListener:
    """See :class:`bridge.pipeline.ports.Listener`."""

    def __init__(self, name: str, settings: MllpSettings) -> None:
        self.name = name
        self._counts = _Counts(name)
        self._settings = settings
        self._bound: asyncio.Event = asyncio.Event()
        self._repeats = Repeats(settings.repeats.remember_messages, settings.repeats.answer_again_seconds)
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self.port = settings.port

    async def listening(self) -> int:
        """Waits until the port is open; answers its number."""
        await self._bound.wait()
        return self.port

    async def run(self, intake: Intake, stop: Stop) -> None:
        """Listens until ``stop`` is set; then finishes the messages that have begun to come in, and returns.

        Raises:
            Incorrect: ``mllp-certificate-invalid``; ``mllp-outcome-unknown``, the intake can't tell what becomes of messages.
            Unavailable: ``mllp-port-unavailable``, the address cannot be listened on.
        """
        settings = self._settings
        tls = settings.tls.context() if settings.tls else None
        if settings.acknowledge is Acknowledge.APPLICATION and not isinstance(intake, TellsOutcome):
            raise Incorrect(
                "mllp-outcome-unknown",
                f"listener {self.name} is to acknowledge what became of messages, and its intake does not know",
                remedy="Set intake: queue, or acknowledge: durable.",
            )

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = _Connection(self.name, settings, intake, stop, reader, writer, self._counts, self._repeats)
            task = asyncio.current_task()
            assert task is not None
            if len(self._connections) >= settings.max_connections or stop.is_set:
                _log.warning("mllp-connection-refused", listener=self.name, open=len(self._connections))
                self._counts.refused.inc()
                writer.transport.abort()
                return
            self._connections[connection] = task
            self._counts.let_in.inc()
            self._counts.open.inc()
            try:
                await connection.serve()
            finally:
                self._counts.open.dec()
                del self._connections[connection]

        try:
            server = await asyncio.start_server(
                connected,
                settings.host,
                settings.port,
                limit=_CHUNK,
                ssl=tls,
                ssl_handshake_timeout=settings.read_timeout_seconds if tls else None,
                ssl_shutdown_timeout=1 if tls else None,
            )
        except OSError as error:
            raise Unavailable(
                "mllp-port-unavailable",
                f"listener {self.name} cannot listen on port {settings.port} ({type(error).__name__})",
                remedy="Choose another port or address, or stop what uses it.",
            ) from None
        self.port = server.sockets[0].getsockname()[1]
        self._bound.set()
        try:
            await stop.wait_async()
        finally:
            server.close()
            await self._drain()
            self._bound.clear()

    async def _drain(self) -> None:
        for connection in self._connections:
            connection.hurry()
        tasks = list(self._connections.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._settings.stop_timeout_seconds + 1)
        for task in late:  # no answer was sent: the sender will send again
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1)


class _Connection:
    """One sender. Reads frame by frame; the next is looked at only when the one before is answered."""

    def __init__(
        self,
        listener: str,
        settings: MllpSettings,
        intake: Intake,
        stop: Stop,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        counts: _Counts,
        repeats: Repeats,
    ) -> None:
        self._listener = listener
        self._settings = settings
        self._intake = intake
        self._stop = stop
        self._reader = reader
        self._writer = writer
        self._counts = counts
        self._repeats = repeats
        self._frames = FrameReader(settings.max_message_bytes)
        self._loop = asyncio.get_running_loop()
        self._quiet_since = self._loop.time()
        self._begun: float | None = None  # when the frame that is coming in began
        self._stray = 0
        self._waiting: asyncio.Timeout | None = None

    async def serve(self) -> None:
        """Until the sender leaves, a limit is reached, storage fails or stopping is asked for. Raises nothing."""
        try:
            while (data := await self._read()) is not None:
                completed = self._frames.feed(data) if data else self._frames.finish()
                for found in completed:
                    if not await self._took(found):
                        return
                if (not data and self._reader.at_eof()) or self._stray > _MAX_STRAY_BYTES:
                    return
                if not self._frames.inside:
                    self._begun = None
                elif completed or self._begun is None:
                    self._begun = self._loop.time()
        except (OSError, TimeoutError) as error:
            self._report("mllp-connection-lost", cause=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - one connection's trouble harms no other; its text may hold data
            _log.error("mllp-connection-failed", listener=self._listener, cause=type(error).__name__)
        finally:
            await self._close()

    async def _read(self) -> bytes | None:
        """The next bytes; b'' where the stream ends, or pauses after an FS; None where it is time to close."""
        settle = self._frames.ends_in_fs
        try:
            async with asyncio.timeout_at(self._deadline(settle)) as self._waiting:
                return await self._reader.read(_CHUNK)
        except TimeoutError:
            if settle:
                return b""
            if not self._stop.is_set:
                half = self._frames.inside
                if half:
                    self._counts.too_slow.inc()
                self._report("mllp-message-too-slow" if half else "mllp-idle", half=half)
            return None
        finally:
            self._waiting = None

    def _deadline(self, settle: bool) -> float:
        now, settings = self._loop.time(), self._settings
        if settle:
            return now + _AFTER_FS_SECONDS
        if self._begun is None:
            return now if self._stop.is_set else self._quiet_since + settings.idle_timeout_seconds
        deadline = self._begun + settings.read_timeout_seconds
        return min(deadline, now + settings.stop_timeout_seconds) if self._stop.is_set else deadline

    def hurry(self) -> None:
        """Stopping was asked for: a message that has begun may finish, nothing new begins."""
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._deadline(self._frames.ends_in_fs))

    async def _took(self, found: Frame | Stray) -> bool:
        """Deals with what came in; False = close the connection."""
        if isinstance(found, Stray):
            self._stray += found.count
            self._report("mllp-stray-bytes", bytes=found.count)
            return True
        self._stray = 0
        self._counts.messages.inc()
        self._counts.bytes.inc(found.size)
        try:
            answered = await self._answered(found)
            failpoint("mllp.before-acknowledge")
        except asyncio.CancelledError:
            self._counts.unanswered.inc()
            raise
        except Exception as failure:  # noqa: BLE001 - whatever it was, nothing was stored: silence, so that it is sent again
            code = failure.code if isinstance(failure, BridgeError) else type(failure).__name__
            self._report("mllp-not-stored", code=code)
            self._counts.unanswered.inc()
            return False
        self._counts.answered[answered.code].inc()
        if answered.answer:
            self._writer.write(frame(answered.answer))
            async with asyncio.timeout(self._settings.read_timeout_seconds):
                await self._writer.drain()
        self._quiet_since = self._loop.time()
        return True

    async def _answered(self, found: Frame) -> Answered:
        """Hands the message to the intake unless it has come before or can never be accepted; answers what to tell."""
        asked, now = read_asked(found.content), self._loop.time()
        key = None if found.too_large else sender_key(asked)
        digest = digest_of(found.content) if key else b""
        if key and (before := self._repeats.same(key, digest, now)):
            return before
        error = await self._refusal(found, asked, reused=key is not None and self._repeats.other(key, digest))
        code = self._code(asked, error)
        answer = b""
        if code is not None:
            control_id = f"{_PROCESS}{next(_answers)}"
            answer = acknowledge(asked, code, control_id=control_id, now=datetime.now(UTC), error=error)
        answered = Answered(digest, now, code, answer)
        if key and error is None:
            self._repeats.keep(key, answered)
        return answered

    def _original(self, asked: Asked) -> bool:
        return self._settings.acknowledgement_mode is AckMode.ORIGINAL or not asked.enhanced

    def _code(self, asked: Asked, error: AckError | None) -> AckCode | None:
        """MSA-1 for a message that is durable or refused; None where the sender does not want to hear that."""
        if self._original(asked):
            return AckCode.ACCEPT if error is None else AckCode.ERROR if error is _DEAD else AckCode.REJECT
        refused = error is not None
        if not asked.accept.wants(success=not refused):
            return None
        return AckCode.COMMIT_REJECT if refused else AckCode.COMMIT_ACCEPT

    async def _refusal(self, found: Frame, asked: Asked, *, reused: bool) -> AckError | None:
        """Why the message can never be accepted; None once it is durable, or, where that is asked for, had its effect."""
        code = ""
        if found.too_large:
            code = "message-too-large"
            self._counts.too_large.inc()
        elif asked.refusal is not None:
            code = asked.refusal.code
        elif reused and self._settings.repeats.other_content is OtherContent.REJECT:
            code = "control-id-reused"
        else:
            try:
                raw = RawMessage(self._listener, found.content, ContentKind.HL7V2, received_us=time.time_ns() // 1000)
                receipt = await self._intake.accept(raw)
                if self._settings.acknowledge is Acknowledge.APPLICATION and self._original(asked):
                    return await self._outcome(raw, receipt)
            except Incorrect as error:
                code = error.code
        if not code:
            return None
        self._report("mllp-message-refused", code=code, bytes=found.size)
        return ack_error(code)

    async def _outcome(self, raw: RawMessage, receipt: Receipt) -> AckError | None:
        """What became of a message. Raises Unavailable where that takes too long: it is durable, and sent again harmless."""
        intake = self._intake
        assert isinstance(intake, TellsOutcome)
        try:
            async with asyncio.timeout(self._settings.application_wait_seconds):
                return _DEAD if await intake.outcome(raw, receipt) is Settled.DEAD else None
        except TimeoutError:
            raise Unavailable("mllp-outcome-late", "the worker has not stored the message in time") from None

    def _report(self, event: str, **facts: object) -> None:
        _log.warning(event, listener=self._listener, **facts)

    async def _close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()


adapter = AdapterSpec(name="mllp", settings=MllpSettings, build=MllpListener)
