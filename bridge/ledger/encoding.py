"""Strict base64 and hex: one text for one value, so that a proof has no second spelling."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*", re.ASCII)


def base64_encode(data: bytes) -> str:
    """RFC 4648 section 4, padded."""
    return base64.b64encode(data).decode("ascii")


def base64_decode(text: str) -> bytes | None:
    """The bytes of canonical, padded RFC 4648 base64; None for anything else (line breaks, stray bits, no padding)."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return data if base64_encode(data) == text else None


def hex_decode(text: str) -> bytes | None:
    """The bytes of lower-case hex without prefix; None for anything else."""
    return bytes.fromhex(text) if _HEX.fullmatch(text) else None
