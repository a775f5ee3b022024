"""Splits files of HL7 v2 messages (with or without FHS, BHS, BTS and FTS) into single messages, and checks the envelopes.

Source: HL7 v2.9 chapter 2.10.3 (batch protocol), 2.14.2 (BHS), 2.14.3 (BTS), 2.14.6 (FHS), 2.14.7 (FTS).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from bridge.hl7v2.charset import decode_wide, encode

_START: Final = re.compile(
    rb"(?:^|(?<=[\r\n\x0b\x1c]))[ \t]*(?:(?P<MSH>MSH)(?=[!-/:-@\[-`{-~])|"
    rb"(?P<envelope>(?:FHS|BHS|BTS|FTS)(?=[!-/:-@\[-`{-~])|(?:BTS|FTS)(?=[\r\n]|$))[^\r\n]*)"
)
_FRAMING: Final = b"\x0b\x1c\r\n"
_BOM: Final = b"\xef\xbb\xbf"
_COUNT: Final = re.compile(rb"[BF]TS[^A-Za-z0-9]\s*([0-9]{1,9})\s*(?:[^A-Za-z0-9.]|$)")


class Finding(NamedTuple):
    """Where a file is not what its envelope says.

    Attributes:
        code: ``batch-count-wrong``, ``file-count-wrong``; ``batch-not-ended``, ``file-not-ended`` (no trailer came),
            ``batch-not-begun``, ``file-not-begun`` (no header); ``outside-messages`` (bytes in no message).
        number: of the batch within the file, or of the file, counted from 1.
        told: what the trailer counts, where it counts.
        found: messages of a batch, batches of a file; bytes outside.
    """

    code: str
    number: int
    told: int | None
    found: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The messages of a file in order, and what is wrong with the envelopes around them.

    Each is the bytes from an MSH on; bytes outside of all messages and envelopes, such as the half of a message, stand in
    their place as one of their own, which the reader refuses by name.
    """

    messages: tuple[bytes, ...]
    findings: tuple[Finding, ...]


def split_messages(raw: bytes) -> list[bytes]:
    """The messages of a file as :func:`read_batch` gives them; batch headers and trailers are left out.

    A file without any MSH comes back whole, so that whoever reads it reports it; an empty one, or one that is nothing but
    envelopes, gives no message.
    """
    return list(read_batch(raw).messages)


def read_batch(raw: bytes) -> Batch:
    """As :func:`split_messages`, with the envelopes checked. UTF-16 and UTF-32 files give messages in the same encoding.

    Raises:
        Incorrect: ``charset-invalid``, the file begins in UTF-16 or UTF-32 and goes on otherwise.
    """
    wide = decode_wide(raw)
    if wide is not None:
        text, encoding = wide
        batch = _read(text.encode())
        return Batch(tuple([encode(part.decode(), encoding) for part in batch.messages]), batch.findings)
    return _read(raw.removeprefix(_BOM))


def _read(raw: bytes) -> Batch:
    envelopes = _Envelopes()
    messages: list[bytes] = []
    outside = 0
    position, inside = 0, False
    for match in (*_START.finditer(raw), None):
        part = raw[position : match.start() if match else len(raw)]
        if part.strip(_FRAMING + b" \t"):
            messages.append(part)
            outside += 0 if inside else len(part.strip(_FRAMING))
        if match is None:
            break
        inside = match["MSH"] is not None
        if inside:
            position = match.start("MSH")
            envelopes.messages += 1
        else:
            position = match.end()
            envelopes.take(match["envelope"], match[0].strip())
    envelopes.finish()
    if outside == len(raw.strip(_FRAMING)):
        return Batch((raw,) if outside else (), ())
    if outside:
        envelopes.findings.append(Finding("outside-messages", 1, None, outside))
    return Batch(tuple([part.strip(_FRAMING) + b"\r" for part in messages]), tuple(envelopes.findings))


class _Envelopes:
    """Counts what stands between headers and trailers."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.messages = 0  # of the open batch, or between batches
        self._batches = 0  # of the open file, or between files
        self._batch_open = self._file_open = False
        self._batch_number = self._file_number = 0

    def take(self, name: bytes, line: bytes) -> None:
        """The next header or trailer."""
        if name == b"FHS":
            self.finish()
            self._file_open = True
            self._file_number += 1
            self._batches = self.messages = 0
        elif name == b"BHS":
            self._end_batch()
            self._batch_open = True
            self._batch_number += 1
            self._batches += 1
            self.messages = 0
        elif name == b"BTS":
            if not self._batch_open:
                self._batch_number += 1
                self._batches += 1
                self._find("batch-not-begun", self._batch_number, None, self.messages)
            else:
                self._compare("batch-count-wrong", self._batch_number, line, self.messages)
            self._batch_open = False
            self.messages = 0
        else:
            self._end_batch()
            if not self._file_open:
                self._find("file-not-begun", max(1, self._file_number), None, self._batches)
            else:
                self._compare("file-count-wrong", self._file_number, line, self._batches)
            self._file_open = False
            self._batches = 0

    def finish(self) -> None:
        """The end of the file, or the header of another."""
        self._end_batch()
        if self._file_open:
            self._find("file-not-ended", self._file_number, None, self._batches)
        self._file_open = False

    def _end_batch(self) -> None:
        if self._batch_open:
            self._find("batch-not-ended", self._batch_number, None, self.messages)
        self._batch_open = False

    def _compare(self, code: str, number: int, line: bytes, found: int) -> None:
        told = _COUNT.match(line)
        if told is not None and int(told[1]) != found:
            self._find(code, number, int(told[1]), found)

    def _find(self, code: str, number: int, told: int | None, found: int) -> None:
        self.findings.append(Finding(code, number, told, found))
