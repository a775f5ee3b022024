"""The settings of a deployment: one YAML file, typed. Descriptions here are the reference documentation."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from bridge.config.document import MarkedDict
from bridge.config.secrets import SecretRef
from bridge.config.section import Section
from bridge.telemetry.redact import Redacted

SLUG: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
QUEUE: Final = "queue"
"""Name of the embedded intake: the store's own queue."""


class Mode(StrEnum):
    """``development`` is for a store made by ``hiebridge demo``, with every listener on loopback."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


class SettingsModel(BaseModel):
    """Base of all settings: unknown names refused, values never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment or parts.username:
        raise PydanticCustomError(
            "setting-invalid", "should be an http or https address without user, query and fragment"
        )
    return value.rstrip("/")


WebAddress = Annotated[str, AfterValidator(_web_address)]


class Deployment(SettingsModel):
    """Who this bridge is."""

    name: str = Field(description="Name of the exchange; a slug.", pattern=SLUG, examples=["north-region"])
    origin: str = Field(
        description="Origin line of the transparency log: a schema-less URL under a name you own, never used again for "
        "another log.",
        pattern=r"^[^\s+]{1,255}$",
        examples=["log.north-region.example/hie"],
    )
    fhir_base_url: WebAddress = Field(
        description="Base of the FHIR API as clients write it; it stands in links and identifiers.",
        examples=["https://fhir.north-region.example/fhir"],
    )


def _database(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme == "sqlite":
        if not value.startswith("sqlite:///") or len(parts.path) < 2:
            raise PydanticCustomError("setting-invalid", "should read sqlite:///PATH")
    elif parts.scheme in ("postgresql", "postgres"):
        if parts.password is not None or any(key == "password" for key, _ in parse_qsl(parts.query)):
            raise PydanticCustomError(
                "secret-literal",
                "a password stands in the address; put it under store.password, by reference, and change it",
            )
    else:
        raise PydanticCustomError("setting-invalid", "should start with sqlite:/// or postgresql://")
    return value


class Store(SettingsModel):
    """Where resources, log and positions are kept."""

    url: Annotated[str, AfterValidator(_database)] = Field(
        description="`sqlite:///PATH` (embedded; a relative path starts from the configuration file's folder, an absolute "
        "one has four slashes) or `postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full`, "
        "reached directly: a pooler that gives out single transactions (PgBouncer's transaction mode) breaks what sessions hold.",
        examples=["sqlite:///bridge.db", "postgresql://bridge@db.internal:5432/bridge?sslmode=verify-full"],
    )
    password: SecretRef | None = Field(default=None, description="Password of the database user.")

    def anchored(self, base: Path) -> Store:
        """The same, with a relative SQLite path taken from ``base``."""
        prefix, separator, path = self.url.partition("sqlite:///")
        return self if prefix or not separator else self.model_copy(update={"url": f"sqlite:///{base / path}"})

    def address(self) -> Redacted[str]:
        """The whole address, with the password in it.

        Raises:
            Incorrect: ``secret-missing``.
        """
        if self.password is None:
            return Redacted(self.url)
        return Redacted(_with_password(urlsplit(self.url), self.password.resolve()))


def _with_password(parts: SplitResult, password: str) -> str:
    user, separator, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}{separator or '@'}{host}").geturl()


def _open_schema(schema: dict[str, Any]) -> None:
    schema["properties"].pop("settings")
    schema["additionalProperties"] = True


class WithAdapter(SettingsModel):
    """Settings of our own beside those of an adapter, which are kept raw under ``settings``."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_open_schema)

    adapter: str = Field(description="Name of an installed adapter.")
    settings: Section = Field(
        default_factory=Section,
        description="Settings of the adapter; they stand beside the others, not under this name.",
    )

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, MarkedDict):
            return value
        own = frozenset(cls.model_fields) - {"settings"}
        kept = {key: item for key, item in value.items() if key in own}
        return kept | {"settings": Section(value.without(own))}


class Keys(WithAdapter):
    """Where the deployment's keys are kept."""

    adapter: str = Field(description="Key provider (`hiebridge.keys`).", examples=["file"])


