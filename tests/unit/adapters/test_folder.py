"""The folder listener: every message of every file durable before the file is moved aside, and none lost on failure."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.sources.folder import FolderListener, FolderSettings
from bridge.errors import Incorrect, Unavailable
from bridge.pipeline.ports import ContentKind, RawMessage, Receipt
from bridge.telemetry.stop import Stop


class Keeper:
    """An intake that keeps in memory, and can be told to fail."""

    def __init__(self, failing: int = 0, refusing: bytes = b"\0never") -> None:
        self.kept: list[RawMessage] = []
        self.failing = failing
        self.refusing = refusing

    async def accept(self, raw: RawMessage) -> Receipt:
        if self.failing > 0:
            self.failing -= 1
            raise Unavailable("store-down", "The store is down.")
        if self.refusing in raw.content:
            raise Incorrect("message-too-large", "Too large.")
        self.kept.append(raw)
        return Receipt(str(len(self.kept)))


def run(folder: Path, keeper: Keeper) -> None:
    listener = FolderListener("files", FolderSettings(path=folder, once=True, interval_seconds=0.01))
    asyncio.run(listener.run(keeper, Stop()))


def names(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def test_files_are_taken_in_name_order_and_moved_aside(tmp_path: Path) -> None:
    """HL7 v2 files are split at MSH, NDJSON at lines, JSON not at all; other files stay untouched."""
    (tmp_path / "b.json").write_bytes(b'{"resourceType":"Patient"}')
    (tmp_path / "a.hl7").write_bytes(b"MSH|^~\\&|A\rPID|1\r\rMSH|^~\\&|B\rPID|2\r")
    (tmp_path / "c.ndjson").write_bytes(b'{"a":1}\n\n{"a":2}\n')
    (tmp_path / "notes.txt").write_bytes(b"no message")
    keeper = Keeper()

    run(tmp_path, keeper)

    assert [raw.content for raw in keeper.kept] == [
        b"MSH|^~\\&|A\rPID|1\r",
        b"MSH|^~\\&|B\rPID|2\r",
        b'{"resourceType":"Patient"}',
        b'{"a":1}',
        b'{"a":2}',
    ]
    assert {raw.kind for raw in keeper.kept[:2]} == {ContentKind.HL7V2}
    assert {raw.kind for raw in keeper.kept[2:]} == {ContentKind.FHIR_JSON}
    assert names(tmp_path) == ["done/a.hl7", "done/b.json", "done/c.ndjson", "notes.txt"]


def test_a_file_stays_until_all_its_messages_are_durable(tmp_path: Path) -> None:
    """Storage that fails for a while only delays; a message may come twice, never not at all."""
    (tmp_path / "a.hl7").write_bytes(b"MSH|^~\\&|A\rMSH|^~\\&|B\r")
    keeper = Keeper(failing=3)

    run(tmp_path, keeper)

    assert {raw.content for raw in keeper.kept} == {b"MSH|^~\\&|A\r", b"MSH|^~\\&|B\r"}
    assert names(tmp_path) == ["done/a.hl7"]


def test_what_can_never_be_accepted_is_set_aside_and_harms_no_other_file(tmp_path: Path) -> None:
    """The refused file goes to `refused`, the next one is taken."""
    (tmp_path / "a.hl7").write_bytes(b"MSH|^~\\&|\0never\r")
    (tmp_path / "b.hl7").write_bytes(b"MSH|^~\\&|B\r")
    keeper = Keeper()

    run(tmp_path, keeper)

    assert [raw.content for raw in keeper.kept] == [b"MSH|^~\\&|B\r"]
    assert names(tmp_path) == ["done/b.hl7", "refused/a.hl7"]


def test_a_file_of_the_same_name_overwrites_nothing(tmp_path: Path) -> None:
    """Both stay in `done`."""
    for _ in range(2):
        (tmp_path / "a.json").write_bytes(b"{}")
        run(tmp_path, Keeper())

    assert len(names(tmp_path)) == 2


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """By its listener, with what to do."""
    with pytest.raises(Incorrect, match="folder"):
        run(tmp_path / "nowhere", Keeper())
