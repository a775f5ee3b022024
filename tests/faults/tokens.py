"""Words seeded into messages, and everything they may turn into without a key: what promise P7 lets nobody see."""

from __future__ import annotations

import base64
import hashlib
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator

_DIGESTS = ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256")
_NAMESPACES = (uuid.NAMESPACE_DNS, uuid.NAMESPACE_URL, uuid.NAMESPACE_OID, uuid.NAMESPACE_X500)
_LEAST = 6  # shorter needles are found in anything


def spellings(token: str) -> Iterator[bytes]:
    """The token itself, in other letters and encodings of text."""
    for text in {token, token.lower(), token.upper()}:
        yield text.encode()
        yield text.encode("utf-16-le")
        yield text.encode().hex().encode()
        yield text.encode().hex().upper().encode()
        yield urllib.parse.quote(text, safe="").encode()
        yield urllib.parse.quote_plus(text).encode()
        yield "".join(f"%{byte:02X}" for byte in text.encode()).encode()
        yield from _base64(text.encode())


def _base64(data: bytes) -> Iterator[bytes]:
    """The part of any base64 text around ``data`` that rests on ``data`` alone, at each of the three places in it."""
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * shift + data).rstrip(b"=")
            first = -(-shift * 8 // 6)
            yield encoded[first : (shift + len(data)) * 8 // 6]


def digests(text: bytes) -> Iterator[bytes]:
    """Unkeyed digests of ``text`` as bytes, hex and base64, and its UUIDv5 and UUIDv3 in the well-known namespaces."""
    for name in _DIGESTS:
        digest = hashlib.new(name, text).digest()
        yield from _written(digest[:16])
        yield from _written(digest)
    for namespace in _NAMESPACES:
        for made in (uuid.uuid5(namespace, text.decode()), uuid.uuid3(namespace, text.decode())):
            yield str(made).encode()
            yield from _written(made.bytes)


def _written(digest: bytes) -> Iterator[bytes]:
    yield digest
    yield digest.hex().encode()
    yield digest.hex().upper().encode()
    yield base64.b64encode(digest).rstrip(b"=")[:-1]  # its last character is shared with what may follow
    yield base64.urlsafe_b64encode(digest).rstrip(b"=")[:-1]


class Needles:
    """Everything to look for, each with the token it comes from."""

    def __init__(self, tokens: Iterable[str], hashed: Iterable[bytes] = ()) -> None:
        self._needles: dict[bytes, str] = {}
        for token in tokens:
            for needle in (*spellings(token), *digests(token.encode()), *digests(token.lower().encode())):
                if len(needle) >= _LEAST:
                    self._needles.setdefault(needle, token)
        for text in hashed:
            for needle in digests(text):
                self._needles.setdefault(needle, f"a digest of {text[:20]!r}…")

    def found_in(self, channel: str, data: bytes | str) -> list[str]:
        """What shows in ``data``, which came out of ``channel``."""
        raw = data.encode() if isinstance(data, str) else data
        return [
            f"{channel} shows {token} as {needle[:60]!r}: …{raw[max(0, at - 120) : at + 80]!r}…"
            for needle, token in self._needles.items()
            if (at := raw.find(needle)) >= 0
        ]
