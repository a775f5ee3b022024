# ruff: noqa: INP001 - a script beside the page that it writes, not a package
"""Writes commitment-vectors.json from the definition alone: ``python docs/reference/commitment_vectors.py``.

It uses the standard library and nothing of the bridge, so that the vectors check the bridge and not themselves. The
contexts are ASCII with whole numbers; for those, sorted keys without white space are RFC 8785.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

CASES = [
    ("smallest", "heartbeat", "example.org/log", 1, "none", {}, b""),
    (
        "record version",
        "record-version",
        "example.org/log",
        1,
        "application/fhir+json",
        {},
        b'{"resourceType":"Patient","id":"example"}',
    ),
    (
        "further digests, in the order of their names",
        "consent",
        "example.org/log",
        7,
        "application/fhir+json",
        {"jcs": hashlib.sha256(b"{}").hexdigest(), "fhir-json-static": hashlib.sha256(b"{ }").hexdigest()},
        b'{ "resourceType" : "Consent" }',
    ),
    ("bytes that are not text", "disclosure", "log.example/a-b_c", 2**53 - 1, "x", {}, bytes(range(256))),
]


def vector(name: str, kind: str, origin: str, version: int, form: str, extra: dict[str, str], content: bytes) -> dict:
    """One case with every intermediate value."""
    seed = hashlib.sha256(name.encode()).digest()
    record_key, nonce = hashlib.sha256(seed + b"K_p").digest(), hashlib.sha256(seed + b"n_r").digest()
    digits = bytearray(seed[:16])
    digits[6], digits[8] = digits[6] & 0x0F | 0x40, digits[8] & 0x3F | 0x80
    text = bytes(digits).hex()
    record = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    context = {
        "v": 1,
        "kind": kind,
        "origin": origin,
        "record": record,
        "version": version,
        "form": form,
        "extra": extra,
    }
    encoded = json.dumps(context, sort_keys=True, separators=(",", ":")).encode()
    salt = hmac.new(record_key, b"hie-bridge/salt/v1\x00" + nonce, "sha256").digest()
    digest = hashlib.sha256(content).digest()
    message = b"hie-bridge/commit/v1\x00" + len(encoded).to_bytes(4, "big") + encoded + digest
    leaf = b"\x01" + hmac.new(salt, message, "sha256").digest()
    return {
        "name": name,
        "context": context,
        "context_bytes_hex": encoded.hex(),
        "content_hex": content.hex(),
        "record_key_hex": record_key.hex(),
        "nonce_hex": nonce.hex(),
        "salt_hex": salt.hex(),
        "leaf_data_hex": leaf.hex(),
        "leaf_hash_hex": hashlib.sha256(b"\x00" + leaf).hexdigest(),
    }


def document() -> str:
    """The whole file."""
    note = (
        "Test vectors of the law Commitment; the keys are examples and protect nothing. Made by commitment_vectors.py."
    )
    return json.dumps({"note": note, "vectors": [vector(*case) for case in CASES]}, indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("commitment-vectors.json").write_text(document(), "ascii")
