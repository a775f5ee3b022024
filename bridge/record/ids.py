"""FHIR ids, minted at first sight from the name of a resource and never changed (law *Identity*)."""

from __future__ import annotations

import os
from functools import lru_cache

from bridge.keys.mac import hmac_sha256
from bridge.mapping.operations import IdentityKey

_DOMAIN = b"hie-bridge/id/v1\x00"


def uuid_text(octets: bytes, version: int) -> str:
    """16 octets as a UUID of that version in text (RFC 9562 section 4), without making a :class:`uuid.UUID` of it."""
    number = int.from_bytes(octets, "big") & ~(0xF << 76) & ~(0x3 << 62) | version << 76 | 0x2 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def random_uuid() -> str:
    """A random UUID (version 4) in text."""
    return uuid_text(os.urandom(16), version=4)


def length_prefixed(*parts: str) -> bytes:
    """The parts in UTF-8, each behind its length in four bytes, so that no two lists of parts look alike."""
    encoded = [part.encode() for part in parts]
    return b"".join([len(part).to_bytes(4, "big") + part for part in encoded])


@lru_cache(maxsize=4096)
def _namespace(resource_type: str, namespace: str, identifier_type: str) -> bytes:
    return length_prefixed(resource_type, namespace, identifier_type)


def _name(key: IdentityKey, identifier_type: str) -> bytes:
    """A name under a type of identifier, length-prefixed; few namespaces have nearly all names."""
    value = key.value.encode()
    return _namespace(key.resource_type, key.namespace, identifier_type) + len(value).to_bytes(4, "big") + value


def mint(key: IdentityKey, identity_key: bytes) -> str:
    """The FHIR id of the resource that ``key`` names: UUIDv8 (RFC 9562 section 5.8) of a keyed digest.

    A bare hash could be guessed back to the identifier, so the deployment's identity key is in it; content and time are
    not, so that every deployment with that key and every order of messages mints the same id.
    """
    return uuid_text(hmac_sha256(identity_key, _DOMAIN + _name(key, key.identifier_type))[:16], version=8)


def lock_slot(key: IdentityKey, lock_key: bytes) -> int:
    """The advisory lock slot (signed 64 bits, before folding) that guards a name, whatever type it is written under.

    A restriction is of all who bear a value, so whoever closes them must meet whoever introduces one of them.
    """
    return int.from_bytes(hmac_sha256(lock_key, _name(key, ""))[:8], "big", signed=True)
