"""A folder as a listener: files put there are taken in, message by message, and moved aside once all are durable.

``.hl7`` files hold one or many HL7 v2 messages, each starting with ``MSH``; ``.json`` one FHIR resource or Bundle; ``.ndjson``
one a line. A sender must put files there whole (write elsewhere on the same file system, then rename). A crash or stop in
the middle of a file takes the whole file again at the next start; the store knows repeated messages by sender, control id and
digest, so nothing is doubled.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.errors import BridgeError, Incorrect, Unavailable
from bridge.hl7v2.batch import read_batch
from bridge.pipeline.ports import ContentKind, Intake, RawMessage, Receipt
from bridge.telemetry import metrics
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

_SUFFIXES = {".hl7": ContentKind.HL7V2, ".json": ContentKind.FHIR_JSON, ".ndjson": ContentKind.FHIR_JSON}
_IN_FLIGHT = 200  # messages of a file offered at once; a listener must not fill the intake for the others

_Identity = tuple[int, int, int]  # inode, time of change, size: a file put there anew is another


class FolderSettings(BaseModel):
    """A folder that brings files of messages."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Path = Field(description="Folder to read; files in it are taken in name order.")
    done: Path | None = Field(default=None, description="Where files go once durable; default: PATH/done.")
    refused: Path | None = Field(
        default=None, description="Where files go that can never be accepted; default: PATH/refused."
    )
    interval_seconds: float = Field(default=1, gt=0, description="How often to look.")
    once: bool = Field(default=False, description="Stop when the folder is empty.")
    max_file_bytes: int = Field(default=256 * 2**20, gt=0, description="Larger files are refused.")
    refuse_wrong_batches: bool = Field(
        default=False,
        description="Refuse files of HL7 v2 whose FHS, BHS, BTS and FTS do not fit what they hold; else that is logged only.",
    )
    stop_timeout_seconds: float = Field(
        default=5,
        ge=0,
        description="How long messages under way may take to become durable once stopping was asked for.",
    )


