"""Splits files of HL7 v2 messages (with or without FHS, BHS, BTS and FTS) into single messages.

Source: HL7 v2.9 chapter 2.10.3 (batch protocol).
"""

from __future__ import annotations

import re
from typing import Final

_MESSAGE_START: Final = re.compile(rb"(?:^|(?<=[\r\n\x0b]))[ \t]*(?=MSH[!-/:-@\[-`{-~])")
_ENVELOPE: Final = re.compile(rb"(?:^|(?<=[\r\n]))(?:FHS|BHS|BTS|FTS)(?:[!-/:-@\[-`{-~][^\r\n]*)?(?=[\r\n]|$)")
_FRAMING: Final = b"\x0b\x1c\r\n"


def split_messages(raw: bytes) -> list[bytes]:
    """The messages of a file, in order, each from its MSH to its last byte; batch headers and trailers are left out.

    A file without any MSH comes back whole, so that whoever reads it reports it; an empty one gives no message.
    """
    starts = [match.start() for match in _MESSAGE_START.finditer(raw)]
    if not starts:
        return [raw] if raw.strip(_FRAMING) else []
    ends = [*starts[1:], len(raw)]
    parts = (raw[start:end] for start, end in zip(starts, ends, strict=True))
    return [_ENVELOPE.sub(b"", part).strip(_FRAMING) + b"\r" for part in parts]
