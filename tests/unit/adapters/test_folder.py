"""The folder listener: every message of every file durable before the file is moved aside, and none lost on failure."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from adapters.sources.folder import FolderListener, FolderSettings
from bridge.errors import Busy, Incorrect, Unavailable
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


def test_a_file_of_the_same_name_overwrites_nothing(tmp_path: Path) -> None:
    """Both stay in `done`."""
    for _ in range(2):
        (tmp_path / "a.json").write_bytes(b"{}")
        run(tmp_path, Keeper())

    assert len(names(tmp_path)) == 2


class Narrow:
    """An intake with room for a few messages, which empties only while its senders pause."""

    def __init__(self, room: int) -> None:
        self.kept: list[bytes] = []
        self.most = self.inside = self.used = 0
        self._room = room

    async def accept(self, raw: RawMessage) -> Receipt:
        if self.used >= self._room:
            raise Busy("intake-full", "Full.")
        if self.used == 0:
            asyncio.get_running_loop().call_later(0.001, self._empty)
        self.used += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0)
        self.inside -= 1
        self.kept.append(raw.content)
        return Receipt(str(len(self.kept)))

    def _empty(self) -> None:
        self.used = 0


def test_a_file_larger_than_the_room_of_the_intake_is_taken_once(tmp_path: Path) -> None:
    """Only what was refused is offered again, so the file gets done, and no message of it comes twice."""
    lines = [b"%d" % number for number in range(450)]
    (tmp_path / "a.ndjson").write_bytes(b"\n".join(lines))
    intake = Narrow(room=70)
    listener = FolderListener("files", FolderSettings(path=tmp_path, once=True, interval_seconds=0.002))

    asyncio.run(listener.run(intake, Stop()))

    assert sorted(intake.kept) == sorted(lines)
    assert names(tmp_path) == ["done/a.ndjson"]


def test_a_large_file_is_offered_in_a_bounded_window(tmp_path: Path) -> None:
    """However many messages a file has, others find room in the intake beside it."""
    (tmp_path / "a.ndjson").write_bytes(b"{}\n" * 1000)
    intake = Narrow(room=10_000)

    asyncio.run(FolderListener("files", FolderSettings(path=tmp_path, once=True)).run(intake, Stop()))

    assert len(intake.kept) == 1000
    assert intake.most <= 200


def test_stopping_ends_the_wait_for_an_intake_that_stays_full(tmp_path: Path) -> None:
    """The file stays where it is for the next start."""
    (tmp_path / "a.hl7").write_bytes(b"MSH|^~\\&|A\r")
    stop = Stop()

    class Full:
        async def accept(self, raw: RawMessage) -> Receipt:
            stop.set()
            raise Busy("intake-full", "Full.")

    asyncio.run(FolderListener("files", FolderSettings(path=tmp_path, interval_seconds=3600)).run(Full(), stop))

    assert names(tmp_path) == ["a.hl7"]


def test_one_refused_message_harms_none_of_its_file(tmp_path: Path) -> None:
    """The others are durable, and the file goes to `refused` for somebody to look at."""
    (tmp_path / "a.ndjson").write_bytes(b"\n".join([b"never", *[b"{}"] * 300]))
    keeper = Keeper(refusing=b"never")

    run(tmp_path, keeper)

    assert len(keeper.kept) == 300
    assert names(tmp_path) == ["refused/a.ndjson"]


def test_a_file_that_the_system_refuses_holds_up_no_other_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once by listener and kind of error: a file's name may be a patient's."""
    (tmp_path / "DOE JANE.hl7").write_bytes(b"MSH|^~\\&|A\r")
    (tmp_path / "b.hl7").write_bytes(b"MSH|^~\\&|B\r")
    read, refusals = Path.read_bytes, iter(range(3))

    def reluctant(file: Path) -> bytes:
        if file.name == "DOE JANE.hl7" and next(refusals, None) is not None:
            raise PermissionError(errno.EACCES, "no", str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", reluctant)
    keeper = Keeper()

    with capture_logs() as logs:
        run(tmp_path, keeper)

    assert [raw.content for raw in keeper.kept] == [b"MSH|^~\\&|B\r", b"MSH|^~\\&|A\r"]
    assert [line for line in logs if line["event"] == "file-skipped"] == [
        {"event": "file-skipped", "log_level": "error", "listener": "files", "error": "PermissionError"}
    ]


@pytest.mark.parametrize(("number", "failures"), [(errno.EXDEV, 1), (errno.EACCES, 3)])
def test_a_file_that_can_not_be_moved_is_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, failures: int
) -> None:
    """Another file system gets a copy; whatever else is in the way, only the move is tried again."""
    (tmp_path / "a.hl7").write_bytes(b"MSH|^~\\&|A\r")
    rename, refusals = Path.rename, iter(range(failures))

    def reluctant(file: Path, target: Path) -> Path:
        if next(refusals, None) is not None:
            raise OSError(number, "no")
        return rename(file, target)

    monkeypatch.setattr(Path, "rename", reluctant)
    keeper = Keeper()

    run(tmp_path, keeper)

    assert len(keeper.kept) == 1
    assert names(tmp_path) == ["done/a.hl7"]


def test_a_folder_that_can_not_be_listed_for_a_while_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that went away comes back."""
    (tmp_path / "a.hl7").write_bytes(b"MSH|^~\\&|A\r")
    iterate, refusals = Path.iterdir, iter(range(2))

    def reluctant(folder: Path) -> object:
        if next(refusals, None) is not None:
            raise OSError(errno.ESTALE, "stale")
        return iterate(folder)

    monkeypatch.setattr(Path, "iterdir", reluctant)

    run(tmp_path, Keeper())

    assert names(tmp_path) == ["done/a.hl7"]


@pytest.mark.parametrize(("refuse", "taken", "aside"), [(False, 2, "done"), (True, 0, "refused")])
def test_batches_that_are_not_what_their_envelopes_say(tmp_path: Path, refuse: bool, taken: int, aside: str) -> None:
    """The log counts what is there and what was told; the messages are taken in, unless such files are to be refused."""
    one, two = b"MSH|^~\\&|A\rPID|1\r", b"MSH|^~\\&|B\rPID|2\r"
    (tmp_path / "a.hl7").write_bytes(b"FHS|^~\\&|A\rBHS|^~\\&|B\r" + one + two + b"BTS|3\rFTS|1\r")
    keeper = Keeper()
    settings = FolderSettings(path=tmp_path, once=True, interval_seconds=0.01, refuse_wrong_batches=refuse)

    with capture_logs() as logs:
        asyncio.run(FolderListener("files", settings).run(keeper, Stop()))

    assert len(keeper.kept) == taken
    assert names(tmp_path) == [f"{aside}/a.hl7"]
    said = next(entry for entry in logs if entry["event"] == "batch-wrong")
    assert (said["code"], said["told"], said["found"]) == ("batch-count-wrong", 3, 2)
