"""Files that commands read and write, with errors of the closed categories."""

from __future__ import annotations

import sys
from pathlib import Path

from bridge.errors import Incorrect

STANDARD_INPUT = Path("-")


def read_bytes(path: Path) -> bytes:
    """The content of a file, or of standard input for ``-``.

    Raises:
        Incorrect: ``file-unreadable``.
    """
    if path == STANDARD_INPUT:
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise Incorrect("file-unreadable", f"{path} can't be read ({type(error).__name__})") from None


def write_text(path: Path, text: str) -> None:
    """Writes a file that only its owner may read, since it may hold health data; one that is there is replaced.

    Raises:
        Incorrect: ``file-unwritable``.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """As :func:`write_text`; whoever looks sees the whole file or none."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.touch(mode=0o600)
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        raise Incorrect("file-unwritable", f"{path} can't be written ({type(error).__name__})") from None
