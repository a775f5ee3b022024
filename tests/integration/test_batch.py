"""Law *Batch*: one bad message harms no other, and what is transient costs nobody anything (promises P1, P2, P8)."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from bridge.errors import BridgeError, Conflict, Unavailable
from bridge.mapping.operations import IdentityKey
from bridge.pipeline.batch import Item, PartitionLost, Place, Verdict
from bridge.pipeline.ports import Partition
from bridge.pipeline.prepare import Stage
from bridge.record import work
from bridge.record.ids import mint
from bridge.store import database as store_database
from bridge.store import positions, schema, sqlite
from bridge.store.dialect import Statement
from bridge.store.rows import Outcome
from tests.integration.hospital import SITES, Hospital, codes, hl7, outcomes, pid, pv1

BAD = 41


def morning(count: int = 100, **bad: str) -> list[bytes]:
    """Registrations of as many patients; the ``BAD``-th is as told."""
    return [
        hl7("ADT^A04", pid(f"{n}^^^NORTH^MR", **({"name": f"Ash^Ida{n}"} | (bad if n == BAD else {}))), pv1(f"V{n}"))
        for n in range(count)
    ]


def assert_only_the_bad_one_is_dead(hospital: Hospital, verdicts: list[Verdict], *secrets: str) -> dict[str, Any]:
    """99 stored, one dead letter with cause, stage and structure and nothing that the message said."""
    assert outcomes(verdicts) == [Outcome.DEAD if n == BAD else Outcome.STORED for n in range(100)]
    numbers = {patient["identifier"][0]["value"] for patient in hospital.resources("Patient")}
    assert numbers >= {str(n) for n in range(100) if n != BAD}
    assert str(BAD) not in numbers
    [dead] = hospital.rows("dead_letter")
    [raw] = [row for row in hospital.rows("raw_message") if row["raw_key"] == dead["raw_key"]]
    assert (raw["state"], raw["outcome"]) == ("dead", "dead")
    assert dead["state"] == "open"
    assert dead["event"] == "ADT^A04"
    assert json.loads(dead["structure"])["segments"] == ["MSH", "EVN", "PID", "PV1"]
    shown = " ".join(str(value) for value in dead.values())
    assert not [secret for secret in secrets if secret in shown]
    assert_adds_up(hospital)
    return dict(dead)


def assert_adds_up(hospital: Hospital, source: str = "north") -> None:
    """Promise P2 of a source of which nothing is in flight."""
    row = hospital.position(source)
    assert row.received == row.stored + row.filtered + row.duplicate + row.dead
    assert row.received == row.next_offset
    assert row.dead == len([d for d in hospital.rows("dead_letter") if d["source"] == source and d["state"] == "open"])


def test_a_zero_character_in_a_name_kills_its_message_alone(hospital: Hospital) -> None:
    """U+0000 is text that neither database keeps: 99 of the batch are stored, one is a dead letter."""
    verdicts = hospital.feed(*morning(name="Zero\x00field^Ida"))

    dead = assert_only_the_bad_one_is_dead(hospital, verdicts, "Zero", "field", "Ida", "\x00")
    assert dead["category"] == "incorrect"


def test_an_escaped_zero_character_is_no_way_around(hospital: Hospital) -> None:
    """The escape ``\\X00\\`` ends where the character itself does."""
    verdicts = hospital.feed(*morning(name="Zero\\X00\\field^Ida"))

    assert_only_the_bad_one_is_dead(hospital, verdicts, "Zero", "field", "Ida")


def test_a_constraint_violation_kills_its_message_alone(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names that get one id: only the database's unique key can know, so the batch is halved until one is left."""
    hospital.feed(hl7("ADT^A04", pid("taken^^^NORTH^MR"), pv1("V-taken")))

    def colliding(key: IdentityKey, identity_key: bytes) -> str:
        return mint(key._replace(value="taken") if key.value == str(BAD) else key, identity_key)

    monkeypatch.setattr(work, "mint", colliding)
    verdicts = hospital.feed(*morning())

    dead = assert_only_the_bad_one_is_dead(hospital, verdicts, "Ida41", "taken")
    assert (dead["stage"], dead["code"], dead["category"]) == (Stage.STORE, "data-error", "incorrect")


