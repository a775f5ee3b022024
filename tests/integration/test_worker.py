"""The worker of a source (law *Position*): it goes on where the store stands, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.errors import Unavailable
from bridge.pipeline import worker as worker_module
from bridge.pipeline.ports import Assignment, Fetched, Partition, PositionOutOfRange, RawMessage
from bridge.pipeline.worker import SourceWorker
from bridge.store import positions, schema, source_control
from bridge.store.database import open_database
from bridge.store.dialect import Statement
from bridge.telemetry import metrics
from bridge.telemetry.stop import Stop
from tests.integration.hospital import Hospital, hl7, pid, pv1
from tests.integration.test_consent_feed import VALUED_CON, alarmed, paused

FIRST, SECOND = Partition("north", "topic", 0), Partition("north", "topic", 1)


class Log:
    """A source in memory: partitions of messages, assigned at the first poll. Stops its worker when all are read."""

    name = "north"

    def __init__(self, stop: Stop, contents: Mapping[Partition, Sequence[bytes]]) -> None:
        self.stop = stop
        self.contents = {partition: list(messages) for partition, messages in contents.items()}
        self.ours = list(self.contents)  # what whoever assigns partitions gives this member
        self.told: dict[Partition, int] = {}
        self.before_poll: list[Callable[[], None]] = []
        self.on_commit: Callable[[], None] = lambda: None
        self._assignment: Assignment | None = None
        self._next: dict[Partition, int] = {}
        self.paused: set[Partition] = set()
        self.opened = 0
        self._moved = False

    def open(self, assignment: Assignment) -> None:
        self.opened += 1
        self._assignment = assignment
        self._next = {}

    def assign(self, partitions: Sequence[Partition]) -> None:
        assert self._assignment is not None
        # as with a real client, they can be paused only once they are owned
        offsets = self._assignment.assigned(partitions)
        self._next.update(offsets)
        self._moved = True

    def poll(self, max_messages: int, timeout_seconds: float) -> Sequence[Fetched]:
        if self.before_poll:
            self.before_poll.pop(0)()
        if not self._next:
            self.assign(self.ours)
        if self._moved:  # what was fetched before a rebalance is void
            self._moved = False
            return ()
        found: list[Fetched] = []
        for partition, offset in list(self._next.items()):
            if partition in self.paused:
                continue
            batch = self.contents[partition][offset : offset + max_messages - len(found)]
            found += [
                Fetched(
                    partition, offset + n, RawMessage("north", content, received_us=1_700_000_000_000_000 + offset + n)
                )
                for n, content in enumerate(batch)
            ]
            self._next[partition] += len(batch)
        if not found and not self.before_poll:
            self.stop.set()
        return found

    def seek(self, partition: Partition, offset: int) -> None:
        self._next[partition] = offset

    def commit(self, places: Mapping[Partition, int]) -> None:
        self.on_commit()
        self.told.update(places)

    def pause(self, partitions: Sequence[Partition]) -> None:
        self.paused |= set(partitions) & self._next.keys()

    def resume(self, partitions: Sequence[Partition]) -> None:
        self.paused -= set(partitions)

    def close(self) -> None:
        self._next = {}
        self.paused = set()


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the controls before every poll, and tells the broker after every batch."""
    for name in ("_COMMIT_INTERVAL_SECONDS", "_CONTROL_INTERVAL_SECONDS", "_REOPEN_SECONDS"):
        monkeypatch.setattr(worker_module, name, 0.0)


def registrations(first: int, count: int) -> list[bytes]:
    return [hl7("ADT^A04", pid(f"{n}^^^NORTH^MR"), pv1(f"V{n}")) for n in range(first, first + count)]


def worker_of(hospital: Hospital, log: Log, batch: int = 10) -> SourceWorker:
    return SourceWorker(log, hospital.preparer, hospital.batcher, hospital.database, batch)


def totals(hospital: Hospital) -> dict[int, tuple[int, int]]:
    """Next offset and messages received, by partition."""
    with hospital.database.transaction(read_only=True) as txn:
        return {row.partition: (row.next_offset, row.received) for row in positions.all_positions(txn)}


def test_every_partition_is_worked_to_its_end(hospital: Hospital) -> None:
    """Positions stand behind the last message, and the broker is told so."""
    log = Log(hospital.stop, {FIRST: registrations(0, 25), SECOND: registrations(100, 7)})
    worker_of(hospital, log).run(hospital.stop)

    assert totals(hospital) == {0: (25, 25), 1: (7, 7)}
    assert log.told == {FIRST: 25, SECOND: 7}
    assert len(hospital.resources("Patient")) == 32


def test_the_store_says_where_to_go_on(hospital: Hospital) -> None:
    """Stopped between the database's commit and the broker's: the successor begins behind what is stored, not before."""
    messages = registrations(0, 25)
    log = Log(hospital.stop, {FIRST: messages[:15]})

    def broken() -> None:
        raise Unavailable("broker-gone", "Gone.")

    log.on_commit = broken
    worker_of(hospital, log).run(hospital.stop)
    assert log.told == {}

    again = Log(stop := Stop(), {FIRST: messages})
    worker_of(hospital, again).run(stop)

    assert totals(hospital) == {0: (25, 25)}
    assert len(hospital.resources("Patient")) == 25
    assert again.told == {FIRST: 25}


