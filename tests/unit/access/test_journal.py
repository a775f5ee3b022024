"""Access records: durable before an answer, one leaf a request, closed afterwards or by the sweep."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa

from bridge.access import journal as module
from bridge.access.journal import ASSUME_DISCLOSED, AccessEntry, AccessJournal, record_bytes
from bridge.access.settings import Client, Role
from bridge.access.tokens import Principal
from bridge.errors import Busy, Conflict, Unavailable
from bridge.keys.envelope import AesKeyWrapper
from bridge.ledger import disclosure
from bridge.ledger.commitment import LEAF_DATA_SIZE, commit, leaf_data
from bridge.pipeline.openings import Salts, Unopenable
from bridge.pipeline.proving import context_of
from bridge.record.commitments import RecordKeys
from bridge.store import access, leaves, schema, vault
from bridge.store.async_database import open_async_database
from bridge.store.database import open_database
from bridge.store.dialect import Statement
from bridge.store.migrate import migrate
from bridge.store.rows import CommitmentRow, RecordKeyRow
from bridge.telemetry import failpoints
from bridge.telemetry.stop import Stop

CLIENT = Client(client_id="c", issuer="i", organization="Organization/a", role=Role.SYSTEM, purposes=("TREAT",))
PRINCIPAL = Principal("i|someone", CLIENT, "TREAT", frozenset())
READ = AccessEntry("read", "permit", "consent-permit", "Patient", "p1", patient_key=7, consent_keys=(3, 4))
OWNER = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A fresh store."""
    address = f"sqlite:///{tmp_path}/store.db"
    migrate(address)
    return address


def run(url, work):
    """Runs ``work(journal)`` with a journal of its own; nothing waits when it returns."""

    async def main():
        async with open_async_database(url, connections=1) as database:
            keys = RecordKeys(AesKeyWrapper({"w": b"w" * 32}, "w"))
            journal = AccessJournal(database, keys, "hie.example/log", b"i" * 32)
            result = await work(journal)
            await journal.flush()
            return result

    return asyncio.run(main())


def records(url, before_us=2**62):
    with open_database(url) as database, database.transaction(read_only=True) as txn:
        return access.open_without_outcome(txn, before_us)


def outcomes(url):
    with open_database(url) as database, database.transaction(read_only=True) as txn:
        return [row[0] for row in txn.execute(Statement(sa.select(schema.access_record.c.outcome)), {})]


def test_a_record_is_durable_when_opened_and_commits_to_its_bytes(url):
    """Another connection sees it at once; its leaf waits for the sequencer, and can be made anew from the row."""

    async def work(journal):
        await journal.open(PRINCIPAL, [READ])
        return records(url)

    (row,) = run(url, work)
    with open_database(url) as database, database.transaction(read_only=True) as txn:
        commitment = leaves.commitments(txn, [row.leaf_id])[row.leaf_id]
        assert leaves.pending(txn)[0] == 1
        context = msgspec.json.decode(commitment.context)

    assert (row.patient_key, row.decision, row.consent_keys) == (7, "permit", "3 4")
    assert context["kind"] == "disclosure"
    assert [*context["extra"]] == [str(UUID(bytes=row.access_id))]
    assert record_bytes(row) == record_bytes(row._replace(outcome="answered", status=200, finished_us=1))
    assert record_bytes(row) != record_bytes(row._replace(decision="deny"))


def opened(url, leaf_id):
    """Context, salt and leaf data of a leaf, and the keys by owner."""
    wrapper = AesKeyWrapper({"w": b"w" * 32}, "w")
    with open_database(url) as database, database.transaction(read_only=True) as txn:
        row = leaves.commitments(txn, [leaf_id])[leaf_id]
        [salt] = Salts(wrapper).of(txn, [row]).values()
        [leaf] = [pending[1] for pending in txn.execute(Statement(sa.select(schema.leaf_pending)), {})]
        return context_of(row), salt, leaf


def salt_of(url, access_id, owner):
    with open_database(url) as database, database.transaction(read_only=True) as txn:
        row = CommitmentRow(access_id, "disclosure", b"", owner, None, None)
        return Salts(AesKeyWrapper({"w": b"w" * 32}, "w")).of(txn, [row])[access_id]


def test_a_request_about_many_is_one_leaf_of_which_each_record_opens_alone(url):
    """The opening of one shows bytes and salt of that one; the others are digests, and another's bytes do not fit."""
    other = "22222222-2222-4222-8222-222222222222"
    entries = [
        replace(READ, owner=OWNER),
        replace(READ, decision="deny", patient_key=8, owner=other),
        replace(READ, decision="deny", patient_key=None),
    ]
    run(url, lambda journal: journal.open(PRINCIPAL, entries))
    rows = {row.patient_key: row for row in records(url)}
    [leaf_id] = {row.leaf_id for row in rows.values()}
    context, salt, leaf = opened(url, leaf_id)
    mine, hidden = rows[7], rows[8]
    own_salt = salt_of(url, mine.access_id, OWNER)

    assert leaf_data(commit(salt, context.encode(), disclosure.CONTENT)) == leaf
    assert len(leaf) == LEAF_DATA_SIZE
    assert disclosure.holds(context, str(UUID(bytes=mine.access_id)), record_bytes(mine), own_salt)
    assert not disclosure.holds(context, str(UUID(bytes=hidden.access_id)), record_bytes(hidden), own_salt)
    assert not disclosure.holds(context, str(UUID(bytes=mine.access_id)), record_bytes(hidden), own_salt)
    assert not disclosure.holds(context, str(UUID(bytes=mine.access_id)), record_bytes(mine), salt)
    assert not disclosure.holds(context, OWNER, record_bytes(mine), own_salt)


