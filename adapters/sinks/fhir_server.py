"""An existing FHIR R4 server as a sink: transaction Bundles of conditional updates (R4, http.html#transaction, #cond-update)."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

import httpx2
import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from bridge.config.adapters import AdapterSpec
from bridge.config.secrets import SecretRef
from bridge.errors import Incorrect, Unavailable
from bridge.fhir.json import dumps, loads_stored
from bridge.fhir.references import parse_reference
from bridge.pipeline.ports import Answer, Delivery, DeliveryKind, DeliveryState

Json = Any

# R4 gives these no element ``identifier`` that repeats; their name there is a tag, which every resource may bear and be found by.
_TAGGED: Final = frozenset({"AuditEvent", "Binary", "Bundle", "Composition", "MessageHeader", "Provenance"})
_LOOPBACK: Final = ("http://127.0.0.1", "http://[::1]", "http://localhost")
_AWAY: Final = frozenset({408, 425, 429, 502, 503, 504})
_FOR_ALL: Final = frozenset({401, 405, 407})  # whatever was sent
_REFUSED: Final = frozenset({400, 410, 413, 415, 422})
_HELD: Final = Answer(DeliveryState.HELD)
_DELIVERED: Final = Answer(DeliveryState.DELIVERED)
_UNLINKED: Final = Answer(DeliveryState.DELIVERED, "unlinked")
_MAX_ANSWER_BYTES: Final = 16 * 2**20


class FhirServerTls(BaseModel):
    """TLS towards the server; files are PEM."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    ca_file: Path | None = Field(
        default=None, description="Certificates that the server's must chain to; default: the system's."
    )
    certificate_file: Path | None = Field(default=None, description="Own certificate, for mutual TLS.")
    key_file: Path | None = Field(default=None, description="Private key of the own certificate.")
    key_password: SecretRef | None = Field(default=None, description="Password of the private key.")


class FhirServerBasic(BaseModel):
    """HTTP Basic authentication."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    username: str = Field(description="Name of the user.")
    password: SecretRef = Field(description="Its password, by reference.")


class FhirServerSettings(BaseModel):
    """A FHIR R4 server that takes transaction Bundles with conditional updates, deletes and references."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    base_url: str = Field(description="Base of its API.", examples=["https://ehr.internal/fhir"])
    identifier_system: str = Field(
        pattern=r"^[^\s|]+$",
        description="System of the identifier that every resource bears there: its value is the resource's id here. Never changed, "
        "since resources are found by it.",
        examples=["https://fhir.north-region.example/id"],
    )
    bearer_token: SecretRef | None = Field(default=None, description="Token sent with each request; read each time.")
    basic: FhirServerBasic | None = Field(default=None, description="User and password, instead of a token.")
    tls: FhirServerTls | None = Field(default=None, description="TLS; absent = the system's certificates.")
    unsafe_plain_http: bool = Field(
        default=False,
        description="Whether an address without TLS is allowed outside of this machine: records go in the clear.",
    )
    bundle_entries: int = Field(default=50, gt=0, le=500, description="Resources in one transaction.")
    timeout_seconds: float = Field(
        default=10,
        gt=0,
        le=300,
        description="How long the server may take to connect, to take a transaction, and to answer it.",
    )

    @model_validator(mode="after")
    def _protected(self) -> FhirServerSettings:
        loopback = self.base_url.startswith(tuple(f"{host}{end}" for host in _LOOPBACK for end in (":", "/")))
        if not self.base_url.startswith("https://") and not (
            self.base_url.startswith("http://") and (loopback or self.unsafe_plain_http)
        ):
            raise PydanticCustomError("setting-invalid", "base_url should be an https address (http only on loopback)")
        if self.bearer_token is not None and self.basic is not None:
            raise PydanticCustomError("setting-invalid", "give bearer_token or basic, not both")
        return self


