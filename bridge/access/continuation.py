"""Continuation tokens: where the next page begins, sealed so that they tell nothing and serve nobody else.

A token holds the search as it was understood and the place in its order. It is encrypted (AES-256-GCM) and bound to caller
and purpose as associated data; links to further pages therefore show no search values, also after a POST ``_search``.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridge.errors import Incorrect

_NONCE: Final = 12
_DOMAIN: Final = b"hie-bridge/continuation/v1\x00"


@dataclass(frozen=True, slots=True)
class Continuation:
    """The rest of an answer.

    Attributes:
        type: resource type searched, or whose history is read.
        parameters: the search as understood.
        sort_us, key: place behind which the page begins; for a history ``key`` is the version before which it does.
        id: whose history; ``""`` for a search.
    """

    type: str
    parameters: tuple[tuple[str, str], ...] = field(repr=False)
    sort_us: int
    key: int
    id: str = field(default="", repr=False)


class ContinuationSealer:
    """Seals and opens continuation tokens with one 32-byte key of the deployment."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Continuation)

    def seal(self, continuation: Continuation, binding: bytes) -> str:
        """The token, for the caller whom ``binding`` names."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, msgspec.json.encode(continuation), _DOMAIN + binding)
        return base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()

    def open(self, token: str, binding: bytes) -> Continuation:
        """The continuation.

        Raises:
            Incorrect: ``page-token-invalid``; altered, of another caller or purpose, or not ours.
        """
        try:
            data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            opened = self._cipher.decrypt(data[:_NONCE], data[_NONCE:], _DOMAIN + binding)
            continuation: Continuation = self._decoder.decode(opened)
        except (InvalidTag, binascii.Error, ValueError, msgspec.MsgspecError):
            raise Incorrect(
                "page-token-invalid", "the page token does not hold for this caller", remedy="Search again."
            ) from None
        return continuation
