"""The signer's own memory: the last head it signed for, kept outside the database and its backups.

A database restored from yesterday, or a lagging replica promoted, holds a shorter or another log. Signing it would
contradict what others already hold, so the signer asks here first.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from bridge.errors import Forbidden, Incorrect, Unavailable
from bridge.ledger.encoding import hex_decode
from bridge.ledger.merkle import EMPTY_HEAD, HASH_SIZE, TreeHead, verify_consistency

Consistency = Callable[[int, int], Sequence[bytes]]
"""``(old size, new size) -> proof`` from the stored log, e.g. ``TreeReader.consistency``."""

_LOCK_SECONDS: Final = 5.0
_LOCK_POLL_SECONDS: Final = 0.01
_RECOVER: Final = "Restore the missing leaves, or retire the origin with a successor; never delete the watermark."


class Watermark(Protocol):
    """Where a signer remembers its last head.

    Guarantee: after ``advance`` returned, no later ``advance``, in this or another process that shares the place, lets a
    head pass that is not an extension of that head. Limit: a place restored or copied together with the database
    guards nothing.
    """

    def start(self, head: TreeHead) -> None:
        """Begins the memory of a new log; ``head`` is the log's committed state and must be empty if there is no memory.

        Raises:
            Forbidden: ``watermark-missing``; the log has leaves, and nothing is remembered.
        """
        ...

    def advance(self, head: TreeHead, consistency: Consistency) -> None:
        """Remembers ``head``, durably, before it is signed.

        Raises:
            Forbidden: ``watermark-missing``, ``head-behind-watermark``, ``head-beside-watermark``: stop signing.
            Unavailable: ``watermark-unwritable``, ``watermark-held``.
        """
        ...


class FileWatermark:
    """A :class:`Watermark` in one small file, replaced atomically and fsynced with its folder.

    Concurrent signers are kept apart by the sequencer's lease; the file is locked besides, which the operating system
    enforces on one machine only.
    """

    def __init__(self, path: Path, origin: str) -> None:
        """Args: path: the file, in a folder that no database backup contains. origin: the log's."""
        self._path = path
        self._origin = origin

    def read(self) -> TreeHead | None:
        """The remembered head; None when nothing was ever remembered.

        Raises:
            Forbidden: ``watermark-malformed``, ``watermark-of-another-log``.
            Unavailable: ``watermark-unreadable``.
        """
        try:
            text = self._path.read_text("ascii")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable("watermark-unreadable", f"{self._path} can't be read: {type(error).__name__}") from None
        try:
            value = json.loads(text)
            origin, size, root = value["origin"], value["size"], hex_decode(value["root"])
        except (ValueError, KeyError, TypeError):
            raise _malformed(self._path) from None
        if type(size) is not int or size < 0 or root is None or len(root) != HASH_SIZE:
            raise _malformed(self._path)
        if origin != self._origin:
            raise Forbidden("watermark-of-another-log", f"{self._path} remembers another origin", remedy=_RECOVER)
        return TreeHead(size, root)

    def start(self, head: TreeHead) -> None:
        """As the port says."""
        with _Locked(self._path):
            if self.read() is None:
                if head != EMPTY_HEAD:
                    raise self._missing()
                self._write(head)

    def advance(self, head: TreeHead, consistency: Consistency) -> None:
        """As the port says."""
        with _Locked(self._path):
            last = self.read()
            if last is None:
                raise self._missing()
            if last == head:
                return
            if head.size < last.size:
                raise Forbidden(
                    "head-behind-watermark",
                    f"the log has {head.size} leaves, and its signer has already signed {last.size}",
                    remedy=_RECOVER,
                )
            try:
                if last.size:
                    verify_consistency(last, head, consistency(last.size, head.size))
            except Incorrect:
                raise Forbidden(
                    "head-beside-watermark",
                    f"the log does not extend the head of {last.size} leaves that its signer has already signed",
                    remedy=_RECOVER,
                ) from None
            self._write(head)

    def _missing(self) -> Forbidden:
        return Forbidden(
            "watermark-missing",
            f"the log has leaves, and {self._path}, where its signer remembers the last head, is not there",
            remedy=_RECOVER,
        )

    def _write(self, head: TreeHead) -> None:
        text = json.dumps({"origin": self._origin, "size": head.size, "root": head.root.hex()}) + "\n"
        new = self._path.with_name(self._path.name + ".new")
        try:
            with new.open("w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise _unwritable(self._path, error) from None


class _Locked:
    """An exclusive lock beside the file, held while its content is compared and replaced.

    It is held for milliseconds, but a holder may be frozen meanwhile: who waits for it must still be able to stop.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")

    def __enter__(self) -> None:
        try:
            self._file = self._path.open("w", encoding="ascii")
        except OSError as error:
            raise _unwritable(self._path, error) from None
        try:
            self._wait()
        except BaseException:
            self._file.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        "watermark-held",
                        f"another process holds {self._path}",
                        remedy="Signing waits; end that process if it is frozen.",
                    ) from None
                time.sleep(_LOCK_POLL_SECONDS)
            except OSError as error:
                raise _unwritable(self._path, error) from None
            else:
                return

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _malformed(path: Path) -> Forbidden:
    return Forbidden("watermark-malformed", f"{path} is no watermark", remedy=_RECOVER)


def _unwritable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        "watermark-unwritable",
        f"{path} can't be written: {os.strerror(error.errno or 0)}",
        remedy="Signing waits; mend the disk or the rights of its folder.",
    )
