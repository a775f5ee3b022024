"""Delivery: what waits in the outbox for a sink, on its way there (law *Schema*: the dispatcher deletes what was acknowledged).

One process at a time works for a sink, by lease, so that order per key holds whoever else runs. An entry is forgotten only after
the sink's word, so a crash repeats and loses nothing. What is refused is set aside under an alarm and holds what follows under its
own key, and nothing else, until an operator has it tried again or discards it: an order that skips is no order.

Limit: a process that is stopped (not ended) for longer than its lease in the midst of one request may finish that request after
another process has gone on; receivers tell by the version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from bridge.errors import BridgeError, Conflict, NotFound
from bridge.fhir.json import loads_stored
from bridge.fhir.references import parse_reference, patients_of
from bridge.pipeline.ports import Answer, Delivery, DeliveryKind, DeliveryState, Sink
from bridge.record import deliveries
from bridge.record.deliveries import EventDue, Route, VersionDue
from bridge.store import alarms, leases, outbox, persons, resources, restrictions
from bridge.store.database import Database, Transaction
from bridge.store.rows import Lease, OutboxRow, VersionRow
from bridge.telemetry import metrics
from bridge.telemetry.failpoints import failpoint
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

ASIDE_ALARM: Final = "sink-set-aside"
BEHIND_ALARM: Final = "sink-behind"

_LEASE_MARGIN_SECONDS: Final = 2.0
_BATCH: Final = 200
_POLL_SECONDS: Final = 0.5
_MEASURE_SECONDS: Final = 5.0
_RESTRICTED_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


_PATIENT: Final = b"Patient/"

_Due = Sequence[tuple[OutboxRow, deliveries.Due]]
_Versions = Mapping[tuple[int, int], VersionRow]


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a sink is dealt with: see :class:`bridge.config.settings.Sink`."""

    withhold_restricted: bool = True
    attempts: int = 8
    behind_seconds: float = 300.0