class FhirServerSink:
    """See :class:`bridge.pipeline.ports.Sink`: a version is delivered when the server has committed its transaction.

    The server gives resources ids of its own; ours is an identifier there, by which an update finds what it updates. References
    to what this sink is given are resolved by the server; others become logical ones (Reference.identifier), and so do all of a
    resource that is taken only without them, since its target comes later: if not in the same call, its next version is linked. A
    transaction that is refused is halved until the culprit stands alone.

    Limit: if a transaction that creates a resource is not answered in time, and yet goes on while the same is sent again, a
    server that does not serialize conditional creates may make two; it then answers 412, and the delivery is set aside.
    """

    kinds = frozenset({DeliveryKind.RESOURCE})
    links = True

    def __init__(self, name: str, settings: FhirServerSettings) -> None:
        self.name = name
        self.request_seconds = 3 * settings.timeout_seconds
        self._settings = settings
        self._client: httpx2.Client | None = None

    def deliver(self, deliveries: Sequence[Delivery], go_on: Callable[[], bool]) -> Sequence[Answer]:
        """See the port."""
        answers: list[Answer] = []
        behind: set[str] = set()  # keys of which something was not delivered
        try:
            for part in self._transactions(deliveries):
                answers += self._given(part, behind, go_on)
            self._link(deliveries, answers, go_on)
        except _StoppedHere as stopped:
            answers += stopped.answers
        except _NotReached as away:
            answers += away.answers
            if not any(answer.state is not DeliveryState.HELD for answer in answers):
                raise away.error from None
        return answers

    def close(self) -> None:
        """Closes connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _transactions(self, deliveries: Sequence[Delivery]) -> Iterator[list[Delivery]]:
        """Runs of deliveries, none with two of one resource, which a transaction may not have; of one key together if it fits."""
        part: list[Delivery] = []
        named: set[tuple[str, str]] = set()
        for group in _by_key(deliveries):
            if len(part) + len(group) > self._settings.bundle_entries and part:
                yield part
                part, named = [], set()
            for delivery in group:
                name = (delivery.resource_type, delivery.resource_id)
                if name in named or len(part) == self._settings.bundle_entries:
                    yield part
                    part, named = [], set()
                part.append(delivery)
                named.add(name)
        if part:
            yield part

    def _given(self, part: Sequence[Delivery], behind: set[str], go_on: Callable[[], bool]) -> list[Answer]:
        """Answers for a part, which is halved where it is refused."""
        answers: list[Answer] = []
        runs = [part]
        while runs:
            run = runs.pop(0)
            sent = [delivery for delivery in run if delivery.key not in behind]
            refusal = self._tried(sent, go_on, answers)
            if refusal is None:
                answers += [_HELD if delivery.key in behind else _DELIVERED for delivery in run]
                continue
            if len(sent) > 1:
                middle = len(run) // 2
                runs[:0] = [run[:middle], run[middle:]]
                continue
            # Alone it may refer to what is not there yet: better here without the links than behind its own targets for ever.
            if sent[0].linkable and self._tried([replace(sent[0], linkable=frozenset())], go_on, answers) is None:
                refusal = _UNLINKED
            else:
                behind.add(sent[0].key)
            answers += [refusal if delivery is sent[0] else _HELD for delivery in run]
        return answers

    def _link(self, deliveries: Sequence[Delivery], answers: list[Answer], go_on: Callable[[], bool]) -> None:
        """Gives once more what was taken without its links: two that refer to each other are there now."""
        newest = {(each.resource_type, each.resource_id): number for number, each in enumerate(deliveries)}
        for number in newest.values():
            if answers[number] is not _UNLINKED:
                continue
            try:
                refusal = self._tried([deliveries[number]], go_on, ())
            except (_StoppedHere, _NotReached):
                return  # all are settled, as they are
            if refusal is None:
                answers[number] = _DELIVERED

    def _tried(self, sent: Sequence[Delivery], go_on: Callable[[], bool], settled: Sequence[Answer]) -> Answer | None:
        """See :meth:`_refusal`; what was settled before goes with the exception that ends the call."""
        if not sent:
            return None
        if not go_on():
            raise _StoppedHere(settled)
        try:
            return self._refusal(sent)
        except Unavailable as error:
            raise _NotReached(settled, error) from None

    def _refusal(self, deliveries: Sequence[Delivery]) -> Answer | None:
        """Why the server does not take a transaction of these; None if it did.

        Raises:
            Unavailable: it does not answer, or would take nothing from us.
        """
        status, body = self._post(dumps(self._bundle(deliveries)))
        code = f"http-{status}"
        answered = _resource_type(body)
        if status == 200:
            entries = body.get("entry") if answered == "Bundle" else None
            if isinstance(entries, list) and len(entries) == len(deliveries):
                return None
            raise Unavailable(
                "fhir-server-answer",
                "The FHIR server did not answer a transaction as R4 says.",
                remedy="Check base_url.",
            )
        if status in _AWAY:
            raise Unavailable("fhir-server-busy", f"The FHIR server answers {status}.", remedy="It is tried again.")
        if status in _FOR_ALL or status < 400 or (status == 404 and answered != "OperationOutcome"):
            raise Unavailable(
                "fhir-server-refuses",
                f"The FHIR server answers {status} to a transaction.",
                remedy="Check base_url and the credentials; it is tried again.",
            )
        return Answer(DeliveryState.REFUSED if status in _REFUSED else DeliveryState.FAILED, code)

    def _post(self, content: bytes) -> tuple[int, Mapping[str, Json]]:
        client = self._client or self._connected()
        try:
            with client.stream(
                "POST", self._settings.base_url.rstrip("/"), content=content, **self._authority()
            ) as said:
                data = b""
                for chunk in said.iter_bytes():
                    data += chunk
                    if len(data) > _MAX_ANSWER_BYTES:
                        break
                status = said.status_code
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise Unavailable(
                "fhir-server-unreachable",
                f"The FHIR server does not answer ({type(error).__name__}).",
                remedy="It is tried again.",
            ) from None
        try:
            body = msgspec.json.decode(data) if data else {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            body = {}
        return status, body if isinstance(body, dict) else {}

    def _authority(self) -> dict[str, Any]:
        settings = self._settings
        if settings.bearer_token is not None:
            return {"headers": {"Authorization": f"Bearer {settings.bearer_token.resolve()}"}}
        if settings.basic is not None:
            return {"auth": (settings.basic.username, settings.basic.password.resolve())}
        return {}

    def _connected(self) -> httpx2.Client:
        tls = self._settings.tls or FhirServerTls()
        try:
            context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
            if tls.certificate_file is not None:
                password = tls.key_password.resolve() if tls.key_password else None
                context.load_cert_chain(tls.certificate_file, tls.key_file, password)
        except (OSError, ssl.SSLError) as error:
            raise Incorrect(
                "fhir-server-tls", f"A certificate file of sink {self.name} is unusable ({type(error).__name__})."
            ) from None
        self._client = httpx2.Client(
            verify=context,
            timeout=self._settings.timeout_seconds,
            follow_redirects=False,
            trust_env=False,
            headers={
                "Content-Type": "application/fhir+json",
                "Accept": "application/fhir+json",
                "Prefer": "return=minimal",
            },
        )
        return self._client

    def _bundle(self, deliveries: Sequence[Delivery]) -> dict[str, Json]:
        within = {
            f"{delivery.resource_type}/{delivery.resource_id}": _urn(delivery.resource_type, delivery.resource_id)
            for delivery in deliveries
            if delivery.content is not None
        }
        return {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [self._entry(delivery, within) for delivery in deliveries],
        }

    def _entry(self, delivery: Delivery, within: Mapping[str, str]) -> dict[str, Json]:
        address = self._address(delivery.resource_type, delivery.resource_id)
        if delivery.content is None:
            return {"request": {"method": "DELETE", "url": address}}
        resource = loads_stored(delivery.content)
        del resource["id"]
        for name in ("versionId", "lastUpdated"):
            resource["meta"].pop(name, None)
        if delivery.resource_type in _TAGGED:
            tag = {"system": self._settings.identifier_system, "code": delivery.resource_id}
            resource["meta"]["tag"] = [*resource["meta"].get("tag", ()), tag]
        else:
            identifier = {"system": self._settings.identifier_system, "value": delivery.resource_id}
            resource["identifier"] = [*resource.get("identifier", ()), identifier]
        if not resource["meta"]:
            del resource["meta"]
        self._rewrite(resource, delivery.linkable, within)
        return {
            "fullUrl": _urn(delivery.resource_type, delivery.resource_id),
            "resource": resource,
            "request": {"method": "PUT", "url": address},
        }

    def _address(self, resource_type: str, resource_id: str) -> str:
        parameter = "_tag" if resource_type in _TAGGED else "identifier"
        return f"{resource_type}?{parameter}={quote(f'{self._settings.identifier_system}|{resource_id}', safe='')}"

    def _rewrite(self, resource: Json, linkable: frozenset[str], within: Mapping[str, str]) -> None:
        """Makes each of our references one that the server can resolve, or a logical one."""
        nodes = [resource]
        while nodes:
            node = nodes.pop()
            if isinstance(node, dict):
                text = node.get("reference")
                target = parse_reference(text) if isinstance(text, str) else None
                if target is not None:
                    if str(target) in within:
                        node["reference"] = within[str(target)]
                    elif str(target) in linkable:
                        node["reference"] = self._address(*target)
                    else:
                        del node["reference"]
                        node.setdefault("type", target.type)
                        node.setdefault("identifier", {"system": self._settings.identifier_system, "value": target.id})
                nodes += [value for value in node.values() if isinstance(value, dict | list)]
            else:
                nodes += [value for value in node if isinstance(value, dict | list)]


def _by_key(deliveries: Sequence[Delivery]) -> Iterator[list[Delivery]]:
    """Runs of deliveries of one key."""
    for _, group in groupby(deliveries, key=lambda delivery: delivery.key):
        yield list(group)


class _StoppedHere(Exception):  # noqa: N818 - carries what was settled before
    def __init__(self, answers: Sequence[Answer]) -> None:
        super().__init__()
        self.answers = answers


class _NotReached(Exception):  # noqa: N818 - as above, and why
    def __init__(self, answers: Sequence[Answer], error: Unavailable) -> None:
        super().__init__()
        self.answers = answers
        self.error = error


def _urn(resource_type: str, resource_id: str) -> str:
    return f"urn:uuid:{uuid5(NAMESPACE_URL, f'{resource_type}/{resource_id}')}"


def _resource_type(body: Mapping[str, Json]) -> str:
    kind = body.get("resourceType")
    return kind if isinstance(kind, str) else ""


adapter = AdapterSpec(name="fhir-server", settings=FhirServerSettings, build=FhirServerSink)
