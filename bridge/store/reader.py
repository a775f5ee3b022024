"""What the API reads: resources, versions, histories, searches, and everything a consent decision needs to know.

Asynchronous, over any connection that executes the room's statements; nothing here decides or filters by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from bridge.consent.decision import Certainty, Compartment, ConsentOnFile, Visibility
from bridge.consent.rule import Rule, decode
from bridge.fhir.references import Target, parse_reference
from bridge.fhir.search.query import Query
from bridge.store import schema
from bridge.store.async_database import AsyncTransaction
from bridge.store.dialect import Statement, constant, rows_parameter
from bridge.store.search import Patients, Position, search_statement

_MERGE_ROUNDS: Final = 16


class Current(NamedTuple):
    """The current version of a resource; ``body`` is empty when deleted."""

    resource_key: int
    patient_key: int | None
    version: int
    last_updated_us: int
    deleted: bool
    body: bytes

    def __repr__(self) -> str:
        return f"Current({self.resource_key}, version {self.version}, <redacted>)"


class Found(NamedTuple):
    """A row that may answer a search."""

    resource_key: int
    fhir_id: str
    patient_key: int | None
    version: int
    last_updated_us: int
    sort_us: int
    body: bytes

    @property
    def position(self) -> Position:
        """Where the row stands in the order of the answer."""
        return Position(self.sort_us, self.resource_key)

    def __repr__(self) -> str:
        return f"Found({self.resource_key}, version {self.version}, <redacted>)"


class Version(NamedTuple):
    """One version of a resource; ``body`` is empty for a deletion."""

    version: int
    last_updated_us: int
    deleted: bool
    body: bytes

    def __repr__(self) -> str:
        return f"Version({self.version}, <redacted>)"


class PatientFacts(NamedTuple):
    """A patient record as decision and access record need it: ``record_uuid`` names it in commitments."""

    record_uuid: str
    compartment: Compartment


def _integer(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger())


def _text(name: str) -> sa.BindParameter[str]:
    return sa.bindparam(name, type_=sa.Text())


def _keys(name: str = "keys") -> sa.Select[Any]:
    return sa.select(rows_parameter(name, item=sa.BigInteger()).c.item)


_r: Final = schema.resource.c
_v: Final = schema.resource_version.c
_link: Final = schema.link_event.c
_consent: Final = schema.consent_state.c
_restriction: Final = schema.restriction.c
_mine_link: Final = schema.person_link.alias("mine")
_others_link: Final = schema.person_link.alias("others")
_mine: Final = _mine_link.c
_others: Final = _others_link.c

_CURRENT: Final = Statement(
    sa.select(_r.resource_key, _r.patient_key, _r.version, _r.last_updated_us, _r.deleted, _v.body).where(
        _r.type == _text("type"),
        _r.fhir_id == _text("id"),
        _v.resource_key == _r.resource_key,
        _v.version == _r.version,
        _v.last_updated_us == _r.last_updated_us,
    )
)
_VERSION: Final = Statement(
    sa.select(_v.version, _v.last_updated_us, _v.deleted, _v.body).where(
        _v.resource_key == _integer("key"), _v.version == _integer("version")
    )
)
_HISTORY: Final = Statement(
    sa.select(_v.version, _v.last_updated_us, _v.deleted, _v.body)
    .where(
        _v.resource_key == _integer("key"),
        _v.version < _integer("before"),
        _v.last_updated_us >= _integer("since"),
        _v.last_updated_us <= _integer("horizon"),
    )
    .order_by(_v.version.desc())
    .limit(_integer("limit"))
)
_targets: Final = rows_parameter("targets", type=sa.Text(), id=sa.Text())
_BODIES: Final = Statement(
    sa.select(_r.type, _r.fhir_id, _v.body)
    .join_from(_targets, schema.resource, sa.and_(_r.type == _targets.c.type, _r.fhir_id == _targets.c.id))
    .join(
        schema.resource_version,
        sa.and_(_v.resource_key == _r.resource_key, _v.version == _r.version, _v.last_updated_us == _r.last_updated_us),
    )
    .where(~_r.deleted)
)
_PATIENTS_BY_ID: Final = Statement(
    sa.select(_r.resource_key, _r.fhir_id).where(
        _r.type == constant("Patient"),
        _r.fhir_id.in_(sa.select(rows_parameter("ids", item=sa.Text()).c.item)),
    )
)
_PATIENTS_BY_KEY: Final = Statement(sa.select(_r.resource_key, _r.fhir_id).where(_r.resource_key.in_(_keys())))
_SITES: Final = Statement(sa.select(_r.site).where(_r.resource_key.in_(_keys()), ~_r.deleted).distinct())
_MERGES: Final = Statement(
    sa.select(_link.record_key, _link.other_key).where(
        _link.kind == constant("merge"), sa.or_(_link.record_key.in_(_keys()), _link.other_key.in_(_keys("keys2")))
    )
)
_MEMBERS: Final = Statement(
    sa.select(_mine.record_key, _others.record_key, _mine.certainty, _others.certainty).where(
        _mine.record_key.in_(_keys()), _others.person_key == _mine.person_key
    )
)
_RECORDS: Final = Statement(
    sa.select(_r.resource_key, _r.record_uuid, _others.record_key, _mine.certainty, _others.certainty)
    .select_from(
        schema.resource.outerjoin(_mine_link, _mine.record_key == _r.resource_key).outerjoin(
            _others_link, _others.person_key == _mine.person_key
        )
    )
    .where(_r.resource_key.in_(_keys()))
)
# Restrictions and consents in one answer: a restriction is a row of status "restricted" without a rule.
_RULES: Final = Statement(
    sa.union_all(
        sa.select(_consent.patient_key, _consent.consent_key, _consent.status, _consent.rule).where(
            _consent.patient_key.in_(_keys()), _consent.status.in_([constant("active"), constant("error")])
        ),
        sa.select(
            _restriction.patient_key,
            sa.literal_column("0", sa.BigInteger()),
            constant("restricted"),
            sa.cast(sa.null(), schema.BYTES),
        ).where(_restriction.patient_key.in_(_keys("keys2")), _restriction.state == constant("open")),
    )
)


async def current(txn: AsyncTransaction, kind: str, fhir_id: str) -> Current | None:
    """The resource as it stands, deleted ones included."""
    rows = await txn.execute(_CURRENT, {"type": kind, "id": fhir_id})
    return Current(*rows[0]) if rows else None


async def bodies(txn: AsyncTransaction, targets: Collection[Target]) -> dict[Target, bytes]:
    """The resources as they stand; deleted ones are left out."""
    rows = await txn.execute(_BODIES, {"targets": sorted(targets)})
    return {Target(kind, fhir_id): body for kind, fhir_id, body in rows}


async def version(txn: AsyncTransaction, resource_key: int, number: int) -> Version | None:
    """One version."""
    rows = await txn.execute(_VERSION, {"key": resource_key, "version": number})
    return Version(*rows[0]) if rows else None


async def history(
    txn: AsyncTransaction, resource_key: int, *, since_us: int, before: int, horizon_us: int, limit: int
) -> list[Version]:
    """Versions below ``before`` changed at or after ``since_us`` and not after ``horizon_us``, newest first."""
    parameters = {"key": resource_key, "since": since_us, "before": before, "horizon": horizon_us, "limit": limit}
    return [Version(*row) for row in await txn.execute(_HISTORY, parameters)]


async def search(
    txn: AsyncTransaction,
    query: Query,
    visibility: Visibility,
    patients: Sequence[Patients],
    *,
    after: Position | None,
    horizon_us: int,
    limit: int,
) -> list[Found]:
    """Rows that may answer the query, in its order; see :func:`bridge.store.search.search_statement`."""
    if any(not clause.keys for clause in patients):
        return []
    statement, parameters = search_statement(
        txn.dialect, query, visibility, patients, after=after, horizon_us=horizon_us, limit=limit
    )
    return [Found(*row) for row in await txn.execute(statement, parameters)]


async def resolve_patients(txn: AsyncTransaction, ids: Collection[str], *, expand: bool) -> Patients:
    """The records that patient ids stand for (law *What a client sees as Patient*).

    Args:
        txn: the snapshot.
        ids: logical ids of Patients.
        expand: add the records that matching surely linked to the same person; without it only those that their source
            merged, in either direction.
    """
    rows = await txn.execute(_PATIENTS_BY_ID, {"ids": sorted(set(ids))}) if ids else []
    asked = {row[0] for row in rows}
    keys = await merged_with(txn, asked)
    if expand and keys:
        members = await txn.execute(_MEMBERS, {"keys": sorted(keys)})
        sure = {other for _, other, a, b in members if "possible" not in (a, b)}
        keys = await merged_with(txn, keys | sure)
    named = await txn.execute(_PATIENTS_BY_KEY, {"keys": sorted(keys)}) if keys != asked else rows
    return Patients(tuple(row[0] for row in named), frozenset(f"Patient/{row[1]}" for row in named))


async def sites(txn: AsyncTransaction, keys: Collection[int]) -> frozenset[str]:
    """Sites that the records came from; deleted ones count as none."""
    rows = await txn.execute(_SITES, {"keys": sorted(keys)}) if keys else []
    return frozenset(row[0] for row in rows)


async def merged_with(txn: AsyncTransaction, keys: Iterable[int]) -> set[int]:
    """The keys and all records that sources merged with them, over any number of steps."""
    reached = set(keys)
    fresh = sorted(reached)
    for _ in range(_MERGE_ROUNDS):
        if not fresh:
            break
        rows = await txn.execute(_MERGES, {"keys": fresh, "keys2": fresh})
        fresh = sorted({key for row in rows for key in row if key is not None} - reached)
        reached.update(fresh)
    return reached


async def patient_keys(txn: AsyncTransaction, references: Collection[str]) -> dict[str, int]:
    """Resource keys of the Patients that ``Patient/id`` references name; unknown ones are left out."""
    targets: list[Target] = [target for text in references if (target := parse_reference(text))]
    rows = await txn.execute(_PATIENTS_BY_ID, {"ids": sorted({target.id for target in targets})}) if targets else []
    return {f"Patient/{row[1]}": row[0] for row in rows}


async def patient_facts(txn: AsyncTransaction, keys: Collection[int]) -> dict[int, PatientFacts]:
    """Restrictions and Consents of each patient record and of every record linked to it; unknown keys are left out."""
    if not keys:
        return {}
    uuids: dict[int, str] = {}
    linked: dict[int, dict[int, Certainty]] = {}
    for key, record_uuid, other, a, b in await txn.execute(_RECORDS, {"keys": sorted(keys)}):
        uuids[key] = record_uuid
        certainties = linked.setdefault(key, {key: Certainty.OWN})
        if other is not None and other != key:
            certainties[other] = _weaker(a, b)
    everyone = sorted({other for others in linked.values() for other in others})
    consents: dict[int, list[tuple[int, Rule]]] = {}
    restricted: set[int] = set()
    for patient_key, consent_key, status, rule in await txn.execute(_RULES, {"keys": everyone, "keys2": everyone}):
        compiled = _rule(rule) if status == "active" else None
        if compiled is None:
            restricted.add(patient_key)
        else:
            consents.setdefault(patient_key, []).append((consent_key, compiled))
    return {
        key: PatientFacts(record_uuid, _compartment(key, linked[key], consents, restricted))
        for key, record_uuid in uuids.items()
    }


def _compartment(
    key: int,
    linked: Mapping[int, Certainty],
    consents: Mapping[int, list[tuple[int, Rule]]],
    restricted: Collection[int],
) -> Compartment:
    entries = tuple(
        ConsentOnFile(consent_key, rule, certainty)
        for other, certainty in linked.items()
        for consent_key, rule in consents.get(other, ())
    )
    return Compartment(key, any(other in restricted for other in linked), entries)


def _weaker(a: str, b: str) -> Certainty:
    words = {a, b}
    for certainty in (Certainty.POSSIBLE, Certainty.CERTAIN):
        if certainty.value in words:
            return certainty
    return Certainty.ASSERTED


@lru_cache(maxsize=4096)
def _rule(data: bytes) -> Rule | None:
    """None when the stored rule cannot be read: its patient is then closed."""
    try:
        return decode(data)
    except msgspec.MsgspecError:
        return None
