"""An MLLP client: sends one message after the other and waits for each acknowledgement that it asks for.

Source: HL7 "Transport Specification: MLLP, Release 1"; HL7 v2.9 chapter 2.9.2 (original mode), 2.9.3 (enhanced mode).

As an intake it hands messages on to another system's MLLP port; they are durable once that system has said so.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.errors import BridgeError, Incorrect, Unavailable
from bridge.hl7v2.acknowledge import AckCondition, read_asked
from bridge.hl7v2.message import Segment, parse
from bridge.hl7v2.mllp import Frame, FrameReader, frame
from bridge.pipeline.ports import RawMessage, Receipt

_MAX_ACK_BYTES: Final = 1_048_576
_CHUNK: Final = 65_536
_EARLIER: Final = 64
_TAKEN: Final = frozenset({"AA", "CA"})
_REFUSED: Final = frozenset({"AR", "CR"})
_NOT_TAKEN: Final = frozenset({"AE", "CE"})


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """An answer.

    Attributes:
        code: MSA-1, e.g. ``AA``.
        control_id: MSA-2, the control id that it answers.
        error: cause that a refusal names (ERR-8 or MSA-3); '' if none. Another system's words: they may hold health data.
        hl7_error: its code of table 0357; '' if none.
        raw: the whole answer; b'' where the message asked for none.
    """

    code: str
    control_id: str
    error: str = field(repr=False)
    hl7_error: str
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
        self._earlier: deque[str] = deque(maxlen=_EARLIER)  # control ids of this connection

    async def send(self, message: bytes) -> Acknowledgement:
        """Sends ``message`` (without framing) and waits for its answer; for none where it asks for none (MSH-15).

        Where it asks for refusals only, silence for as long as the time-out is acceptance. Answers to earlier messages (late
        ones, application acknowledgements on this connection) are passed over.

        Raises:
            Unavailable: ``mllp-unreachable``, no connection; ``mllp-no-answer``, the listener closed or stayed silent:
                whether it has the message is not known, so send it again.
            Incorrect: the answer is no HL7 v2 message (as ``bridge.hl7v2.message.parse``); its charset is never the cause.
        """
        asked = read_asked(message)
        wanted = asked.accept if asked.enhanced else AckCondition.ALWAYS
        control_id = _ascii(asked.written(10))
        sent = False
        try:
            async with asyncio.timeout(self._timeout):
                reader = await self._write(message)
                sent = True
                if wanted is AckCondition.NEVER:
                    self._earlier.append(control_id)
                    return Acknowledgement("", control_id, "", "", b"")
                return await self._answer(reader, control_id)
        except (OSError, TimeoutError) as error:
            if sent and wanted is AckCondition.ERRORS and isinstance(error, TimeoutError):
                self._earlier.append(control_id)
                return Acknowledgement("", control_id, "", "", b"")
            await self.close()
            raise Unavailable(
                "mllp-no-answer",
                f"the listener did not answer ({type(error).__name__})",
                remedy="Send the message again.",
            ) from None
        except BaseException:
            await self.close()  # an answer that comes later would be taken for the next message's
            raise

    async def _write(self, message: bytes) -> asyncio.StreamReader:
        reader, writer = self._streams or await self._connect()
        writer.write(frame(message))
        await writer.drain()
        return reader

    async def _answer(self, reader: asyncio.StreamReader, control_id: str) -> Acknowledgement:
        frames = FrameReader(_MAX_ACK_BYTES)
        while True:
            data = await reader.read(_CHUNK)
            for found in frames.feed(data) if data else frames.finish():
                if isinstance(found, Frame):
                    answer, named = _read(found.content)
                    if named not in self._earlier or named == control_id:
                        self._earlier.append(control_id)
                        return answer
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
        self._earlier.clear()
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


def _read(raw: bytes) -> tuple[Acknowledgement, str]:
    """The answer, and the control id that it names, to be compared."""
    # MSA and the codes of ERR are ASCII whatever MSH-18 says; read as one byte a character, no charset is unknown or wrong.
    read = parse(raw, charset="8859/1")
    msa, err = read.segment("MSA"), read.segment("ERR")
    error = (err and err.get(8)) or (msa and msa.get(3)) or ""
    code, control_id = (msa.get(1) or "", msa.get(2) or "") if msa else ("", "")
    answer = Acknowledgement(code, control_id, error, _hl7_error(err) if err else "", raw)
    return answer, _ascii(msa.field(2) if msa else "")


def _hl7_error(err: Segment) -> str:
    """ERR-3.1, before 2.5 ERR-1.4.1; only what is a number of the table is told on."""
    found = err.get(3) or err.get(1, 4) or ""
    return found if _ERROR_NUMBER.fullmatch(found) else ""


_ERROR_NUMBER: Final = re.compile(r"[0-9]{1,5}")
_ODD: Final = re.compile(r"[^ -~]")


def _ascii(control_id: str) -> str:
    """What of a written control id is the same in every encoding."""
    return _ODD.sub("", control_id)


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
        """Returns once the other system has acknowledged with AA or CA; AR and CR refuse the message for good.

        A message that asks for no such answer (MSH-15) is handed on without: its sender has said that silence is enough.
        """
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
            if answer.code in _TAKEN or not answer.raw:
                self._taken += 1
                return Receipt(f"{self._place} message {self._taken}", answer.code)
        said = f" (error {answer.hl7_error})" if answer.hl7_error else ""
        if answer.code in _REFUSED:
            raise Incorrect("mllp-refused", f"the other system refuses the message for good: {answer.code}{said}")
        code = answer.code if answer.code in _NOT_TAKEN else "no code of table 0008"
        raise Unavailable(
            "mllp-not-taken", f"the other system did not take the message: {code}{said}", remedy="Send it again later."
        )

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
