"""Settings of the room: who issues tokens, and what each client is (section ``access`` of the configuration)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from bridge.config.settings import SettingsModel, WithAdapter

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]


class Role(StrEnum):
    """What a client is, and so what it may do beside reading."""

    CLINICIAN = "clinician"
    SYSTEM = "system"
    PATIENT = "patient"  # speaks for the patient whom its tokens name
    PROXY = "proxy"  # speaks for that patient as a representative whom the issuer has verified
    CONSENT_OFFICER = "consent-officer"  # records Consents for the custodians listed


_PERSONS: Final = frozenset({Role.CLINICIAN, Role.CONSENT_OFFICER})


class IssuerKeys(WithAdapter):
    """Where an issuer's public keys come from."""

    adapter: str = Field(description="Token keys adapter (`hiebridge.token-keys`).", examples=["jwks-file", "jwks-url"])


class Issuer(SettingsModel):
    """Someone whose tokens are believed."""

    issuer: str = Field(description="`iss` of its tokens, compared exactly.", examples=["https://login.example/realm"])
    audience: str = Field(description="`aud` that its tokens must name.", examples=["https://fhir.example/fhir"])
    algorithms: tuple[Algorithm, ...] = Field(description="Signature algorithms accepted from it.", min_length=1)
    keys: IssuerKeys = Field(description="Where its public keys come from.")
    development: bool = Field(default=False, description="An issuer of `hiebridge token`; refused in production mode.")


class Client(SettingsModel):
    """A client profile: what a `client_id` of an issuer stands for."""

    client_id: str = Field(description="`client_id` (or `azp`) of its tokens.", examples=["st-olave-emr"])
    issuer: str = Field(description="The issuer whose tokens count for it.")
    organization: str = Field(
        description="The organisation it acts for, as Consents name it: `Organization/ID` or `SYSTEM|VALUE`.",
        examples=["urn:oid:2.16.840.1.113883.19.3|st-olave"],
    )
    names: tuple[str, ...] = Field(
        default=(), description="Further names by which a Consent may mean this client (`Group/ID`, `SYSTEM|VALUE`)."
    )
    role: Role = Field(description="What it is.")
    purposes: tuple[str, ...] = Field(
        description="Purposes of use it may ask for (codes of v3-ActReason).", min_length=1, examples=[["TREAT"]]
    )
    user: Literal["required", "optional"] | None = Field(
        default=None,
        description="Whether its tokens must name the person who asks (`fhirUser`), without whom a Consent that denies that "
        "person could not be kept. Absent: required for the roles `clinician` and `consent-officer`, optional for others. "
        "`optional` says that no person stands behind a token without one.",
    )
    expand_person: bool = Field(
        default=False, description="Patient parameters reach every record that matching surely linked to the person."
    )
    custodians: tuple[str, ...] = Field(
        default=(), description="For a consent officer: whose Consents it records, as Consent.organization names them."
    )

    @property
    def user_required(self) -> bool:
        """Whether a token must name the person who asks."""
        return self.user == "required" or (self.user is None and self.for_staff)

    @property
    def for_staff(self) -> bool:
        """Whether the person who asks is a member of the staff, and no patient or relative."""
        return self.role in _PERSONS

    @model_validator(mode="after")
    def _officers_have_custodians(self) -> Client:
        if bool(self.custodians) != (self.role is Role.CONSENT_OFFICER):
            raise PydanticCustomError(
                "setting-invalid", "custodians should be listed for a consent officer, and for nobody else"
            )
        return self


class Custodian(SettingsModel):
    """Who keeps records, as Consents name it, and where."""

    names: tuple[str, ...] = Field(
        description="Its names as Consent.organization may give them: `Organization/ID` or `SYSTEM|VALUE`.",
        min_length=1,
        examples=[["urn:oid:2.16.840.1.113883.19.3|st-olave"]],
    )
    sites: tuple[str, ...] = Field(
        description="Its sites: its officers write Consents only for patients who have a record of one of them.",
        min_length=1,
        examples=[["st-olave"]],
    )


class AccessSettings(SettingsModel):
    """Token issuers and client profiles."""

    issuers: tuple[Issuer, ...] = Field(default=(), description="Whose tokens are believed.")
    clients: tuple[Client, ...] = Field(default=(), description="Client profiles.")
    custodians: tuple[Custodian, ...] = Field(
        default=(), description="For whom consent officers record Consents; each that a client lists stands here once."
    )
    clock_skew_seconds: int = Field(default=30, ge=0, le=300, description="How far an issuer's clock may be off.")
    max_token_seconds: int = Field(
        default=24 * 3600, gt=0, description="Tokens that live longer than this from `iat` to `exp` are refused."
    )

    @property
    def custodian_sites(self) -> Mapping[str, frozenset[str]]:
        """The sites of each custodian, by every name of it."""
        return {name: frozenset(custodian.sites) for custodian in self.custodians for name in custodian.names}

    @model_validator(mode="after")
    def _known_issuers(self) -> AccessSettings:
        names = [issuer.issuer for issuer in self.issuers]
        if len(set(names)) != len(names):
            raise PydanticCustomError("setting-invalid", "an issuer is listed twice")
        if any(client.issuer not in names for client in self.clients):
            raise PydanticCustomError("setting-invalid", "a client names an issuer that is not listed")
        known = [name for custodian in self.custodians for name in custodian.names]
        if len(set(known)) != len(known):
            raise PydanticCustomError("setting-invalid", "a custodian's name is listed twice")
        if any(not set(client.custodians) <= set(known) for client in self.clients):
            raise PydanticCustomError(
                "setting-invalid", "a consent officer names a custodian that is not listed under access.custodians"
            )
        keys = [(client.issuer, client.client_id) for client in self.clients]
        if len(set(keys)) != len(keys):
            raise PydanticCustomError("setting-invalid", "a client is listed twice for one issuer")
        return self
