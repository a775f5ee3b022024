"""Ports of the deployment's keys: who wraps data keys, who holds long-lived secrets, who signs.

A provider is asked rarely for secrets and signers (when a role starts) and once a message for wrapping, so an adapter in
front of a remote key service keeps unwrapped wrapping keys of its own in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from bridge.telemetry.redact import Redacted


class KeyPurpose(StrEnum):
    """What a 32-byte secret key of the deployment is for. Each purpose has a key of its own; none is ever replaced.

    A changed ``identity`` key would mint other ids for the same identifiers, a changed ``match`` or ``terms`` key would
    orphan every stored hash; that is why these are not rotated with the wrapping keys.
    """

    IDENTITY = "identity"  # HMAC that mints FHIR ids
    LOCKS = "locks"  # advisory lock slots of identifiers
    TERMS = "terms"  # search terms of the resource index
    MATCH = "match"  # blocking keys
    CONTINUATION = "continuation"  # seals the page tokens of the API
    RESTRICTION = "restriction"  # identifiers of patients who are restricted and not yet known


class SignerPurpose(StrEnum):
    """What a signer speaks for; one purpose never uses another's key."""

    LOG = "log"  # checkpoints of the transparency log
    LOCAL_CHAIN = "local-chain"  # blocks of the operator's own chain
    WITNESS = "witness"  # cosignatures on other logs


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A 32-byte data key, encrypted under the wrapping key that ``key_id`` names."""

    key_id: str
    wrapped: bytes = field(repr=False)


class KeyWrapper(Protocol):
    """Encrypts data keys under a wrapping key, so that destroying the wrapping key destroys what they protect."""

    def wrap(self, data_key: bytes) -> WrappedKey:
        """Encrypts a 32-byte data key under the current wrapping key.

        Raises:
            Unavailable: a remote key service does not answer.
        """
        ...

    def unwrap(self, key: WrappedKey) -> bytes:
        """The 32-byte data key.

        Raises:
            Unavailable: ``wrapping-key-unknown``, the key id is not among the provider's keys (restore it and retry),
                or a remote key service does not answer.
            Incorrect: ``wrapped-key-not-authentic``, the bytes were altered or belong to another wrapping key.
        """
        ...


class Signer(Protocol):
    """Signs messages with one private key that never leaves it.

    Attributes:
        name: who signs, as a verifier knows it; for a log its origin.
        algorithm: ``ed25519`` (RFC 8032, PureEdDSA).
    """

    name: str
    algorithm: str

    def public_key(self) -> bytes:
        """The raw public key; 32 bytes for Ed25519."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The raw signature; 64 bytes for Ed25519. The same message gives the same signature.

        Raises:
            Unavailable: a remote signer does not answer; nothing was signed as far as this caller may assume.
        """
        ...


class KeyProvider(KeyWrapper, Protocol):
    """The deployment's keys. Thread-safe."""

    def secret_key(self, purpose: KeyPurpose) -> Redacted[bytes]:
        """The deployment's 32-byte key for ``purpose``: the same for the whole life of the deployment."""
        ...

    def signer(self, purpose: SignerPurpose, name: str) -> Signer:
        """The signer for ``purpose``, known to verifiers as ``name``.

        Raises:
            Incorrect: ``signing-key-missing``, the provider has no key for that purpose.
        """
        ...
