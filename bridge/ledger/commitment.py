"""Commitments: what a leaf of the log says about stored bytes without showing them.

By the project's law *Commitment* (``docs/reference/commitment-vectors.json`` holds test vectors)::

    salt      = HMAC-SHA-256(K_p, "hie-bridge/salt/v1" ‖ 0x00 ‖ n_r)                                  32 bytes
    d         = SHA-256(stored bytes)
    commit    = HMAC-SHA-256(salt, "hie-bridge/commit/v1" ‖ 0x00 ‖ u32be(len ctx) ‖ ctx ‖ d)          32 bytes
    leaf data = 0x01 ‖ commit                                                                         33 bytes
    leaf hash = SHA-256(0x00 ‖ leaf data)                                                             RFC 6962

``K_p`` is 32 random bytes per source record, ``n_r`` 32 random bytes per version; destroying either makes the commitment
unopenable. ``ctx`` is RFC 8785 JSON with exactly {v, kind, origin, record, version, form, extra}. A full opening shows
bytes, ctx and salt, never ``K_p`` or ``n_r``.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from bridge.errors import Incorrect
from bridge.keys.mac import hmac_sha256

SALT_SIZE: Final = 32
KEY_SIZE: Final = 32
LEAF_FORMAT: Final = b"\x01"
LEAF_DATA_SIZE: Final = 33
CONTEXT_VERSION: Final = 1
MAX_VERSION: Final = (1 << 53) - 1  # beyond it RFC 8785 numbers lose digits

_SALT_DOMAIN: Final = b"hie-bridge/salt/v1\x00"
_COMMIT_DOMAIN: Final = b"hie-bridge/commit/v1\x00"
_CONTEXT_KEYS: Final = frozenset({"v", "kind", "origin", "record", "version", "form", "extra"})
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.+/#-]{0,63}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_RECORD: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)


class LeafKind(StrEnum):
    """Everything that a leaf may be about; closed, so that a verifier knows every word it prints."""

    RECORD_VERSION = "record-version"
    DELETION = "deletion"
    LINK = "link"
    UNLINK = "unlink"
    MERGE = "merge"
    CONSENT = "consent"
    DECISION = "decision"
    DISCLOSURE = "disclosure"
    ERASURE = "erasure"
    KEY_EVENT = "key-event"
    HEARTBEAT = "heartbeat"


_KINDS: Final = frozenset(map(str, LeafKind))


@dataclass(frozen=True, slots=True)
class Context:
    """What is committed to beside the bytes.

    Attributes:
        kind: what the leaf is about.
        origin: origin of the log, as in its checkpoints.
        record: random UUIDv4 of the record in lower case, never its FHIR id.
        version: version of the record, from 1.
        form: name of the form of the stored bytes, e.g. ``application/fhir+json``.
        extra: further digests of the same content by name of their form: SHA-256 in lower-case hex.
    """

    kind: LeafKind
    origin: str
    record: str
    version: int
    form: str
    extra: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The RFC 8785 form.

        Raises:
            Incorrect: ``context-malformed``.
        """
        if not 1 <= self.version <= MAX_VERSION:
            raise _malformed("version is not a whole number from 1 up")
        head, tail = _frame(self.form, self.kind, self.origin)
        extra = _encode_extra(self.extra) if self.extra else "{}"
        return f'{{"extra":{extra},{head}{_record(self.record)}{tail}{self.version:d}}}'.encode()

    def to_json(self) -> dict[str, Any]:
        """The members as a JSON object, for a proof bundle."""
        return {
            "v": CONTEXT_VERSION,
            "kind": str(self.kind),
            "origin": self.origin,
            "record": self.record,
            "version": self.version,
            "form": self.form,
            "extra": dict(self.extra),
        }

    @classmethod
    def from_json(cls, value: object) -> Context:
        """Reads the object of :meth:`to_json`; exactly these members, each of its type.

        Raises:
            Incorrect: ``context-malformed``.
        """
        if not isinstance(value, dict) or value.keys() != _CONTEXT_KEYS:
            raise _malformed("its members are not exactly v, kind, origin, record, version, form, extra")
        if value["v"] != CONTEXT_VERSION or type(value["v"]) is not int:
            raise _malformed("v is not 1")
        kind, version, extra = value["kind"], value["version"], value["extra"]
        if not isinstance(kind, str) or kind not in _KINDS:
            raise _malformed("kind is not a known leaf kind")
        if type(version) is not int or not 1 <= version <= MAX_VERSION:
            raise _malformed("version is not a whole number from 1 up")
        for name in ("origin", "record", "form"):
            if not isinstance(value[name], str):
                raise _malformed(f"{name} is not a string")
        if not isinstance(extra, dict) or not all(isinstance(digest, str) for digest in extra.values()):
            raise _malformed("extra is not an object of digests")
        context = cls(LeafKind(kind), value["origin"], value["record"], version, value["form"], dict(extra))
        context.encode()
        return context


