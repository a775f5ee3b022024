"""Bearer tokens (RFC 6750, RFC 7519, RFC 8725): who asks, for which organisation, for what purpose.

The issuer's keys and algorithms come from the configuration alone. A token that brings keys of its own or says where to
fetch them (``jku``, ``x5u``, ``jwk``, ``x5c``) is refused, as is ``none`` and everything not pinned for its issuer.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, TypeGuard

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from bridge.access.ports import TokenKeys
from bridge.access.settings import AccessSettings, Client, Issuer, Role
from bridge.errors import Forbidden
from bridge.fhir.references import parse_absolute, parse_reference
from bridge.fhir.types import is_id

_MAX_TOKEN: Final = 16 * 1024
_REMEMBERED: Final = 4096  # tokens whose signature need not be computed again
_REMEMBER_SECONDS: Final = 60  # so long a withdrawn key may still count
_BRINGS_KEYS: Final = frozenset({"jku", "x5u", "jwk", "x5c", "crit", "b64", "zip", "enc"})
_MAX_CLAIM: Final = 1024  # characters of a claim that names someone; it is stored with every access record
_NAMING: Final = ("iss", "sub", "client_id", "azp", "fhirUser", "patient")
_LATEST: Final = 1e12  # seconds since the epoch; beyond, and for what is no number, there is no date
_CLAIM: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*")
_STAFF: Final = frozenset({"Person", "Practitioner", "PractitionerRole"})
_USERS: Final = _STAFF | {"Patient", "RelatedPerson"}
_PURPOSE_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"


class Unauthenticated(Forbidden):
    """The caller has not shown who it is: the token is missing or does not hold."""


class Refused(Forbidden):
    """The caller is known and may not ask as it does; ``principal`` is whom the denial is recorded for."""

    principal: Principal


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as far as configuration and token together say.

    Attributes:
        actor: the token's subject: ``fhirUser`` where given, else ``issuer|sub``.
        client: the client's profile.
        purpose: effective purpose of use: the token's, if the client is registered for it.
        names: every name by which a Consent may mean the caller.
        patient: logical id of the patient for whom the caller speaks; None unless patient or proxy.
    """

    actor: str = field(repr=False)
    client: Client
    purpose: str
    names: frozenset[str] = field(repr=False)
    patient: str | None = field(default=None, repr=False)

    @property
    def binding(self) -> bytes:
        """What a continuation token is bound to: this caller, this purpose."""
        parts = (self.client.issuer, self.client.client_id, self.actor, self.purpose, self.patient or "")
        return json.dumps(parts).encode()


