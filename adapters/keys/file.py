"""Keys in a file that only its owner can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.errors import Conflict, Incorrect
from bridge.keys.keyset import KeySet, new_key_set, parse_key_set


class FileKeysSettings(BaseModel):
    """Settings of the key provider ``file``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="The key file; mode 0600.", examples=["keys.json"])


def create_key_file(path: Path) -> None:
    """Creates a new key set at ``path`` with mode 0600, durable on return.

    Raises:
        Conflict: ``key-file-exists``; an existing file is never overwritten, since what it sealed would be lost.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Conflict(
            "key-file-exists", f"{path} exists already", remedy="Keep it: what it sealed opens with nothing else."
        ) from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(new_key_set())
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def open_key_file(settings: FileKeysSettings) -> KeySet:
    """The keys in the file.

    Raises:
        Incorrect: ``key-file-missing``, ``key-file-exposed`` (others than the owner may read or write it),
            ``key-set-invalid``.
    """
    path = settings.path
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
    return parse_key_set(text, str(path))


adapter = AdapterSpec("file", FileKeysSettings, open_key_file)
