"""Restrictions by hand: seen without health data, lifted once, with who and why, and felt by whoever asks next."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from bridge.pipeline.restrictions import lift
from bridge.store import restrictions, schema
from tests.integration.hospital import Hospital, hl7, pid, pv1
from tests.integration.test_commands import SECRETS, Bridge, bridge

__all__ = ["bridge"]

BEFORE, LATER = "20231101120000", "20231102120000"  # one A08 and a later one


def stored(told: Bridge) -> dict[str, Any]:
    """A message that is stored, and closes its patient by a segment that no mapping covers; the restriction."""
    told.feed(hl7("ADT^A08", pid("Q-4711^^^NORTH^MR"), pv1("V1"), "CON|1|X", at=BEFORE))
    assert told.said("deadletters", "list")["dead_letters"] == []
    [restriction] = told.said("restrictions", "list")["restrictions"]
    assert isinstance(restriction, dict)
    return restriction


def versions(told: Bridge) -> list[int]:
    return [number for (number,) in told.rows(sa.select(schema.person.c.consent_version))]


def test_a_restriction_of_a_stored_message_is_listed_without_what_it_says(bridge: Bridge) -> None:
    """Its patient by resource id; no dead letter."""
    restriction = stored(bridge)

    assert restriction["code"] == "consent-segment-unmapped"
    assert restriction["patient"] == bridge.patient()
    assert restriction["dead_letter"] is None
    said = bridge("restrictions", "list")[1]
    assert bridge.patient() in said
    assert "stored message" in said
    assert not any(secret in said for secret in SECRETS)


def test_lifting_says_who_and_why_and_advances_the_consent_version(bridge: Bridge) -> None:
    """Whoever remembers what was permitted asks again."""
    key = str(stored(bridge)["key"])
    before = versions(bridge)

    assert bridge("restrictions", "lift", key, "--reason", "seen to", "--by", "officer")[0] == 0

    table = schema.restriction.c
    assert bridge.rows(sa.select(table.state, table.lifted_by, table.reason)) == [("lifted", "officer", "seen to")]
    assert versions(bridge) == [number + 1 for number in before]
    assert bridge("restrictions", "list")[1].strip() == "none"
    assert bridge("fsck")[0] == 0


def test_the_same_message_closes_the_patient_anew(bridge: Bridge) -> None:
    """A lifted restriction is no leave for the next one."""
    bridge("restrictions", "lift", str(stored(bridge)["key"]), "--reason", "seen to")

    bridge.feed(hl7("ADT^A08", pid("Q-4711^^^NORTH^MR"), pv1("V1"), "CON|1|Y", at=LATER))

    assert len(bridge.said("restrictions", "list")["restrictions"]) == 1


@pytest.mark.parametrize(
    ("again", "code", "exit_code"), [(True, "restriction-lifted", 5), (False, "restriction-absent", 4)]
)
def test_what_is_not_open_can_not_be_lifted(bridge: Bridge, again: bool, code: str, exit_code: int) -> None:
    """Twice would write over who did it."""
    key = str(stored(bridge)["key"])
    bridge("restrictions", "lift", key, "--reason", "seen to", "--by", "first")

    answer = bridge("restrictions", "lift", key if again else "999", "--reason", "x", "--by", "second")

    assert answer[0] == exit_code
    assert code in answer[2]
    assert bridge.rows(sa.select(schema.restriction.c.lifted_by)) == [("first",)]


def test_a_restriction_of_an_open_dead_letter_goes_with_that_one(bridge: Bridge) -> None:
    """Its patient need not be known; only resolving or replaying the message opens her."""
    bridge.feed(hl7("ADT^A08", pid("2^^^WEST^MR"), pv1("V1"), "CON|1|C^x", at=BEFORE))
    [letter] = bridge.said("deadletters", "list")["dead_letters"]
    [restriction] = bridge.said("restrictions", "list")["restrictions"]
    assert (restriction["patient"], restriction["dead_letter"]) == (None, letter["id"])
    assert "patient not known yet" in bridge("restrictions", "list")[1]

    code, _, error = bridge("restrictions", "lift", str(restriction["key"]), "--reason", "x")
    assert code == 5
    assert "restriction-of-dead-letter" in error

    assert bridge("deadletters", "resolve", str(letter["id"]), "--reason", "seen to")[0] == 0
    assert bridge.said("restrictions", "list")["restrictions"] == []


def test_pages_go_on_where_the_last_one_ended(bridge: Bridge) -> None:
    """Latest first; no key comes twice."""
    bridge.feed(*(hl7("ADT^A08", pid(f"{n}^^^NORTH^MR"), pv1(f"V{n}"), "CON|1|X", at=BEFORE) for n in range(3)))

    first = [r["key"] for r in bridge.said("restrictions", "list", "--limit", "2")["restrictions"]]
    rest = [r["key"] for r in bridge.said("restrictions", "list", "--before", str(first[-1]))["restrictions"]]

    assert len(first) == 2
    assert sorted({*first, *rest}, reverse=True) == [*first, *rest]
    assert len(rest) == 1


def test_both_databases_list_and_lift_alike(hospital: Hospital) -> None:
    """A restriction that waits for its patient is listed without one."""
    hospital.feed(hl7("ADT^A08", pid(), "CON|1|X"), hl7("ADT^A08", pid("2^^^WEST^MR"), "CON|1|X"))
    with hospital.database.transaction(read_only=True) as txn:
        listed = restrictions.list_open(txn)
    [(known, patient)] = [(row.restriction_key, fhir_id) for row, fhir_id in listed if fhir_id]
    assert patient == hospital.one("Patient")["id"]
    assert len(listed) > 1

    lift(hospital.database, known, by="officer", reason="seen to")

    with hospital.database.transaction(read_only=True) as txn:
        left = restrictions.list_open(txn)
    assert left == [(row, fhir_id) for row, fhir_id in listed if row.restriction_key != known]