class FolderListener:
    """See :class:`bridge.pipeline.ports.Listener`."""

    def __init__(self, name: str, settings: FolderSettings) -> None:
        self.name = name
        self._settings = settings
        self._taken: dict[Path, tuple[_Identity, Path]] = {}  # durable, but not to be moved so far; and where to
        self._troubles: dict[Path, str] = {}  # said once each, not at every look
        self._messages_in = metrics.LISTENER_MESSAGES.labels(name)
        self._bytes_in = metrics.LISTENER_BYTES.labels(name)
        self._too_large = metrics.OVER_LIMIT.labels(name, metrics.Limit.SIZE)

    async def run(self, intake: Intake, stop: Stop) -> None:
        """Takes files until ``stop`` is set, or until the folder is empty if told ``once``.

        Once stopping was asked for, messages under way have ``stop_timeout_seconds`` to become durable; a file that is not
        done then stays where it is.

        A file or folder that the system refuses for now (permissions, a share that went away) is tried again at every look
        and holds up no other file.

        Raises:
            Incorrect: ``folder-missing`` at the start.
        """
        if not await asyncio.to_thread(self._settings.path.is_dir):
            raise Incorrect(
                "folder-missing",
                f"Listener {self.name}: its folder is not there.",
                remedy="Create it, or correct `path`.",
            )
        while not stop.is_set:
            try:
                found = await asyncio.to_thread(self._files)
            except OSError as error:
                self._trouble(self._settings.path, error)
                await _sleep(self._settings.interval_seconds, stop)
                continue
            self._forget_absent(found)
            taken = 0
            for file in found:
                if stop.wait(0):
                    return
                try:
                    taken += await self._take(file, intake, stop)
                except OSError as error:
                    self._trouble(file, error)
            if self._settings.once and not found:
                return
            if not taken:
                await _sleep(self._settings.interval_seconds, stop)

    def _files(self) -> list[Path]:
        return sorted(f for f in self._settings.path.iterdir() if f.suffix.lower() in _SUFFIXES and f.is_file())

    def _forget_absent(self, found: list[Path]) -> None:
        there = set(found)
        self._taken = {file: taken for file, taken in self._taken.items() if file in there}
        self._troubles = {file: said for file, said in self._troubles.items() if file in there}

    def _trouble(self, file: Path, error: OSError) -> None:
        said = type(error).__name__
        if self._troubles.get(file) != said:
            self._troubles[file] = said
            _log.error("file-skipped", listener=self.name, error=said)  # a file's name may be a patient's

    async def _take(self, file: Path, intake: Intake, stop: Stop) -> bool:
        identity = await asyncio.to_thread(_identity, file)
        known = self._taken.get(file)
        if known is None or known[0] != identity:
            aside = await self._accepted(file, intake, stop)
            if aside is None:
                return False
            known = self._taken[file] = (identity, aside)
        await asyncio.to_thread(_move, file, known[1])
        del self._taken[file]
        return True

    async def _accepted(self, file: Path, intake: Intake, stop: Stop) -> Path | None:
        """Where the file belongs now that all its messages are durable or refused for good; None if stopped before."""
        refused: Incorrect | None = None
        messages: list[RawMessage] = []
        try:
            messages = await asyncio.to_thread(self._messages, file)
        except Incorrect as error:
            refused = error
        self._messages_in.inc(len(messages))
        self._bytes_in.inc(sum(len(message.content) for message in messages))
        for start in range(0, len(messages), _IN_FLIGHT):
            waiting = messages[start : start + _IN_FLIGHT]
            while waiting:
                if stop.is_set:
                    return None
                waiting, never = await self._offer(waiting, intake, stop)
                refused = refused or never
                if waiting:
                    await _sleep(self._settings.interval_seconds, stop)
        if refused is None:
            return self._settings.done or self._settings.path / "done"
        _log.error("file-refused", listener=self.name, code=refused.code)
        return self._settings.refused or self._settings.path / "refused"

    async def _offer(
        self, messages: list[RawMessage], intake: Intake, stop: Stop
    ) -> tuple[list[RawMessage], Incorrect | None]:
        """Those of ``messages`` that are to be offered again later, and why one of the others never can be accepted."""
        answers = await self._answers(messages, intake, stop)
        later: dict[str, list[RawMessage]] = {}
        refused = None
        for message, answer in zip(messages, answers, strict=True):
            if isinstance(answer, Incorrect):
                refused = refused or answer
            elif isinstance(answer, BridgeError):
                later.setdefault(answer.code, []).append(message)
            elif isinstance(answer, BaseException):
                raise answer
        for code, delayed in later.items():
            _log.warning("file-waits", listener=self.name, code=code, messages=len(delayed))
        return [message for delayed in later.values() for message in delayed], refused

    async def _answers(
        self, messages: list[RawMessage], intake: Intake, stop: Stop
    ) -> Sequence[Receipt | BaseException]:
        """What the intake said to each; where it is still silent some time after ``stop``, that it is."""
        offers = [asyncio.ensure_future(intake.accept(message)) for message in messages]
        answered = asyncio.gather(*offers, return_exceptions=True)
        stopping = asyncio.ensure_future(stop.wait_async())
        try:
            either: set[asyncio.Future[Any]] = {answered, stopping}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                await asyncio.wait({answered}, timeout=self._settings.stop_timeout_seconds)
            if answered.done():
                return answered.result()
            answered.cancel()
            await asyncio.wait({answered}, timeout=1)
            return [Unavailable("intake-silent", "The intake did not answer before the stop.")] * len(messages)
        finally:
            stopping.cancel()
            answered.cancel()

    def _messages(self, file: Path) -> list[RawMessage]:
        if file.stat().st_size > self._settings.max_file_bytes:
            self._too_large.inc()
            raise Incorrect(
                "file-too-large", "A file is larger than max_file_bytes.", remedy="Split it, or raise the limit."
            )
        suffix = file.suffix.lower()
        now_us = time.time_ns() // 1000
        return [
            RawMessage(self.name, content, _SUFFIXES[suffix], received_us=now_us)
            for content in self._split(file.read_bytes(), suffix)
        ]

    def _split(self, content: bytes, suffix: str) -> Sequence[bytes]:
        """The messages of a file's content, by its suffix (``.hl7``, ``.json``, ``.ndjson``)."""
        if suffix == ".json":
            return [content]
        if suffix == ".ndjson":
            return [line for line in content.splitlines() if line.strip()]
        batch = read_batch(content)
        for finding in batch.findings:
            _log.warning("batch-wrong", listener=self.name, **finding._asdict())
        if batch.findings and self._settings.refuse_wrong_batches:
            raise Incorrect(
                batch.findings[0].code,
                "A file is not what its batch headers and trailers say.",
                remedy="Have it sent again, or take it in with refuse_wrong_batches: false.",
            )
        return batch.messages


def _identity(file: Path) -> _Identity:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _move(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    if target.exists():
        target = folder / f"{file.stem}.{time.time_ns()}{file.suffix}"
    try:
        file.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # the folder is on another file system: a copy that is cut short must not look like the file
        part = target.with_name(f"{target.name}.part")
        shutil.copy2(file, part)
        part.rename(target)
        file.unlink()


async def _sleep(seconds: float, stop: Stop) -> None:
    try:
        await asyncio.wait_for(stop.wait_async(), seconds)
    except TimeoutError:
        return


adapter = AdapterSpec(name="folder", settings=FolderSettings, build=FolderListener)
