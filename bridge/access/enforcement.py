"""The one way by which resources leave: fetch, check on the body, decide, record, answer.

Every row is decided after it was fetched, on the same snapshot as the consents. Absent and hidden take the same path to the
same error. Nothing is returned before the access record is durable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, NamedTuple, Protocol

from bridge.access.journal import AccessEntry, Ticket
from bridge.access.tokens import Principal
from bridge.consent.actors import denied_actors, undecided
from bridge.consent.decision import AccessRequest, Compartment, ConsentDecision, Resource, decide, visibility
from bridge.consent.policy import Policy
from bridge.consent.rule import Code
from bridge.errors import BridgeError, NotFound
from bridge.fhir.json import loads_stored
from bridge.fhir.references import parse_reference, patients_of
from bridge.fhir.search.match import matches
from bridge.fhir.search.query import MAX_COUNT, DateClause, Query, SortBy
from bridge.store import reader
from bridge.store.async_database import AsyncDatabase, AsyncTransaction
from bridge.store.reader import Found, PatientFacts
from bridge.store.search import Patients, Position
from bridge.telemetry.metrics import DECISIONS

FOREVER_US: Final = 2**63 - 1
SCAN_ROWS: Final = 2000  # rows looked at for one page; then the page is given as it is, with a link on
SCAN_AT_ONCE: Final = MAX_COUNT + 1  # a count alone must not spend the budget before it knows who is closed
SCAN_STEP: Final = 100  # rows read at once, at least, when the first look did not fill the page
MAX_NAMED_PATIENTS: Final = 50
MAX_NAMED_ACTORS: Final = 50  # looked up for one patient; a deny of one that was not looked up holds
_NAMED: Final = frozenset({"Organization", "Practitioner"})
_CODED: Final = ("code", "category", "type", "class")


class Journal(Protocol):
    """Keeps access records; see :class:`bridge.access.journal.AccessJournal`."""

    async def open(self, principal: Principal, entries: Sequence[AccessEntry]) -> list[Ticket]:
        """Returns once the records are durable."""
        ...

    def close(self, tickets: Sequence[Ticket], outcome: str, status: int) -> None:
        """Notes what became of the answer."""
        ...


class Trail:
    """The access records of one request, from first decision to last byte.

    Args:
        journal: keeps them.
        principal: who asks.
        asked: what is asked for, as a denial is recorded that comes before any decision, or instead of one.
    """

    def __init__(self, journal: Journal, principal: Principal, asked: AccessEntry) -> None:
        self._journal = journal
        self._tickets: list[Ticket] = []
        self._asked = asked
        self._unrecorded = False
        self.principal = principal

    async def record(self, entries: Sequence[AccessEntry]) -> None:
        """Makes the records durable; raises as :meth:`Journal.open`."""
        try:
            self._tickets += await self._journal.open(self.principal, entries)
        except BridgeError:
            self._unrecorded = True
            raise
        for entry in entries:
            DECISIONS.labels(entry.decision).inc()

    async def deny(self, rule: str) -> None:
        """Records that the request was denied for ``rule`` before, or instead of, a decision; raises as :meth:`record`."""
        await self.record([replace(self._asked, decision="deny", rule=rule)])

    async def fail(self, rule: str) -> None:
        """Records that what could not be decided was denied (promise P5).

        Nothing is answered either way, so that a store which does not take the record changes nothing; one that has just
        refused a record of this request is not asked again.
        """
        if not self._unrecorded:
            with suppress(BridgeError):
                await self.deny(rule)

    def close(self, outcome: str, status: int) -> None:
        """Says what became of the answer; later calls say nothing more."""
        self._journal.close(self._tickets, outcome, status)
        self._tickets = []


@dataclass(frozen=True, slots=True)
class Answer:
    """One version of a resource: the stored bytes."""

    body: bytes = field(repr=False)
    version: int
    last_updated_us: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Part of the answer to a search.

    Attributes:
        found: rows that may be shown, in order.
        after: where the next page begins; None if this is the last.
        total: number of all matches, where it is known without further reading.
    """

    found: tuple[Found, ...] = field(repr=False)
    after: Position | None
    total: int | None


class _Decided(NamedTuple):
    decision: ConsentDecision
    patients: tuple[int, ...]


class _Body:
    """A stored body, parsed only if someone looks inside; ``old``: the row's patient may be another than its own."""

    def __init__(self, kind: str, data: bytes, patient_key: int | None, *, old: bool = False) -> None:
        self.kind = kind
        self.data = data
        self.patient_key = patient_key
        self.old = old

    @cached_property
    def parsed(self) -> dict[str, Any]:
        return loads_stored(self.data)

    def references(self) -> tuple[str, ...]:
        """Patients that the body names, if there may be others than the row's."""
        if self.patient_key is not None and not self.old and self.data.count(b"Patient/") <= 1:
            return ()
        return patients_of(self.parsed) if self.data else ()

    def codings(self) -> frozenset[Code]:
        return frozenset(_codings(self.parsed)) if self.data else frozenset()

    def mentioned(self) -> frozenset[Code]:
        return frozenset(_mentioned(self.parsed)) if self.data else frozenset()


