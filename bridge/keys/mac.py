"""HMAC-SHA-256 (RFC 2104) for short messages under many keys, as names and commitments need it by the dozen a message."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

_BLOCK: Final = 64  # bytes of a SHA-256 block
_INNER: Final = bytes(octet ^ 0x36 for octet in range(256))
_OUTER: Final = bytes(octet ^ 0x5C for octet in range(256))


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """The 32 bytes of ``hmac.digest(key, message, "sha256")`` in half its time.

    OpenSSL 3 looks its MAC algorithm up anew for each one-shot call; two plain digests need no such thing.
    """
    if len(key) > _BLOCK:
        key = sha256(key).digest()
    block = key.ljust(_BLOCK, b"\0")
    inner = sha256(block.translate(_INNER) + message).digest()
    return sha256(block.translate(_OUTER) + inner).digest()