class TokenVerifier:
    """Turns a bearer token into a :class:`Principal`.

    Args:
        settings: issuers and clients.
        keys: each issuer's keys, by ``iss``.
        now: seconds since the epoch.
        base: address of the FHIR API, under which absolute references are its own.
    """

    def __init__(
        self,
        settings: AccessSettings,
        keys: Mapping[str, TokenKeys],
        now: Callable[[], float] = time.time,
        *,
        base: str = "",
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._now = now
        self._base = base.rstrip("/")
        self._verified: dict[bytes, tuple[float, Mapping[str, Any]]] = {}
        self._issuers = {issuer.issuer: issuer for issuer in settings.issuers}
        self._clients = {(client.issuer, client.client_id): client for client in settings.clients}

    async def verify(self, token: str) -> Principal:
        """The caller.

        Raises:
            Unauthenticated: ``token-…``: malformed, of an unknown issuer, wrongly signed, expired, for someone else.
            Forbidden: ``client-unknown``; as :class:`Refused`: ``token-profile-mismatch``, ``token-user``,
                ``token-without-user``, ``token-patient``, ``token-without-purpose``, ``purpose-not-registered``.
            Unavailable: the issuer's keys cannot be had.
        """
        claims = await self._claims(token)
        client = self._clients.get((claims["iss"], _text(claims, "client_id") or _text(claims, "azp")))
        if client is None:
            raise Forbidden(
                "client-unknown", "the token's client has no profile here", remedy="Add it under access.clients."
            )
        user = _user(claims, self._base)
        actor = user or f"{claims['iss']}|{_text(claims, 'sub')}"
        names = self._names(claims, client, user)
        try:
            _check_profile(claims, client)
            _check_user(claims, user, client)
            patient, purpose = _patient(claims, client), _purpose(claims, client)
        except Refused as refusal:
            refusal.principal = Principal(actor, client, "", names)
            raise
        if patient and client.role is Role.PATIENT:
            names |= {f"Patient/{patient}"}
        return Principal(actor, client, purpose, names, patient)

    def _names(self, claims: Mapping[str, Any], client: Client, user: str) -> frozenset[str]:
        """Every name of the caller, also the one that its actor does not go by: a Consent may use either."""
        names = {client.organization, *client.names}
        if _text(claims, "sub"):
            names.add(f"{claims['iss']}|{claims['sub']}")
        if user:
            names.add(user)
        if self._base:
            names |= {f"{self._base}/{name}" for name in names if parse_reference(name)}
        return frozenset(names)

    async def _claims(self, token: str) -> Mapping[str, Any]:
        """The claims, verified now or within the last minute; times are looked at every time."""
        digest, now = sha256(token.encode("utf-8", "surrogatepass")).digest(), self._now()
        verified_at, claims = self._verified.get(digest, (-math.inf, {}))
        if now - verified_at > _REMEMBER_SECONDS:
            claims = await self._verify_signature(token)
            if len(self._verified) >= _REMEMBERED:
                self._verified.clear()
            self._verified[digest] = now, claims
        self._check_time_and_audience(claims, self._issuers[claims["iss"]])
        return claims

    async def _verify_signature(self, token: str) -> Mapping[str, Any]:
        header, unverified = _peek(token)
        issuer = self._issuers.get(str(unverified.get("iss")))
        if issuer is None:
            raise _invalid("token-issuer", "its issuer is not known here")
        if header.get("alg") not in issuer.algorithms or _BRINGS_KEYS & header.keys():
            raise _invalid("token-algorithm", "its algorithm or header is not accepted from its issuer")
        key_id = header.get("kid")
        keys = await self._keys[issuer.issuer].keys(key_id if isinstance(key_id, str) else None)
        candidates = [key for key in keys if key_id is None or key.get("kid") == key_id]
        if not candidates or (key_id is None and len(candidates) > 1):
            raise _invalid("token-key", "its issuer has no such key")
        try:
            signed = jws.deserialize_compact(
                token, KeySet.import_key_set({"keys": [dict(candidates[0])]}), issuer.algorithms
            )
            claims = json.loads(signed.payload)
        except (JoseError, ValueError):
            raise _invalid("token-signature", "its signature does not hold") from None
        _check_claims(claims)
        return dict(claims)

    def _check_time_and_audience(self, claims: Mapping[str, Any], issuer: Issuer) -> None:
        now, skew = self._now(), self._settings.clock_skew_seconds
        expires, not_before, issued = (claims.get(name) for name in ("exp", "nbf", "iat"))
        if not _is_time(expires) or expires + skew <= now:
            raise _invalid("token-expired", "it has expired, or does not say when it will")
        if any(moment is not None and (not _is_time(moment) or moment - skew > now) for moment in (not_before, issued)):
            raise _invalid("token-not-yet-valid", "it is not valid yet")
        if expires - (issued if issued is not None else now) > self._settings.max_token_seconds:
            raise _invalid("token-too-long", "it lives longer than tokens may here")
        audience = claims.get("aud")
        if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _invalid("token-audience", "it is meant for someone else")


def _peek(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload before anything is verified, to find the issuer."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _MAX_TOKEN or not token.isascii():
        raise _invalid("token-malformed", "it is not a signed JWT")
    try:
        header, payload = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (ValueError, binascii.Error, RecursionError):
        raise _invalid("token-malformed", "it is not a signed JWT") from None
    if not isinstance(header, dict) or not isinstance(payload, dict):
        raise _invalid("token-malformed", "it is not a signed JWT")
    return header, payload


def _check_claims(claims: Any) -> None:
    """What names someone is stored: no store takes U+0000 or half a surrogate pair, and none should take a book."""
    texts = (
        [claims[name] for name in _NAMING if isinstance(claims.get(name), str)] if isinstance(claims, dict) else None
    )
    if texts is None or any(len(text) > _MAX_CLAIM or not _CLAIM.fullmatch(text) for text in texts):
        raise _invalid("token-claims", "a claim that names someone is over-long or holds control characters")
    if not isinstance(claims.get("sub", ""), str):
        raise _invalid("token-claims", "its `sub` is not a text (RFC 7519 section 4.1.2)")


def _invalid(code: str, why: str) -> Unauthenticated:
    return Unauthenticated(code, f"the bearer token is refused: {why}", remedy="Get a new one from your issuer.")


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LATEST


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def _user(claims: Mapping[str, Any], base: str) -> str:
    """The person whom ``fhirUser`` names: ``Type/id`` if here (SMART App Launch writes it as a URL), else the URL."""
    text = _text(claims, "fhirUser")
    target = parse_reference(text.removeprefix(f"{base}/") if base else text)
    elsewhere = parse_absolute(text)
    return str(target) if target else f"{elsewhere[0]}{elsewhere[1]}" if elsewhere else ""


def _check_user(claims: Mapping[str, Any], user: str, client: Client) -> None:
    """A user who is not named, or not understood, might be one whom a Consent denies; an organisation is no user."""
    if client.user_required and claims.get("fhirUser") in (None, ""):
        raise Refused(
            "token-without-user",
            "the token does not name the person who asks",
            remedy="Have your issuer send `fhirUser`; where no person stands behind the client, its profile may say so.",
        )
    kind = user.rpartition("/")[0].rpartition("/")[2]
    if claims.get("fhirUser") in (None, "") or kind in (_STAFF if client.for_staff else _USERS):
        return
    raise Refused(
        "token-user",
        "the token's fhirUser is not a reference to a person",
        remedy="`fhirUser` is TYPE/ID or a URL of a Practitioner, PractitionerRole or Person; for a client that is not of the "
        "staff also of a Patient or RelatedPerson.",
    )


def _check_profile(claims: Mapping[str, Any], client: Client) -> None:
    """The profile says what a client is; a token may repeat it, and not say otherwise."""
    role, organization = claims.get("role"), claims.get("organization")
    if role not in (None, client.role.value) or organization not in (None, client.organization, *client.names):
        raise Refused(
            "token-profile-mismatch",
            "the token's role or organization is not that of the client's profile",
            remedy="Correct the profile under access.clients, or the issuer's registration.",
        )


def _patient(claims: Mapping[str, Any], client: Client) -> str | None:
    """The patient whom a patient's or proxy's token names; nobody else's may name one."""
    patient = claims.get("patient")
    speaks = client.role in (Role.PATIENT, Role.PROXY)
    if patient is None and not speaks:
        return None
    if not speaks or not isinstance(patient, str) or not is_id(patient.removeprefix("Patient/")):
        raise Refused(
            "token-patient",
            "the token's patient does not fit the client's role",
            remedy="Tokens of patients and proxies carry `patient`, others do not.",
        )
    return patient.removeprefix("Patient/")


def _purpose(claims: Mapping[str, Any], client: Client) -> str:
    """The one purpose that the token asks for and the client may have (``purpose``, or IHE IUA's ``purpose_of_use``)."""
    asked = claims.get("purpose", claims.get("purpose_of_use"))
    if asked is None:
        extensions = claims.get("extensions")
        iua = extensions.get("ihe_iua") if isinstance(extensions, dict) else None
        asked = iua.get("purpose_of_use") if isinstance(iua, dict) else None
    codes = {_purpose_code(item) for item in (asked if isinstance(asked, list) else [asked])} - {""}
    if not codes:
        raise Refused(
            "token-without-purpose",
            "the token names no purpose of use",
            remedy="Ask your issuer for the claim `purpose`.",
        )
    allowed = codes.intersection(client.purposes)
    if len(allowed) != 1:
        raise Refused(
            "purpose-not-registered",
            "the token's purpose of use is not one for which the client is registered",
            remedy="Ask for exactly one registered purpose.",
        )
    return allowed.pop()


def _purpose_code(item: Any) -> str:
    if isinstance(item, dict):
        return _text(item, "code") if item.get("system") in (None, _PURPOSE_SYSTEM) else ""
    return item if isinstance(item, str) else ""
