"""An issuer's public keys at a URL (JWK Set, RFC 7517), kept for a while and fetched anew when an unknown key appears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx2
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from bridge.config.adapters import AdapterSpec
from bridge.errors import Incorrect, Unavailable
from bridge.fhir.json import loads

_MAX_BYTES: Final = 1024 * 1024


class JwksUrlSettings(BaseModel):
    """Settings of the token keys ``jwks-url``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="Where the JWK Set is served.", examples=["https://login.example/realm/certs"])
    keep_seconds: float = Field(default=600, gt=0, description="Keys are fetched again when they are older than this.")
    retry_seconds: float = Field(
        default=30, gt=0, description="They are never fetched more often than this, whatever tokens arrive."
    )
    max_stale_seconds: float = Field(
        default=3600,
        gt=0,
        description="Keys that the issuer has not confirmed for longer than this are no longer trusted: a key that was "
        "withdrawn meanwhile would count. Until it answers, its tokens are refused (503).",
    )
    timeout_seconds: float = Field(
        default=5, gt=0, description="How long the issuer may take to answer, from the connection to the last byte."
    )

    @field_validator("url")
    @classmethod
    def _encrypted(cls, value: str) -> str:
        loopback = ("http://127.0.0.1", "http://[::1]", "http://localhost")
        if not value.startswith(("https://", *(f"{host}{end}" for host in loopback for end in (":", "/")))):
            raise PydanticCustomError("setting-invalid", "should be an https address (http only on loopback)")
        return value

    @model_validator(mode="after")
    def _kept_while_fresh(self) -> JwksUrlSettings:
        if self.max_stale_seconds < self.keep_seconds + self.retry_seconds:
            raise PydanticCustomError(
                "setting-invalid", "max_stale_seconds should be at least keep_seconds and retry_seconds together"
            )
        return self


class JwksUrl:
    """See :class:`bridge.access.ports.TokenKeys`.

    While the issuer does not answer, the keys fetched before stay in force, up to ``max_stale_seconds``.
    """

    def __init__(self, settings: JwksUrlSettings) -> None:
        self._settings = settings
        self._keys: tuple[Mapping[str, Any], ...] = ()
        self._fetched = self._tried = float("-inf")
        self._lock = asyncio.Lock()
        self._client: httpx2.AsyncClient | None = None

    async def keys(self, key_id: str | None) -> Sequence[Mapping[str, Any]]:
        """The keys at hand, after fetching them if they are old or lack ``key_id``."""
        if self._wanting(key_id):
            async with self._lock:
                if self._wanting(key_id):
                    await self._fetch()
        if self._keys and time.monotonic() - self._fetched > self._settings.max_stale_seconds:
            raise Unavailable(
                "token-keys-stale",
                "the token issuer has not confirmed its keys for longer than they are trusted",
                remedy="Retry when the issuer answers; its limit is max_stale_seconds.",
            )
        if not self._keys:
            raise Unavailable(
                "token-keys-unavailable", "the token issuer's keys cannot be fetched", remedy="Retry when it answers."
            )
        return self._keys

    def _wanting(self, key_id: str | None) -> bool:
        now = time.monotonic()
        if now - self._tried < self._settings.retry_seconds:
            return False
        if now - self._fetched > self._settings.keep_seconds:
            return True
        return key_id is not None and all(key.get("kid") != key_id for key in self._keys)

    async def _fetch(self) -> None:
        self._tried = time.monotonic()
        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=self._settings.timeout_seconds, follow_redirects=False)
        try:
            # The client's own limit is per read: a byte now and then would hold up everyone who waits for the lock.
            async with (
                asyncio.timeout(self._settings.timeout_seconds),
                self._client.stream("GET", self._settings.url) as response,
            ):
                response.raise_for_status()
                data = b""
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > _MAX_BYTES:
                        return
            found = loads(data).get("keys")
        except (httpx2.HTTPError, Incorrect, TimeoutError):
            return
        if isinstance(found, list):
            self._keys = tuple(key for key in found if isinstance(key, dict))
            self._fetched = self._tried  # when it was asked: what it withdrew since, the answer may not show

    async def close(self) -> None:
        """Closes the connection."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


adapter = AdapterSpec("jwks-url", JwksUrlSettings, JwksUrl)