@lru_cache(maxsize=1024)
def _frame(form: str, kind: LeafKind, origin: str) -> tuple[str, str]:
    """The constant text before and after the record of a context: few combinations occur, so it is made once each."""
    if not _NAME.fullmatch(form):
        raise _malformed("form is not a lower-case name")
    check_origin(origin)
    # For these strings RFC 8785 section 3.2.2.2 and json.dumps agree.
    text = f'"form":{json.dumps(form)},"kind":"{kind}","origin":{json.dumps(origin, ensure_ascii=False)},"record":"'
    return text, f'","v":{CONTEXT_VERSION},"version":'


def _encode_extra(extra: Mapping[str, str]) -> str:
    for name, digest in extra.items():
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise _malformed("extra is not a map from lower-case names to SHA-256 in hex")
    return json.dumps(dict(sorted(extra.items())), separators=(",", ":"))


def _record(record: str) -> str:
    if not _RECORD.fullmatch(record):
        raise _malformed("record is not a random (version 4) UUID in lower case")
    return record


def check_origin(origin: str) -> None:
    """Checks the name of a log: printable, no space, no plus sign (C2SP signed-note, key names).

    Raises:
        Incorrect: ``origin-malformed``.
    """
    if not origin or len(origin) > 200 or not origin.isprintable() or "+" in origin or any(map(str.isspace, origin)):
        raise Incorrect(
            "origin-malformed",
            "the origin of a log is 1 to 200 printable characters without space or plus sign",
            remedy="Use a schema-less URL such as example.org/log.",
        )


def new_nonce() -> bytes:
    """A fresh ``n_r`` (32 random bytes), one per version."""
    return secrets.token_bytes(KEY_SIZE)


def new_record_key() -> bytes:
    """A fresh ``K_p`` (32 random bytes), one per source record."""
    return secrets.token_bytes(KEY_SIZE)


def derive_salt(record_key: bytes, nonce: bytes) -> bytes:
    """The salt of one version from ``K_p`` and ``n_r`` (32 bytes each).

    Raises:
        Incorrect: ``commitment-key-length``.
    """
    if len(record_key) != KEY_SIZE or len(nonce) != KEY_SIZE:
        raise Incorrect("commitment-key-length", "record key and nonce are 32 bytes each")
    return hmac_sha256(record_key, _SALT_DOMAIN + nonce)


def commit(salt: bytes, context: bytes, content: bytes) -> bytes:
    """The commitment (32 bytes) to stored ``content`` bytes under an encoded context.

    Raises:
        Incorrect: ``salt-length``; the salt is not 32 bytes, and HMAC would take another key for the same.
    """
    if len(salt) != SALT_SIZE:
        raise Incorrect("salt-length", "a salt is exactly 32 bytes")
    message = _COMMIT_DOMAIN + len(context).to_bytes(4, "big") + context + sha256(content).digest()
    return hmac_sha256(salt, message)


def leaf_data(commitment: bytes) -> bytes:
    """The 33 bytes of a leaf: format byte 1, then the commitment."""
    return LEAF_FORMAT + commitment


def _malformed(why: str) -> Incorrect:
    return Incorrect("context-malformed", f"the context of a commitment is malformed: {why}")
