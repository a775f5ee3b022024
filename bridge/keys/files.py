"""Key sets in files that only their owner can use."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bridge.errors import Conflict, Incorrect
from bridge.keys.keyset import KeySet, new_key_set, parse_key_set


def create_key_file(path: Path) -> None:
    """Creates a new key set at ``path`` with mode 0600, durable on return.

    Raises:
        Conflict: ``key-file-exists``; an existing file is never overwritten, since what it sealed would be lost.
        Incorrect: ``key-file-unwritable``.
    """
    create_private_file(path, new_key_set())


def create_private_file(path: Path, text: str) -> None:
    """Writes ``text`` to a new file of mode 0600, durable on return. Raises as :func:`create_key_file`."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Conflict(
            "key-file-exists", f"{path} exists already", remedy="Keep it: what it sealed opens with nothing else."
        ) from None
    except OSError as error:
        raise Incorrect(
            "key-file-unwritable",
            f"{path} cannot be created ({type(error).__name__})",
            remedy="Name a file in a folder that exists and that you may write.",
        ) from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_private_file(path: Path) -> str:
    """The text of a file that holds keys.

    Raises:
        Incorrect: ``key-file-missing``, ``key-file-exposed`` (others than the owner may read or write it).
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise Incorrect(
            "key-file-missing",
            f"the key file {path} cannot be read ({type(error).__name__})",
            remedy="Restore it from its backup, or make one for a new deployment with `hiebridge keys init PATH`.",
        ) from None
    if mode & 0o077:
        raise Incorrect(
            "key-file-exposed",
            f"the key file {path} has mode {mode:04o}: others than its owner can use it",
            remedy=f"Run: chmod 600 {path}. Who could read it may have copied the keys.",
        )
    return text


def open_key_file(path: Path) -> KeySet:
    """The key set in a file.

    Raises:
        Incorrect: as :func:`read_private_file`, and ``key-set-invalid``.
    """
    return parse_key_set(read_private_file(path), str(path))
