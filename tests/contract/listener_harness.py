"""How the contract suite speaks to each registered listener as its senders do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from bridge.config.adapters import LISTENERS, load_adapter
from bridge.errors import BridgeError
from bridge.hl7v2.message import parse
from bridge.hl7v2.mllp import Frame, FrameReader, frame
from bridge.pipeline.ports import RawMessage, Receipt
from bridge.telemetry.stop import Stop

NAME = "door"
SIZE_LIMIT = 2048


class Told(StrEnum):
    """What a sender can tell of its message afterwards."""

    ACCEPTED = "it is durable there"
    REFUSED = "it never can be accepted"
    NOTHING = "nothing: send it again"


@dataclass
class MemoryIntake:
    """Keeps messages in memory, when and if it is told to."""

    kept: list[RawMessage] = field(default_factory=list)
    failure: BridgeError | None = None
    failed: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def __post_init__(self) -> None:
        self.gate.set()

    async def accept(self, raw: RawMessage) -> Receipt:
        self.asked.release()
        await self.gate.wait()
        if self.failure is not None:
            self.failed += 1
            raise self.failure
        self.kept.append(raw)
        return Receipt(str(len(self.kept)))

    def close(self) -> None:
        """Nothing to let go of."""

    @property
    def contents(self) -> list[bytes]:
        return [raw.content for raw in self.kept]


class Senders(Protocol):
    """The other side of one running listener."""

    def settings(self) -> dict[str, Any]:
        """Small limits, on loopback or in a folder of the test's own."""

    def unusable(self) -> dict[str, Any]:
        """Settings that are well-formed and name a place that can't be listened at."""

    async def send(self, *contents: bytes) -> list[Told]:
        """One sender's messages, in order, the next ones without waiting for the first; what it was told of each."""

    async def begin(self, content: bytes) -> asyncio.Task[Told]:
        """Half a message that never ends."""


class MllpSenders:
    """Connections."""

    def __init__(self, folder: Path) -> None:
        self.listener: Any = None
        self.intake: Any = None
        self.task: Any = None

    def settings(self) -> dict[str, Any]:
        return {"port": 0, "max_message_bytes": SIZE_LIMIT, "read_timeout_seconds": 0.3, "stop_timeout_seconds": 0.2}

    def unusable(self) -> dict[str, Any]:
        return {"port": 0, "host": "192.0.2.1"}

    async def send(self, *contents: bytes) -> list[Told]:
        reader, writer = await asyncio.open_connection("127.0.0.1", await self.listener.listening())
        writer.write(b"".join(frame(content) for content in contents))
        return await self._told(reader, writer, len(contents))

    async def begin(self, content: bytes) -> asyncio.Task[Told]:
        reader, writer = await asyncio.open_connection("127.0.0.1", await self.listener.listening())
        writer.write(frame(content)[: len(content) // 2])
        await writer.drain()

        async def told() -> Told:
            return (await self._told(reader, writer, 1))[0]

        return asyncio.create_task(told())

    async def _told(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> list[Told]:
        frames, answers = FrameReader(100_000), []
        with contextlib.suppress(ConnectionError):
            while len(answers) < count and (data := await reader.read(65_536)):
                answers += [found.content for found in frames.feed(data) if isinstance(found, Frame)]
        writer.close()
        codes = [msa.get(1) for answer in answers if (msa := parse(answer).segment("MSA"))]
        told = [Told.ACCEPTED if code == "AA" else Told.REFUSED if code == "AR" else Told.NOTHING for code in codes]
        return told + [Told.NOTHING] * (count - len(told))


class FolderSenders:
    """Files: one a message, put there whole; a sender looks where its file went."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "in"
        self._folder.mkdir()
        self._files: dict[bytes, str] = {}
        self.listener: Any = None
        self.intake: Any = None
        self.task: Any = None

    def settings(self) -> dict[str, Any]:
        return {
            "path": str(self._folder),
            "interval_seconds": 0.02,
            "max_file_bytes": SIZE_LIMIT,
            "stop_timeout_seconds": 0.2,
        }

    def unusable(self) -> dict[str, Any]:
        return {"path": str(self._folder / "nowhere")}

    async def send(self, *contents: bytes) -> list[Told]:
        for content in contents:
            name = self._files.setdefault(content, f"{len(self._files):06d}.hl7")
            if not (self._folder / name).exists():
                part = self._folder / f"{name}.part"
                part.write_bytes(content)
                part.rename(self._folder / name)
        return [await self._told(self._files[content]) for content in contents]

    async def begin(self, content: bytes) -> asyncio.Task[Told]:
        raise AssertionError("waived: files are put there whole")

    async def _told(self, name: str) -> Told:
        """Nothing, where the intake failed for now or the listener has ended and the file is still there."""
        failed = self.intake.failed
        while True:
            ended = self.task.done()
            for folder, told in (("done", Told.ACCEPTED), ("refused", Told.REFUSED)):
                if (self._folder / folder / name).exists():
                    return told
            failure = self.intake.failure
            if ended or (failure is not None and failure.transient and self.intake.failed > failed):
                return Told.NOTHING
            await asyncio.sleep(0.01)


SENDERS: dict[str, type[MllpSenders | FolderSenders]] = {"mllp": MllpSenders, "folder": FolderSenders}


@dataclass
class Running:
    """A listener at work."""

    senders: Senders
    intake: MemoryIntake
    stop: Stop
    task: asyncio.Task[None]

    async def send(self, *contents: bytes) -> list[Told]:
        return await asyncio.wait_for(self.senders.send(*contents), 20)

    async def stopped(self) -> None:
        self.stop.set()
        await asyncio.wait_for(asyncio.shield(self.task), 20)


@contextlib.asynccontextmanager
async def running(adapter: str, folder: Path, intake: MemoryIntake | None = None) -> AsyncIterator[Running]:
    """The adapter, built from its entry point, listening; stopped afterwards."""
    spec = load_adapter(LISTENERS, adapter)
    senders: Any = SENDERS[adapter](folder)
    listener = spec.build(NAME, spec.settings.model_validate(senders.settings()))
    senders.listener = listener
    intake, stop = intake or MemoryIntake(), Stop()
    senders.intake = intake
    one = Running(senders, intake, stop, asyncio.create_task(listener.run(intake, stop)))
    senders.task = one.task
    try:
        yield one
    finally:
        intake.gate.set()
        await one.stopped()


def message(number: int, text: bytes = b"Doe") -> bytes:
    """An HL7 v2 message, as both listeners take it."""
    return b"MSH|^~\\&|LAB|NORTH|EHR|SOUTH|2026||ADT^A08|%d|P|2.5.1\rPID|1||77||%s\r" % (number, text)
