"""What each repository promises, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from bridge.errors import Incorrect
from bridge.mapping.operations import IdentityKey
from bridge.store import (
    access,
    alarms,
    anchors,
    consents,
    dead_letters,
    identity,
    leases,
    leaves,
    message_seen,
    outbox,
    persons,
    positions,
    raw_messages,
    restrictions,
    source_control,
    vault,
)
from bridge.store.database import open_database
from bridge.store.migrate import migrate
from bridge.store.rows import (
    AccessRecord,
    AnchorRow,
    AnchorState,
    CheckpointRow,
    CommitmentRow,
    ConsentStateRow,
    Counts,
    DeadLetterRow,
    DeadState,
    LinkEventRow,
    LinkRow,
    LogLeaf,
    LogState,
    MatchKeyRow,
    Outcome,
    PendingLeaf,
    PersonRow,
    Position,
    RawMessageRow,
    RawState,
    RecordKeyRow,
    RestrictionRow,
    SeenKey,
)

SECOND_US = 1_000_000
KAFKA = ("feed", "topic-1", 3)


# --- positions --------------------------------------------------------------------------------------------------------


def test_a_claim_begins_at_the_stored_offset_in_a_new_epoch(database):
    with database.transaction() as txn:
        assert positions.claim(txn, *KAFKA) == Position(0, 1)
        assert positions.advance(txn, *KAFKA, expected=0, epoch=1, next_offset=7, counts=Counts())

        assert positions.claim(txn, *KAFKA) == Position(7, 2)
        assert positions.claim(txn, "feed", "topic-2", 3) == Position(0, 1)


@pytest.mark.parametrize(("expected", "epoch"), [(0, 1), (4, 2), (5, 1), (5, 3)])
def test_whoever_lost_the_partition_moves_nothing(database, expected, epoch):
    with database.transaction() as txn:
        positions.claim(txn, *KAFKA)
        positions.advance(txn, *KAFKA, expected=0, epoch=1, next_offset=5, counts=Counts(5, 5))
        positions.claim(txn, *KAFKA)

        assert not positions.advance(txn, *KAFKA, expected=expected, epoch=epoch, next_offset=9, counts=Counts(4, 4))
        (row,) = positions.all_positions(txn)
    assert (row.next_offset, row.epoch, row.received) == (5, 2, 5)


@pytest.mark.parametrize(("expected", "epoch", "held"), [(5, 2, True), (0, 2, False), (5, 1, False), (5, 3, False)])
def test_a_position_is_held_only_by_whoever_left_it_there(database, expected, epoch, held):
    with database.transaction() as txn:
        positions.claim(txn, *KAFKA)
        positions.advance(txn, *KAFKA, expected=0, epoch=1, next_offset=5, counts=Counts())
        positions.claim(txn, *KAFKA)

        assert positions.hold(txn, *KAFKA, expected=expected, epoch=epoch) is held
        assert not positions.hold(txn, "other", "topic-1", 3, expected=0, epoch=1)


def test_counts_add_up_over_batches_and_replays(database):
    with database.transaction() as txn:
        positions.claim(txn, *KAFKA)
        positions.advance(txn, *KAFKA, expected=0, epoch=1, next_offset=10, counts=Counts(10, 4, 3, 2, 1))
        positions.advance(txn, *KAFKA, expected=10, epoch=1, next_offset=15, counts=Counts(5, 1, 1, 1, 2))
        positions.recount(txn, *KAFKA, Counts(dead=-1, stored=1))

        (row,) = positions.all_positions(txn)
    assert row[:4] == (*KAFKA, 15)
    assert row[5:10] == (15, 6, 4, 3, 2)
    assert row.received == row.stored + row.filtered + row.duplicate + row.dead


# --- raw messages -----------------------------------------------------------------------------------------------------


def raw(key: int, received_us: int = 0, state: str = RawState.WAITING, outcome: str | None = None) -> RawMessageRow:
    return RawMessageRow(
        raw_key=key,
        received_us=received_us or key,
        source="mllp",
        topic_id=None,
        partition=None,
        offset=None,
        site="north",
        kind="hl7v2",
        state=state,
        outcome=outcome,
        attempts=0,
        sender=None,
        control_id=None,
        digest=None,
        owner_key=None,
        key_id="k1",
        wrapped_key=b"w" * 60,
        nonce=b"n" * 12,
        ciphertext=bytes(range(256)),
    )


def test_waiting_messages_of_the_sources_asked_for_are_seen_oldest_first(database):
    with database.transaction() as txn:
        other = raw(5, 1)._replace(source="other")
        raw_messages.insert(txn, [raw(1, 30), raw(2, 10), raw(3, 20), raw(4, 5, RawState.DONE, Outcome.STORED), other])

        assert raw_messages.waiting(txn, 2, ["mllp"]) == [raw(2, 10), raw(3, 20)]
        assert [row.raw_key for row in raw_messages.waiting(txn, 9, {"mllp", "other"})] == [5, 2, 3, 1]
        assert raw_messages.waiting(txn, 9, []) == []


@pytest.mark.ci
def test_what_one_session_has_seen_waiting_the_others_pass_over_until_it_is_given_back(database_url):
    migrate(database_url)
    with open_database(database_url) as one, open_database(database_url) as two:
        with one.transaction() as txn:
            raw_messages.insert(txn, [raw(key) for key in range(1, 7)])

        def seen(database, count):
            with database.transaction(read_only=True) as txn:
                return [row.raw_key for row in raw_messages.waiting(txn, count, ["mllp"])]

        assert (seen(one, 2), seen(two, 2), seen(one, 1)) == ([1, 2], [3, 4], [1])
        with two.transaction(read_only=True) as txn:
            raw_messages.release(txn)
        assert seen(one, 9) == [1, 2, 3, 4, 5, 6]
        assert seen(two, 9) == []
        one.close()
        assert seen(two, 9) == [1, 2, 3, 4, 5, 6]


def test_what_is_held_waits_again_until_it_is_finished(database):
    keys = [(1, 30), (2, 10), (3, 20)]
    with database.transaction() as txn:
        raw_messages.insert(txn, [raw(*key) for key in keys] + [raw(4, 5, RawState.DONE, Outcome.STORED)])
    with database.transaction() as txn:
        assert raw_messages.hold_waiting(txn, [*keys[1:], (4, 5), (9, 9)]) == {2, 3}
        raw_messages.finish(txn, [(2, 10, RawState.DONE, Outcome.STORED)])
    with database.transaction() as txn:
        assert [(row.raw_key, row.attempts) for row in raw_messages.waiting(txn, 9, ["mllp"])] == [(3, 1), (1, 0)]
        assert raw_messages.hold_waiting(txn, keys) == {1, 3}
        assert raw_messages.hold_waiting(txn, [(4, 5)]) == raw_messages.hold_waiting(txn, []) == set()


def test_a_finished_message_shows_what_became_of_it_and_what_parsing_found(database):
    with database.transaction() as txn:
        raw_messages.insert(txn, [raw(1), raw(2)])
        raw_messages.describe(txn, [(1, 1, "sender", "control", b"digest", 77)])
        raw_messages.finish(txn, [(2, 2, RawState.DEAD, Outcome.DEAD), (1, 1, RawState.DONE, Outcome.SUPERSEDED)])

        one = raw_messages.get(txn, 1, 1)
        counted = set(raw_messages.counts(txn))
    found = {"sender": "sender", "control_id": "control", "digest": b"digest", "owner_key": 77}
    assert one == raw(1)._replace(state="done", outcome="superseded", **found)
    assert counted == {("mllp", "done", "superseded", 1), ("mllp", "dead", "dead", 1)}


def test_a_raw_message_of_another_time_is_another(database):
    with database.transaction() as txn:
        raw_messages.insert(txn, [raw(1, 5)])

        assert raw_messages.get(txn, 1, 6) is None


@pytest.mark.ci
def test_workers_at_once_never_hold_the_same_message(database, store_url):
    with database.transaction() as txn:
        raw_messages.insert(txn, [raw(key) for key in range(1, 201)])

    def worker(_: int) -> list[int]:
        mine: list[int] = []
        with open_database(store_url) as own:
            while True:
                with own.transaction() as txn:
                    seen = raw_messages.waiting(txn, 7, ["mllp"])
                    held = raw_messages.hold_waiting(txn, [(row.raw_key, row.received_us) for row in seen])
                    raw_messages.finish(txn, [(key, key, RawState.DONE, Outcome.STORED) for key in held])
                mine += held
                if not seen:
                    return mine

    with ThreadPoolExecutor(3) as pool:
        claimed = list(itertools.chain(*pool.map(worker, range(3))))
    assert sorted(claimed) == list(range(1, 201))


# --- seen, identity ---------------------------------------------------------------------------------------------------


def test_a_message_is_known_by_sender_control_id_and_digest_together(database):
    key = SeenKey("sender", "17", b"\0\1")
    others = [key._replace(sender="other"), key._replace(control_id="18"), key._replace(digest=b"\0")]
    with database.transaction() as txn:
        message_seen.insert(txn, [(*key, 5, 1)])
        message_seen.insert(txn, [(*key, 6, 2)])  # a replay records it again without harm

        assert message_seen.known(txn, [key, *others]) == {key}
        assert message_seen.known(txn, []) == set()


def test_many_names_find_one_resource_and_a_taken_name_is_refused(database):
    names = [IdentityKey("Patient", "urn:oid:1", "MR", str(number)) for number in range(50)]
    absent = [names[0]._replace(resource_type="Encounter"), names[0]._replace(namespace="urn:oid:2")]
    with database.transaction() as txn:
        identity.insert(txn, [(name, number // 2) for number, name in enumerate(names)])

        assert identity.lookup(txn, [*names, *absent]) == {name: number // 2 for number, name in enumerate(names)}
        assert set(identity.names_of(txn, 3)) == set(names[6:8])
        assert identity.lookup(txn, []) == {}
    with pytest.raises(Incorrect), database.transaction() as txn:
        identity.insert(txn, [(names[0], 99)])


# --- persons ----------------------------------------------------------------------------------------------------------


def link(record: int, person: int, certainty: str = "certain") -> LinkRow:
    return LinkRow(record, person, certainty, "rule", 1)


def test_links_lead_from_records_to_persons_and_back_and_move(database):
    with database.transaction() as txn:
        persons.create(txn, [PersonRow(1, "uuid-1", 0, 5), PersonRow(2, "uuid-2", 0, 5)])
        persons.write_links(txn, [link(10, 1), link(11, 1), link(12, 2)])
        persons.write_links(txn, [link(11, 2, "asserted"), link(13, 2)])

        assert persons.links(txn, [10, 11, 99]) == {10: link(10, 1), 11: link(11, 2, "asserted")}
        assert persons.members(txn, [1, 2, 3]) == {
            1: [link(10, 1)],
            2: [link(11, 2, "asserted"), link(12, 2), link(13, 2)],
            3: [],
        }
        assert persons.load(txn, [2, 9]) == {2: PersonRow(2, "uuid-2", 0, 5)}


def test_an_unknown_certainty_is_refused(database):
    with pytest.raises(Incorrect), database.transaction() as txn:
        persons.write_links(txn, [link(1, 1, "perhaps")])


def test_the_consent_version_grows_for_those_named_only(database):
    with database.transaction() as txn:
        persons.create(txn, [PersonRow(number, "u", 0, 5) for number in (1, 2, 3)])
        persons.advance_consent_version(txn, [1, 3, 3])
        persons.advance_consent_version(txn, [3])
        persons.advance_consent_version(txn, [])

        assert [persons.load(txn, [key])[key].consent_version for key in (1, 2, 3)] == [1, 0, 2]


def test_link_events_come_in_event_order_for_either_side(database):
    def event(key: int, record: int, other: int | None, time_us: int, tie: str = "") -> LinkEventRow:
        return LinkEventRow(key, "merge", record, other, 1, 2, time_us, tie, "north", "a40", "asserted", 9, b"leaf")

    events = [event(1, 10, 11, 50), event(2, 11, 12, 20, "b"), event(3, 10, None, 20, "a"), event(4, 13, 14, 1)]
    with database.transaction() as txn:
        persons.append_events(txn, events)

        assert persons.events(txn, [11, 10]) == [events[2], events[1], events[0]]
        assert persons.events(txn, [14]) == [events[3]]
        assert persons.events(txn, []) == []


def test_candidates_are_capped_key_by_key_and_show_that_they_were(database):
    hashes = {-(2**63): 1, 7: 3, 8: 4, 2**63 - 1: 10}
    with database.transaction() as txn:
        persons.write_keys(
            txn,
            {
                record: [(hash_, "name") for hash_, count in hashes.items() if record <= count]
                for record in range(1, 11)
            },
        )

        found = persons.candidates(txn, [*hashes, 99], 3)
    assert {hash_: len(records) for hash_, records in found.items()} == {-(2**63): 1, 7: 3, 8: 4, 2**63 - 1: 4}
    assert found[7] == [1, 2, 3]


def test_blocking_keys_are_replaced_as_a_whole(database):
    with database.transaction() as txn:
        persons.write_keys(txn, {1: [(5, "a"), (6, "b")], 2: [(5, "a")]})
        persons.write_keys(txn, {1: [(6, "b"), (7, "c"), (7, "c")]})

        assert {key: set(rows) for key, rows in persons.keys_of(txn, [1, 2, 3]).items()} == {
            1: {MatchKeyRow(6, 1, "b"), MatchKeyRow(7, 1, "c")},
            2: {MatchKeyRow(5, 2, "a")},
            3: set(),
        }
        persons.write_keys(txn, {1: []})
        assert persons.candidates(txn, [5, 6, 7], 9) == {5: [2]}


def test_features_are_those_last_written(database):
    with database.transaction() as txn:
        persons.write_features(txn, [(1, b"old"), (2, b"two")])
        persons.write_features(txn, [(1, b"new")])

        assert persons.features(txn, [1, 2, 3]) == {1: b"new", 2: b"two"}


# --- dead letters -----------------------------------------------------------------------------------------------------


def dead(key: int, source: str = "feed", state: str = DeadState.OPEN) -> DeadLetterRow:
    return DeadLetterRow(
        key,
        100 + key,
        5,
        source,
        "t",
        0,
        key,
        "north",
        "ADT^A01",
        "convert",
        "incorrect",
        "code",
        "text",
        "{}",
        state,
        9,
    )


def test_dead_letters_are_listed_newest_first_by_state_and_source(database):
    letters = [dead(1), dead(2, "other"), dead(3, state=DeadState.RESOLVED), dead(4)]
    with database.transaction() as txn:
        dead_letters.insert(txn, letters)

        def keys(**wanted) -> list[int]:
            return [row.dead_key for row in dead_letters.list_letters(txn, **wanted)]

        assert keys() == [4, 3, 2, 1]
        assert keys(state=DeadState.OPEN, source="feed") == [4, 1]
        assert keys(before_key=4, limit=2) == [3, 2]
        assert dead_letters.get(txn, 2) == letters[1]
        assert dead_letters.get(txn, 9) is None
        assert dead_letters.counts(txn) == {("feed", "open"): 2, ("other", "open"): 1, ("feed", "resolved"): 1}


def test_a_dead_letter_closes_once(database):
    with database.transaction() as txn:
        dead_letters.insert(txn, [dead(1)])

        assert dead_letters.close(txn, 1, state=DeadState.REPLAYED, closed_by="operator", reason="mended")
        assert not dead_letters.close(txn, 1, state=DeadState.RESOLVED, closed_by="other", reason="late")
        closed = dead_letters.get(txn, 1)
    assert closed is not None
    assert (closed.state, closed.closed_by, closed.reason) == ("replayed", "operator", "mended")
    assert closed.closed_us is not None


# --- leaves, log, vault -----------------------------------------------------------------------------------------------


def test_leaf_ids_are_distinct_sixteen_bytes_and_begin_with_the_time():
    early, late = leaves.new_leaf_ids(100, 1_000_000), leaves.new_leaf_ids(100, 2_000_000)

    assert len({*early, *late}) == 200
    assert {len(leaf_id) for leaf_id in early} == {16}
    assert max(early) < min(late)
    assert leaves.new_leaf_ids(0, 1) == []


def test_pending_leaves_are_taken_once_oldest_first(database):
    rows = [PendingLeaf(bytes([number]) * 16, b"\1" * 33, "version", 100 - number) for number in range(5)]
    with database.transaction() as txn:
        leaves.put_pending(txn, rows)

        assert leaves.pending(txn) == (5, 96)
        assert leaves.take_pending(txn, 2) == [rows[4], rows[3]]
        assert leaves.take_pending(txn) == [rows[2], rows[1], rows[0]]
        assert leaves.take_pending(txn) == []
        assert leaves.pending(txn) == (0, None)


def test_leaves_that_commit_out_of_order_are_all_taken(database, store_url):
    """No cursor: what commits late is found by the next round, whatever its id or time."""
    if store_url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time: commits are in order")
    early, late = (PendingLeaf(bytes([number]) * 16, b"\1" * 33, "version", number) for number in (1, 2))
    with open_database(store_url) as other, other.transaction() as slow:
        leaves.put_pending(slow, [early])
        with database.transaction() as quick:
            leaves.put_pending(quick, [late])
        with database.transaction() as txn:
            assert leaves.take_pending(txn) == [late]
    with database.transaction() as txn:
        assert leaves.take_pending(txn) == [early]


@pytest.mark.parametrize("length", [0, 32, 34])
def test_a_leaf_is_thirty_three_bytes(database, length):
    with pytest.raises(Incorrect), database.transaction() as txn:
        leaves.put_pending(txn, [PendingLeaf(b"i" * 16, b"x" * length, "version", 1)])


def log_leaf(index: int, origin: str = "log") -> LogLeaf:
    return LogLeaf(origin, index, f"{origin}{index:08}".encode(), bytes([index]) * 33, bytes([index]) * 32)


def test_the_log_gives_its_leaves_by_range_and_id(database):
    rows = [log_leaf(index) for index in range(20)]
    with database.transaction() as txn:
        leaves.append(txn, rows)
        leaves.append(txn, [log_leaf(0, "other")])

        assert leaves.leaf_hashes(txn, "log", 5, 8) == [row.leaf_hash for row in rows[5:8]]
        assert leaves.leaf_hashes(txn, "log", 18, 99) == [row.leaf_hash for row in rows[18:]]
        assert [row for part in leaves.stream_leaves(txn, "log", 0, 20, chunk=6) for row in part] == rows
        assert leaves.leaves_by_id(txn, [rows[3].leaf_id, b"absent"]) == {rows[3].leaf_id: rows[3]}


@pytest.mark.parametrize(
    "twin", [log_leaf(1)._replace(leaf_id=b"new"), log_leaf(7)._replace(leaf_id=log_leaf(1).leaf_id)]
)
def test_an_index_and_a_leaf_stand_in_the_log_once(database, twin):
    with database.transaction() as txn:
        leaves.append(txn, [log_leaf(1)])

    with pytest.raises(Incorrect), database.transaction() as txn:
        leaves.append(txn, [twin])


def test_subtrees_are_found_by_level_and_index(database):
    with database.transaction() as txn:
        leaves.write_subtrees(txn, "log", [(1, 0, b"a"), (1, 1, b"b"), (2, 0, b"c")])
        leaves.write_subtrees(txn, "other", [(1, 0, b"x")])

        assert leaves.subtrees(txn, "log", [(1, 0), (2, 0), (3, 0)]) == {(1, 0): b"a", (2, 0): b"c"}
        assert leaves.subtrees(txn, "log", []) == {}


def test_the_head_and_checkpoints_of_a_log(database):
    def signed(size: int) -> CheckpointRow:
        return CheckpointRow("log", size, b"root", f"note {size}", 5)

    with database.transaction() as txn:
        assert leaves.state(txn, "log") is None
        assert leaves.latest_checkpoint(txn, "log") is None
        leaves.set_state(txn, LogState("log", 1, b"r", b"c", 1))
        leaves.set_state(txn, LogState("log", 2, b"s", b"d", 1))
        for size in (5, 12, 9):
            leaves.put_checkpoint(txn, signed(size))

        assert leaves.state(txn, "log") == LogState("log", 2, b"s", b"d", 1)
        assert leaves.latest_checkpoint(txn, "log") == signed(12)
        assert leaves.checkpoint_covering(txn, "log", 6) == signed(9)
        assert leaves.checkpoint_covering(txn, "log", 9) == signed(9)
        assert leaves.checkpoint_covering(txn, "log", 13) is None


def test_commitments_and_vault_rows_are_found_by_leaf_and_owner(database):
    commitment = CommitmentRow(b"leaf-1", "version", b"{}", "owner", 5, 2)
    key = RecordKeyRow("owner", b"wrapped", "k1", 5)
    with database.transaction() as txn:
        leaves.put_commitments(txn, [commitment, commitment._replace(leaf_id=b"leaf-2", subject_key=None)])
        vault.put_nonces(txn, [(b"leaf-1", b"n" * 32)])
        vault.put_record_keys(txn, [key])

        assert leaves.commitments(txn, [b"leaf-1", b"absent"]) == {b"leaf-1": commitment}
        assert vault.nonces(txn, [b"leaf-1", b"leaf-2"]) == {b"leaf-1": b"n" * 32}
        assert vault.record_keys(txn, ["owner", "absent"]) == {"owner": key}
    with pytest.raises(Incorrect), database.transaction() as txn:
        vault.put_record_keys(txn, [key._replace(wrapped_key=b"another")])


# --- outbox, leases ---------------------------------------------------------------------------------------------------


def test_the_outbox_gives_what_is_due_in_its_order_and_forgets_what_is_deleted(database):
    with database.transaction() as txn:
        outbox.put(txn, [("chain", "a", b"1"), ("kafka", "a", b"2"), ("chain", "b", b"3")])
        outbox.put(txn, [("chain", "c", b"later")], not_before_us=txn.start_us + 3600 * SECOND_US)
    with database.transaction() as txn:
        due = outbox.unsent(txn, "chain", 9)

        assert [(row.key, row.payload, row.attempts) for row in due] == [("a", b"1", 0), ("b", b"3", 0)]
        assert outbox.unsent(txn, "chain", 1) == due[:1]
        outbox.delete(txn, [due[0].outbox_key])
        outbox.delete(txn, [])
        assert outbox.unsent(txn, "chain", 9) == due[1:]
        assert {row.destination: row.number for row in outbox.waiting(txn)} == {"chain": 2, "kafka": 1}


def test_a_prepared_transaction_carries_its_entries_until_it_is_sent_or_lost(database):
    with database.transaction() as txn:
        first, second, third = outbox.put(txn, [("chain", key, b"p") for key in "abc"])
        outbox.mark_sending(txn, [first, second], b"raw-1")
        outbox.mark_sending(txn, [third], b"raw-2")

        assert outbox.unsent(txn, "chain", 9) == []
        assert outbox.sending(txn, "chain") == [b"raw-1", b"raw-2"]
        assert outbox.not_sent(txn, "chain", b"raw-2") == 1
        assert [(row.outbox_key, row.attempts) for row in outbox.unsent(txn, "chain", 9)] == [(third, 1)]
        assert outbox.sent(txn, "chain", b"raw-1") == 2
        assert outbox.sending(txn, "chain") == []


def test_cancelling_removes_only_what_was_never_tried(database):
    with database.transaction() as txn:
        tried, _, _ = outbox.put(txn, [("chain", "grant", b"1"), ("chain", "grant", b"2"), ("chain", "other", b"3")])
        outbox.mark_sending(txn, [tried], b"raw")

        assert outbox.cancel(txn, "chain", "grant") == 1
        assert outbox.cancel(txn, "kafka", "other") == 0
        assert [row.key for row in outbox.unsent(txn, "chain", 9)] == ["other"]


def test_a_lease_is_one_holder_s_until_it_expires(database):
    with database.transaction() as txn:
        held = leases.acquire(txn, "sequencer", "one", 3600 * SECOND_US)

        assert held is not None
        assert leases.acquire(txn, "sequencer", "two", SECOND_US) is None
        assert leases.check(txn, held)
        assert leases.get(txn, "sequencer") == held
        assert leases.acquire(txn, "anchor", "two", SECOND_US) is not None


def test_a_holder_that_slept_past_its_lease_is_fenced_off(database):
    with database.transaction() as txn:
        slept = leases.acquire(txn, "sequencer", "one", 0)
        assert slept is not None
    with database.transaction() as txn:
        new = leases.acquire(txn, "sequencer", "two", 3600 * SECOND_US)

        assert new is not None
        assert new.epoch > slept.epoch
        assert not leases.check(txn, slept)
        assert leases.renew(txn, slept, SECOND_US) is None
        leases.release(txn, slept)
        assert leases.check(txn, new)
        assert leases.get(txn, "sequencer") == new


def test_an_expired_lease_that_nobody_took_is_still_held_and_a_released_one_is_free(database):
    with database.transaction() as txn:
        held = leases.acquire(txn, "sequencer", "one", 0)
        assert held is not None
        assert leases.check(txn, held)
        held = leases.renew(txn, held, 3600 * SECOND_US)
        assert held is not None
        leases.release(txn, held)
    with database.transaction() as txn:
        assert leases.acquire(txn, "sequencer", "two", SECOND_US) is not None


@pytest.mark.ci
def test_nobody_takes_a_lease_between_its_check_and_the_commit(database, store_url):
    if store_url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    with database.transaction() as txn:
        held = leases.acquire(txn, "sequencer", "one", 0)
    assert held is not None

    def taker() -> int:
        with open_database(store_url) as own, own.transaction() as txn:
            taken = leases.acquire(txn, "sequencer", "two", SECOND_US)
            assert taken is not None
            return len(leaves.leaf_hashes(txn, "log", 0, 9))

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as txn:
            assert leases.check(txn, held)
            taking = pool.submit(taker)
            leaves.append(txn, [log_leaf(0)])

            assert not taking.done()
        assert taking.result(10) == 1  # it got the lease only after the holder's commit


# --- consents, restrictions -------------------------------------------------------------------------------------------


def consent(key: int, patient: int, status: str = "active", version: int = 1) -> ConsentStateRow:
    handle = key.to_bytes(32, "big")
    return ConsentStateRow(key, patient, handle, status, version, b"{}", "north", None, "default", 5)


def test_consents_are_found_by_patient_key_and_handle_as_last_written(database):
    with database.transaction() as txn:
        consents.write(txn, [consent(1, 10), consent(2, 10, "inactive"), consent(3, 11)])
        consents.write(txn, [consent(1, 10, "revoked", 2)])

        assert consents.state_for_patients(txn, [10, 11, 12]) == {
            10: [consent(1, 10, "revoked", 2), consent(2, 10, "inactive")],
            11: [consent(3, 11)],
            12: [],
        }
        assert consents.load(txn, [3, 9]) == {3: consent(3, 11)}
        assert consents.load_by_handle(txn, [consent(2, 0).handle, b"?"]).keys() == {consent(2, 0).handle}


def test_a_handle_names_one_consent(database):
    with pytest.raises(Incorrect), database.transaction() as txn:
        consents.write(txn, [consent(1, 10), consent(2, 10)._replace(handle=consent(1, 10).handle)])


def test_a_restriction_closes_its_patient_until_it_is_lifted(database):
    one, two = (RestrictionRow(key, 10, None, 70 + key, "consent-unreadable", "open", 5) for key in (1, 2))
    with database.transaction() as txn:
        restrictions.add(txn, [one, two])

        assert restrictions.open_for(txn, [10, 11]) == {10: [one, two], 11: []}
        assert restrictions.lift(txn, [1], lifted_by="operator", reason="read by phone") == 1
        assert restrictions.lift(txn, [1], lifted_by="other", reason="again") == 0
        assert restrictions.open_for(txn, [10]) == {10: [two]}
        (lifted,) = restrictions.of_dead_letters(txn, [71])
    assert (lifted.state, lifted.lifted_by, lifted.reason) == ("lifted", "operator", "read by phone")


def test_a_restriction_by_identifier_finds_its_patient_when_he_appears(database):
    with database.transaction() as txn:
        restrictions.add(
            txn,
            [
                RestrictionRow(1, None, b"mac-1", None, "code", "open", 5),
                RestrictionRow(2, None, b"mac-2", None, "code", "open", 5),
                RestrictionRow(3, 99, b"mac-1", None, "code", "open", 5),
            ],
        )

        restrictions.lift(txn, [2], lifted_by="operator", reason="read by phone")
        assert [row.restriction_key for row in restrictions.open_by_identity(txn, [b"mac-1", b"mac-2"])] == [1, 3]
        assert restrictions.open_by_identity(txn, []) == []
        restrictions.give(txn, {1: 10})
        assert [row.restriction_key for row in restrictions.open_for(txn, [10])[10]] == [1]
        assert [row.restriction_key for row in restrictions.open_for(txn, [99])[99]] == [3]


# --- anchors, access, alarms ------------------------------------------------------------------------------------------


def anchor(key: int, size: int, state: str, backend: str = "local") -> AnchorRow:
    return AnchorRow(key, backend, b"log", size, b"root", state, b"raw", None, None, None, 5, 5)


def test_anchors_by_what_is_still_to_be_done_and_by_what_they_cover(database):
    rows = [
        anchor(1, 10, AnchorState.FINAL),
        anchor(2, 20, AnchorState.LOST),
        anchor(3, 30, AnchorState.INCLUDED),
        anchor(4, 40, AnchorState.SENT),
        anchor(5, 99, AnchorState.FINAL, "evm"),
    ]
    with database.transaction() as txn:
        for row in rows:
            anchors.write(txn, row)

        assert anchors.unsettled(txn, "local") == [rows[2], rows[3]]
        assert anchors.latest(txn, "local", b"log") == rows[3]
        assert anchors.latest(txn, "local", b"other") is None
        assert anchors.covering(txn, "local", b"log", 5) == rows[0]
        assert anchors.covering(txn, "local", b"log", 11) == rows[2]
        assert anchors.covering(txn, "local", b"log", 31) is None
        anchors.write(txn, rows[3]._replace(state=AnchorState.FINAL, transaction_id=b"tx", block_number=7))
        assert anchors.unsettled(txn, "local") == [rows[2]]


def record(number: int, started_us: int, outcome: str | None = None) -> AccessRecord:
    return AccessRecord(
        access_id=bytes([number]) * 16,
        started_us=started_us,
        actor="actor",
        client_id="client",
        organization="org",
        role="clinician",
        purpose="TREAT",
        interaction="read",
        resource_type="Patient",
        resource_id="id",
        patient_key=7,
        query_parameters="",
        decision="permit",
        rule="rule",
        consent_keys="1",
        outcome=outcome,
        finished_us=None,
        status=None,
        leaf_id=b"leaf",
    )


def test_accesses_stay_open_until_their_outcome_is_recorded(database):
    with database.transaction() as txn:
        access.put(txn, [record(1, 30), record(2, 10), record(3, 20), record(4, 90)])
        access.close(txn, [(record(3, 20).access_id, 20, "answered", 55, 200)])

        assert access.open_without_outcome(txn, 50) == [record(2, 10), record(1, 30)]
        assert access.open_without_outcome(txn, 50, 1) == [record(2, 10)]
        assert len(access.open_without_outcome(txn, 91)) == 3


def test_an_alarm_keeps_its_time_while_it_is_up_and_takes_a_new_one_when_it_rises_again(database):
    def times() -> list[int]:
        with database.transaction() as txn:
            return [row.raised_us for row in alarms.active(txn)]

    def raise_it(detail: str) -> None:
        with database.transaction() as txn:
            alarms.raise_alarm(txn, "anchor-age", "local", detail)

    raise_it("one")
    first = times()
    raise_it("two")
    assert times() == first
    with database.transaction() as txn:
        assert [row.detail for row in alarms.active(txn)] == ["two"]
        assert alarms.clear(txn, "anchor-age", "local")
        assert not alarms.clear(txn, "anchor-age", "local")
        assert alarms.active(txn) == []
    raise_it("three")

    assert len(times()) == 1
    assert times() > first


def test_a_paused_source_stays_paused_until_it_is_let_go_on(database):
    with database.transaction() as txn:
        source_control.pause(txn, "feed", "consent-without-patient")
        source_control.pause(txn, "other", "test")
        source_control.resume(txn, "other", "looked at")

        paused = source_control.paused(txn)
    assert set(paused) == {"feed"}
    assert paused["feed"].paused is True
    assert paused["feed"].reason == "consent-without-patient"
