"""MLLP framing without I/O: bytes in, frames out.

Source: HL7 "Transport Specification: MLLP, Release 1": a message stands between VT (0x0B) and FS CR (0x1C 0x0D).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

START: Final = b"\x0b"
END: Final = b"\x1c\r"
KEPT_OF_TOO_LARGE: Final = 16_384

_FS: Final = 0x1C
_AFTER_FS: Final = frozenset(b"\r\n\x0b")
_RESTART: Final = b"\x0bMSH"


@dataclass(frozen=True, slots=True)
class Frame:
    """A complete frame.

    Attributes:
        content: what stood between VT and FS; of a frame that is too large its beginning only.
        size: of the whole content, in bytes.
        too_large: the content is longer than the limit and was thrown away while it came in.
    """

    content: bytes = field(repr=False)
    size: int
    too_large: bool = False


@dataclass(frozen=True, slots=True)
class Stray:
    """``count`` bytes that belong to no complete frame: noise between frames, or the half of a message."""

    count: int


def frame(content: bytes) -> bytes:
    """``content`` as it goes over the wire."""
    return START + content + END


class FrameReader:
    """Cuts a stream of bytes into frames; one per direction of a connection.

    Tolerated: FS followed by LF or directly by the next VT, FS that the stream ends with (:meth:`finish`), line ends
    between frames. FS before any other byte is content. A new ``VT MSH`` inside a frame begins a new message: what came
    before it has lost its end and is stray.

    Args:
        max_bytes: limit on one frame's content. No more than that is ever held.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._buffer = bytearray()
        self._inside = False
        self._scanned = 0  # no end before here
        self._dropped = 0  # of a frame that is too large: bytes thrown away
        self._head = b""

    @property
    def inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._inside

    @property
    def ends_in_fs(self) -> bool:
        """Whether only the byte after FS is missing, which some senders never send."""
        return self._inside and self._buffer.endswith(b"\x1c")

    def feed(self, data: bytes) -> list[Frame | Stray]:
        """Takes the next bytes of the stream; answers what they complete, in order."""
        self._buffer += data
        found: list[Frame | Stray] = []
        while self._buffer:
            if not self._inside:
                self._enter(found)
            elif not self._leave(found):
                break
        return found

    def finish(self) -> list[Frame | Stray]:
        """The stream is at its end or pauses after FS: FS at the very end ends its frame, any other half is stray."""
        found: list[Frame | Stray] = []
        if self.ends_in_fs:
            self._take(len(self._buffer) - 1, 1, found)
        elif self._inside:
            found.append(Stray(1 + self._dropped + len(self._buffer)))
            self._buffer.clear()
            self._reset()
        return found

    def _enter(self, found: list[Frame | Stray]) -> None:
        start = self._buffer.find(START)
        noise = bytes(self._buffer if start < 0 else self._buffer[:start]).strip(b"\r\n")
        if noise:
            found.append(Stray(len(noise)))
        if start < 0:
            self._buffer.clear()
        else:
            del self._buffer[: start + 1]
            self._inside = True

    def _leave(self, found: list[Frame | Stray]) -> bool:
        """Ends the frame if its end is here; else keeps what may be kept, and answers False."""
        buffer = self._buffer
        position = self._scanned
        while (position := buffer.find(_FS, position)) >= 0 and position + 1 < len(buffer):
            following = buffer[position + 1]
            if following in _AFTER_FS:
                self._take(position, 1 if following == START[0] else 2, found)
                return True
            position += 1
        self._scanned = len(buffer) if position < 0 else position
        if self._dropped or self._scanned > self._max:
            self._drop()
        return False

    def _drop(self) -> None:
        """Throws the bytes of a too large frame away as they come; an FS at the end waits for the byte after it."""
        if not self._dropped:
            self._head = bytes(self._buffer[:KEPT_OF_TOO_LARGE])
        self._dropped += self._scanned
        del self._buffer[: self._scanned]
        self._scanned = 0

    def _take(self, length: int, ending: int, found: list[Frame | Stray]) -> None:
        size = self._dropped + length
        if size > self._max:
            found.append(
                Frame(self._head or bytes(self._buffer[: min(length, KEPT_OF_TOO_LARGE)]), size, too_large=True)
            )
        else:
            content = bytes(self._buffer[:length])
            restart = content.rfind(_RESTART)
            if restart >= 0:
                found.append(Stray(1 + restart))
                content = content[restart + 1 :]
            found.append(Frame(content, len(content)))
        del self._buffer[: length + ending]
        self._reset()

    def _reset(self) -> None:
        self._inside = False
        self._scanned = self._dropped = 0
        self._head = b""