class Source(WithAdapter):
    """A durable log of messages that workers pull from."""

    name: str = Field(description="Name of the source; never changed, since positions are kept under it.", pattern=SLUG)
    adapter: str = Field(description="Source adapter (`hiebridge.sources`).", examples=["kafka"])
    site: str = Field(description="The site that sends on it.", pattern=SLUG, examples=["st-olave"])


class Listener(WithAdapter):
    """Something that is handed messages and answers for them."""

    name: str = Field(description="Name of the listener; a slug.", pattern=SLUG)
    adapter: str = Field(description="Listener adapter (`hiebridge.listeners`).", examples=["mllp", "folder"])
    site: str = Field(description="The site that sends to it.", pattern=SLUG, examples=["st-olave"])
    intake: str = Field(
        default=QUEUE,
        description="Where messages are durable before they are acknowledged: `queue` (the store's own) or the name of an "
        "intake.",
        pattern=SLUG,
    )


class Intake(WithAdapter):
    """A durable place outside the store that listeners put messages into."""

    name: str = Field(description="Name of the intake; a slug other than `queue`.", pattern=SLUG)
    adapter: str = Field(description="Intake adapter (`hiebridge.intakes`).", examples=["kafka"])


class SinkEvent(StrEnum):
    """What a sink may be given."""

    RESOURCE = "resource"
    LINK = "link"
    CONSENT = "consent"


class Sink(WithAdapter):
    """A system of the operator's own that is given what the bridge has stored, after each commit."""

    name: str = Field(
        description="Name of the sink; never changed, since what waits for it is kept under it.", pattern=SLUG
    )
    adapter: str = Field(description="Sink adapter (`hiebridge.sinks`).", examples=["kafka", "fhir-server"])
    consent: Literal["unfiltered"] = Field(
        description="Has no built-in value, and must be written out: what goes to a sink is the operator's own copy, which no "
        "Consent filters; whoever reads there is outside of the bridge's decisions. Other organizations read through the API.",
    )
    restricted: Literal["withhold", "deliver"] = Field(
        default="withhold",
        description="What is done with patients whom a consent that was not understood has closed: their deliveries wait until "
        "the restriction is lifted, or go out.",
    )
    events: tuple[SinkEvent, ...] = Field(
        default=(SinkEvent.RESOURCE,),
        min_length=1,
        description="What it is given: `resource` (every version), `link` (matching's decisions and merges), `consent` (changes "
        "of decision states). Not every adapter takes all.",
    )
    resources: tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]{1,63}$")], ...] = Field(
        default=(), description="Resource types it is given; empty = all.", examples=[["Patient", "Encounter"]]
    )
    attempts: int = Field(
        default=8,
        gt=0,
        le=1000,
        description="A delivery that fails as often as this, while the sink takes others, is set aside for an operator. One that "
        "the sink refuses for good is set aside at once.",
    )
    behind_seconds: float = Field(
        default=300, gt=0, description="The alarm `sink-behind` rises when something has waited longer than this."
    )


class Chain(WithAdapter):
    """The chain that attests heads and carries consent words."""

    adapter: str = Field(description="Chain backend (`hiebridge.chains`).", examples=["local", "evm"])
    anchor_interval_seconds: float = Field(
        default=60, gt=0, description="Anchors go out at fixed times, this far apart."
    )
    consent_interval_seconds: float = Field(
        default=5, gt=0, description="Batches of consent words go out at fixed times, this far apart."
    )
    consent_batch_words: int = Field(default=16, gt=0, le=1024, description="Words in each batch; it is filled up.")
    max_age_seconds: float = Field(
        default=300,
        gt=0,
        description="A view of the chain older than this closes grants that are known only from the chain; local consents "
        "and emergency access go on.",
    )


class Log(SettingsModel):
    """The transparency log."""

    watermark: Path = Field(
        description="File that remembers the last signed head. Keep it outside the database and its backups.",
        examples=["/var/lib/hie-bridge/watermark.json"],
    )
    sequence_interval_seconds: float = Field(
        default=0.2, gt=0, le=60, description="How often pending leaves are numbered."
    )
    checkpoint_interval_seconds: float = Field(
        default=1, gt=0, le=3600, description="How often a checkpoint is signed."
    )
    lease_seconds: float = Field(
        default=10, gt=1, description="A sequencer that is silent for this long loses its place to another."
    )


