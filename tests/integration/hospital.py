"""Two hospitals and a laboratory in front of a store: messages in, stored rows out, by the real pipeline in this thread."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from bridge.config.site import Site
from bridge.fhir.json import loads_stored
from bridge.keys.keyset import KeySet
from bridge.keys.ports import KeyPurpose, SignerPurpose
from bridge.mapping.rules import Rules, load_rules
from bridge.matching.model import Model, load_model
from bridge.pipeline.batch import Batcher, Item, Place, Verdict
from bridge.pipeline.ports import ContentKind, Partition, RawMessage
from bridge.pipeline.prepare import Prepared, Preparer
from bridge.record.recorder import Recorder
from bridge.store import positions, schema
from bridge.store.database import Database, Transaction, open_database
from bridge.store.dialect import Statement
from bridge.store.rows import Outcome, PositionRow
from bridge.telemetry.stop import Stop
from tests.reference import ROOT

ORIGIN = "log.test.example/hie"
KEYS = KeySet({"w": b"w" * 32}, "w", b"d" * 32, {purpose: bytes(range(32)) for purpose in SignerPurpose})
NATIONAL = "https://region.example/national"
EVENTS = ["ADT^A01", "ADT^A02", "ADT^A03", "ADT^A04", "ADT^A08", "ADT^A11", "ADT^A13", "ADT^A40", "ORU^R01", "MFN^M02"]
T0 = 1_700_000_000_000_000


def _site(name: str, authorities: Sequence[Mapping[str, Any]], **more: Any) -> Site:
    return Site.model_validate(
        {
            "site": name,
            "organization": {"name": name.title(), "identifier": {"system": "urn:test:organizations", "value": name}},
            "time_zone": "Europe/London",
            "authorities": authorities,
            "events": {"allow": EVENTS, "filter": ["SIU^S12"]},
            **more,
        }
    )


def _record(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "system": f"urn:test:{name.lower()}", "use": "record", "types": ["MR"], **more}


_NATIONAL = {"name": "NHR", "system": NATIONAL, "use": "evidence", "types": ["NH"]}
SITES = {
    site.site: site
    for site in (
        _site("north", [_record("NORTH", default=True), _record("ARCHIVE"), _NATIONAL]),
        _site("south", [_record("SOUTH", default=True), _NATIONAL]),
        # says nothing of the types of its identifiers
        _site("clinic", [_record("CLINIC", default=True, types=[])]),
        # reports under the north's numbers, and shares them
        _site("lab", [_record("LAB", default=True), _record("NORTH")]),
    )
}


@cache
def rules() -> Rules:
    """The compiled mappings of the project."""
    return load_rules(ROOT / "mappings")


@cache
def model() -> Model:
    """The matching rules of the project."""
    return load_model(ROOT / "mappings" / "matching" / "certain.yaml")


_controls = itertools.count(1)


def hl7(event: str, *segments: str, at: str = "20240301120000", control: str = "", **msh: str) -> bytes:
    """An HL7 v2 message with its MSH; ``at`` is its time, which EVN repeats where the event has an EVN."""
    code, trigger = event.split("^")
    head = [
        f"MSH|^~\\&|{msh.get('application', 'PAS')}|{msh.get('facility', 'F')}|HIE|HIE|{at}||{event}",
        control or f"C{next(_controls)}",
        "P",
        "2.5.1",
        "",
        "",
        "",
        "",
        "",
        "UNICODE UTF-8",
    ]
    lines = ["|".join(head), *([f"EVN|{trigger}|{at}"] if code == "ADT" else []), *segments]
    return ("\r".join(lines) + "\r").encode()


def pid(identifiers: str = "1^^^NORTH^MR", name: str = "Ash^Ida", birth: str = "19700102", **fields: str) -> str:
    """A PID: ``sex``, ``address``, ``phone`` by name; everything else is absent."""
    values = [""] * 13
    values[0], values[2], values[4], values[6] = "1", identifiers, name, birth
    values[7], values[10], values[12] = fields.get("sex", ""), fields.get("address", ""), fields.get("phone", "")
    return "PID|" + "|".join(values).rstrip("|")


def pv1(visit: str = "V1", *, kind: str = "I", start: str = "", end: str = "", place: str = "") -> str:
    """A PV1 with class, visit number, admission and discharge."""
    values = [""] * 45
    values[0], values[1], values[2], values[18], values[43], values[44] = "1", kind, place, visit, start, end
    return "PV1|" + "|".join(values).rstrip("|")


def obr(placer: str = "P1", filler: str = "F1", code: str = "K^Potassium^L", *, at: str = "", status: str = "F") -> str:
    """An OBR with order numbers, code, time of the result and its status."""
    values = [""] * 25
    values[0], values[1], values[2], values[3], values[21], values[24] = "1", placer, filler, code, at, status
    return "OBR|" + "|".join(values).rstrip("|")


def obx(value: str = "4.1", code: str = "K^Potassium^L", *, number: int = 1, status: str = "F", at: str = "") -> str:
    """A numeric OBX."""
    return f"OBX|{number}|NM|{code}||{value}|mmol/L|||||{status}|||{at}".rstrip("|")


class Hospital:
    """A pipeline over one store. Messages of each site are one partition, fed in the order of the calls."""

    def __init__(self, url: str, sites: Mapping[str, Site] | None = None) -> None:
        self.url = url
        self.database: Database = open_database(url)
        self.sites = sites or SITES
        identity_key = KEYS.secret_key(KeyPurpose.IDENTITY).reveal()
        self.restriction_key = KEYS.secret_key(KeyPurpose.RESTRICTION).reveal()
        self.preparer = Preparer(rules(), self.sites, KEYS, identity_key, 1 << 20)
        self.recorder = Recorder(KEYS, ORIGIN, model(), self.sites.values())
        self.batcher = Batcher(self.database, self.recorder, self.restriction_key)
        self.stop = Stop()
        self._clock = itertools.count(T0)
        self._places: dict[str, Place] = {}

    def close(self) -> None:
        """Closes the connection."""
        self.database.close()

    def raw(self, content: bytes | dict[str, Any], site: str = "north", key: bytes | None = None) -> RawMessage:
        """A message as a source hands it over."""
        if isinstance(content, dict):
            return RawMessage(site, json.dumps(content).encode(), ContentKind.FHIR_JSON, key, next(self._clock))
        return RawMessage(site, content, None, key, next(self._clock))

    def prepare(self, contents: Iterable[bytes | dict[str, Any]], site: str = "north") -> list[Prepared]:
        """The pure stage."""
        return [self.preparer.prepare(self.raw(content, site)) for content in contents]

    def items(self, contents: Iterable[bytes | dict[str, Any]], site: str = "north") -> tuple[list[Item], Place]:
        """A batch at the partition's present place."""
        place = self._places.get(site) or self._claimed(site)
        return [Item(p, offset=place.expected + n) for n, p in enumerate(self.prepare(contents, site))], place

    def feed(self, *contents: bytes | dict[str, Any], site: str = "north") -> list[Verdict]:
        """Stores messages as one batch."""
        return self.store(*self.items(contents, site))

    def one_by_one(self, *contents: bytes | dict[str, Any], site: str = "north") -> list[Verdict]:
        """Stores messages in a batch each."""
        return [verdict for content in contents for verdict in self.feed(content, site=site)]

    def store(self, items: Sequence[Item], place: Place) -> list[Verdict]:
        """Stores a batch and moves the partition's place on."""
        verdicts = self.batcher.store(items, place, self.stop)
        self._places[place.partition.source] = Place(place.partition, place.expected + len(verdicts), place.epoch)
        return verdicts

    def _claimed(self, site: str) -> Place:
        partition = Partition(site, "topic", 0)
        with self.database.transaction() as txn:
            position = positions.claim(txn, site, "topic", 0)
        self._places[site] = Place(partition, position.next_offset, position.epoch)
        return self._places[site]

    # what is stored

    def rows(self, table: str) -> list[Any]:
        """Everything in a table, as named rows in order of the first column."""
        with self.database.transaction(read_only=True) as txn:
            return self.rows_in(txn, table)

    @staticmethod
    def rows_in(txn: Transaction, table: str) -> list[Any]:
        """The same within a transaction."""
        selected = schema.metadata.tables[table]
        found = txn.execute(Statement(sa.select(selected).order_by(*list(selected.c)[:2])), {})
        return [dict(zip(selected.c.keys(), row, strict=True)) for row in found]

    def resources(self, kind: str) -> list[dict[str, Any]]:
        """Current resources of a type, by their keys; deleted ones are left out."""
        versions = {(row["resource_key"], row["version"]): row["body"] for row in self.rows("resource_version")}
        return [
            loads_stored(versions[row["resource_key"], row["version"]])
            for row in self.rows("resource")
            if row["type"] == kind and not row["deleted"]
        ]

    def one(self, kind: str) -> dict[str, Any]:
        """The only resource of a type."""
        [found] = self.resources(kind)
        return found

    def patient(self, number: str) -> dict[str, Any]:
        """The Patient that bears an identifier with this value."""
        [found] = [p for p in self.resources("Patient") if number in {i["value"] for i in p.get("identifier", ())}]
        return found

    def key_of(self, resource: Mapping[str, Any]) -> int:
        """Its surrogate key."""
        [key] = [row["resource_key"] for row in self.rows("resource") if row["fhir_id"] == resource["id"]]
        return int(key)

    def persons(self) -> list[set[str]]:
        """Which Patients are one person: sets of the first identifier of each."""
        number = {self.key_of(p): p["identifier"][0]["value"] for p in self.resources("Patient")}
        groups: dict[int, set[str]] = {}
        for row in self.rows("person_link"):
            groups.setdefault(row["person_key"], set()).add(number[row["record_key"]])
        return sorted(groups.values(), key=sorted)

    def position(self, source: str = "north") -> PositionRow:
        """The position of a source that has one partition."""
        with self.database.transaction(read_only=True) as txn:
            [found] = [row for row in positions.all_positions(txn) if row.source == source]
        return found

    def picture(self) -> dict[str, Any]:
        """Current content of everything by type and id, without versions and times, for comparing two stores."""
        versions = {(row["resource_key"], row["version"]): row["body"] for row in self.rows("resource_version")}
        shown: dict[str, Any] = {}
        for row in self.rows("resource"):
            if row["deleted"]:
                continue
            body = loads_stored(versions[row["resource_key"], row["version"]])
            meta = {k: v for k, v in body.pop("meta", {}).items() if k not in {"versionId", "lastUpdated"}}
            shown[f"{row['type']}/{row['fhir_id']}"] = {**body, "meta": meta}
        return shown


def outcomes(verdicts: Iterable[Verdict]) -> list[Outcome]:
    """What became of each message."""
    return [verdict.outcome for verdict in verdicts]


def codes(verdicts: Iterable[Verdict]) -> list[str]:
    """Why messages are dead letters."""
    return [verdict.error.code for verdict in verdicts if verdict.error is not None]
