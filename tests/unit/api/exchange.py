"""A small exchange for tests: a store, seeded row by row, and the whole API before it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import uuid4

import httpx2
from joserfc import jws
from joserfc.jwk import ECKey

from bridge.access.consents import ConsentWriter
from bridge.access.continuation import ContinuationSealer
from bridge.access.enforcement import Enforcer
from bridge.access.journal import AccessJournal
from bridge.access.ports import StoredConsent
from bridge.access.recording import StoreConsentRecorder
from bridge.access.settings import AccessSettings
from bridge.access.tokens import TokenVerifier
from bridge.api.app import create_app
from bridge.api.fhir import FhirApi
from bridge.consent.policy import DefaultPolicy, load_policy
from bridge.consent.rule import compile_consent, encode
from bridge.errors import Conflict
from bridge.fhir.json import dumps
from bridge.fhir.references import patient_of
from bridge.fhir.search.index import extract
from bridge.fhir.types import format_instant
from bridge.keys.keyset import new_key_set, parse_key_set
from bridge.matching.model import load_model
from bridge.record.commitments import RecordKeys
from bridge.record.recorder import Recorder
from bridge.store import consents, persons, resources, restrictions
from bridge.store.async_database import open_async_database
from bridge.store.database import open_database
from bridge.store.migrate import migrate
from bridge.store.rows import (
    ConsentStateRow,
    LinkEventRow,
    LinkRow,
    PersonRow,
    ResourceRow,
    ResourceWrite,
    RestrictionRow,
    VersionRow,
)
from tests.reference import ROOT

T = TypeVar("T")
BASE = "https://hie.example/fhir"
ISSUER = "https://login.example"
T0 = 1_790_000_000_000_000
KEY = ECKey.generate_key("P-256", {"use": "sig"}, auto_kid=True)
OTHER_KEY = ECKey.generate_key("P-256", {"use": "sig"}, auto_kid=True)
ORGANIZATION = "urn:oid:1.2.3|a"

CLIENTS = [
    {"client_id": "emr", "organization": ORGANIZATION, "role": "clinician", "purposes": ["TREAT", "ETREAT"]},
    {"client_id": "portal", "organization": ORGANIZATION, "role": "patient", "purposes": ["PATRQT"]},
    {"client_id": "family", "organization": ORGANIZATION, "role": "proxy", "purposes": ["FAMRQT"]},
    {"client_id": "research", "organization": "Organization/r", "role": "system", "purposes": ["HRESCH"]},
    {
        "client_id": "mpi",
        "organization": ORGANIZATION,
        "role": "clinician",
        "purposes": ["TREAT"],
        "expand_person": True,
    },
    {
        "client_id": "officer",
        "organization": ORGANIZATION,
        "role": "consent-officer",
        "purposes": ["HOPERAT"],
        "custodians": ["Organization/a"],
    },
]

CUSTODIANS = [
    {"names": ["Organization/a", "urn:oid:1.2.3|a"], "sites": ["a", "a2"]},
    {"names": ["Organization/b"], "sites": ["b"]},
]


class FixedKeys:
    """The issuer's public keys, as a port."""

    async def keys(self, key_id: str | None) -> list[dict[str, Any]]:
        return [KEY.as_dict(private=False)]

    async def close(self) -> None:
        return


def access_settings(**changes: Any) -> AccessSettings:
    issuer = {"issuer": ISSUER, "audience": BASE, "algorithms": ["ES256"], "keys": {"adapter": "jwks-file"}}
    clients = [{**client, "issuer": ISSUER} for client in CLIENTS]
    return AccessSettings.model_validate({"issuers": [issuer], "clients": clients, "custodians": CUSTODIANS, **changes})