def test_a_message_that_breaks_the_code_kills_itself_alone(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody expected is a fault of that message, and its text is not kept."""

    def broken(key: IdentityKey, identity_key: bytes) -> str:
        if key.value == str(BAD):
            raise RuntimeError(f"no luck with {key.value} Ida41")
        return mint(key, identity_key)

    monkeypatch.setattr(work, "mint", broken)
    verdicts = hospital.feed(*morning())

    dead = assert_only_the_bad_one_is_dead(hospital, verdicts, "luck", "Ida41")
    assert (dead["stage"], dead["code"], dead["category"]) == (Stage.RECORD, "apply-failed", "fault")


def test_the_same_message_twice_in_a_batch_dies_twice(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repetition of what had no effect is no duplicate: whoever sent it would hear that the first one had its effect."""

    def broken(*_: Any) -> str:
        raise RuntimeError

    monkeypatch.setattr(work, "mint", broken)
    again = hl7("ADT^A04", pid(), pv1(), control="C1")

    assert outcomes(hospital.feed(again, again)) == [Outcome.DEAD, Outcome.DEAD]
    assert_adds_up(hospital)


def test_a_record_whose_key_was_erased_kills_its_message_alone(hospital: Hospital) -> None:
    """Nothing can be recorded for it any more; the others of the batch are none the worse."""
    hospital.feed(hl7("ADT^A04", pid(f"{BAD}^^^NORTH^MR"), pv1("V-erased"), at="20240101120000"))
    with hospital.database.transaction() as txn:
        erased = sa.update(schema.record_key).values(destroyed_us=1)
        mine = hospital.rows_in(txn, "resource")
        [uuid] = [row["record_uuid"] for row in mine if row["type"] == "Patient"]
        txn.change(Statement(erased.where(schema.record_key.c.owner_uuid == sa.bindparam("owner"))), {"owner": uuid})
    verdicts = hospital.feed(*morning())

    assert outcomes(verdicts) == [Outcome.DEAD if n == BAD else Outcome.STORED for n in range(100)]
    assert codes(verdicts) == ["record-key-destroyed"]
    assert_adds_up(hospital)


@pytest.mark.parametrize(
    ("content", "code", "stage"),
    [
        (b"not HL7 at all", "not-hl7", Stage.PARSE),
        (b"", "not-hl7", Stage.PARSE),
        (b"MSH|^~", "msh-truncated", Stage.PARSE),
        (b"{broken", "json-", Stage.PARSE),
        (b'{"resourceType":"Patient","name":' + b"[" * 100_000, "json-", Stage.PARSE),
        (b'{"resourceType":"Nothing"}', "fhir-invalid", Stage.MAP),
        (hl7("MFN^M02", "MFI|x"), "unknown-event", Stage.MAP),
        (hl7("ADT^A04", pid("")), "patient-without-identifier", Stage.MAP),
        (hl7("ADT^A04", pid("7^^^ELSEWHERE^MR")), "foreign-authority", Stage.MAP),
        (
            b"MSH|^~\\&|A|B|C|D|20240301||ADT^A04|9|P|2.5\rPID|1||1\rZZZ|" + b"x" * (1 << 20),
            "message-too-large",
            Stage.PARSE,
        ),
    ],
    ids=["text", "empty", "short-msh", "json", "bomb", "type", "event", "no-id", "foreign", "huge"],
)
def test_what_cannot_be_read_is_a_dead_letter_and_its_neighbours_are_stored(
    hospital: Hospital, content: bytes, code: str, stage: Stage
) -> None:
    """Each kind of bad input has a code of its own; the messages around it, and the position, go on."""
    before, after = (hl7("ADT^A04", pid(f"{n}^^^NORTH^MR"), pv1(f"V{n}")) for n in (1, 2))
    verdicts = hospital.feed(before, content, after)

    assert outcomes(verdicts) == [Outcome.STORED, Outcome.DEAD, Outcome.STORED]
    [dead] = hospital.rows("dead_letter")
    assert dead["code"].startswith(code)
    assert dead["stage"] == stage
    assert len(hospital.resources("Patient")) == 2
    assert_adds_up(hospital)


def test_outcomes_of_every_kind_add_up(hospital: Hospital) -> None:
    """Promise P2: received = stored + filtered + duplicates + dead; a superseded message counts as stored."""
    old = hl7("ADT^A08", pid(name="Ash^Old"), at="20240101120000")
    new = hl7("ADT^A08", pid(name="Ash^New"), at="20240201120000")
    filtered = hl7("SIU^S12", pid())
    bad = hl7("ADT^A08", pid(""))
    first = hospital.feed(new, filtered, bad, new, old, old)
    second = hospital.feed(new, filtered, bad)

    stored, dup, dead, out = Outcome.STORED, Outcome.DUPLICATE, Outcome.DEAD, Outcome.FILTERED
    assert outcomes(first) == [stored, out, dead, dup, Outcome.SUPERSEDED, dup]
    assert outcomes(second) == [dup, out, dead]
    assert hospital.one("Patient")["name"] == [{"family": "Ash", "given": ["New"]}]
    row = hospital.position()
    assert (row.received, row.stored, row.filtered, row.duplicate, row.dead) == (9, 2, 2, 3, 2)
    assert_adds_up(hospital)


def test_an_update_that_a_newer_one_has_overtaken_is_superseded(hospital: Hospital) -> None:
    """It makes no version of what it is about; that it came is on record: raw message, outcome, Provenance."""
    new = hl7("ADT^A08", pid(name="Ash^New"), at="20240201120000")
    old = hl7("ADT^A08", pid(name="Ash^Old"), at="20240101120000")

    assert outcomes(hospital.feed(new)) == [Outcome.STORED]
    provenance = len(hospital.resources("Provenance"))
    assert outcomes(hospital.feed(old)) == [Outcome.SUPERSEDED]
    assert hospital.one("Patient")["meta"]["versionId"] == "1"
    assert [row["outcome"] for row in hospital.rows("raw_message")] == ["stored", "superseded"]
    assert len(hospital.resources("Provenance")) == 2 * provenance > 0


# transient errors


def failing_first(hospital: Hospital, fail: Callable[[Any], None]) -> list[int]:
    """Makes the recorder's first call fail after it has written everything; answers the sizes of all its calls."""
    record = hospital.recorder.record
    sizes: list[int] = []

    def recording(txn: Any, changes: Any) -> Any:
        sizes.append(len(changes))
        found = record(txn, changes)
        if len(sizes) == 1:
            fail(txn)
        return found

    hospital.recorder.record = recording  # type: ignore[method-assign]
    return sizes


def stored_once_let_go(
    hospital: Hospital, items: Sequence[Item], place: Place, let_go: Callable[[], Any]
) -> tuple[list[str], list[Verdict]]:
    """Stores a batch while somebody holds what it needs, and lets go when the first attempt was refused.

    Answers what became of each attempt (``held``, or the error's code), and the verdicts.
    """
    refused = threading.Event()
    attempt = hospital.batcher._once
    attempts: list[str] = []

    def once(*arguments: Any) -> Any:
        try:
            found = attempt(*arguments)
        except BridgeError as error:
            attempts.append(error.code)
            refused.set()
            raise
        attempts.append("held")
        return found

    hospital.batcher._once = once  # type: ignore[method-assign]
    release = threading.Thread(target=lambda: (refused.wait(30), let_go()))
    release.start()
    verdicts = hospital.store(items, place)
    release.join()
    return attempts, verdicts


@pytest.mark.parametrize("error", [Unavailable("gone", "Gone."), Conflict("met", "Met.")], ids=["gone", "met"])
def test_a_transient_error_retries_the_whole_batch(hospital: Hospital, error: BridgeError) -> None:
    """Nothing is halved, nothing is a dead letter, nothing is doubled."""

    def fail(_: Any) -> None:
        raise error

    sizes = failing_first(hospital, fail)
    verdicts = hospital.feed(*morning())

    assert sizes == [100, 100]
    assert set(outcomes(verdicts)) == {Outcome.STORED}
    assert len(hospital.resources("Patient")) == 100
    assert hospital.rows("dead_letter") == []
    assert_adds_up(hospital)


@pytest.mark.ci
def test_a_connection_killed_in_the_middle_retries_the_whole_batch(database_url: str) -> None:
    """The server ends the session after the batch has written: the next attempt, on a new connection, holds."""
    from bridge.store.migrate import migrate

    migrate(database_url)
    hospital = Hospital(database_url)

    def kill(txn: Any) -> None:
        [[mine]] = txn.execute(Statement(sa.select(sa.func.pg_backend_pid())), {})
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [mine])

    sizes = failing_first(hospital, kill)
    verdicts = hospital.feed(*morning())

    assert sizes == [100, 100]
    assert set(outcomes(verdicts)) == {Outcome.STORED}
    assert len(hospital.resources("Patient")) == 100
    assert_adds_up(hospital)
    hospital.close()