class Dispatcher:
    """Takes to one sink what waits for it.

    Args:
        database: the store, used by this role alone.
        sink: where to.
        route: what it is given.
        conduct: its settings.
        holder: name of this process in the lease.
    """

    def __init__(self, database: Database, sink: Sink, route: Route, conduct: Conduct, holder: str) -> None:
        self._database = database
        self._sink = sink
        self._route = route
        self._conduct = conduct
        self._holder = holder
        self._lease: Lease | None = None
        self._lease_seconds = 2 * sink.request_seconds + _LEASE_MARGIN_SECONDS  # asked for anew when half is over
        self._lease_ends = 0.0  # by the monotonic clock
        self._delivered = {kind: metrics.DELIVERED.labels(sink.name, str(kind)) for kind in DeliveryKind}

    def run(self, stop: Stop) -> None:
        """Works until ``stop`` is set."""
        pause = _FIRST_PAUSE_SECONDS
        measured = -_MEASURE_SECONDS
        try:
            while not stop.is_set:
                wait = _POLL_SECONDS
                try:
                    if self.dispatch(stop):
                        wait = 0.0
                    pause = _FIRST_PAUSE_SECONDS
                except BridgeError as error:  # whatever is wrong with a sink, the road goes on
                    say = _log.warning if error.transient else _log.error
                    say("sink-waits", sink=self._sink.name, code=error.code, remedy=error.remedy)
                    wait, pause = pause, min(pause * 2, _LONGEST_PAUSE_SECONDS)
                if time.monotonic() - measured >= _MEASURE_SECONDS:
                    measured = time.monotonic()
                    self._quietly(self.measure)
                stop.wait(wait)
        finally:
            self._sink.close()
            self._quietly(self._release)
            self._database.close()

    def dispatch(self, stop: Stop) -> int:
        """Delivers one batch of what is due; how many entries are settled, 0 where nothing is due or another one works.

        Raises:
            Unavailable, Busy: the sink or the store does not answer; what was not acknowledged stays.
        """
        if not self._hold_lease():
            return 0
        with self._database.transaction(read_only=True) as txn:
            rows, behind = outbox.due(txn, self._route.destination, _BATCH)
            due = [(row, deliveries.decode(row.payload)) for row in rows]
            places = [(d.resource_key, d.version, d.at_us) for _, d in due if isinstance(d, VersionDue)]
            versions = resources.versions(txn, places)
            withheld = self._restricted(txn, due, versions)
            told = self._told(txn, [each for each in due if each[0].key not in withheld], versions)
        if not rows and not behind:
            return 0
        known = [(row, delivery) for row, delivery in told if delivery is not None]
        answers = self._given([delivery for _, delivery in known], lambda: self._may_go_on(stop)) if known else ()
        failpoint("deliver.after-send")
        gone = [row.outbox_key for row, delivery in told if delivery is None]
        return self._settle(rows, list(zip(known, answers, strict=False)), gone, withheld, behind)

    def _given(self, due: Sequence[Delivery], go_on: Callable[[], bool]) -> Sequence[Answer]:
        """The sink's answers; where its code breaks on one delivery, it gets them one by one, and that one is refused."""
        try:
            return self._sink.deliver(due, go_on)
        except BridgeError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one delivery does to the code, the others go on
            _log.error("sink-broken", sink=self._sink.name, exc_info=error)
        answers: list[Answer] = []
        behind: set[str] = set()
        for delivery in due:
            answer: Answer | None = Answer(DeliveryState.HELD)
            if delivery.key not in behind:
                try:
                    answer = next(iter(self._sink.deliver([delivery], go_on)), None)
                except BridgeError:
                    answer = None
                except Exception:  # noqa: BLE001 - as above; it was logged
                    answer = Answer(DeliveryState.REFUSED, "sink-broken")
            if answer is None:
                break
            if answer.state is not DeliveryState.DELIVERED:
                behind.add(delivery.key)
            answers.append(answer)
        return answers

    def measure(self) -> None:
        """Brings metrics and the alarm for what waits too long up to date, by the store alone."""
        waiting = metrics.OUTBOX_WAITING.labels(self._route.destination)
        age = metrics.OUTBOX_AGE.labels(self._route.destination)
        aside = metrics.SET_ASIDE.labels(self._sink.name)
        if not self._hold_lease():
            for gauge in (waiting, aside):
                gauge.set(0)
            age.set_function(lambda: 0.0)  # whoever holds the lease knows
            return
        with self._database.transaction() as txn:
            standing = outbox.standing(txn, self._route.destination)
            waited = 0 if standing.oldest_us is None else txn.now_us() - standing.oldest_us
            if waited > self._conduct.behind_seconds * 1e6:
                alarms.raise_alarm(txn, BEHIND_ALARM, self._sink.name, f"{standing.number} deliveries wait")
            else:
                alarms.clear(txn, BEHIND_ALARM, self._sink.name)
        waiting.set(standing.number)
        aside.set(standing.aside)
        if standing.oldest_us is None:
            age.set_function(lambda: 0.0)
        else:
            metrics.mark(age, standing.oldest_us)

    def _restricted(self, txn: Transaction, due: _Due, versions: _Versions) -> set[str]:
        """Keys under which something is of a patient who, or another record of whose person, is restricted."""
        if not self._conduct.withhold_restricted:
            return set()
        patients = _patients(txn, due, versions)
        everyone = set[int]().union(*patients.values())
        links = persons.links(txn, everyone)
        members = persons.members(txn, {link.person_key for link in links.values()})
        kin = {
            patient: {link.record_key for link in members[links[patient].person_key]} if patient in links else {patient}
            for patient in everyone
        }
        closed = restrictions.open_for(txn, everyone.union(*kin.values()))
        shut = {patient for patient in everyone if any(closed[record] for record in {patient, *kin[patient]})}
        return {key for key, of in patients.items() if not of.isdisjoint(shut)}

    def _told(self, txn: Transaction, due: _Due, versions: _Versions) -> list[tuple[OutboxRow, Delivery | None]]:
        """Each row with what it stands for; None where that is no longer there (erased since)."""
        references = _References(txn, self._route, versions) if self._sink.links else None
        told: list[tuple[OutboxRow, Delivery | None]] = []
        for row, item in due:
            if isinstance(item, EventDue):
                told.append((row, Delivery(DeliveryKind(item.kind), row.key, item.id, bytes(item.content))))
                continue
            version = versions.get((item.resource_key, item.version))
            told.append((row, None if version is None else _delivery(row.key, item, version, references)))
        return told

    def _may_go_on(self, stop: Stop) -> bool:
        return not stop.is_set and self._hold_lease()

    def _settle(
        self,
        rows: Sequence[OutboxRow],
        answered: Sequence[tuple[tuple[OutboxRow, Delivery], Answer]],
        gone: Sequence[int],
        withheld: set[str],
        behind: Sequence[tuple[int, int, int]],
    ) -> int:
        done = [row.outbox_key for (row, _), answer in answered if answer.state is DeliveryState.DELIVERED]
        with self._database.transaction() as txn:
            if self._lease is None or not leases.check(txn, self._lease):
                raise Conflict("lease-lost", "Another process delivers to this sink now.", remedy="It goes on there.")
            later = self._not_delivered(txn, [(row, answer) for (row, _), answer in answered])
            first = {row.key: row.outbox_key for row in reversed(rows) if row.key in withheld}  # it holds the others
            later += [(key, txn.now_us() + int(_RESTRICTED_SECONDS * 1e6), 0) for key in first.values()]
            outbox.delete(txn, [*done, *gone])
            outbox.defer(txn, [*later, *behind])
        failpoint("deliver.after-commit")
        for (_, delivery), answer in answered:
            if answer.state is DeliveryState.DELIVERED:
                self._delivered[delivery.kind].inc()
        if gone:
            _log.info("deliveries-without-content", sink=self._sink.name, deliveries=len(gone))
        unlinked = sum(1 for _, answer in answered if answer.state is DeliveryState.DELIVERED and answer.code)
        if unlinked:
            _log.info("deliveries-unlinked", sink=self._sink.name, deliveries=unlinked)
        return len(done) + len(gone) + len(later) + len(behind)

    def _not_delivered(
        self, txn: Transaction, answered: Sequence[tuple[OutboxRow, Answer]]
    ) -> list[tuple[int, int, int]]:
        """Until when each of these is to wait, as :func:`outbox.defer` takes it; raises the alarm of what is set aside."""
        later: list[tuple[int, int, int]] = []
        # Where nothing went through, the destination may be at fault, and not each of what it did not take.
        failed = {row.key for row, answer in answered if answer.state is DeliveryState.FAILED}
        tried = int(len(failed) == 1 or any(answer.state is DeliveryState.DELIVERED for _, answer in answered))
        for row, answer in answered:
            final = answer.state is DeliveryState.REFUSED
            if final or (answer.state is DeliveryState.FAILED and row.attempts + tried >= self._conduct.attempts):
                later.append((row.outbox_key, outbox.NEVER_US, 1))
                alarms.raise_alarm(txn, ASIDE_ALARM, _subject(self._sink.name, row.outbox_key), answer.code)
                _log.error("delivery-set-aside", sink=self._sink.name, delivery=row.outbox_key, code=answer.code)
            elif answer.state is DeliveryState.FAILED:
                pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(row.attempts, 10), _LONGEST_PAUSE_SECONDS)
                later.append((row.outbox_key, txn.now_us() + int(pause * 1e6), tried))
        return later

    def _hold_lease(self) -> bool:
        now = time.monotonic()
        if self._lease is not None and now < self._lease_ends - self._lease_seconds / 2:
            return True
        with self._database.transaction() as txn:
            ttl_us = int(self._lease_seconds * 1e6)
            self._lease = (leases.renew(txn, self._lease, ttl_us) if self._lease else None) or leases.acquire(
                txn, self._route.destination, self._holder, ttl_us
            )
        self._lease_ends = now + self._lease_seconds
        return self._lease is not None

    def _release(self) -> None:
        if self._lease is not None:
            with self._database.transaction() as txn:
                leases.release(txn, self._lease)

    @staticmethod
    def _quietly(act: Callable[[], object]) -> None:
        try:
            act()
        except BridgeError as error:
            _log.info("sink-not-measured", code=error.code)


