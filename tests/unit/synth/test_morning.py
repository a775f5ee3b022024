"""The hospital's morning: what the demonstration rests on is in its messages."""

from __future__ import annotations

import itertools

import pytest

from bridge.hl7v2.message import NULL, Message, parse
from bridge.synth import morning
from bridge.synth.events import Outcome
from bridge.synth.feed import SynthMessage
from bridge.synth.tables import read_data, tables

PERSON = morning.PERSON


@pytest.fixture(scope="module")
def stored() -> list[tuple[SynthMessage, Message]]:
    return [(m, parse(m.content)) for m in morning.messages() if m.outcome in (Outcome.STORED, Outcome.DUPLICATE)]


def of_person(stored, site: str) -> list[tuple[SynthMessage, Message]]:
    _, identifier = PERSON.records[site]
    return [(m, parsed) for m, parsed in stored if m.site == site and identifier.encode() in m.key]


def test_the_morning_is_always_the_same():
    """Two plays give the same 60 to 120 messages, of three hospitals, in order of time."""
    messages = morning.messages()
    times = [message.event_time for message in messages]

    assert messages == morning.messages()
    assert 60 <= len(messages) <= 120
    assert {message.site for message in messages} == set(morning.SITES)
    assert times == sorted(times)
    assert len(set(times)) == len(times) - 1  # the one sent twice


def test_the_person_is_registered_where_the_constants_say(stored):
    """Each of her records is registered, with the region's number at two hospitals and without it at the third."""
    national = []
    for site in morning.SITES:
        (message, parsed), *_ = of_person(stored, site)
        pid = parsed.segment("PID")
        national.append(PERSON.national[1] in pid.field(3))
        assert message.kind == "ADT^A04"
        assert pid.get(7) == PERSON.birth_date.replace("-", "")
        assert pid.get(8) == PERSON.gender[0].upper()
        assert PERSON.records[site][0] == f"urn:oid:{tables().facilities[site].oid}"

    assert national == [True, True, False]
    assert PERSON.national[0] == f"urn:oid:{tables().national.oid}"


def test_the_third_registration_matches_by_name_birth_date_sex_and_phone(stored):
    """Without the region's number she can be recognized by her full name and the digits of her phone."""
    pid = of_person(stored, "rivermoor")[0][1].segment("PID")

    assert (pid.get(5, 1), pid.get(5, 2)) == (PERSON.family, PERSON.given)
    assert "".join(filter(str.isdigit, str(pid.get(13, 12)))) == PERSON.phone
    assert not PERSON.family.isascii()


def test_her_stay_goes_from_emergency_to_discharge(stored):
    """At St Olave's: registered, admitted, transferred, moved house, discharged; one visit."""
    stay = [(m.kind, parsed.segment("PV1").get(19)) for m, parsed in of_person(stored, "st-olave") if "ADT" in m.kind]

    assert [kind for kind, _ in stay] == ["ADT^A04", "ADT^A01", "ADT^A02", "ADT^A08", "ADT^A03"]
    assert len({visit for _, visit in stay}) == 1


def test_her_creatinine_is_preliminary_final_corrected(stored):
    """One order's creatinine is told three times, with the values and unit that the constants name."""
    told = [
        (parsed.segment("OBR").get(3), obx.get(11), obx.get(5), obx.get(6))
        for _, parsed in of_person(stored, PERSON.result_site)
        for obx in parsed.all("OBX")
        if obx.get(3) == PERSON.creatinine
    ]

    assert len({filler for filler, *_ in told}) == 1
    assert [(status, value) for _, status, value, _ in told] == list(zip("PFC", PERSON.values, strict=True))
    assert {unit for *_, unit in told} == {PERSON.unit}


def test_one_malformed_one_uncovered_one_filtered_one_repeated():
    """The truth expects two dead letters, one filtered message and one duplicate; the rest is stored."""
    truth = morning.truth()

    assert dict(truth.counts[Outcome.DEAD]) == {"malformed/msh-truncated": 1, "DFT^P03": 1}
    assert dict(truth.counts[Outcome.FILTERED]) == {"SIU^S12": 1}
    assert truth.total(Outcome.DUPLICATE) == 1
    assert truth.total(Outcome.STORED) == len(morning.messages()) - 4


def test_the_truth_knows_the_person_and_the_merge(stored):
    """All her records are one person's; the merge is as the constant says, and the subsumed number rests from then on."""
    truth = morning.truth()
    site, system, subsumed, survivor = morning.MERGED
    hers = {(record.site, record.identifier) for record in truth.people[0]}
    uses = [m.event_time for m, parsed in stored if m.site == site and parsed.segment("PID").get(3) == subsumed]
    (merge,) = truth.merges

    assert hers == {(where, identifier) for where, (_, identifier) in PERSON.records.items()}
    assert truth.national[0] == PERSON.national[1]
    assert (merge.subsumed.identifier, merge.survivor.identifier) == (subsumed, survivor)
    assert truth.systems[merge.survivor.authority] == system
    assert uses
    assert max(uses) < merge.event_time


def test_the_rest_of_the_morning_happens(stored):
    """Admission and discharge cancelled, a newborn named, a phone taken back, father and son of one name."""
    kinds = {message.kind for message, _ in stored}
    pids = [parsed.segment("PID") for _, parsed in stored]
    hartleys = {(pid.get(5, 2), pid.get(5, 4), pid.get(7)) for pid in pids if pid.get(5) == "Hartley"}

    assert {"ADT^A11", "ADT^A13"} <= kinds
    assert any(pid.get(5, 2) == "Baby Girl" and pid.get(21) == "Q1004120" for pid in pids)
    assert any(pid.get(13) is NULL for pid in pids)
    assert hartleys == {("Thomas", "Sr", "19480215"), ("Thomas", "Jr", "19761103")}


def test_numbers_of_the_region_are_right_and_unique():
    """Every hand-written number of the region has its check digit; no record number is given twice at a hospital."""
    people = read_data("morning.yaml")["people"].values()
    numbers = [person["national"] for person in people if "national" in person]
    records = list(itertools.chain.from_iterable(person["records"].items() for person in people))

    assert len(set(numbers)) == len(numbers)
    assert len(set(records)) == len(records)
    for number in numbers:
        doubled = [int(digit) * (1 + (index % 2 == 0)) for index, digit in enumerate(number)]
        assert sum(sum(divmod(value, 10)) for value in doubled) % 10 == 0
