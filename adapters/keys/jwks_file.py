"""An issuer's public keys in a file (JWK Set, RFC 7517), read again when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.errors import Incorrect, Unavailable
from bridge.fhir.json import loads


class JwksFileSettings(BaseModel):
    """Settings of the token keys ``jwks-file``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description='The file: `{"keys": [...]}`.', examples=["/etc/hie-bridge/issuer.jwks.json"])


class JwksFile:
    """See :class:`bridge.access.ports.TokenKeys`. A file that became unreadable leaves the keys read before in force."""

    def __init__(self, settings: JwksFileSettings) -> None:
        self._path = settings.path
        self._stamp: tuple[int, int] | None = None
        self._keys: tuple[Mapping[str, Any], ...] = ()

    async def keys(self, key_id: str | None) -> Sequence[Mapping[str, Any]]:
        """The keys in the file as it is now."""
        del key_id  # the file is cheap to look at, whatever is looked for
        await asyncio.to_thread(self._read)
        if not self._keys:
            raise Unavailable(
                "token-keys-unavailable",
                f"{self._path} holds no keys that can be read",
                remedy="Put the issuer's JWK Set there.",
            )
        return self._keys

    def _read(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            keys = _parse(self._path.read_bytes())
        except OSError:
            return
        if keys is not None:
            self._keys, self._stamp = keys, stamp

    async def close(self) -> None:
        """Nothing is held."""


def _parse(data: bytes) -> tuple[Mapping[str, Any], ...] | None:
    """The keys of a JWK Set; None if it is no such thing."""
    try:
        keys = loads(data).get("keys")  # what is no UTF-8, or nested without end, is refused like any nonsense
    except Incorrect:
        return None
    return tuple(key for key in keys if isinstance(key, dict)) if isinstance(keys, list) else None


adapter = AdapterSpec("jwks-file", JwksFileSettings, JwksFile)
