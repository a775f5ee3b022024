"""An MLLP client: sends one message after the other and waits for each acknowledgement (original mode)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from bridge.errors import Unavailable
from bridge.hl7v2.message import parse
from bridge.hl7v2.mllp import Frame, FrameReader, frame

_MAX_ACK_BYTES: Final = 1_048_576
_CHUNK: Final = 65_536


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
            Incorrect, Unsupported: the answer is no HL7 v2 message (as ``bridge.hl7v2.message.parse``).
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
    answer = parse(raw)
    msa, err = answer.segment("MSA"), answer.segment("ERR")
    error = (err and err.get(8)) or (msa and msa.get(3)) or ""
    code, control_id = (msa.get(1) or "", msa.get(2) or "") if msa else ("", "")
    return Acknowledgement(code, control_id, error, raw)