@pytest.mark.ci
def test_a_lock_that_is_not_to_be_had_in_time_retries_the_whole_batch(database_url: str) -> None:
    """Another session holds the position past the lock time-out, then lets go."""
    from bridge.store.migrate import migrate

    migrate(database_url)
    hospital = Hospital(database_url)
    items, place = hospital.items(morning())
    with hospital.database.transaction() as txn:
        txn.execute(Statement(sa.text("SET lock_timeout = '100ms'")), {})
    holder = psycopg.connect(database_url)
    holder.execute("SELECT * FROM source_position FOR UPDATE")
    attempts, verdicts = stored_once_let_go(hospital, items, place, holder.close)

    assert attempts[0] == "store-conflict"
    assert attempts[-1] == "held"
    assert set(outcomes(verdicts)) == {Outcome.STORED}
    assert hospital.rows("dead_letter") == []
    hospital.close()


def test_a_locked_file_retries_the_whole_batch(
    hospitals: Callable[[], Hospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite: another process writes past the busy time-out, then ends."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    hospital = hospitals()
    items, place = hospital.items(morning(5))
    path = store_database.sqlite_path(hospital.url)
    hospital.close()
    holder = sqlite3.connect(path or "", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    attempts, verdicts = stored_once_let_go(
        hospital, items, place, lambda: (holder.execute("ROLLBACK"), holder.close())
    )

    assert attempts[0] == "store-conflict"
    assert outcomes(verdicts) == [Outcome.STORED] * 5
    assert hospital.rows("dead_letter") == []


# the position


def test_a_worker_whose_partition_was_claimed_commits_nothing(hospital: Hospital) -> None:
    """Law *Position*: a second claim makes a new epoch; what the first one still tries is lost, wholly."""
    hospital.feed(*morning(3))
    items, place = hospital.items(morning(4))
    with hospital.database.transaction() as txn:
        claimed = positions.claim(txn, "north", "topic", 0)
    before = hospital.rows("raw_message"), hospital.rows("resource_version"), hospital.position()

    with pytest.raises(PartitionLost):
        hospital.batcher.store(items, place, hospital.stop)

    assert (hospital.rows("raw_message"), hospital.rows("resource_version"), hospital.position()) == before
    assert claimed.next_offset == 3
    mine = Place(place.partition, claimed.next_offset, claimed.epoch)
    assert set(outcomes(hospital.batcher.store(items, mine, hospital.stop))) <= {Outcome.STORED, Outcome.SUPERSEDED}
    assert_adds_up(hospital)


def test_what_was_committed_before_a_partition_was_lost_is_told(hospital: Hospital) -> None:
    """A batch in several transactions, taken over after the second: the verdicts of these two come with the loss."""
    items, place = hospital.items(morning(5))
    hospital.batcher._lock_keys = 1
    attempt = hospital.batcher._once
    done: list[int] = []

    def once(part: Sequence[Item], *others: Any) -> Any:
        if len(done) == 2:
            with hospital.database.transaction() as txn:
                positions.claim(txn, "north", "topic", 0)
        found = attempt(part, *others)
        done.append(len(part))
        return found

    hospital.batcher._once = once  # type: ignore[method-assign]
    with pytest.raises(PartitionLost) as lost:
        hospital.batcher.store(items, place, hospital.stop)

    assert [verdict.item for verdict in lost.value.committed] == items[:2]
    assert hospital.position().received == 2


def test_a_batch_at_another_offset_commits_nothing(hospital: Hospital) -> None:
    """A batch that was stored already, fetched again, is refused by the offset even within the epoch."""
    items, place = hospital.items(morning(3))
    hospital.store(items, place)

    with pytest.raises(PartitionLost):
        hospital.batcher.store(items, place, hospital.stop)

    assert hospital.position().received == 3


def test_a_stop_gives_up_retrying_and_keeps_what_is_committed(hospital: Hospital) -> None:
    """What is not committed stays where it is: no verdict, no row, no step of the position."""

    def fail(txn: Any, changes: Any) -> Any:
        hospital.stop.set()
        raise Unavailable("gone", "Gone.")

    hospital.recorder.record = fail  # type: ignore[method-assign]

    assert hospital.feed(*morning(3)) == []
    assert hospital.position().next_offset == 0
    assert hospital.rows("raw_message") == []


# replay


def test_a_replay_moves_one_from_dead_to_stored(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the cause is gone; the totals still add up, and nobody can replay it twice."""
    foreign = hl7("ADT^A04", pid("7^^^SATELLITE^MR", name="Ash^Late"), pv1("V7"))
    hospital.feed(*morning(2))
    [refused] = hospital.feed(foreign)
    assert codes([refused]) == ["foreign-authority"]
    [dead] = hospital.rows("dead_letter")

    listed = SITES["north"].model_dump()
    listed["authorities"] += ({"name": "SATELLITE", "system": "urn:test:satellite", "use": "record"},)
    hospital.sites = {**hospital.sites, "north": type(SITES["north"]).model_validate(listed)}
    hospital.preparer._sites = hospital.sites
    verdict = replay(hospital, dead["dead_key"], foreign)

    assert verdict.outcome is Outcome.STORED
    assert hospital.patient("7")["name"] == [{"family": "Ash", "given": ["Late"]}]
    row = hospital.position()
    assert (row.received, row.stored, row.dead) == (3, 3, 0)
    assert_adds_up(hospital)
    [closed] = hospital.rows("dead_letter")
    assert (closed["state"], closed["closed_by"], closed["reason"]) == ("replayed", "operator", "listed")
    with pytest.raises(Conflict):
        replay(hospital, dead["dead_key"], foreign)
    assert_adds_up(hospital)


def test_a_replay_counts_at_the_position_that_counted_it_dead(hospital: Hospital) -> None:
    """A source whose topics have no ids counts under the empty one, not with the queue."""
    partition = Partition("north", "", 0)
    with hospital.database.transaction() as txn:
        position = positions.claim(txn, "north", "", 0)
    foreign = hl7("ADT^A04", pid("7^^^SATELLITE^MR"), pv1("V7"))
    [prepared] = hospital.prepare([foreign])
    hospital.batcher.store([Item(prepared, offset=0)], Place(partition, 0, position.epoch), hospital.stop)
    [dead] = hospital.rows("dead_letter")

    assert replay(hospital, dead["dead_key"], hl7("ADT^A04", pid("7"), pv1("V7"))).outcome is Outcome.STORED

    row = hospital.position()
    assert (row.topic_id, row.received, row.stored, row.dead) == ("", 1, 1, 0)
    assert_adds_up(hospital)


@pytest.mark.parametrize("of_queue", [False, True], ids=["partition", "queue"])
def test_a_replay_locks_in_the_order_of_the_workers(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, of_queue: bool
) -> None:
    """A partition's worker holds the position before anything else, the queue's touches its totals last.

    In any other order a replay and a worker could each wait for what the other holds.
    """
    hospital.feed(hl7("ADT^A04", pid("7^^^SATELLITE^MR"), pv1("V7")))
    order: list[str] = []
    recount, record = positions.recount, hospital.recorder.record

    def recounting(*arguments: Any) -> None:
        order.append("position")
        recount(*arguments)

    def recording(*arguments: Any) -> Any:
        order.append("record")
        return record(*arguments)

    monkeypatch.setattr(positions, "recount", recounting)
    hospital.recorder.record = recording  # type: ignore[method-assign]
    from bridge.store import dead_letters

    [row] = hospital.rows("dead_letter")
    with hospital.database.transaction(read_only=True) as txn:
        letter = dead_letters.get(txn, row["dead_key"])
    assert letter is not None
    if of_queue:
        letter = letter._replace(topic_id=None, partition=None)
    [prepared] = hospital.prepare([hl7("ADT^A04", pid("7"), pv1("V7"))])
    hospital.batcher.replay(prepared, letter, by="operator", reason="listed")

    assert order == (["record", "position"] if of_queue else ["position", "record"])


def test_a_replay_that_fails_again_changes_nothing(hospital: Hospital) -> None:
    """It answers why, and the dead letter stays open."""
    foreign = hl7("ADT^A04", pid("7^^^SATELLITE^MR"), pv1("V7"))
    hospital.feed(foreign)
    [dead] = hospital.rows("dead_letter")

    verdict = replay(hospital, dead["dead_key"], foreign)

    assert codes([verdict]) == ["foreign-authority"]
    assert hospital.rows("dead_letter") == [dead]
    assert_adds_up(hospital)


def replay(hospital: Hospital, dead_key: int, content: bytes) -> Verdict:
    """As ``hiebridge deadletters replay`` does, with the message at hand."""
    from bridge.store import dead_letters

    with hospital.database.transaction(read_only=True) as txn:
        letter = dead_letters.get(txn, dead_key)
    assert letter is not None
    [prepared] = hospital.prepare([content], letter.source)
    return hospital.batcher.replay(prepared, letter, by="operator", reason="listed")