def test_a_source_that_comes_back_is_opened_again(hospital: Hospital) -> None:
    """Brokers that go away cost time and nothing else."""
    log = Log(hospital.stop, {FIRST: registrations(0, 25)})

    def gone() -> None:
        raise Unavailable("broker-gone", "Gone.")

    log.before_poll = [lambda: None, lambda: None, gone, gone]
    worker_of(hospital, log).run(hospital.stop)

    assert log.opened == 3
    assert totals(hospital) == {0: (25, 25)}


def test_a_partition_that_another_worker_claimed_is_left_alone(hospital: Hospital) -> None:
    """Nothing of it is committed, neither here nor at the broker; asked anew, the source gives only the other partition."""
    log = Log(hospital.stop, {FIRST: registrations(0, 25), SECOND: registrations(100, 25)})

    def claim() -> None:
        with hospital.database.transaction() as txn:
            positions.claim(txn, "north", "topic", 0)
        log.ours = [SECOND]

    log.before_poll = [lambda: None, lambda: None, claim]
    worker_of(hospital, log).run(hospital.stop)

    assert totals(hospital)[1] == (25, 25)
    assert totals(hospital)[0] == (10, 10)
    assert log.told[SECOND] == 25
    assert log.told[FIRST] == 10
    assert log.opened == 2
    assert len(hospital.resources("Patient")) == 35


def test_a_partition_that_comes_back_from_another_worker_is_worked_on(hospital: Hospital) -> None:
    """Lost by its epoch alone, and still assigned here: it is claimed anew, where it once stood still without a word."""
    log = Log(hospital.stop, {FIRST: registrations(0, 25)})

    def claim() -> None:
        with hospital.database.transaction() as txn:
            positions.claim(txn, "north", "topic", 0)

    log.before_poll = [lambda: None, lambda: None, claim]
    worker_of(hospital, log).run(hospital.stop)

    assert totals(hospital) == {0: (25, 25)}
    assert len(hospital.resources("Patient")) == 25


def test_what_was_committed_before_a_loss_is_counted(hospital: Hospital) -> None:
    """The metrics of this process count every message that it has committed (promise P2)."""

    def received() -> float:
        return metrics.REGISTRY.get_sample_value("hiebridge_messages_received_total", {"source": "north"}) or 0

    log = Log(hospital.stop, {FIRST: registrations(0, 5)})
    hospital.batcher._lock_keys = 1  # every message a transaction of its own
    attempt = hospital.batcher._once
    before, committed, claimed = received(), 0, False

    def once(*arguments: Any) -> Any:
        nonlocal committed, claimed
        if committed == 3 and not claimed:
            claimed = True
            with hospital.database.transaction() as txn:
                positions.claim(txn, "north", "topic", 0)
        found = attempt(*arguments)
        committed += 1
        return found

    hospital.batcher._once = once  # type: ignore[method-assign]
    worker_of(hospital, log).run(hospital.stop)

    assert totals(hospital) == {0: (5, 5)}
    assert received() - before == 5


def test_messages_that_are_stored_already_are_passed_over(hospital: Hospital) -> None:
    """A client that fetches from an older offset than it was told brings nothing twice."""
    log = Log(hospital.stop, {FIRST: registrations(0, 25)})
    log.before_poll = [lambda: None, lambda: None, lambda: log.seek(FIRST, 5)]
    worker_of(hospital, log).run(hospital.stop)

    assert totals(hospital) == {0: (25, 25)}
    assert hospital.position().duplicate == 0


def test_holes_in_the_offsets_are_not_counted(hospital: Hospital) -> None:
    """Compaction and transaction markers take offsets: received counts messages, the position counts offsets."""
    log = Log(hospital.stop, {FIRST: registrations(0, 25)})
    log.before_poll = [lambda: None, lambda: log.seek(FIRST, 5)]
    worker_of(hospital, log).run(hospital.stop)

    assert totals(hospital) == {0: (25, 20)}


def test_a_consent_of_nobody_pauses_the_source_until_it_is_resumed(hospital: Hospital) -> None:
    """Nothing more is read, through a rebalance too; resumed, it goes on where it stood."""
    messages = [*registrations(0, 5), hl7("MFN^M02", VALUED_CON), *registrations(10, 20)]
    log = Log(hospital.stop, {FIRST: messages, SECOND: registrations(100, 12)})
    seen: list[dict[int, tuple[int, int]]] = []

    def look() -> None:
        seen.append(totals(hospital))

    def rebalance() -> None:
        log.paused = set()
        log.assign([FIRST, SECOND])

    def resume() -> None:
        seen.append(totals(hospital))
        with hospital.database.transaction() as txn:
            source_control.resume(txn, "north", "seen to")

    log.before_poll = [lambda: None, lambda: None, look, look, rebalance, look, resume, lambda: None]
    worker_of(hospital, log, 6).run(hospital.stop)

    assert [code for code, _ in alarmed(hospital)] == ["consent-without-patient"]
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert seen[0][0] == (6, 6)
    assert paused(hospital) == set()
    assert totals(hospital) == {0: (26, 26), 1: (12, 12)}