def _codings(resource: Mapping[str, Any]) -> Iterable[Code]:
    for name in _CODED:
        value = resource.get(name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                for coding in item.get("coding", [item]):
                    if isinstance(coding.get("code"), str):
                        yield Code(coding.get("system", ""), coding["code"])


def _mentioned(value: Any) -> Iterable[Code]:
    """Every coding at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("code"), str):
            system = value.get("system")
            yield Code(system if isinstance(system, str) else "", value["code"])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _mentioned(item)


class Enforcer:
    """Reads for a caller.

    Args:
        store: where it reads.
        policy: what holds where no Consent speaks.
        now_us: clock, µs since the epoch.
    """

    def __init__(
        self, store: AsyncDatabase, policy: Policy, now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        self._store = store
        self._policy = policy
        self._now_us = now_us

    async def read(self, trail: Trail, kind: str, fhir_id: str, version: int | None = None) -> Answer:
        """The current version, or the one asked for.

        Raises:
            NotFound: ``resource-not-found``: it is absent, deleted, or hidden.
        """
        interaction = "read" if version is None else "vread"
        answer: Answer | None = None
        decided: list[_Decided] = []
        facts: dict[int, PatientFacts] = {}
        async with self._store.read() as txn:
            current = await reader.current(txn, kind, fhir_id)
            if current is not None:
                shown = reader.Version(*current[2:6])
                if version is not None and version != current.version:
                    shown = await reader.version(txn, current.resource_key, version) or _NO_VERSION
                bodies = [_Body(kind, current.body, current.patient_key)]
                if shown.version != current.version:
                    bodies.append(_Body(kind, shown.body, current.patient_key, old=True))
                request = await self._request(txn, trail.principal)
                decided, facts = await self._decide(txn, request, bodies)
                if not shown.deleted and all(item.decision.permitted for item in decided):
                    answer = Answer(shown.body, shown.version, shown.last_updated_us)
        await trail.record(_entries(interaction, kind, fhir_id, decided, facts))
        if answer is None:
            raise not_found()
        return answer

    async def history(
        self, trail: Trail, kind: str, fhir_id: str, *, since_us: int | None, before: int, count: int
    ) -> tuple[list[Answer], bool]:
        """Up to ``count`` versions below ``before``, newest first, and whether there are more that may be shown.

        With ``since_us`` versions are left out that may still get older company (law *Versions and bytes*).

        Raises:
            NotFound: ``resource-not-found``.
        """
        horizon_us = await self._store.visible_horizon_us() if since_us is not None else FOREVER_US
        answers: list[Answer] = []
        decided: list[_Decided] = []
        facts: dict[int, PatientFacts] = {}
        async with self._store.read() as txn:
            current = await reader.current(txn, kind, fhir_id)
            if current is not None:
                request = await self._request(txn, trail.principal)
                decided, facts = await self._decide(txn, request, [_Body(kind, current.body, current.patient_key)])
            exhausted = not decided or not decided[0].decision.permitted
            while current is not None and not exhausted and len(answers) <= count:
                limit = count + 1 - len(answers)
                versions = await reader.history(
                    txn, current.resource_key, since_us=since_us or 0, before=before, horizon_us=horizon_us, limit=limit
                )
                exhausted = len(versions) < limit
                outcomes, known = await self._decide(
                    txn, request, [_Body(kind, item.body, current.patient_key, old=True) for item in versions]
                )
                facts.update(known)
                for item, outcome in zip(versions, outcomes, strict=True):
                    before = item.version
                    if outcome.decision.permitted:
                        answers.append(Answer(item.body, item.version, item.last_updated_us, item.deleted))
                        if len(answers) <= count:
                            decided.append(outcome)
        await trail.record(_entries("history-instance", kind, fhir_id, decided, facts))
        if not decided or not decided[0].decision.permitted:
            raise not_found()
        return answers[:count], len(answers) > count

    async def search(self, trail: Trail, query: Query, after: Position | None = None) -> Page:
        """One page of what the caller may see of the answer.

        The page is full unless the answer ends or the scan budget is spent; hidden rows leave no gap and no link. Lest
        they spend the budget and so tell of themselves, a patient found closed as a whole is not read any further.
        """
        horizon_us = await self._store.visible_horizon_us() if _polls(query) else FOREVER_US
        wanted = query.count or SCAN_ROWS
        found: list[Found] = []
        decided: list[_Decided] = []
        facts: dict[int, PatientFacts] = {}
        closed: set[int] = set()
        position, scanned, exhausted = after, 0, False
        async with self._store.read() as txn:
            request = await self._request(txn, trail.principal)
            patients = [
                await reader.resolve_patients(txn, clause.ids, expand=clause.expand) for clause in query.patient_clauses
            ]
            allowed = visibility(request, self._policy)
            while len(found) <= wanted and not exhausted and scanned < SCAN_ROWS:
                rest = max(wanted + 1 - len(found), SCAN_STEP if scanned else 0)
                limit = min(rest, SCAN_AT_ONCE, SCAN_ROWS - scanned)
                rows = await reader.search(
                    txn,
                    query,
                    replace(allowed, closed=frozenset(closed)),
                    patients,
                    after=position,
                    horizon_us=horizon_us,
                    limit=limit,
                )
                exhausted = len(rows) < limit
                scanned += len(rows)
                if rows:
                    position = rows[-1].position
                answering = [(row, body) for row in rows if (body := _matching(query, row, patients)) is not None]
                outcomes, known = await self._decide(txn, request, [body for _, body in answering])
                facts.update(known)
                for (row, _), outcome in zip(answering, outcomes, strict=True):
                    if not outcome.decision.permitted:
                        decided.append(outcome)
                        closed |= _closed(row, outcome, known)
                    else:
                        found.append(row)
                        if len(found) <= wanted:
                            decided.append(outcome)
            asked = [] if decided else [key for clause in patients for key in clause.keys][:MAX_NAMED_PATIENTS]
            facts.update(await reader.patient_facts(txn, asked))
        more = len(found) > wanted
        shown = found[:wanted]
        link = shown[-1].position if more else None if exhausted else position
        total = len(shown) if after is None and link is None else None
        await trail.record(_search_entries(query, decided, facts, asked))
        return Page(tuple(shown) if query.count else (), link if query.count else None, total)

    async def own_records(self, principal: Principal) -> frozenset[str]:
        """References of the records of the patient for whom the caller speaks, with those that sources merged."""
        if principal.patient is None:
            return frozenset()
        async with self._store.read() as txn:
            return (await reader.resolve_patients(txn, [principal.patient], expand=False)).references

    async def patient(self, reference: str) -> PatientFacts | None:
        """The patient ``Patient/id`` names, if here; for callers who may write about patients they do not see."""
        async with self._store.read() as txn:
            keys = await reader.patient_keys(txn, [reference])
            facts = await reader.patient_facts(txn, keys.values())
        return next(iter(facts.values()), None)

    async def sites_of(self, reference: str) -> frozenset[str]:
        """Sites at which the patient whom ``Patient/id`` names has a record, those surely of the same person included."""
        target = parse_reference(reference)
        if target is None:
            return frozenset()
        async with self._store.read() as txn:
            patients = await reader.resolve_patients(txn, [target.id], expand=True)
            return await reader.sites(txn, patients.keys)

    async def _request(self, txn: AsyncTransaction, principal: Principal) -> AccessRequest:
        own = None
        if principal.patient is not None:
            own = frozenset((await reader.resolve_patients(txn, [principal.patient], expand=False)).keys)
        return AccessRequest(principal.names, principal.purpose, self._now_us(), own)

    async def _decide(
        self, txn: AsyncTransaction, request: AccessRequest, bodies: Sequence[_Body]
    ) -> tuple[list[_Decided], dict[int, PatientFacts]]:
        """Decides on each body with the consents of every patient it concerns."""
        references = [body.references() for body in bodies]
        named = {text for texts in references for text in texts}
        keys = await reader.patient_keys(txn, named) if named else {}
        concerned: list[tuple[int, ...] | None] = []
        for body, texts in zip(bodies, references, strict=True):
            everyone = {keys.get(text) for text in texts} | (
                {body.patient_key} if body.patient_key is not None else set()
            )
            concerned.append(None if None in everyone else tuple(sorted(key for key in everyone if key is not None)))
        facts = await reader.patient_facts(txn, {key for group in concerned if group for key in group})
        request = await _with_names(txn, request, facts)
        return [
            self._decide_one(request, body, group, facts) for body, group in zip(bodies, concerned, strict=True)
        ], facts

    def _decide_one(
        self, request: AccessRequest, body: _Body, patients: tuple[int, ...] | None, facts: Mapping[int, PatientFacts]
    ) -> _Decided:
        if patients is None or any(key not in facts for key in patients):
            return _Decided(ConsentDecision(False, "unknown-patient"), ())
        compartments: list[Compartment] = [facts[key].compartment for key in patients]
        return _Decided(
            decide(request, self._policy, compartments, Resource(body.kind, body.codings, body.mentioned)), patients
        )


_WHOLE: Final = ("restricted", "other-patient")  # rules that deny whatever the resource
_NO_VERSION: Final = reader.Version(0, 0, True, b"")


async def _with_names(
    txn: AsyncTransaction, request: AccessRequest, facts: Mapping[int, PatientFacts]
) -> AccessRequest:
    """The request with what the store knows of those whom Consents deny under names that the caller does not go by."""
    denied: set[str] = set()
    for item in facts.values():
        actors = {actor for entry in item.compartment.consents for actor in denied_actors(entry.rule)} - request.actors
        if actors:
            # Patient by patient: what one of them denies must not spend what another's consents are looked up with.
            open_ones = undecided(actors, request.actors)
            denied.update([*sorted(open_ones), *sorted(actors - open_ones)][:MAX_NAMED_ACTORS])
    if not denied:
        return request
    known = await _identifiers(txn, denied | request.actors)
    aliases = frozenset().union(*(known.get(name, frozenset()) for name in request.actors))
    return replace(request, aliases=aliases, meanings=known)


async def _identifiers(txn: AsyncTransaction, names: Iterable[str]) -> dict[str, frozenset[str]]:
    """``system|value`` of the resources that literal references name; other names and what is not here are left out."""
    targets = {target: name for name in names if (target := parse_reference(name)) and target.type in _NAMED}
    bodies = await reader.bodies(txn, targets) if targets else {}
    return {
        targets[target]: frozenset(
            f"{item['system']}|{item['value']}"
            for item in loads_stored(body).get("identifier", ())
            if item.get("system") and item.get("value")
        )
        for target, body in bodies.items()
    }


def not_found() -> NotFound:
    """The one answer for what is absent and for what is hidden."""
    return NotFound("resource-not-found", "there is no such resource for this caller")


def _closed(row: Found, outcome: _Decided, facts: Mapping[int, PatientFacts]) -> set[int]:
    """The row's patient, if what denied the row denies every row of this type in that compartment."""
    if row.patient_key is None or outcome.patients != (row.patient_key,):
        return set()
    compartment = facts[row.patient_key].compartment
    whole = outcome.decision.rule in _WHOLE or not any(entry.rule.needs_body for entry in compartment.consents)
    return {row.patient_key} if whole else set()


def _polls(query: Query) -> bool:
    by_time = query.sort is not None and query.sort.by is SortBy.LAST_UPDATED
    return by_time or any(
        isinstance(clause, DateClause) and clause.parameter == "_lastUpdated" for clause in query.clauses
    )


def _matching(query: Query, row: Found, patients: Sequence[Patients]) -> _Body | None:
    """The row's body if it answers the query; without clauses there is nothing to check on it."""
    body = _Body(query.type, row.body, row.patient_key)
    if not query.clauses or matches(query, body.parsed, [item.references for item in patients]):
        return body
    return None


def _entries(
    interaction: str, kind: str, fhir_id: str, decided: Sequence[_Decided], facts: Mapping[int, PatientFacts]
) -> list[AccessEntry]:
    """One record per patient; what denies stands for the whole."""
    if not decided:
        return [AccessEntry(interaction, "none", "absent", kind, fhir_id)]
    decision = next((item.decision for item in decided if not item.decision.permitted), decided[0].decision)
    patients: list[int | None] = [*sorted({key for item in decided for key in item.patients})]
    return [
        AccessEntry(
            interaction,
            "permit" if decision.permitted else "deny",
            decision.rule,
            kind,
            fhir_id,
            patient_key=key,
            owner=_owner(key, facts),
            consent_keys=decision.consent_keys,
        )
        for key in patients or [None]
    ]


def _search_entries(
    query: Query, decided: Sequence[_Decided], facts: Mapping[int, PatientFacts], asked: Sequence[int]
) -> list[AccessEntry]:
    """One record per patient of whom something was shown or hidden; else one for each who was asked for."""
    names = tuple(dict.fromkeys(name for name, _ in query.parameters))
    groups: dict[int | None, list[ConsentDecision]] = {}
    for item in decided:
        for key in item.patients or (None,):
            groups.setdefault(key, []).append(item.decision)
    if not groups:
        named: list[int | None] = [key for key in asked if key in facts]
        return [
            AccessEntry("search-type", "none", "no-match", query.type, None, key, _owner(key, facts), names)
            for key in named or [None]
        ]
    entries = []
    for key, decisions in groups.items():
        permitted = [decision.permitted for decision in decisions]
        word = "permit" if all(permitted) else "partial" if any(permitted) else "deny"
        consents = tuple(dict.fromkeys(number for decision in decisions for number in decision.consent_keys))
        owner = _owner(key, facts)
        entries.append(
            AccessEntry("search-type", word, decisions[0].rule, query.type, None, key, owner, names, consents)
        )
    return entries


def _owner(patient_key: int | None, facts: Mapping[int, PatientFacts]) -> str | None:
    return facts[patient_key].record_uuid if patient_key is not None else None
