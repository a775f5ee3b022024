"""Ports of the room: the keys that tokens are verified with, and whoever records a Consent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol


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
            Unavailable: ``token-keys-unavailable``, no keys are at hand and none can be had; ``token-keys-stale``, those
                at hand were confirmed too long ago.
        """
        ...

    async def close(self) -> None:
        """Lets go of connections; idempotent."""
        ...


class StoredConsent(NamedTuple):
    """A Consent as stored: ``body`` is what is served from now on."""

    fhir_id: str
    version: int
    last_updated_us: int
    body: bytes

    def __repr__(self) -> str:
        return f"StoredConsent(version {self.version}, <redacted>)"


class ConsentRecorder(Protocol):
    """Records Consents that a caller was authorised to write; resource, decision state and outbox in one transaction."""

    async def create_consent(self, resource: Mapping[str, Any], *, organization: str) -> StoredConsent:
        """Stores a new Consent under an id of its own; returns once decisions everywhere go by it.

        Args:
            resource: valid for :func:`bridge.consent.rule.compile_consent`; ``id``, ``meta.versionId`` and
                ``meta.lastUpdated`` in it are ignored.
            organization: for whom the writer acts.

        Raises:
            Incorrect: ``consent-patient-unknown`` and what the store refuses.
            Conflict, Unavailable: nothing changed.
        """
        ...

    async def update_consent(
        self, fhir_id: str, resource: Mapping[str, Any], *, expected_version: int, organization: str
    ) -> StoredConsent:
        """Stores a new version, if the current one is still ``expected_version``; equal content makes none.

        Raises:
            Conflict: ``version-conflict``, it is not; and as :meth:`create_consent`.
        """
        ...