def test_a_source_that_was_paused_before_the_start_is_not_read(hospital: Hospital) -> None:
    """The pause is in the store, not in the process."""
    with hospital.database.transaction() as txn:
        source_control.pause(txn, "north", "consent-without-patient")
    log = Log(hospital.stop, {FIRST: registrations(0, 5)})
    worker_of(hospital, log).run(hospital.stop)

    assert totals(hospital) == {0: (0, 0)}


def test_a_new_source_starts_where_it_still_begins(hospital: Hospital) -> None:
    """Retention had its share before the bridge was there; that is no loss of the bridge's."""
    stop = Stop()
    log = Log(stop, {FIRST: registrations(0, 6)})

    def gone() -> None:
        raise PositionOutOfRange({FIRST: 4})

    log.before_poll = [lambda: None, gone]
    worker_of(hospital, log).run(stop)

    assert totals(hospital) == {0: (6, 2)}
    assert hospital.rows("alarm") == []


def test_a_position_that_the_source_no_longer_holds_waits_for_an_operator(hospital: Hospital) -> None:
    """Nothing is skipped in silence; once resumed it goes on from what is left, and knows again what it has."""
    stop = Stop()
    log = Log(stop, {FIRST: registrations(0, 8)})
    seen: dict[str, Any] = {}

    def gone() -> None:
        raise PositionOutOfRange({FIRST: 2})

    def look() -> None:
        seen.update(paused=set(log.paused), alarms=hospital.rows("alarm"))
        with hospital.database.transaction() as txn:
            source_control.resume(txn, "north", "the gap is accepted")

    log.before_poll = [lambda: None, lambda: None, gone, look, lambda: None]
    worker_of(hospital, log, batch=4).run(stop)

    assert seen["paused"] == {FIRST}
    assert [alarm["code"] for alarm in seen["alarms"]] == ["position-out-of-range"]
    assert hospital.position().next_offset == 8
    assert (hospital.position().stored, hospital.position().duplicate) == (8, 2)
    assert [alarm["cleared_us"] is not None for alarm in hospital.rows("alarm")] == [True]


def test_a_commit_of_unknown_fate_is_settled_by_the_store(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection broke at the commit, and the commit had happened: nothing is stored twice, nothing left out."""
    log = Log(hospital.stop, {FIRST: registrations(0, 25)})
    once = hospital.batcher._once
    fate: list[str] = []

    def uncertain(*arguments: Any) -> Any:
        found = once(*arguments)
        if not fate:
            fate.append("committed")
            raise Unavailable("commit-unknown", "It may have happened.")
        return found

    monkeypatch.setattr(hospital.batcher, "_once", uncertain)
    worker_of(hospital, log).run(hospital.stop)

    assert totals(hospital) == {0: (25, 25)}
    assert len(hospital.resources("Patient")) == 25


@pytest.mark.ci
def test_a_poll_by_last_updated_misses_nobody_who_commits_late(database_url: str) -> None:
    """Two batches that commit out of the order of their times: a client that polls by ``_lastUpdated`` sees both.

    It reads the horizon, takes what is not later, and asks next time from the newest it has seen: as the API lets it.
    """
    from bridge.store.migrate import migrate

    migrate(database_url)
    early, late = Hospital(database_url), Hospital(database_url)
    poller = open_database(database_url)
    changed = Statement(
        sa.select(schema.resource.c.fhir_id, schema.resource.c.last_updated_us).where(
            schema.resource.c.type == "Patient",
            schema.resource.c.last_updated_us >= sa.bindparam("since", type_=sa.BigInteger()),
            schema.resource.c.last_updated_us <= sa.bindparam("horizon", type_=sa.BigInteger()),
        )
    )
    seen: dict[str, int] = {}

    def poll() -> int:
        horizon = poller.visible_horizon_us()
        with poller.transaction(read_only=True) as txn:
            given = {"since": max(seen.values(), default=0), "horizon": horizon}
            fresh = {row[0]: row[1] for row in txn.execute(changed, given)}
        seen.update(fresh)
        return len(seen)

    early.feed(hl7("ADT^A04", pid("0^^^NORTH^MR")))
    poll()
    [change] = early.prepare([hl7("ADT^A04", pid("1^^^NORTH^MR"))])
    from bridge.record.work import Change

    with early.database.transaction() as txn:
        assert change.conversion is not None
        early.recorder.record(txn, [Change(change.conversion, "north")])
        late.feed(hl7("ADT^A04", pid("2^^^SOUTH^MR")), site="south")
        assert len(late.resources("Patient")) == 2  # an ordinary read shows it at once
        assert poll() == 1  # a poll waits for whoever may still come before it
    found = poll()

    assert found == 3
    assert set(seen) == {patient["id"] for patient in late.resources("Patient")}
    for database in (early, late, poller):
        database.close()
