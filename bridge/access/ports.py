"""Port of the keys that tokens are verified with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class TokenKeys(Protocol):
    """The public keys of one token issuer (JWK Set, RFC 7517).

    An adapter keeps what it last fetched and never asks its origin more often than its own limit allows, whatever tokens
    arrive: a key id that nobody knows must not become a way to make the bridge fetch.
    """

    async def keys(self, key_id: str | None) -> Sequence[Mapping[str, Any]]:
        """The issuer's public keys as JWK objects.

        Args:
            key_id: the ``kid`` looked for; if it is not among the keys at hand, they may be fetched anew.

        Raises:
            Unavailable: ``token-keys-unavailable``, no keys are at hand and none can be had.
        """
        ...

    async def close(self) -> None:
        """Lets go of connections; idempotent."""
        ...
