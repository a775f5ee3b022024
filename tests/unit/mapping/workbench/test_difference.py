"""What another set of mappings makes of the same message."""

from __future__ import annotations

import pytest

from bridge.errors import Incorrect
from bridge.mapping.operations import (
    Conversion,
    IdentityKey,
    Stamp,
    Target,
    TargetReference,
    UnitChange,
    UnitKind,
    Upsert,
)
from bridge.mapping.workbench.difference import Change, Kind, Sums, changes

REFUSED = Incorrect("unknown-event", "no")


def target(kind, value):
    return Target((IdentityKey(kind, "urn:x", "MR", value),))


def conversion(*resources, mapped=1, unmapped=0):
    """Of resources as (type, name, elements)."""
    operations = tuple(
        Upsert(
            target(kind, name),
            Stamp(1, 1, ""),
            "site",
            tuple(UnitChange(path, UnitKind.ELEMENT, value) for path, value in elements.items()),
        )
        for kind, name, elements in resources
    )
    return Conversion("ADT^A01", "visit", 1, None, operations, mapped=mapped, unmapped=unmapped)


OLD = conversion(
    ("Practitioner", "D", {"active": True}),
    ("Patient", "P", {"gender": "male", "name": [{"family": "Ash", "given": ["Ida", "Kay"]}]}),
    ("Encounter", "E", {"subject": {"reference": TargetReference(target("Patient", "P"))}}),
)


def test_a_message_does_not_differ_from_itself():
    """Nor where its resources come in another order, or the items of a list do."""
    turned = conversion(
        ("Patient", "P", {"name": [{"given": ["Kay", "Ida"], "family": "Ash"}], "gender": "male"}),
        ("Practitioner", "D", {"active": True}),
        ("Encounter", "E", {"subject": {"reference": TargetReference(target("Patient", "P"))}}),
    )

    assert changes(OLD, OLD) == changes(OLD, turned) == []


def test_elements_and_resources_that_differ_are_named():
    """Each with how it differs, and with the values that are on one side alone."""
    new = conversion(
        ("Patient", "P", {"gender": "other", "name": [{"family": "Ash", "given": ["Ida"]}], "active": True}),
        ("Encounter", "E", {}),
        ("Encounter", "F", {"status": "planned"}),
    )

    assert sorted(changes(OLD, new)) == [
        Change("Encounter[1]", "subject.reference", Kind.REMOVED, ("urn:uuid:00000000-0000-8000-8000-000000000002",)),
        Change("Encounter[2]", "", Kind.ADDED),
        Change("Patient[1]", "active", Kind.ADDED, (), (True,)),
        Change("Patient[1]", "gender", Kind.CHANGED, ("male",), ("other",)),
        Change("Patient[1]", "name.given", Kind.CHANGED, ("Kay",), ()),
        Change("Practitioner[1]", "", Kind.REMOVED),
    ]


def test_sums_tell_in_how_many_messages_an_element_differs():
    """Once a message, however many resources of it do."""
    sums = Sums()
    two = conversion(("Observation", "1", {"status": "final"}), ("Observation", "2", {"status": "final"}))
    new = conversion(
        ("Observation", "1", {"status": "amended"}), ("Observation", "2", {"status": "amended"}), unmapped=2
    )
    for _ in range(3):
        sums.add(two, new)
    sums.add(OLD, OLD)

    said = sums.described()
    assert (said["messages"], said["changed"]) == (4, 3)
    assert said["elements"] == [{"element": "Observation.status", "change": "changed", "messages": 3}]
    assert said["inputs"]["new"]["unmapped"] == 6
    assert list(sums.lines()) == [
        "4 messages: 3 changed",
        "  Observation.status changed in 3",
        "elements of input unmapped: 0 -> 6",
    ]


@pytest.mark.parametrize(
    ("before", "after", "key"), [(OLD, REFUSED, "refused_by_new"), (REFUSED, OLD, "refused_by_old")]
)
def test_a_message_that_only_one_refuses_differs(before, after, key):
    """By the code of the refusal."""
    sums = Sums()
    assert sums.add(before, after) == []

    assert sums.differs
    assert sums.described()[key] == {"unknown-event": 1}


def test_what_both_refuse_does_not_differ():
    """Whatever the mappings are."""
    sums = Sums()
    sums.add(REFUSED, REFUSED)

    assert not sums.differs
