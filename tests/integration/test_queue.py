"""The embedded queue: durable when accepted, worked off once, adding up; back-pressure, failure and closing."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters.sources.folder import FolderListener, FolderSettings
from bridge.errors import Busy, Fault, Incorrect, Unavailable
from bridge.keys.envelope import Envelope
from bridge.pipeline import queue as queue_module
from bridge.pipeline.batch import CONSENT_ALARM
from bridge.pipeline.ports import RawMessage, Receipt
from bridge.pipeline.prepare import Prepared
from bridge.pipeline.queue import QueueIntake, QueueWorker
from bridge.store import raw_messages, schema, source_control
from bridge.store.database import Transaction, open_database
from bridge.store.dialect import Statement
from bridge.store.rows import RawMessageRow, RawState
from bridge.telemetry.stop import Stop
from tests.integration.hospital import KEYS, Hospital, hl7, pid, pv1
from tests.integration.test_consent_feed import VALUED_CON, alarmed, paused


@pytest.fixture
def intake(hospital: Hospital) -> Iterator[QueueIntake]:
    """The intake, with a connection of its own."""
    made = QueueIntake(open_database(hospital.url), hospital.preparer, KEYS, 1000)
    yield made
    made.close()


@pytest.fixture
def worker(hospital: Hospital) -> QueueWorker:
    """A worker, opened."""
    return opened(hospital)


def opened(hospital: Hospital) -> QueueWorker:
    made = QueueWorker(hospital.preparer, hospital.batcher, KEYS, hospital.database, ["north", "south"])
    made.open()
    return made


def accept(intake: QueueIntake, messages: Sequence[RawMessage]) -> list[Receipt | BaseException]:
    async def all_at_once() -> list[Receipt | BaseException]:
        accepts = (asyncio.wait_for(intake.accept(message), 60) for message in messages)
        return await asyncio.gather(*accepts, return_exceptions=True)

    return asyncio.run(all_at_once())


def arrivals(hospital: Hospital, count: int, site: str = "north") -> list[RawMessage]:
    return [hospital.raw(hl7("ADT^A04", pid(f"{n}^^^{site.upper()}^MR"), pv1(f"V{n}")), site) for n in range(count)]


def work_off(worker: QueueWorker) -> None:
    while worker.work_once(Stop()):
        pass


def waiting(hospital: Hospital) -> int:
    return sum(row["state"] == RawState.WAITING for row in hospital.rows("raw_message"))


def assert_adds_up(hospital: Hospital, accepted: int) -> None:
    """Promise P2 of the queue: accepted = what became of them + what waits."""
    rows = [hospital.position(source) for source in ("north", "south")]
    done = sum(row.stored + row.filtered + row.duplicate + row.dead for row in rows)
    assert sum(row.received for row in rows) == done
    assert accepted == done + waiting(hospital)


def test_what_was_accepted_is_stored_once_and_encrypted_at_rest(
    hospital: Hospital, intake: QueueIntake, worker: QueueWorker
) -> None:
    """Each receipt names a row of its own, whose bytes show nothing; worked off, every message has had its effect."""
    receipts = accept(intake, arrivals(hospital, 250))
    rows = hospital.rows("raw_message")

    assert len({receipt.reference for receipt in receipts if isinstance(receipt, Receipt)}) == 250
    assert waiting(hospital) == 250
    assert not [row for row in rows if b"NORTH" in row["ciphertext"] or b"Ash" in row["ciphertext"]]
    assert_adds_up(hospital, 250)

    work_off(worker)

    assert waiting(hospital) == 0
    assert len(hospital.resources("Patient")) == 250
    assert_adds_up(hospital, 250)
    work_off(worker)
    assert hospital.position().received == 250


class Gate:
    """Holds the first write of an intake up, so that everything accepted meanwhile is written together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._begun, self._go = threading.Event(), threading.Event()
        self._insert = raw_messages.insert
        monkeypatch.setattr(raw_messages, "insert", self._slow)

    def _slow(self, txn: Transaction, rows: Sequence[RawMessageRow]) -> None:
        self.sizes.append(len(rows))
        self._begun.set()
        self._go.wait(30)
        self._insert(txn, rows)

    async def first_then_the_rest(
        self, intake: QueueIntake, messages: Sequence[RawMessage]
    ) -> list[Receipt | BaseException]:
        """What was answered to each message."""
        first = asyncio.create_task(intake.accept(messages[0]))
        await asyncio.to_thread(self._begun.wait, 30)
        rest = [asyncio.create_task(intake.accept(message)) for message in messages[1:]]
        await asyncio.sleep(0)
        self._go.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    async def given_up(self, intake: QueueIntake, message: RawMessage) -> None:
        """Ends while the message is being written."""
        accepting = asyncio.create_task(intake.accept(message))
        await asyncio.to_thread(self._begun.wait, 30)
        assert not accepting.done()

    def open(self) -> None:
        """Lets the write go on."""
        self._go.set()


