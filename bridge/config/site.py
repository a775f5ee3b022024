"""What a site may assert: its assigning authorities, events, time zone and habits (``mappings/sites/*.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class AuthorityUse(StrEnum):
    """``record`` names this source's own records; ``evidence`` (national id, insurer) is used for matching only."""

    RECORD = "record"
    EVIDENCE = "evidence"


class _SiteModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Authority(_SiteModel):
    """An assigning authority that a site may use in its messages."""

    name: str = Field(description="As it stands in CX.4.1 of this site's messages.", examples=["SIMULATOR MRN"])
    system: str = Field(
        description="FHIR Identifier.system; sites that share an authority list it with the same system.",
        examples=["urn:oid:2.16.840.1.113883.19.1"],
    )
    use: AuthorityUse = Field(description="record: names this source's records; evidence: matching only.")
    default: bool = Field(default=False, description="Stands in for an empty assigning authority.")
    types: tuple[str, ...] = Field(
        default=(),
        description="Identifier type codes (CX.5) this authority issues here; empty = any.",
        examples=[["MR"]],
    )


class SystemIdentifier(_SiteModel):
    """A FHIR identifier: system and value."""

    system: str = Field(description="Identifier.system, a URI.")
    value: str = Field(description="Identifier.value.")


class Organization(_SiteModel):
    """The organisation that runs the site."""

    name: str = Field(description="Organization.name.")
    identifier: SystemIdentifier = Field(description="Organization.identifier.")


class Sender(_SiteModel):
    """What MSH-3 and MSH-4 of this site's messages may say; empty = not checked."""

    applications: tuple[str, ...] = Field(default=(), description="Allowed values of MSH-3.1.")
    facilities: tuple[str, ...] = Field(default=(), description="Allowed values of MSH-4.1.")


class Events(_SiteModel):
    """Which events a site may assert. One that is not allowed is counted as filtered."""

    allow: tuple[str, ...] = Field(
        description="Taken in; one that no mapping knows is a dead letter.", examples=[["ADT^A01"]]
    )
    filter: tuple[str, ...] = Field(default=(), description="Left out on purpose; counted as filtered.")

    @cached_property
    def allowed(self) -> frozenset[str]:
        """The allowed events as a set."""
        return frozenset(self.allow)


class Site(_SiteModel):
    """A sending site: who it is, and what it may say."""

    site: str = Field(
        description="Name of the site; a slug.", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", examples=["st-olave"]
    )
    organization: Organization = Field(description="The organisation that runs the site.")
    time_zone: str | None = Field(
        default=None,
        description="IANA zone for times without an offset; without one they are cut to a date.",
        examples=["Europe/London"],
    )
    charset: str | None = Field(default=None, description="Overrides MSH-18 for senders that declare the wrong one.")
    sender: Sender = Field(default=Sender(), description="Optional check of the sending application and facility.")
    authorities: tuple[Authority, ...] = Field(
        description="Assigning authorities; the first `record` one is primary.", min_length=1
    )
    events: Events = Field(description="Events this site may assert.")
    code_systems: Mapping[str, str] = Field(
        default_factory=dict, description="CWE.3 name of a coding system to its URI, beyond HL7 table 0396."
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None and value not in available_timezones():
            msg = "not an IANA time zone"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _one_default(self) -> Site:
        if sum(authority.default for authority in self.authorities) > 1:
            msg = "only one authority can be the default"
            raise ValueError(msg)
        names = [authority.name for authority in self.authorities]
        if len(set(names)) != len(names):
            msg = "an authority is listed twice"
            raise ValueError(msg)
        return self

    @cached_property
    def zone(self) -> ZoneInfo | None:
        """The site's zone, if it has one."""
        return ZoneInfo(self.time_zone) if self.time_zone else None

    @cached_property
    def by_authority(self) -> Mapping[str, Authority]:
        """Authorities by their name in messages; ``""`` is the default one, if any."""
        default = [("", authority) for authority in self.authorities if authority.default]
        return dict(default) | {authority.name: authority for authority in self.authorities}

    @cached_property
    def record_rank(self) -> Mapping[str, int]:
        """Rank of each `record` authority by system, 0 = primary."""
        systems = [authority.system for authority in self.authorities if authority.use is AuthorityUse.RECORD]
        return {system: rank for rank, system in enumerate(dict.fromkeys(systems))}
