"""A token issuer for demonstrations: a key in a file, and whatever claims are asked for.

It proves nothing about anyone, which is why the bridge accepts it in development mode only.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from bridge.errors import Incorrect
from bridge.keys.files import create_private_file, read_private_file

ALGORITHM: Final = "ES256"


def create_issuer(private: Path, public: Path) -> None:
    """Makes an ES256 key pair: the private key as a JWK of mode 0600, the public one as a JWKS.

    Raises:
        Conflict: ``key-file-exists``.
        Incorrect: ``key-file-unwritable``.
    """
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": ALGORITHM}, auto_kid=True)
    create_private_file(private, json.dumps(key.as_dict(private=True), indent=2) + "\n")
    public.write_text(json.dumps({"keys": [key.as_dict(private=False)]}, indent=2) + "\n", encoding="ascii")


def open_issuer(private: Path) -> ECKey:
    """The private key.

    Raises:
        Incorrect: ``key-file-missing``, ``key-file-exposed``, ``issuer-key-invalid``.
    """
    text = read_private_file(private)
    try:
        return ECKey.import_key(json.loads(text))
    except (ValueError, TypeError, KeyError, JoseError):
        raise Incorrect(
            "issuer-key-invalid",
            f"{private} does not hold a private EC key as a JWK",
            remedy="Remove it; the next token makes a new one.",
        ) from None


def mint(key: ECKey, claims: Mapping[str, Any], issuer: str, audience: str, lifetime_seconds: int) -> str:
    """An access token (RFC 9068) signed with ES256.

    Args:
        key: the issuer's private key.
        claims: who asks and why: ``sub``, ``client_id``, ``purpose_of_use`` (IHE IUA), ``patient``.
        issuer: the ``iss`` claim.
        audience: the ``aud`` claim.
        lifetime_seconds: from now to ``exp``.
    """
    now = int(time.time())
    registered = {
        "iss": issuer,
        "aud": audience,
        "iat": now,
        "nbf": now,
        "exp": now + lifetime_seconds,
        "jti": secrets.token_urlsafe(16),
    }
    header = {"alg": ALGORITHM, "typ": "at+jwt", "kid": key.kid}
    return jwt.encode(header, {**claims, **registered}, key, algorithms=[ALGORITHM])