def test_accepts_that_wait_together_share_a_commit(
    hospital: Hospital, intake: QueueIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one commit is under way, everything that comes meanwhile goes into the next."""
    gate = Gate(monkeypatch)
    asyncio.run(gate.first_then_the_rest(intake, arrivals(hospital, 101)))

    assert gate.sizes == [1, 100]


def test_one_that_cannot_be_taken_is_refused_alone(
    hospital: Hospital, intake: QueueIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that no retry would mend harms none of those that wait with it: they are stored, once."""
    messages = arrivals(hospital, 40)
    messages[17] = replace(messages[17], source="nowhere")
    answers = asyncio.run(Gate(monkeypatch).first_then_the_rest(intake, messages))

    assert [number for number, answer in enumerate(answers) if not isinstance(answer, Receipt)] == [17]
    assert isinstance(answers[17], Incorrect)
    assert waiting(hospital) == len({str(answer) for answer in answers}) - 1 == 39


def test_a_listener_that_is_gone_takes_no_other_with_it(
    hospital: Hospital, intake: QueueIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loop is closed when its message is stored; whoever comes later is served."""
    gate = Gate(monkeypatch)
    first, second = arrivals(hospital, 2)
    asyncio.run(gate.given_up(intake, first))
    gate.open()

    [answer] = accept(intake, [second])
    assert isinstance(answer, Receipt)
    assert waiting(hospital) == 2


def test_a_full_intake_is_busy_and_promises_nothing(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-pressure: what is over the limit is refused at once, what was accepted before is stored."""
    intake = QueueIntake(open_database(hospital.url), hospital.preparer, KEYS, 3)
    go = threading.Event()
    insert = raw_messages.insert
    monkeypatch.setattr(raw_messages, "insert", lambda txn, rows: (go.wait(30), insert(txn, rows)))

    async def too_many() -> list[Receipt | BaseException]:
        tasks = [asyncio.create_task(intake.accept(message)) for message in arrivals(hospital, 20)]
        await asyncio.sleep(0.1)
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(too_many())
    intake.close()

    accepted = [answer for answer in answers if isinstance(answer, Receipt)]
    refused = [answer for answer in answers if isinstance(answer, Busy)]
    assert len(accepted) + len(refused) == 20
    assert refused
    assert waiting(hospital) == len(accepted)


def test_a_long_queue_in_the_store_is_back_pressure_too(
    hospital: Hospital, worker: QueueWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody works off fills the store: new messages are refused until the workers have made room."""
    monkeypatch.setattr(queue_module, "_COUNT_INTERVAL_SECONDS", 0.01)
    intake = QueueIntake(open_database(hospital.url), hospital.preparer, KEYS, 40)
    accepted = sum(isinstance(accept(intake, [message])[0], Receipt) for message in arrivals(hospital, 60))
    assert accepted == 40
    assert isinstance(accept(intake, arrivals(hospital, 1))[0], Busy)

    work_off(worker)
    until = time.monotonic() + 30
    while not isinstance(accept(intake, arrivals(hospital, 1))[0], Receipt):
        assert time.monotonic() < until
        time.sleep(0.02)
    intake.close()


@pytest.mark.parametrize("error", [Unavailable("disk-full", "Full."), RuntimeError("secret of a patient")])
def test_a_failed_commit_is_told_to_everyone_in_it(
    hospital: Hospital, intake: QueueIntake, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nobody holds a receipt for what is not there, and the next accept works."""
    insert = raw_messages.insert

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(raw_messages, "insert", refuse)
    answers = accept(intake, arrivals(hospital, 5))
    monkeypatch.setattr(raw_messages, "insert", insert)

    assert all(isinstance(answer, Unavailable | Fault) for answer in answers)
    assert "secret" not in str(answers)
    assert waiting(hospital) == 0
    assert isinstance(accept(intake, arrivals(hospital, 1))[0], Receipt)
    assert waiting(hospital) == 1


def test_closing_writes_what_waits_and_refuses_what_comes_later(hospital: Hospital) -> None:
    """A stop loses nothing that was accepted."""
    intake = QueueIntake(open_database(hospital.url), hospital.preparer, KEYS, 1000)
    assert all(isinstance(answer, Receipt) for answer in accept(intake, arrivals(hospital, 50)))
    intake.close()
    intake.close()

    [answer] = accept(intake, arrivals(hospital, 1))
    assert isinstance(answer, Unavailable)
    assert waiting(hospital) == 50


@pytest.mark.ci
def test_two_workers_do_each_message_once(database_url: str) -> None:
    """They skip what the other holds; the totals count every message once."""
    from bridge.store.migrate import migrate

    migrate(database_url)
    hospitals = [Hospital(database_url) for _ in range(2)]
    intake = QueueIntake(open_database(database_url), hospitals[0].preparer, KEYS, 10_000)
    accept(intake, arrivals(hospitals[0], 400) + arrivals(hospitals[0], 200, "south"))
    intake.close()
    workers = [opened(hospital) for hospital in hospitals]
    failed: list[BaseException] = []

    def run(worker: QueueWorker) -> None:
        try:
            work_off(worker)
        except BaseException as error:  # noqa: BLE001 - the main thread must hear of it
            failed.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert waiting(hospitals[0]) == 0
    assert len(hospitals[0].resources("Patient")) == 600
    assert hospitals[0].position("north").stored == 400
    assert hospitals[0].position("south").stored == 200
    for hospital in hospitals:
        hospital.close()


@pytest.mark.ci
def test_what_one_worker_prepares_no_other_prepares(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is at its batch the other does the rest; what a batch left undone is anybody's again."""
    from bridge.store.migrate import migrate

    migrate(database_url)
    hospitals = [Hospital(database_url) for _ in range(2)]
    intake = QueueIntake(open_database(database_url), hospitals[0].preparer, KEYS, 10_000)
    accept(intake, arrivals(hospitals[0], 250))
    intake.close()
    slow, quick = [opened(hospital) for hospital in hospitals]
    prepared: list[list[int]] = [[], []]

    def counting(number: int) -> None:
        prepare = hospitals[number].preparer.prepare

        def counted(raw: RawMessage, envelope: Envelope) -> Prepared:
            prepared[number].append(raw.received_us)
            if number == 0 and len(prepared[0]) == 50:
                work_off(quick)
            return prepare(raw, envelope)

        monkeypatch.setattr(hospitals[number].preparer, "prepare", counted)

    counting(0)
    counting(1)

    def refuse(*_: object) -> None:
        raise Unavailable("gone", "Gone.")

    with monkeypatch.context() as patch:
        patch.setattr(hospitals[0].batcher, "store", refuse)
        with pytest.raises(Unavailable):
            slow.work_once(Stop())
    assert (len(prepared[0]), len(prepared[1]), waiting(hospitals[0])) == (100, 150, 100)
    assert not {*prepared[0]} & {*prepared[1]}
    work_off(quick)

    assert {*prepared[0]} < {*prepared[1]}
    assert waiting(hospitals[0]) == 0
    assert hospitals[0].position().stored == 250
    for hospital in hospitals:
        hospital.close()


@pytest.mark.ci
def test_a_worker_that_falls_silent_loses_its_claims(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its host is gone without a word, or its process stopped: what it had claimed is anybody's after a while."""
    from bridge.store.migrate import migrate

    migrate(database_url)
    monkeypatch.setattr(raw_messages, "CLAIM_IDLE", "200ms")
    hospital, silent = Hospital(database_url), open_database(database_url)
    intake = QueueIntake(open_database(database_url), hospital.preparer, KEYS, 100)
    accept(intake, arrivals(hospital, 3))
    intake.close()
    with silent.transaction(read_only=True) as txn:
        assert len(raw_messages.waiting(txn, 10, {"north"})) == 3
    worker = opened(hospital)
    assert not worker.work_once(Stop())

    until = time.monotonic() + 30
    while not worker.work_once(Stop()) and time.monotonic() < until:
        time.sleep(0.05)

    assert hospital.position().stored == 3
    silent.close()
    hospital.close()


@pytest.mark.ci
def test_claims_of_a_statement_that_was_cancelled_are_given_back(database_url: str) -> None:
    """The session has them, and nobody was told which."""
    from bridge.store.migrate import migrate

    migrate(database_url)
    hospital, other = Hospital(database_url), open_database(database_url)
    intake = QueueIntake(open_database(database_url), hospital.preparer, KEYS, 100)
    accept(intake, arrivals(hospital, 3))
    intake.close()
    with other.transaction(read_only=True) as txn:
        raw_messages.waiting(txn, 2, {"north"})  # never heard of
        raw_messages.waiting(txn, 3, {"north"})
    with other.transaction(read_only=True) as txn:
        raw_messages.release(txn)

    work_off(opened(hospital))
    assert hospital.position().stored == 3
    other.close()
    hospital.close()


def test_a_paused_source_waits_while_others_go_on(hospital: Hospital, intake: QueueIntake, worker: QueueWorker) -> None:
    """A consent of nobody pauses its source, from the next batch on, until an operator lets it go on."""
    accept(intake, [hospital.raw(hl7("MFN^M02", VALUED_CON))])
    work_off(worker)
    assert (paused(hospital), [code for code, _ in alarmed(hospital)]) == ({"north"}, ["consent-without-patient"])

    accept(intake, arrivals(hospital, 3) + arrivals(hospital, 2, "south"))
    work_off(worker)
    assert waiting(hospital) == 3
    assert hospital.position("south").stored == 2
    assert_adds_up(hospital, 6)

    with hospital.database.transaction() as txn:
        source_control.resume(txn, "north", "seen to")
    work_off(worker)
    assert waiting(hospital) == 0
    assert_adds_up(hospital, 6)


def test_a_source_that_is_no_longer_configured_holds_up_nobody(hospital: Hospital, intake: QueueIntake) -> None:
    """Its messages wait for it to come back; the others' are done."""
    accept(intake, arrivals(hospital, 2) + arrivals(hospital, 2, "south"))
    without = Hospital(hospital.url, {name: site for name, site in hospital.sites.items() if name != "north"})
    worker = QueueWorker(without.preparer, without.batcher, KEYS, without.database, ["south"])
    worker.open()
    work_off(worker)
    without.close()
    assert waiting(hospital) == 2
    assert hospital.position("south").stored == 2

    work_off(opened(hospital))
    assert waiting(hospital) == 0
    assert_adds_up(hospital, 4)


def test_a_paused_source_fills_the_queue_for_itself_alone(hospital: Hospital) -> None:
    """Its senders wait for the operator; those of the others do not."""
    with hospital.database.transaction() as txn:
        source_control.pause(txn, "north", "seen to")
    full = QueueIntake(open_database(hospital.url), hospital.preparer, KEYS, 5)
    try:
        assert all(isinstance(r, Receipt) for r in accept(full, arrivals(hospital, 5)))
        with hospital.database.transaction(read_only=True) as txn:
            full._count(txn)

        assert all(isinstance(r, Busy) for r in accept(full, arrivals(hospital, 2)))
        assert all(isinstance(r, Receipt) for r in accept(full, arrivals(hospital, 2, "south")))
    finally:
        full.close()


@pytest.mark.parametrize(
    ("column", "junk"), [("ciphertext", b"x" * 64), ("wrapped_key", b"x" * 40), ("kind", "letter")]
)
def test_a_row_that_was_altered_is_a_dead_letter_and_may_have_been_a_consent(
    hospital: Hospital, intake: QueueIntake, worker: QueueWorker, column: str, junk: bytes | str
) -> None:
    """What no longer opens cannot be done, and nobody can say whose consent it was: an operator must look.

    The other messages of its batch, and other sources, are none the worse.
    """
    accept(intake, arrivals(hospital, 3))
    table = schema.raw_message
    altered = sa.update(table).values({column: sa.bindparam("junk")}).where(table.c.raw_key == sa.bindparam("key"))
    with hospital.database.transaction() as txn:
        key = min(row["raw_key"] for row in hospital.rows_in(txn, "raw_message"))
        txn.change(Statement(altered), {"junk": junk, "key": key})
    work_off(worker)

    assert waiting(hospital) == 0
    assert len(hospital.resources("Patient")) == 2
    [dead] = hospital.rows("dead_letter")
    assert (dead["raw_key"], dead["category"]) == (key, "incorrect")
    assert (paused(hospital), alarmed(hospital)) == ({"north"}, [(CONSENT_ALARM, "north")])
    accept(intake, arrivals(hospital, 2) + arrivals(hospital, 2, "south"))
    work_off(worker)
    assert (waiting(hospital), hospital.position("south").stored) == (2, 2)
    assert_adds_up(hospital, 7)


def test_what_is_no_message_at_all_was_no_consent(hospital: Hospital, intake: QueueIntake, worker: QueueWorker) -> None:
    """It can be read, and holds neither a consent segment nor a Consent: a dead letter, and intake goes on."""
    accept(intake, [hospital.raw(content) for content in (b"", b"%PDF-1.4", b"\xff\xfe\x00", b"{]")])
    work_off(worker)

    assert len(hospital.rows("dead_letter")) == 4
    assert (paused(hospital), alarmed(hospital)) == (set(), [])


def test_a_worker_that_is_told_to_stop_leaves_the_rest_waiting(
    hospital: Hospital, intake: QueueIntake, worker: QueueWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finishes its batch and no more."""
    accept(intake, arrivals(hospital, 250))
    stop = Stop()
    report = queue_module.report
    monkeypatch.setattr(queue_module, "report", lambda *told: (stop.set(), report(*told)))
    worker.run(stop)

    assert waiting(hospital) == 150
    assert_adds_up(hospital, 250)


def test_files_of_a_folder_are_stored_once(hospital: Hospital, intake: QueueIntake, tmp_path: Path) -> None:
    """HL7 and FHIR JSON side by side, through listener, queue and worker."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.hl7").write_bytes(hl7("ADT^A04", pid("1^^^NORTH^MR")) + hl7("ADT^A04", pid("2^^^NORTH^MR")))
    patient = {"resourceType": "Patient", "id": "p", "identifier": [{"system": "urn:test:north", "value": "3"}]}
    (folder / "b.json").write_text(json.dumps(patient))
    (folder / "c.ndjson").write_text(json.dumps(patient | {"id": "q", "identifier": []} | {"gender": "male"}))
    listener = FolderListener("north", FolderSettings(path=folder))

    async def listen() -> None:
        stop = Stop()
        running = asyncio.create_task(listener.run(intake, stop))
        for _ in range(300):
            await asyncio.sleep(0.05)
            if len(hospital.rows("raw_message")) >= 4:
                break
        stop.set()
        await running

    asyncio.run(listen())
    work_off(opened(hospital))

    assert hospital.position().received == 4
    assert {i["value"] for p in hospital.resources("Patient") for i in p.get("identifier", ())} >= {"1", "2", "3"}
