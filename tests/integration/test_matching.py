"""Matching through the pipeline: which records are one person's, on record and in step with every change."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bridge.store.rows import Outcome
from tests.integration.hospital import Hospital, hl7, outcomes, pid

AT_HOME = {"sex": "F", "phone": "^^PH^^^^0201234567", "address": "1 Road^^Town^^AB1"}


def north(national: str = "", minute: int = 0, **fields: str) -> bytes:
    return hl7("ADT^A08", pid("1^^^NORTH^MR" + national, **fields), at=f"2024030112{minute:02}00")


def south(national: str = "", minute: int = 0, number: str = "2", **fields: str) -> bytes:
    return hl7("ADT^A08", pid(f"{number}^^^SOUTH^MR" + national, **fields), at=f"2024030112{minute:02}00")


def nhr(value: str) -> str:
    return f"~{value}^^^NHR^NH"


def feed(hospital: Hospital, *, north: bytes | None = None, south: bytes | None = None) -> None:
    for site, content in (("north", north), ("south", south)):
        if content is not None:
            assert outcomes(hospital.feed(content, site=site)) == [Outcome.STORED]


def consent_versions(hospital: Hospital) -> int:
    return sum(row["consent_version"] for row in hospital.rows("person"))


def events(hospital: Hospital) -> list[tuple[str, str]]:
    return [(row["kind"], row["rule"]) for row in hospital.rows("link_event")]


def test_the_same_evidence_identifier_links(hospital: Hospital) -> None:
    """Names may differ; the decision, its rule and its leaf are on record, and the consent version advances."""
    feed(hospital, north=north(nhr("9"), name="Ash^Ida"))
    alone = consent_versions(hospital)
    feed(hospital, south=south(nhr("9"), name="Oak^Eve", birth="19800101"))

    assert hospital.persons() == [{"1", "2"}]
    assert events(hospital) == [("link", "same-evidence-identifier")]
    [event] = hospital.rows("link_event")
    assert event["leaf_id"] in {row["leaf_id"] for row in hospital.rows("leaf_pending")}
    assert event["person_to"] in {row["person_key"] for row in hospital.rows("person_link")}
    assert event["certainty"] == "certain"
    assert consent_versions(hospital) > alone


@pytest.mark.parametrize("shared", ["phone", "address"])
def test_equal_demographics_with_phone_or_address_link(hospital: Hospital, shared: str) -> None:
    """Case, accents and punctuation apart; name, birth date and sex alone are not enough."""
    mine = {"sex": "F", shared: AT_HOME[shared]}
    feed(hospital, north=north(name="Müller-Ash^Ida", **mine), south=south(name="MULLER ASH^IDA", **mine))

    assert hospital.persons() == [{"1", "2"}]
    assert events(hospital) == [("link", f"same-name-birth-sex-{shared}")]


def test_name_birth_and_sex_alone_do_not_link(hospital: Hospital) -> None:
    """Two people may share them."""
    feed(hospital, north=north(sex="F"), south=south(sex="F"))

    assert hospital.persons() == [{"1"}, {"2"}]
    assert events(hospital) == []


def test_conflicting_evidence_forbids_a_link(hospital: Hospital) -> None:
    """Twins in one household: everything equal but the national number."""
    feed(hospital, north=north(nhr("9"), **AT_HOME), south=south(nhr("8"), **AT_HOME))

    assert hospital.persons() == [{"1"}, {"2"}]


def test_a_corrected_identifier_parts_the_records_again(hospital: Hospital) -> None:
    """The evidence is gone, so is the link: an unlink event, a person of its own, and both consent versions advance."""
    feed(hospital, north=north(nhr("9")), south=south(nhr("9"), name="Oak^Eve"))
    before = {row["person_key"]: row["consent_version"] for row in hospital.rows("person")}
    feed(hospital, south=south(nhr("8"), minute=1, name="Oak^Eve"))

    assert hospital.persons() == [{"1"}, {"2"}]
    assert [kind for kind, _ in events(hospital)] == ["link", "unlink"]
    [unlink] = [row for row in hospital.rows("link_event") if row["kind"] == "unlink"]
    after = {row["person_key"]: row["consent_version"] for row in hospital.rows("person")}
    assert after[unlink["person_from"]] > before[unlink["person_from"]]
    assert unlink["person_to"] not in before or after[unlink["person_to"]] > before[unlink["person_to"]]


def test_a_bridge_between_two_groups_joins_and_parts_them(hospital: Hospital) -> None:
    """A record that shares a number with one and phone with another makes all three one, and leaves two when it goes."""
    hospital.feed(hl7("ADT^A08", pid(f"3^^^SOUTH^MR{nhr('9')}", name="Elm^Uma", birth="19900101")), site="south")
    feed(hospital, south=south(**AT_HOME))
    assert hospital.persons() == [{"2"}, {"3"}]
    feed(hospital, north=north(nhr("9"), **AT_HOME))
    assert hospital.persons() == [{"1", "2", "3"}]

    feed(hospital, north=north(nhr("9"), minute=1, **(AT_HOME | {"sex": "M"})))

    assert hospital.persons() == [{"1", "3"}, {"2"}]


def test_persons_do_not_depend_on_the_order_of_arrival(hospitals: Callable[[], Hospital]) -> None:
    """Promise P3: links by identifier and by rule are a function of the records as they stand."""
    messages = [
        ("north", north(nhr("9"), **AT_HOME)),
        ("south", south(**AT_HOME)),
        ("south", south(nhr("9"), number="3", name="Elm^Uma")),
        ("south", south(nhr("7"), number="3", minute=5, name="Elm^Uma")),
    ]
    for order in itertools.permutations(messages):
        hospital = hospitals()
        for site, content in order:
            hospital.feed(content, site=site)

        assert hospital.persons() == [{"1", "2"}, {"3"}]
        hospital.close()


def test_a_merge_survives_the_change_of_what_else_would_link(hospital: Hospital) -> None:
    """An asserted link does not depend on demographics."""
    hospital.feed(hl7("ADT^A08", pid("1^^^NORTH^MR")), hl7("ADT^A08", pid("4^^^NORTH^MR", name="Oak^Eve")))
    hospital.feed(hl7("ADT^A40", pid("1^^^NORTH^MR"), "MRG|4^^^NORTH^MR"))
    hospital.feed(hl7("ADT^A08", pid(f"4^^^NORTH^MR{nhr('5')}", name="Oak^Eva"), at="20240302120000"))

    assert hospital.persons() == [{"1", "4"}]
    subsumed = hospital.key_of(hospital.patient("4"))
    [link] = [row for row in hospital.rows("person_link") if row["record_key"] == subsumed]
    assert (link["certainty"], link["rule"]) == ("asserted", "asserted-merge")


def test_an_update_of_an_unchanged_patient_decides_nothing(hospital: Hospital) -> None:
    """No event, no new consent version, no new person: demographics that matching does not read change nothing there."""
    feed(hospital, north=north(nhr("9")), south=south(nhr("9")))
    before = hospital.rows("link_event"), hospital.rows("person"), hospital.rows("person_link")
    hospital.feed(hl7("ADT^A08", pid(f"1^^^NORTH^MR{nhr('9')}"), "PD1||||D^Who", at="20240301130000"))

    assert (hospital.rows("link_event"), hospital.rows("person"), hospital.rows("person_link")) == before


# two workers at once

PATIENTS = 50


@pytest.mark.ci
def test_two_workers_at_one_new_patient_make_one_record_and_one_person(database_url: str) -> None:
    """Law *Locks*: both see nobody, one waits for the other; nothing is doubled and nobody deadlocks.

    Each round brings one new person to both workers at once: the same record of the north, through two sources, and a
    record of the south by the same national number.
    """
    from bridge.store.migrate import migrate
    from tests.integration.hospital import SITES

    migrate(database_url)
    sites = {**SITES, "north-2": SITES["north"]}
    workers = [Hospital(database_url, sites) for _ in range(2)]
    barrier = threading.Barrier(2)
    failed: list[BaseException] = []
    told: list[Outcome] = []

    def work(worker: Hospital, source: str, extra: str) -> None:
        try:
            for n in range(PATIENTS):
                mine = hl7("ADT^A08", pid(f"N{n}^^^NORTH^MR~E{n}^^^NHR^NH", name=f"Ash^{extra}"))
                other = hl7("ADT^A08", pid(f"S{n}^^^SOUTH^MR~E{n}^^^NHR^NH", name=f"Ash^{extra}"))
                barrier.wait(60)
                if source == "north":
                    told.extend(outcomes(worker.feed(mine, site="north")))
                else:
                    told.extend(outcomes(worker.feed(mine, site="north-2")))
                    told.extend(outcomes(worker.feed(other, site="south")))
        except BaseException as error:  # noqa: BLE001 - the main thread must hear of it
            failed.append(error)
            barrier.abort()

    threads = [
        threading.Thread(target=work, args=arguments)
        for arguments in zip(workers, ("north", "north-2"), ("One", "Two"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert set(told) <= {Outcome.STORED, Outcome.SUPERSEDED}
    judge: Any = workers[0]
    assert len(judge.resources("Patient")) == 2 * PATIENTS
    assert judge.persons() == sorted(({f"N{n}", f"S{n}"} for n in range(PATIENTS)), key=sorted)
    assert judge.rows("dead_letter") == []
    for worker in workers:
        worker.close()


@pytest.mark.ci
def test_two_workers_link_two_new_records_that_match(database_url: str) -> None:
    """Neither sees the other's record when it begins: the blocking keys' locks make the second one look again."""
    from bridge.store.migrate import migrate

    migrate(database_url)
    workers = [Hospital(database_url) for _ in range(2)]
    barrier = threading.Barrier(2)
    failed: list[BaseException] = []

    def work(worker: Hospital, site: str) -> None:
        try:
            for n in range(PATIENTS):
                content = hl7("ADT^A08", pid(f"{site[0]}{n}^^^{site.upper()}^MR", name=f"Ash{n}^Ida", **AT_HOME))
                barrier.wait(60)
                worker.feed(content, site=site)
        except BaseException as error:  # noqa: BLE001 - as above
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=pair) for pair in zip(workers, ("north", "south"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert workers[0].persons() == sorted(({f"n{n}", f"s{n}"} for n in range(PATIENTS)), key=sorted)
    assert workers[0].rows("dead_letter") == []
    for worker in workers:
        worker.close()


def test_link_events_do_not_depend_on_how_messages_fall_into_batches(hospitals: Callable[[], Hospital]) -> None:
    """The first record of a person founds it without a decision; each further one is linked by one event."""
    messages = [hl7("ADT^A08", pid(f"{n}^^^NORTH^MR~9^^^NHR^NH", name="Ash^Ida", **AT_HOME)) for n in range(4)]

    def events(hospital: Hospital) -> list[tuple[object, ...]]:
        return sorted((row["kind"], row["rule"], row["certainty"]) for row in hospital.rows("link_event"))

    together, apart = hospitals(), hospitals()
    together.feed(*messages)
    apart.one_by_one(*messages)

    assert events(together) == events(apart) == [("link", "same-evidence-identifier", "certain")] * 3
