"""A folder as a listener: files put there are taken in, message by message, and moved aside once all are durable.

``.hl7`` files hold one or many HL7 v2 messages, each starting with ``MSH``; ``.json`` one FHIR resource or Bundle; ``.ndjson``
one a line. A sender must put files there whole (write elsewhere on the same file system, then rename). A crash in the
middle of a file takes the whole file again at the next start; the store knows repeated messages by sender, control id and
digest, so nothing is doubled.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.errors import BridgeError, Incorrect
from bridge.hl7v2.batch import split_messages
from bridge.pipeline.ports import ContentKind, Intake, RawMessage
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

_SUFFIXES = {".hl7": ContentKind.HL7V2, ".json": ContentKind.FHIR_JSON, ".ndjson": ContentKind.FHIR_JSON}


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


class FolderListener:
    """See :class:`bridge.pipeline.ports.Listener`."""

    def __init__(self, name: str, settings: FolderSettings) -> None:
        self.name = name
        self._settings = settings

    async def run(self, intake: Intake, stop: Stop) -> None:
        """Takes files until ``stop`` is set, or until the folder is empty if told ``once``."""
        while not stop.is_set:
            found = await asyncio.to_thread(self._files)
            for file in found:
                if stop.wait(0):
                    return
                if not await self._take(file, intake):
                    break  # storage is not there: the same file first, next time
            if self._settings.once and not found:
                return
            if not found:
                await _sleep(self._settings.interval_seconds, stop)

    def _files(self) -> list[Path]:
        if not self._settings.path.is_dir():
            raise Incorrect(
                "folder-missing",
                f"Listener {self.name}: its folder is not there.",
                remedy="Create it, or correct `path`.",
            )
        return sorted(f for f in self._settings.path.iterdir() if f.suffix.lower() in _SUFFIXES and f.is_file())

    async def _take(self, file: Path, intake: Intake) -> bool:
        aside = self._settings.done or self._settings.path / "done"
        try:
            messages = await asyncio.to_thread(self._messages, file)
            await asyncio.gather(*(intake.accept(message) for message in messages))
        except Incorrect as error:
            _log.error("file-refused", listener=self.name, code=error.code)
            aside = self._settings.refused or self._settings.path / "refused"
        except BridgeError as error:
            _log.warning("file-waits", listener=self.name, code=error.code)
            await asyncio.sleep(self._settings.interval_seconds)
            return False
        await asyncio.to_thread(_move, file, aside)
        return True

    def _messages(self, file: Path) -> list[RawMessage]:
        if file.stat().st_size > self._settings.max_file_bytes:
            raise Incorrect(
                "file-too-large", "A file is larger than max_file_bytes.", remedy="Split it, or raise the limit."
            )
        kind = _SUFFIXES[file.suffix.lower()]
        now_us = time.time_ns() // 1000
        return [
            RawMessage(self.name, content, kind, received_us=now_us)
            for content in split(file.read_bytes(), file.suffix.lower())
        ]


def split(content: bytes, suffix: str) -> list[bytes]:
    """The messages of a file's content, by its suffix (``.hl7``, ``.json``, ``.ndjson``)."""
    if suffix == ".json":
        return [content]
    if suffix == ".ndjson":
        return [line for line in content.splitlines() if line.strip()]
    return split_messages(content)


def _move(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    if target.exists():
        target = folder / f"{file.stem}.{time.time_ns()}{file.suffix}"
    file.rename(target)


async def _sleep(seconds: float, stop: Stop) -> None:
    try:
        await asyncio.wait_for(stop.wait_async(), seconds)
    except TimeoutError:
        return


adapter = AdapterSpec(name="folder", settings=FolderSettings, build=FolderListener)
