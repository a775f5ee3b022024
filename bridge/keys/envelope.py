"""Envelope encryption: every message under a data key of its own, every data key under a wrapping key.

AES-256-GCM (NIST SP 800-38D) with a fresh 32-byte key and a fresh 96-bit nonce for each message; the data key wrapped with
AES-256 Key Wrap (RFC 3394, NIST SP 800-38F). Key Wrap is deterministic and needs no nonce, so a wrapping key has no limit of
2^32 wraps, which a thousand messages a second would reach with GCM in fifty days.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from bridge.errors import Incorrect, Unavailable
from bridge.keys.ports import KeyWrapper, WrappedKey

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Envelope:
    """An encrypted message.

    Attributes:
        key_id: wrapping key.
        wrapped_key: the data key under it, 40 bytes.
        nonce: 12 bytes.
        ciphertext: as long as the message, plus a tag of 16 bytes.
    """

    key_id: str
    wrapped_key: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


def seal(plaintext: bytes, aad: bytes, wrapper: KeyWrapper) -> Envelope:
    """Encrypts ``plaintext`` and binds it to ``aad`` (not encrypted, not stored here: where the envelope belongs)."""
    random = os.urandom(KEY_BYTES + NONCE_BYTES)
    data_key, nonce = random[:KEY_BYTES], random[KEY_BYTES:]
    ciphertext = AESGCM(data_key).encrypt(nonce, plaintext, aad)
    wrapped = wrapper.wrap(data_key)
    return Envelope(wrapped.key_id, wrapped.wrapped, nonce, ciphertext)


def open_envelope(envelope: Envelope, aad: bytes, wrapper: KeyWrapper) -> bytes:
    """Decrypts what :func:`seal` encrypted for the same ``aad``.

    Raises:
        Incorrect: ``envelope-not-authentic`` or ``wrapped-key-not-authentic``: altered, or moved from where it belongs.
        Unavailable: the wrapping key is not to be had.
    """
    data_key = wrapper.unwrap(WrappedKey(envelope.key_id, envelope.wrapped_key))
    try:
        return AESGCM(data_key).decrypt(envelope.nonce, envelope.ciphertext, aad)
    except (InvalidTag, ValueError):
        raise Incorrect(
            "envelope-not-authentic",
            "an encrypted message was altered, or is not where it was put",
            remedy="Restore it from a backup; `hiebridge fsck` names every such row.",
        ) from None


class AesKeyWrapper:
    """Wraps data keys under 32-byte keys held in memory (RFC 3394): the usual half of a key provider.

    Args:
        keys: wrapping keys by id; old ones stay as long as anything is wrapped under them.
        current: id of the key that wraps from now on.

    Raises:
        Incorrect: a key is not 32 bytes long, or ``current`` is none of them.
    """

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        if current not in keys:
            raise Incorrect("key-set-invalid", f"the current wrapping key {current} is not among the wrapping keys")
        if any(len(key) != KEY_BYTES for key in keys.values()):
            raise Incorrect("key-set-invalid", f"a wrapping key is not {KEY_BYTES} bytes long")
        self._keys = dict(keys)
        self._current = current
        self._current_key = self._keys[current]

    def wrap(self, data_key: bytes) -> WrappedKey:
        """See :meth:`KeyWrapper.wrap`."""
        return WrappedKey(self._current, aes_key_wrap(self._current_key, data_key))

    def unwrap(self, key: WrappedKey) -> bytes:
        """See :meth:`KeyWrapper.unwrap`."""
        wrapping_key = self._keys.get(key.key_id)
        if wrapping_key is None:
            raise Unavailable(
                "wrapping-key-unknown",
                f"wrapping key {key.key_id} is not among the keys of this deployment",
                remedy="Restore the key file that holds it, then retry.",
            )
        try:
            return aes_key_unwrap(wrapping_key, key.wrapped)
        except (InvalidUnwrap, ValueError):
            raise Incorrect(
                "wrapped-key-not-authentic",
                "a wrapped data key was altered, or belongs to another wrapping key",
                remedy="Restore it from a backup.",
            ) from None