def test_an_erased_patient_closes_that_record_and_no_other(url):
    """The digest stays where it was, and the key that made it is gone."""
    other = "22222222-2222-4222-8222-222222222222"
    entries = [replace(READ, owner=OWNER), replace(READ, patient_key=8, owner=other)]
    run(url, lambda journal: journal.open(PRINCIPAL, entries))
    with open_database(url) as database, database.transaction() as txn:
        destroyed = schema.record_key.update().values(wrapped_key=b"", destroyed_us=1)
        txn.change(
            Statement(destroyed.where(schema.record_key.c.owner_uuid == sa.bindparam("owner"))), {"owner": OWNER}
        )
    kept = next(row for row in records(url) if row.patient_key == 8)
    gone = next(row for row in records(url) if row.patient_key == 7)
    context, salt, leaf = opened(url, kept.leaf_id)

    assert salt_of(url, gone.access_id, OWNER) is Unopenable.ERASED
    assert leaf_data(commit(salt, context.encode(), disclosure.CONTENT)) == leaf
    assert disclosure.holds(
        context, str(UUID(bytes=kept.access_id)), record_bytes(kept), salt_of(url, kept.access_id, other)
    )


def test_those_who_wait_share_a_commit(url, monkeypatch):
    """Requests that arrive while a commit is under way go with the next one, all together."""
    commits = []
    monkeypatch.setattr(module, "failpoint", commits.append)

    async def work(journal):
        return await asyncio.gather(*(journal.open(PRINCIPAL, [READ]) for _ in range(50)))

    tickets = run(url, work)
    assert len({ticket.access_id for given in tickets for ticket in given}) == 50
    assert commits.count("access.after-commit") <= 2


def test_a_closed_record_is_no_longer_open(url):
    """The outcome is written without anyone waiting for it."""

    async def work(journal):
        tickets = await journal.open(PRINCIPAL, [READ, READ])
        journal.close(tickets[:1], "answered", 200)

    run(url, work)
    assert len(records(url)) == 1


def test_what_nobody_closes_is_assumed_disclosed(url, monkeypatch):
    """After a crash the record stays open; the sweep of the next process closes it, but none that is still young."""

    async def work(journal):
        await journal.open(PRINCIPAL, [READ])

    run(url, work)
    run(url, lambda journal: journal.sweep())
    assert len(records(url)) == 1
    monkeypatch.setattr(module, "ABANDONED_SECONDS", -1)
    run(url, lambda journal: journal.sweep())
    assert records(url) == []
    assert outcomes(url) == [ASSUME_DISCLOSED]


def test_a_failed_commit_answers_nobody(url, monkeypatch):
    """Whoever waited gets Unavailable, nothing is stored, and the journal lives on."""
    monkeypatch.setattr(failpoints, "_active", {"access.before-commit": ("error", 1)})
    monkeypatch.setattr(failpoints, "_passages", {})

    async def work(journal):
        with pytest.raises(Unavailable) as caught:
            await journal.open(PRINCIPAL, [READ])
        assert caught.value.code == "access-record-failed"
        await journal.open(PRINCIPAL, [READ])

    run(url, work)
    assert len(records(url)) == 1


def test_a_conflict_is_tried_again(url, monkeypatch):
    """A transient meeting with another writer costs nothing but time."""
    raised = []
    put = access.put

    def meeting(txn, rows):
        if not raised:
            raised.append(1)
            raise Conflict("store-conflict", "the transaction met another one")
        put(txn, rows)

    monkeypatch.setattr(access, "put", meeting)

    async def work(journal):
        await journal.open(PRINCIPAL, [READ])

    run(url, work)
    assert len(records(url)) == 1


def test_one_record_that_cannot_be_written_harms_no_other(url):
    """An erased patient's key refuses that record alone; those who shared the commit are answered."""
    with open_database(url) as database, database.transaction() as txn:
        vault.put_record_keys(txn, [RecordKeyRow(OWNER, b"", "w", 0, 1)])
    erased = AccessEntry("read", "permit", "consent-permit", "Patient", "p2", owner=OWNER)

    async def work(journal):
        results = await asyncio.gather(
            journal.open(PRINCIPAL, [READ]),
            journal.open(PRINCIPAL, [erased]),
            journal.open(PRINCIPAL, [READ]),
            return_exceptions=True,
        )
        return [isinstance(result, Unavailable) for result in results]

    assert run(url, work) == [False, True, False]
    assert len(records(url)) == 2


def test_too_many_waiting_are_refused(url, monkeypatch):
    """Beyond the limit nothing is promised."""
    monkeypatch.setattr(module, "MAX_WAITING", 0)

    async def work(journal):
        with pytest.raises(Busy):
            await journal.open(PRINCIPAL, [READ])

    run(url, work)


def test_a_store_that_is_away_at_the_first_sweep_is_tried_again(url, monkeypatch):
    """The role outlives it: the sweep goes on until the store is back."""
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    stop, sweeps = Stop(), []

    async def work(journal):
        async def sweep():
            sweeps.append(1)
            if len(sweeps) < 3:
                raise Unavailable("store-unavailable", "the store does not answer")
            stop.set()

        monkeypatch.setattr(journal, "sweep", sweep)
        await journal.run(stop)

    run(url, work)
    assert len(sweeps) == 3
