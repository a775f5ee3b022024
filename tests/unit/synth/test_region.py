"""The synthetic region: the same bytes each time, the shares that were asked for, and a truth that is true."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import BridgeError, Incorrect
from bridge.hl7v2.message import NULL, Message, parse
from bridge.synth.events import Outcome
from bridge.synth.feed import SynthMessage
from bridge.synth.region import Region
from bridge.synth.tables import tables

COVERED = {f"ADT^{trigger}" for trigger in ("A01", "A02", "A03", "A04", "A08", "A11", "A13", "A40")} | {"ORU^R01"}


def region(**changes: object) -> Region:
    arguments = {"seed": 1, "patients": 300, "messages": 3000, "uncovered_percent": 5, "malformed_percent": 3}
    return Region(**(arguments | {"duplicate_percent": 1} | changes))


@pytest.fixture(scope="module")
def feed() -> list[SynthMessage]:
    return list(region())


@pytest.fixture(scope="module")
def stored(feed) -> list[tuple[SynthMessage, Message]]:
    return [(message, parse(message.content)) for message in feed if message.outcome is Outcome.STORED]


def test_same_seed_same_bytes(feed):
    """The same numbers give the same feed, a second iteration of one region too."""
    again = region()

    assert list(again) == feed
    assert list(again) == feed


def test_another_seed_other_bytes(feed):
    """Another seed shares hardly a message with the first."""
    other = {message.content for message in region(seed=2)}

    assert len(other & {message.content for message in feed}) < 30


def test_a_shorter_feed_of_the_same_density_draws_the_same_people():
    """Who someone is does not depend on how many messages are asked for."""
    people = {
        record.identifier: record for record in region().registrations() if not record.said.given.startswith("Baby")
    }
    short = {record.identifier: record for record in region(messages=10).registrations()}

    assert all(short[identifier] == record for identifier, record in people.items())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    patients=st.integers(1, 40),
    messages=st.integers(0, 300),
    shares=st.tuples(st.floats(0, 16), st.floats(0, 16), st.floats(0, 16)),
)
def test_shares_are_met_exactly(seed, patients, messages, shares):
    """Length and shares hold for any numbers: rounded to whole messages, off by at most the few that a feed must begin with."""
    uncovered, malformed, duplicate = shares
    produced = list(Region(seed, patients, messages, uncovered, malformed, duplicate))
    kinds = Counter(
        "malformed" if m.kind.startswith("malformed/") else "duplicate" if m.outcome is Outcome.DUPLICATE
        else "covered" if m.outcome is Outcome.STORED else "uncovered"
        for m in produced
    )  # fmt: skip

    assert len(produced) == messages
    assert abs(kinds["uncovered"] - round(messages * uncovered / 100)) <= 2
    assert abs(kinds["malformed"] - round(messages * malformed / 100)) <= 2
    assert abs(kinds["duplicate"] - round(messages * duplicate / 100)) <= 2


def test_shares_of_a_long_feed(feed):
    """5 % uncovered, 3 % malformed, 1 % repeated, of 3,000 messages; both sorts of uncovered events occur."""
    kinds = Counter((m.outcome, m.kind.startswith("malformed/")) for m in feed)

    assert kinds[Outcome.DEAD, True] == 90
    assert kinds[Outcome.DUPLICATE, False] == 30
    assert kinds[Outcome.DEAD, False] + kinds[Outcome.FILTERED, False] == 150
    assert min(kinds[Outcome.DEAD, False], kinds[Outcome.FILTERED, False]) > 30


def test_truth_counts_the_messages(feed):
    """The truth counts each message of the feed once, under its kind and outcome."""
    truth = region().truth()

    counted = Counter((outcome, kind) for outcome, kinds in truth.counts.items() for kind in kinds.elements())
    assert counted == Counter((message.outcome, message.kind) for message in feed)
    assert sum(truth.total(outcome) for outcome in Outcome) == len(feed)
    json.dumps(truth.as_json())


def primary(message: Message, field: int = 3, segment: str = "PID") -> str:
    """The identifier in PID-3 (or MRG-1) that is not the region's own number."""
    pid = message.segment(segment)
    for repetition in range(1, len(pid.repetitions(field)) + 1):
        if pid.get(field, 4, 1, repetition) != tables().national.name:
            return pid.get(field, 1, 1, repetition)
    raise AssertionError("no record number")