class Api(SettingsModel):
    """The FHIR API and what else is served over HTTP."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.", examples=["0.0.0.0"])  # noqa: S104 - an example
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 = any free one.")
    request_bytes: int = Field(default=4 * 2**20, gt=0, description="Larger request bodies are refused.")


class Consent(SettingsModel):
    """What holds where no consent is on file."""

    default_policy: Literal["permit", "deny"] = Field(
        description="Policy for patients without a consent on file. It has no built-in value: whoever runs the exchange "
        "decides, and a configuration that does not name it does not start.",
    )


class Validation(SettingsModel):
    """Checks of what the bridge itself produces."""

    sample: float = Field(default=0.01, ge=0, le=1, description="Share of produced resources that are fully validated.")


class Limits(SettingsModel):
    """Bounds on what is done at once."""

    message_bytes: int = Field(default=16 * 2**20, gt=0, description="Larger messages become dead letters.")
    event_ahead_hours: float = Field(
        default=24,
        gt=0,
        description="Messages that date a change further than this after their receipt become dead letters: a wrong clock "
        "would outrank every true change until then.",
    )
    batch_messages: int = Field(default=100, gt=0, le=1000, description="Messages in one transaction.")
    batch_lock_keys: int = Field(default=2000, gt=0, description="Lock keys in one transaction.")
    waiting_messages: int = Field(
        default=100_000, gt=0, description="With more in the embedded queue, listeners make senders wait."
    )
    stop_seconds: float = Field(default=20, gt=0, description="How long roles may take to finish after SIGTERM.")


class Mappings(SettingsModel):
    """Where conversion rules are looked for."""

    overlays: tuple[Path, ...] = Field(
        default=(),
        description="Folders searched before the built-in mappings, the first one first.",
        examples=[["maps"]],
    )


class Telemetry(SettingsModel):
    """What the bridge tells about itself."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    metrics_host: str = Field(
        default="127.0.0.1", description="Address on which roles other than the API serve metrics."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port for metrics of this process; absent = only the API serves them, and only on loopback.",
    )


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Settings(SettingsModel):
    """A deployment's configuration."""

    mode: Mode = Field(
        default=Mode.PRODUCTION,
        description="`development` allows development token issuers, in a store made by `hiebridge demo`, with every "
        "listener on loopback.",
    )
    deployment: Deployment = Field(description="Who this bridge is.")
    store: Store = Field(description="Where resources, log and positions are kept.")
    keys: Keys = Field(description="Where the deployment's keys are kept.")
    sites: Annotated[tuple[Path, ...], BeforeValidator(_several)] = Field(
        default=(), description="Site files, or folders of them (`*.yaml`).", examples=[["sites"]]
    )
    sources: tuple[Source, ...] = Field(default=(), description="Durable logs of messages that workers pull from.")
    listeners: tuple[Listener, ...] = Field(default=(), description="What is handed messages and answers for them.")
    intakes: tuple[Intake, ...] = Field(default=(), description="Durable places outside the store for listeners.")
    sinks: tuple[Sink, ...] = Field(
        default=(), description="Systems of the operator's own that are given what the bridge has stored."
    )
    chain: Chain = Field(description="The chain that attests heads and carries consent words.")
    log: Log = Field(description="The transparency log.")
    api: Api = Field(default=Api(), description="The FHIR API and what else is served over HTTP.")
    access: Section = Field(
        default_factory=Section,
        description="Token issuers and client profiles: who may ask, for whom, for what purpose.",
    )
    consent: Consent = Field(description="What holds where no consent is on file.")
    validation: Validation = Field(default=Validation(), description="Checks of what the bridge itself produces.")
    limits: Limits = Field(default=Limits(), description="Bounds on what is done at once.")
    mappings: Mappings = Field(default=Mappings(), description="Where conversion rules are looked for.")
    telemetry: Telemetry = Field(default=Telemetry(), description="What the bridge tells about itself.")
