"""Ed25519 signer over a private key held in memory (RFC 8032)."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Ed25519Signer:
    """Signs with a 32-byte seed (RFC 8032 section 5.1.5). See :class:`bridge.keys.ports.Signer`.

    Args:
        name: who signs, as verifiers know it.
        seed: the private key, 32 bytes.
    """

    algorithm = "ed25519"

    def __init__(self, name: str, seed: bytes) -> None:
        self.name = name
        self._private_key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public_key = self._private_key.public_key().public_bytes_raw()

    def public_key(self) -> bytes:
        """The 32-byte public key."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature; deterministic."""
        return self._private_key.sign(message)