def owner(message: SynthMessage, parsed: Message) -> str:
    """The site that issued the number: the sender, save for the laboratory, which uses the hospitals' authorities."""
    authority = parsed.segment("PID").get(3, 4)
    by_authority = {facility.authority: site for site, facility in tables().facilities.items()}
    return by_authority[authority] if message.site == tables().laboratory.site else message.site


def test_truth_knows_exactly_the_records_of_the_covered_messages(stored):
    """Every record that a covered message tells of belongs to one person of the truth, and no other record does."""
    told = {(owner(m, parsed), primary(parsed)) for m, parsed in stored}
    truth = region().truth()
    known = [(identity.site, identity.identifier) for records in truth.people.values() for identity in records]

    assert len(known) == len(set(known))
    assert told | {(merge.subsumed.site, merge.subsumed.identifier) for merge in truth.merges} == set(known)


def test_truth_knows_the_region_wide_numbers(stored):
    """A region-wide number is told of one person only, the truth's; its check digit is right."""
    truth = region().truth()
    person_of = {(i.site, i.identifier): person for person, records in truth.people.items() for i in records}
    told: dict[str, set[int]] = {}
    for message, parsed in stored:
        pid = parsed.segment("PID")
        for repetition in range(1, len(pid.repetitions(3)) + 1):
            if pid.get(3, 4, 1, repetition) == tables().national.name:
                person = person_of[owner(message, parsed), primary(parsed)]
                told.setdefault(pid.get(3, 1, 1, repetition), set()).add(person)

    assert {number: min(people) for number, people in told.items()} == {v: k for k, v in truth.national.items()}
    assert all(len(people) == 1 for people in told.values())
    for number in told:
        doubled = [int(d) * (1 + (i % 2 == 0)) for i, d in enumerate(number)]
        assert sum(sum(divmod(value, 10)) for value in doubled) % 10 == 0


def test_merges_are_in_the_feed_and_final(stored):
    """Each merge of the truth is an A40 of the feed; its subsumed number was in use before and is never used again."""
    truth = region().truth()
    found, last_use = [], {}
    for message, parsed in stored:
        last_use[owner(message, parsed), primary(parsed)] = message.event_time
        if message.kind == "ADT^A40":
            found.append((message.site, primary(parsed), primary(parsed, 1, "MRG"), message.event_time))

    assert len(found) > 5
    assert found == [
        (m.survivor.site, m.survivor.identifier, m.subsumed.identifier, m.event_time) for m in truth.merges
    ]
    assert all(last_use[m.subsumed.site, m.subsumed.identifier] < m.event_time for m in truth.merges)
    assert all(m.survivor in truth.people[m.person] and m.subsumed in truth.people[m.person] for m in truth.merges)


def test_time_never_falls(feed):
    """Event times rise along the feed, and strictly so from covered message to covered message of one record."""
    times = [message.event_time for message in feed]
    by_key: dict[bytes, list[int]] = {}
    for message in feed:
        if message.outcome is Outcome.STORED:
            by_key.setdefault(message.key, []).append(message.event_time)

    assert times == sorted(times)
    assert all(a < b for series in by_key.values() for a, b in itertools.pairwise(series))


def test_control_ids_are_unique(feed):
    """No two messages of a sender share MSH-10, save those that repeat one another byte for byte."""
    contents: dict[tuple[str, str], set[bytes]] = {}
    for message in feed:
        if not message.kind.startswith("malformed/"):
            control_id = parse(message.content).header.control_id
            contents.setdefault((message.site, control_id), set()).add(message.content)

    assert all(len(same) == 1 for same in contents.values())
    assert sum(message.outcome is Outcome.DUPLICATE for message in feed) == len(feed) - len(
        {(message.site, message.content) for message in feed}
    )


def test_malformed_messages_cannot_be_read_or_name_nobody(feed):
    """Each malformed kind is refused by the reader, or names no patient of an authority of its site."""
    refused: dict[str, set[str]] = {}
    for message in feed:
        if message.kind.startswith("malformed/"):
            reason = message.kind.removeprefix("malformed/")
            try:
                parsed = parse(message.content)
            except BridgeError as error:
                refused.setdefault(reason, set()).add(error.code)
            else:
                pid = parsed.segment("PID")
                assert pid is None or pid.get(3) is None or pid.get(3, 4) == "ELSEWHERE"

    unreadable = {
        "not-hl7", "msh-truncated", "charset-invalid", "charset-unsupported", "delimiters-invalid", "several-messages",
    }  # fmt: skip
    assert refused == {reason: {reason} for reason in unreadable}
    assert {"malformed/patient-missing", "malformed/patient-without-identifier", "malformed/foreign-merge"} <= {
        message.kind for message in feed
    }