def mint(client: str = "emr", *, key: ECKey = KEY, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token; a claim of None is left out."""
    now = int(time.time())
    defaults = {"emr": "TREAT", "mpi": "TREAT", "portal": "PATRQT", "family": "FAMRQT", "officer": "HOPERAT"}
    values = {
        "iss": ISSUER,
        "aud": BASE,
        "sub": f"user-of-{client}",
        "client_id": client,
        "iat": now,
        "exp": now + 300,
        "purpose": defaults.get(client, "HRESCH"),
        "fhirUser": f"Practitioner/of-{client}" if client in ("emr", "mpi", "officer") else None,
        **claims,
    }
    present = {name: value for name, value in values.items() if value is not None}
    whole = {"alg": "ES256", "kid": KEY.kid, **(header or {})}
    return jws.serialize_compact(whole, json.dumps(present), key, algorithms=["ES256"])


def permit(patient: str, kind: str = "permit", *, actors: tuple[str, ...] = (), **elements: Any) -> dict[str, Any]:
    """A Consent as clients post it."""
    provision: dict[str, Any] = {"type": kind}
    if actors:
        provision["actor"] = [{"role": {"coding": [{"code": "IRCP"}]}, "reference": {"reference": a}} for a in actors]
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient}"},
        "provision": provision,
        **elements,
    }


class Seed:
    """Writes rows straight through the repositories, as the recorder would leave them."""

    def __init__(self, url: str) -> None:
        self._database = open_database(url)
        self._keys: dict[str, int] = {}
        self._clock = T0
        self.site = "a"

    def close(self) -> None:
        self._database.close()

    def put(self, *bodies: dict[str, Any], deleted: bool = False) -> None:
        """Stores each body as the next version of its resource."""
        for body in bodies:
            self._put(body, deleted=deleted)

    def put_if(self, there: bool, body: dict[str, Any]) -> None:
        """Stores the body, or only lets the time pass that storing it would have taken."""
        if there:
            self.put(body)
        else:
            self._clock += 1_000_000

    def _put(self, body: dict[str, Any], *, deleted: bool) -> tuple[ResourceRow, bytes]:
        kind, fhir_id = body["resourceType"], body["id"]
        self._clock += 1_000_000
        with self._database.transaction() as txn:
            before = resources.load_by_id(txn, [(kind, fhir_id)]).get((kind, fhir_id))
            key = before.resource_key if before else txn.allocate("resource", 1)[0]
            number = before.version + 1 if before else 1
            meta = {"versionId": str(number), "lastUpdated": format_instant(self._clock)}
            stored = {"resourceType": kind, "id": fhir_id, "meta": meta}
            stored |= {name: value for name, value in body.items() if name not in stored}
            data = b"" if deleted else dumps(stored)
            self._keys[f"{kind}/{fhir_id}"] = key
            patient = patient_of(stored)
            index = extract(stored)
            row = ResourceRow(
                resource_key=key,
                type=kind,
                fhir_id=fhir_id,
                record_uuid=before.record_uuid if before else str(uuid4()),
                patient_key=self._keys.get(patient) if patient else None,
                version=number,
                last_updated_us=self._clock,
                deleted=deleted,
                status=index.status,
                date_start_us=index.date_start_us,
                date_end_us=index.date_end_us,
                site=self.site,
                label_bits=0,
                content_digest=b"x" * 32,
                state=b"{}",
            )
            version = VersionRow(key, number, self._clock, deleted, data, uuid4().bytes, None, None)
            terms, strings = ((), ()) if deleted else (index.terms, index.strings)
            write = ResourceWrite(row, (version,), before.version if before else 0, terms, strings)
            resources.write(txn, [write])
            if kind == "Consent":
                rule = compile_consent(stored)
                state = ConsentStateRow(
                    key,
                    row.patient_key or 0,
                    uuid4().bytes * 2,
                    rule.status.value,
                    number,
                    encode(rule),
                    "",
                    None,
                    "",
                    0,
                )
                consents.write(txn, [state])
        return row, data

    def link(self, *patients: str, certainty: str = "certain") -> None:
        """Links records to one person, as matching would."""
        with self._database.transaction() as txn:
            person = txn.allocate("person", 1)[0]
            persons.create(txn, [PersonRow(person, str(uuid4()), 0, T0)])
            rows = [LinkRow(self._keys[f"Patient/{id_}"], person, certainty, "test", T0) for id_ in patients]
            persons.write_links(txn, rows)

    def merge(self, survivor: str, subsumed: str) -> None:
        """A merge that the source asserted: the event, and how the subsumed Patient shows it."""
        with self._database.transaction() as txn:
            event = LinkEventRow(
                txn.allocate("link_event", 1)[0],
                "merge",
                self._keys[f"Patient/{survivor}"],
                self._keys[f"Patient/{subsumed}"],
                None,
                None,
                T0,
                "",
                "a",
                "test",
                "asserted",
                T0,
                uuid4().bytes,
            )
            persons.append_events(txn, [event])

    def restrict(self, patient: str) -> None:
        """Closes a patient."""
        with self._database.transaction() as txn:
            key = txn.allocate("restriction", 1)[0]
            row = RestrictionRow(key, self._keys[f"Patient/{patient}"], None, None, "test", "open", T0)
            restrictions.add(txn, [row])

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Everything in a table."""
        import sqlalchemy as sa

        from bridge.store import schema
        from bridge.store.dialect import Statement

        with self._database.transaction(read_only=True) as txn:
            return txn.execute(Statement(sa.select(schema.metadata.tables[table])), {})

    # the port ConsentRecorder, so that what a caller writes is what later decisions go by

    async def create_consent(self, resource: dict[str, Any], *, organization: str) -> StoredConsent:
        row, data = self._put({**resource, "id": str(uuid4())}, deleted=False)
        return StoredConsent(row.fhir_id, row.version, row.last_updated_us, data)

    async def update_consent(
        self, fhir_id: str, resource: dict[str, Any], *, expected_version: int, organization: str
    ) -> StoredConsent:
        row, data = self._put(resource, deleted=False)
        if row.version != expected_version + 1:
            raise Conflict("version-conflict", "the Consent has changed meanwhile")
        return StoredConsent(fhir_id, row.version, row.last_updated_us, data)


class Exchange:
    """The API over a seeded store; requests run on one event loop of its own."""

    def __init__(self, folder: Path, default: str = "deny", *, url: str = "", **options: Any) -> None:
        if not url:
            url = f"sqlite:///{folder}/exchange.db"
            migrate(url)
        self.seed = Seed(url)
        self._runner = asyncio.Runner()
        self._store = open_async_database(url, connections=2)
        self._keys = parse_key_set(new_key_set(), "test")
        self.journal = AccessJournal(self._store, RecordKeys(self._keys), "hie.example/log", b"i" * 32)
        enforcer = Enforcer(self._store, load_policy(ROOT / "mappings", DefaultPolicy(default)))
        self.api = FhirApi(
            base=BASE,
            verifier=TokenVerifier(access_settings(), {ISSUER: FixedKeys()}, base=BASE),
            enforcer=enforcer,
            writer=ConsentWriter(
                enforcer,
                self._recorder() if options.get("real_recorder") else self.seed,
                access_settings().custodian_sites,
            ),
            journal=options.get("journal", self.journal),
            sealer=ContinuationSealer(b"c" * 32),
            software_version="0",
            request_bytes=options.get("request_bytes", 100_000),
        )
        self.checkpoint: str | None = None
        app = create_app(
            self.api, checks=options.get("checks", {}), checkpoint=self._newest, metrics=options.get("metrics", False)
        )
        self.app = app
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        self._client = httpx2.AsyncClient(transport=transport, base_url="https://hie.example")
        self._runner.run(self._store.open())

    def _recorder(self) -> StoreConsentRecorder:
        model = load_model(ROOT / "mappings" / "matching" / "certain.yaml")
        return StoreConsentRecorder(self._store, Recorder(self._keys, "hie.example/log", model, ()))

    async def _newest(self) -> str | None:
        return self.checkpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        async def close() -> None:
            await self.journal.flush()
            await self._client.aclose()
            await self._store.close()

        self._runner.run(close())
        self._runner.close()
        self.seed.close()

    def request(self, method: str, path: str, *, token: str | None = None, **options: Any) -> httpx2.Response:
        """One request; ``path`` from the base, or a whole link. The access records are closed when it returns."""
        url = path if path.startswith("https:") else f"{BASE}/{path}"
        headers = {"Authorization": f"Bearer {mint() if token is None else token}", **options.pop("headers", {})}

        async def send() -> httpx2.Response:
            response = await self._client.request(
                method, url, headers={name: value for name, value in headers.items() if value}, **options
            )
            await self.journal.flush()
            return response

        return self._runner.run(send())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs something on the loop that the store belongs to."""
        return self._runner.run(work)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.request("GET", path, **options)

    def post_consent(self, consent: dict[str, Any], **options: Any) -> httpx2.Response:
        return self._write("POST", "Consent", consent, options)

    def put_consent(self, fhir_id: str, consent: dict[str, Any], **options: Any) -> httpx2.Response:
        return self._write("PUT", f"Consent/{fhir_id}", consent, options)

    def _write(self, method: str, path: str, consent: dict[str, Any], options: dict[str, Any]) -> httpx2.Response:
        headers = {"Content-Type": "application/fhir+json", **options.pop("headers", {})}
        return self.request(method, path, content=json.dumps(consent).encode(), headers=headers, **options)

    def ids(self, path: str, **options: Any) -> list[str]:
        """Ids of all resources of a search, over all its pages."""
        found: list[str] = []
        link: str | None = path
        while link:
            bundle = self.get(link, **options).raise_for_status().json()
            found += [entry["resource"]["id"] for entry in bundle.get("entry", [])]
            link = next((item["url"] for item in bundle["link"] if item["relation"] == "next"), None)
        return found

    def access_records(self) -> list[dict[str, Any]]:
        """All access records, oldest first."""
        from bridge.store.rows import AccessRecord

        rows = [AccessRecord._make(row)._asdict() for row in self.seed.rows("access_record")]
        return sorted(rows, key=lambda row: row["started_us"])
