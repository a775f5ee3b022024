"""A key that more records share than the cap is no evidence for any of them, whatever order they came in (promise P3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

import tests.integration.hospital as made
from tests.integration.hospital import Hospital, hl7, pid

CAP = 3
SHARED = "^^PH^^^^0201234567"
OTHER = "^^PH^^^^0999999999"


@pytest.fixture(autouse=True)
def small_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(made.model(), key_cap=CAP)
    monkeypatch.setattr(made, "model", lambda: model)


def registered(number: int, day: int = 1, phone: str = SHARED, evidence: str = "") -> bytes:
    identifiers = f"{number}^^^NORTH^MR" + (f"~{evidence}^^^NHR^NH" if evidence else "")
    return hl7("ADT^A08", pid(identifiers, sex="F", phone=phone), at=f"202403{day:02}120000", control=f"{number}-{day}")


def apart(count: int) -> list[set[str]]:
    return [{str(number)} for number in range(count)]


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_the_record_that_reaches_the_cap_parts_those_before_it(hospitals: Callable[[], Hospital], batch: int) -> None:
    """However many come at once, in this order and the other."""
    messages = [registered(number) for number in range(CAP + 2)]
    for order in (messages, messages[::-1]):
        hospital = hospitals()
        for first in range(0, len(order), batch):
            hospital.feed(*order[first : first + batch])
        assert hospital.persons() == apart(CAP + 2)


def test_the_record_that_leaves_joins_those_who_stay(hospitals: Callable[[], Hospital]) -> None:
    """Below the cap the key is evidence again, as if the other had never shared it."""
    messages = [*(registered(number) for number in range(CAP + 1)), registered(CAP, 2, OTHER)]
    for order in itertools.islice(itertools.permutations(messages), 0, None, 17):
        hospital = hospitals()
        hospital.one_by_one(*order)
        assert hospital.persons() == [{"0", "1", "2"}, {"3"}]


def test_a_capped_key_links_nobody_in_a_person_that_falls_apart(hospitals: Callable[[], Hospital]) -> None:
    """The key is over the cap although it is not the one that changed."""
    hospital = hospitals()
    hospital.feed(*(registered(number) for number in range(2, CAP + 2)))
    hospital.feed(registered(0, evidence="9"), registered(1, evidence="9"))
    hospital.feed(hl7("ADT^A08", pid("hub^^^NORTH^MR~9^^^NHR^NH", name="Oak^Eve"), at="20240301120000"))
    assert hospital.persons() == [*([{"0", "1", "hub"}]), *({str(n)} for n in range(2, CAP + 2))]

    hospital.feed(registered(0, 2), registered(1, 2))
    assert hospital.persons() == [*apart(CAP + 2), {"hub"}]