def test_all_that_the_road_needs_occurs(stored):
    """Stays, results of every type and status, thin PIDs, nulls, newborns, names beyond ASCII: all are in the feed."""
    kinds = {message.kind for message, _ in stored}
    observations = [obx for _, parsed in stored for obx in parsed.all("OBX")]
    pids = [parsed.segment("PID") for _, parsed in stored]

    assert kinds == COVERED
    assert {obx.get(2) for obx in observations} >= {"NM", "SN", "CE", "CWE", "FT", "TX"}
    assert {parsed.segment("OBR").get(25) for _, parsed in stored if parsed.segment("OBR")} == {"P", "F", "C"}
    assert {obx.get(11) for obx in observations} == {"P", "F", "C"}
    assert any(pid.get(14) is NULL for pid in pids)
    assert any(pid.field_count == 8 for pid in pids)
    assert any(str(pid.get(5, 2)).startswith("Baby ") for pid in pids)
    assert any(not str(pid.get(5, 1)).isascii() for pid in pids)
    assert any(pid.get(25) for pid in pids)


def test_results_keep_their_numbers_from_preliminary_to_corrected(stored):
    """Reports of one filler number share placer, panel and patient; their status only rises, their time too."""
    ranks = {"P": 0, "F": 1, "C": 2}
    series: dict[str, list[tuple[str, str, str, int, str]]] = {}
    for _, parsed in stored:
        obr = parsed.segment("OBR")
        if obr is not None:
            told = (obr.get(2), obr.get(4), primary(parsed), ranks[obr.get(25)], obr.get(22))
            series.setdefault(obr.get(3), []).append(told)

    assert any([report[3] for report in reports] == [0, 1, 2] for reports in series.values())
    for reports in series.values():
        assert len({report[:3] for report in reports}) == 1
        assert all(a[3] < b[3] and a[4] < b[4] for a, b in itertools.pairwise(reports))


def test_visits_begin_before_they_move_and_end(stored):
    """PV1-19 names one record; nothing is told of a visit before A01 or A04 opened it; A13 follows A03."""
    seen: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for message, parsed in stored:
        pv1 = parsed.segment("PV1")
        if pv1 is not None:
            patient, kinds = seen.setdefault((message.site, pv1.get(19)), (primary(parsed), []))
            kinds.append(message.kind)
            assert patient == primary(parsed)

    assert all(kinds[0] in ("ADT^A01", "ADT^A04") for _, kinds in seen.values())
    assert all("ADT^A03" in kinds[: kinds.index("ADT^A13")] for _, kinds in seen.values() if "ADT^A13" in kinds)
    assert any(kinds.count("ADT^A03") == 2 for _, kinds in seen.values())


def test_everyone_appears_in_a_feed_of_ten_messages_a_person():
    """500 people and 5,000 messages: the truth knows all 500, about a third at several facilities."""
    truth = Region(1, 500, 5000).truth()

    assert len(truth.people) == 500
    assert 100 < sum(len({i.site for i in records}) > 1 for records in truth.people.values()) < 250


def test_a_million_people_need_no_memory_of_them():
    """The first messages of a region of a million people come without drawing the million."""
    first = list(itertools.islice(Region(1, 1_000_000, 100_000), 200))

    assert len({message.key for message in first}) > 20


@pytest.mark.parametrize(
    "arguments",
    [(-1, 5, 5), (2**31, 5, 5), (1, 0, 5), (1, 10**7 + 1, 5), (1, 5, -1), (1, 5, 5, -1), (1, 5, 5, 30, 30)],
)
def test_numbers_out_of_range_are_refused(arguments):
    """Numbers that the region cannot hold are an input error with a remedy."""
    with pytest.raises(Incorrect) as error:
        Region(*arguments)

    assert error.value.code == "synth-arguments"
    assert error.value.remedy