def _patients(txn: Transaction, due: _Due, versions: _Versions) -> dict[str, set[int]]:
    """The patients in whose compartments anything under each key is: the one it goes under, and others named beside."""
    patients: dict[str, set[int]] = {}
    beside: dict[str, set[tuple[str, str]]] = {}
    for row, item in due:
        if item.patient is not None:
            patients.setdefault(row.key, set()).add(item.patient)
        version = versions.get((item.resource_key, item.version)) if isinstance(item, VersionDue) else None
        if version is not None and not version.deleted and version.body.count(_PATIENT) > 1:
            named = (parse_reference(text) for text in patients_of(loads_stored(version.body)))
            beside.setdefault(row.key, set()).update((each.type, each.id) for each in named if each is not None)
    known = resources.load_by_id(txn, set[tuple[str, str]]().union(*beside.values()))
    for key, names in beside.items():
        patients.setdefault(key, set()).update(known[name].resource_key for name in names if name in known)
    return patients


class _References:
    """Which references of a batch's resources name something that the sink is given."""

    def __init__(self, txn: Transaction, route: Route, versions: Mapping[tuple[int, int], VersionRow]) -> None:
        self._of = {place: frozenset(_relative(row)) for place, row in versions.items() if not row.deleted}
        named = {target for targets in self._of.values() for target in targets}
        wanted = {(kind, fhir_id) for kind, fhir_id in named if route.takes(kind)}
        self._living = {f"{kind}/{fhir_id}" for kind, fhir_id in resources.living(txn, wanted)}

    def of(self, place: tuple[int, int]) -> frozenset[str]:
        """Those of one version."""
        return frozenset(f"{kind}/{fhir_id}" for kind, fhir_id in self._of.get(place, ())) & self._living


