"""The key set: all keys of a deployment in one JSON document, for providers that hold them in memory.

::

    {"format": "hie-bridge-keys/v1",
     "wrapping": {"current": "w-3f2a…", "keys": {"w-3f2a…": "<base64, 32 bytes>"}},
     "deployment": "<base64, 32 bytes>",
     "signers": {"log": "<base64, 32-byte Ed25519 seed>", "local-chain": "…", "witness": "…"}}

Keys of one purpose are derived from ``deployment`` with HKDF-SHA-256 (RFC 5869), info ``"hie-bridge/key/v1" ‖ 0x00 ‖
purpose``: a new purpose needs no new file.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bridge.errors import Incorrect
from bridge.keys.ed25519 import Ed25519Signer
from bridge.keys.envelope import KEY_BYTES, AesKeyWrapper
from bridge.keys.ports import KeyPurpose, SignerPurpose
from bridge.telemetry.redact import Redacted

FORMAT: Final = "hie-bridge-keys/v1"
_INFO: Final = b"hie-bridge/key/v1\x00"
_FIELDS: Final = frozenset({"format", "wrapping", "deployment", "signers"})


class KeySet(AesKeyWrapper):
    """A :class:`bridge.keys.ports.KeyProvider` whose keys are all in this process's memory.

    Args:
        wrapping: wrapping keys by id.
        current: id of the one in use.
        deployment: the 32 bytes that the keys of each purpose are derived from.
        signers: Ed25519 seeds by purpose.
    """

    def __init__(
        self, wrapping: Mapping[str, bytes], current: str, deployment: bytes, signers: Mapping[SignerPurpose, bytes]
    ) -> None:
        super().__init__(wrapping, current)
        self._secret_keys = {purpose: Redacted(_derive(deployment, purpose)) for purpose in KeyPurpose}
        self._seeds = dict(signers)

    def secret_key(self, purpose: KeyPurpose) -> Redacted[bytes]:
        """See :meth:`KeyProvider.secret_key`."""
        return self._secret_keys[purpose]

    def signer(self, purpose: SignerPurpose, name: str) -> Ed25519Signer:
        """See :meth:`KeyProvider.signer`."""
        seed = self._seeds.get(purpose)
        if seed is None:
            raise Incorrect(
                "signing-key-missing",
                f"the key set has no signing key for {purpose}",
                remedy=f"Add it under signers.{purpose} to the key set.",
            )
        return Ed25519Signer(name, seed)


def _derive(deployment: bytes, purpose: KeyPurpose) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=_INFO + purpose.encode()).derive(deployment)


def new_key_set(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """The JSON text of a new key set with one wrapping key and a signing key for each purpose."""

    def key() -> str:
        return base64.b64encode(random_bytes(KEY_BYTES)).decode()

    key_id = f"w-{random_bytes(8).hex()}"
    document = {
        "format": FORMAT,
        "wrapping": {"current": key_id, "keys": {key_id: key()}},
        "deployment": key(),
        "signers": {purpose.value: key() for purpose in SignerPurpose},
    }
    return json.dumps(document, indent=2) + "\n"


def parse_key_set(text: str, origin: str) -> KeySet:
    """Reads a key set.

    Args:
        text: the JSON document.
        origin: where it came from (a path, a variable's name), for error texts.

    Raises:
        Incorrect: ``key-set-invalid``; says what is wrong and never shows a key.
    """
    try:
        document = json.loads(text)
    except ValueError:
        raise _invalid(origin, "it is not JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _invalid(origin, f"its format is not {FORMAT}")
    if document.keys() != _FIELDS:
        raise _invalid(origin, f"its fields are not exactly {', '.join(sorted(_FIELDS))}")
    wrapping = _mapping(document["wrapping"], origin, "wrapping")
    if wrapping.keys() != {"current", "keys"} or not isinstance(wrapping["current"], str):
        raise _invalid(origin, "wrapping does not hold exactly current (a key id) and keys")
    signers = _mapping(document["signers"], origin, "signers")
    unknown = sorted(signers.keys() - set(SignerPurpose))
    if unknown:
        raise _invalid(origin, f"signers are only for {', '.join(SignerPurpose)}")
    wrapping_keys = _mapping(wrapping["keys"], origin, "wrapping.keys")
    if wrapping["current"] not in wrapping_keys:
        raise _invalid(origin, "wrapping.current is none of wrapping.keys")
    return KeySet(
        {key_id: _key(value, origin, "wrapping.keys") for key_id, value in wrapping_keys.items()},
        wrapping["current"],
        _key(document["deployment"], origin, "deployment"),
        {SignerPurpose(purpose): _key(value, origin, f"signers.{purpose}") for purpose, value in signers.items()},
    )


def _mapping(value: Any, origin: str, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(origin, f"{field} is not an object")
    return value


def _key(value: Any, origin: str, field: str) -> bytes:
    try:
        key = base64.b64decode(value, validate=True)
    except (TypeError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise _invalid(origin, f"{field} holds something else than the base64 of {KEY_BYTES} bytes")
    return key


def _invalid(origin: str, what: str) -> Incorrect:
    return Incorrect(
        "key-set-invalid",
        f"the key set in {origin} cannot be used: {what}",
        remedy="Restore it from its backup; a new one would open nothing that the old one sealed.",
    )
