"""An MLLP client: sends one message after the other and waits for each acknowledgement (original mode).

As an intake it hands messages on to another system's MLLP port; they are durable once that system has said so.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.errors import BridgeError, Incorrect, Unavailable
from bridge.hl7v2.message import parse
from bridge.hl7v2.mllp import Frame, FrameReader, frame
from bridge.pipeline.ports import RawMessage, Receipt

_MAX_ACK_BYTES: Final = 1_048_576
_CHUNK: Final = 65_536
_TAKEN: Final = frozenset({"AA", "CA"})
_REFUSED: Final = frozenset({"AR", "CR"})


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """An answer.

    Attributes:
        code: MSA-1, e.g. ``AA``.
        control_id: MSA-2, the control id that it answers.
        error: cause that a refusal names (ERR-8 or MSA-3); '' if none.
        raw: the whole answer.
    """

    code: str
    control_id: str
    error: str
    raw: bytes = field(repr=False)


class MllpSender:
    """One connection to an MLLP listener, opened at the first message and opened again after a failure.

    Not for several tasks at once: MLLP answers in order, one message at a time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_seconds: float = 30,
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        self._timeout = timeout_seconds
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, message: bytes) -> Acknowledgement:
        """Sends ``message`` (without framing) and waits for its answer.

        Raises:
            Unavailable: ``mllp-unreachable``, no connection; ``mllp-no-answer``, the listener closed or stayed silent:
                whether it has the message is not known, so send it again.
            Incorrect: the answer is no HL7 v2 message (as ``bridge.hl7v2.message.parse``); its charset is never the cause.
        """
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._exchange(message)
        except (OSError, TimeoutError) as error:
            await self.close()
            raise Unavailable(
                "mllp-no-answer",
                f"the listener did not answer ({type(error).__name__})",
                remedy="Send the message again.",
            ) from None
        except BaseException:
            await self.close()  # an answer that comes later would be taken for the next message's
            raise
        return _read(answer)

    async def _exchange(self, message: bytes) -> bytes:
        reader, writer = self._streams or await self._connect()
        writer.write(frame(message))
        await writer.drain()
        frames = FrameReader(_MAX_ACK_BYTES)
        while True:
            data = await reader.read(_CHUNK)
            for found in frames.feed(data) if data else frames.finish():
                if isinstance(found, Frame):
                    return found.content
            if not data:
                raise ConnectionResetError

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            self._streams = await asyncio.open_connection(*self._address, ssl=self._tls)
        except OSError as error:
            raise Unavailable(
                "mllp-unreachable",
                f"no connection to the MLLP listener ({type(error).__name__})",
                remedy="Check host, port and certificates.",
            ) from None
        return self._streams

    async def close(self) -> None:
        """Closes the connection; idempotent."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(streams[1].wait_closed(), 1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _read(raw: bytes) -> Acknowledgement:
    # MSA and the codes of ERR are ASCII whatever MSH-18 says; read as one byte a character, no charset is unknown or wrong.
    answer = parse(raw, charset="8859/1")
    msa, err = answer.segment("MSA"), answer.segment("ERR")
    error = (err and err.get(8)) or (msa and msa.get(3)) or ""
    code, control_id = (msa.get(1) or "", msa.get(2) or "") if msa else ("", "")
    return Acknowledgement(code, control_id, error, raw)


class MllpClientTls(BaseModel):
    """TLS towards the MLLP port; files are PEM."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    ca_file: Path | None = Field(
        default=None, description="Certificates that the port's must chain to; default: the system's."
    )
    certificate_file: Path | None = Field(default=None, description="Own certificate, for mutual TLS.")
    key_file: Path | None = Field(default=None, description="Private key of the own certificate.")

    def context(self) -> ssl.SSLContext:
        """The client's side of the connection.

        Raises:
            Incorrect: ``mllp-tls-files``.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise Incorrect(
                "mllp-tls-files",
                f"the certificates for MLLP can't be loaded ({type(error).__name__})",
                remedy="Check tls.ca_file, tls.certificate_file and tls.key_file.",
            ) from None
        return context


class MllpIntakeSettings(BaseModel):
    """Another system's MLLP port, to which messages are handed on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    host: str = Field(description="Host of the port.", examples=["127.0.0.1"])
    port: int = Field(ge=1, le=65535, description="The port.", examples=[2575])
    tls: MllpClientTls | None = Field(default=None, description="TLS; absent = plain text.")
    timeout_seconds: float = Field(default=30, gt=0, description="Longest wait for one acknowledgement.")


class MllpIntake:
    """See :class:`bridge.pipeline.ports.Intake`: durable as far as the acknowledging system keeps what it accepts.

    One connection, on an event loop of its own; one message at a time, in the order of the calls.
    """

    def __init__(self, name: str, settings: MllpIntakeSettings) -> None:
        self.name = name
        self._place = f"{settings.host}:{settings.port}"
        tls = settings.tls.context() if settings.tls else None
        self._sender = MllpSender(settings.host, settings.port, tls=tls, timeout_seconds=settings.timeout_seconds)
        self._turn = asyncio.Lock()
        self._taken = 0
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None

    async def accept(self, raw: RawMessage) -> Receipt:
        """Returns once the other system has acknowledged with AA or CA; AR and CR refuse the message for good."""
        if self._running is None:
            self._running = _start_loop(self.name)
        loop, _ = self._running
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._hand_on(raw.content), loop))

    async def _hand_on(self, message: bytes) -> Receipt:
        async with self._turn:
            try:
                answer = await self._sender.send(message)
            except Unavailable:
                raise
            except BridgeError as error:
                raise Unavailable(
                    "mllp-answer-malformed",
                    f"the answer is no acknowledgement ({error.code})",
                    remedy="Check that the port speaks MLLP in original mode.",
                ) from None
            if answer.code in _TAKEN:
                self._taken += 1
                return Receipt(f"{self._place} message {self._taken}")
        if answer.code in _REFUSED:
            raise Incorrect("mllp-refused", "the other system refuses the message for good")
        raise Unavailable("mllp-not-taken", "the other system did not take the message", remedy="Send it again later.")

    def close(self) -> None:
        """Waits for the message under way, and closes the connection."""
        running, self._running = self._running, None
        if running is None:
            return
        loop, thread = running
        asyncio.run_coroutine_threadsafe(self._finish(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _finish(self) -> None:
        async with self._turn:
            await self._sender.close()


def _start_loop(name: str) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=f"mllp-{name}", daemon=True)
    thread.start()
    return loop, thread


adapter = AdapterSpec(name="mllp", settings=MllpIntakeSettings, build=MllpIntake)
