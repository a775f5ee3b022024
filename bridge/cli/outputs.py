"""Where the answers for many messages go when they are files: one name a message, never the same twice."""

from __future__ import annotations

from pathlib import Path

from bridge.cli.corpus import Entry
from bridge.errors import Incorrect


class OutputFolder:
    """A folder that takes one file a message and kind of answer; folders in it follow those of the messages.

    Args:
        root: made when it is first written to; only its owner may look into it, since it may hold health data.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._taken: set[Path] = set()

    def place(self, entry: Entry, ending: str) -> Path:
        """The file for one message: ``adt.hl7.json``, or ``adt.hl7-2.json`` for the second of several in one file.

        A name that another message has taken gets a number. The folder is there on return.

        Raises:
            Incorrect: ``folder-unwritable``.
        """
        name = Path(entry.file.name)
        stem = name.name if entry.of == 1 else f"{name.name}-{entry.number}"
        folder = self._root / name.parent
        path, count = folder / f"{stem}{ending}", 1
        while path in self._taken:
            count += 1
            path = folder / f"{stem}~{count}{ending}"
        self._taken.add(path)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Incorrect("folder-unwritable", f"{folder} can't be made ({type(error).__name__})") from None
        return path