def _relative(row: VersionRow) -> Iterator[tuple[str, str]]:
    nodes: list[Any] = [loads_stored(row.body)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes += node
        elif isinstance(node, dict):
            reference = node.get("reference")
            target = parse_reference(reference) if isinstance(reference, str) else None
            if target is not None:
                yield target.type, target.id
            nodes += [value for value in node.values() if isinstance(value, dict | list)]


def _delivery(key: str, due: VersionDue, version: VersionRow, references: _References | None) -> Delivery:
    place = (due.resource_key, due.version)
    return Delivery(
        DeliveryKind.RESOURCE,
        key,
        f"{due.type}/{due.id}/_history/{due.version}",
        None if version.deleted else bytes(version.body),
        due.type,
        due.id,
        due.version,
        references.of(place) if references is not None else frozenset(),
    )


# What operators do


@dataclass(frozen=True, slots=True)
class SetAside:
    """A delivery that waits for an operator, told without its content; ``held`` more wait behind it."""

    number: int
    since_us: int
    attempts: int
    what: str
    code: str


def set_aside(txn: Transaction, route: Route, limit: int) -> list[SetAside]:
    """What was set aside for a sink, the oldest first."""
    why = {alarm.subject: alarm for alarm in alarms.active(txn) if alarm.code == ASIDE_ALARM}
    found = []
    for row in outbox.aside(txn, route.destination, limit):
        alarm = why.get(_subject(route.sink, row.outbox_key))
        since, code = (alarm.raised_us, alarm.detail) if alarm else (row.created_us, "")
        found.append(SetAside(row.outbox_key, since, row.attempts, _what(row), code))
    return found


def retry(database: Database, route: Route, numbers: Sequence[int] | None = None) -> int:
    """Lets deliveries that were set aside be tried again now; all of a sink for None. How many they are.

    Raises:
        NotFound: ``delivery-unknown``, one is not set aside for this sink; nothing is changed.
    """
    with database.transaction() as txn:
        if numbers is None:
            numbers = [row.outbox_key for row in outbox.aside(txn, route.destination, 1_000_000)]
        rows = [_held(txn, route, number) for number in numbers]
        # As if it had just become due, at its own place; and with all its attempts.
        outbox.defer(txn, [(row.outbox_key, row.created_us, -row.attempts) for row in rows])
        for row in rows:
            outbox.release(txn, route.destination, row.key)
            alarms.clear(txn, ASIDE_ALARM, _subject(route.sink, row.outbox_key))
    return len(rows)


def discard(database: Database, route: Route, number: int, *, by: str, reason: str) -> None:
    """Forgets a delivery that was set aside, so that what it holds goes on; who and why are kept with its alarm.

    Raises:
        NotFound: ``delivery-unknown``.
    """
    with database.transaction() as txn:
        row = _held(txn, route, number)
        outbox.delete(txn, [row.outbox_key])
        outbox.release(txn, route.destination, row.key)
        subject = _subject(route.sink, row.outbox_key)
        alarms.raise_alarm(txn, ASIDE_ALARM, subject, f"discarded by {by}: {reason}")
        alarms.clear(txn, ASIDE_ALARM, subject)
    _log.warning("delivery-discarded", sink=route.sink, delivery=number)


def refill(database: Database, route: Route, *, chunk: int = 500) -> int:
    """Queues the current version of everything stored that the sink takes; how many. May run beside everything else."""
    with database.transaction(read_only=True) as txn:
        keys = [row.resource_key for rows in resources.stream_current(txn) for row, _ in rows if route.takes(row.type)]
    queued = 0
    for start in range(0, len(keys), chunk):
        part = keys[start : start + chunk]
        with database.transaction() as txn:
            resources.hold(txn, part)
            queued += deliveries.requeue(txn, route, resources.load(txn, part).values())
    return queued


def _held(txn: Transaction, route: Route, number: int) -> OutboxRow:
    row = outbox.hold(txn, number)
    if row is None or row.destination != route.destination or row.next_us != outbox.NEVER_US or not row.attempts:
        raise NotFound(
            "delivery-unknown", f"no delivery {number} is set aside for {route.sink}", remedy="List them: sinks list."
        )
    return row


def _what(row: OutboxRow) -> str:
    due = deliveries.decode(row.payload)
    return f"{due.type}/{due.id}/_history/{due.version}" if isinstance(due, VersionDue) else due.id


def _subject(sink: str, number: int) -> str:
    return f"{sink}:{number}"
