"""Whatever the order in which operations arrive, the resource is the same (laws *Change*, *Order*; promise P3)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.fhir.json import dumps, loads_stored
from bridge.mapping.apply import apply, content_digest
from bridge.mapping.operations import (
    CLEARED,
    Delete,
    IdentityKey,
    Reach,
    Stamp,
    Stored,
    Target,
    TargetReference,
    UnitChange,
    UnitKind,
    Upsert,
)

TARGET = Target((IdentityKey("Encounter", "urn:x", "visit", "1"),))
OTHER = Target((IdentityKey("Patient", "urn:x", "MR", "2"),))

stamps = st.builds(Stamp, st.integers(0, 1), st.integers(0, 5), st.sampled_from(["a", "b"]))
scalars = st.sampled_from(["x", "y", {"reference": TargetReference(OTHER)}]) | st.just(CLEARED)
lists = st.lists(st.sampled_from(["i", "j", "k"]), min_size=1, max_size=2) | st.just(CLEARED)
choices = st.sampled_from([{"valueString": "v"}, {"valueInteger": 1}]) | st.just(CLEARED)
statuses = st.sampled_from(["planned", "in-progress", "finished", "cancelled"])

units = st.one_of(
    st.builds(UnitChange, st.sampled_from(["class", "period.start", "period.end"]), st.just(UnitKind.ELEMENT), scalars),
    st.builds(UnitChange, st.sampled_from(["class", "priority"]), st.just(UnitKind.FILL), st.sampled_from(["f", "g"])),
    st.builds(UnitChange, st.just("value[x]"), st.just(UnitKind.ELEMENT), choices),
    st.builds(UnitChange, st.sampled_from(["name#A.05", "name#A.09", "name"]), st.just(UnitKind.ELEMENT), lists),
    st.builds(UnitChange, st.sampled_from(["contact", "name"]), st.just(UnitKind.GROUP), lists),
    st.builds(UnitChange, st.just("status"), st.just(UnitKind.PROGRESS), statuses),
    st.builds(UnitChange, st.just("status"), st.just(UnitKind.RESET), statuses),
    st.builds(UnitChange, st.just("status"), st.just(UnitKind.FILL), statuses),
)


@st.composite
def upserts(draw):
    changes = {(unit.path, unit.kind): unit for unit in draw(st.lists(units, max_size=4))}
    return Upsert(
        TARGET,
        draw(stamps),
        draw(st.sampled_from(["north", "south"])),
        tuple(changes.values()),
        draw(st.sampled_from(Reach)),
        draw(st.booleans()),
    )


operations = st.one_of(upserts(), upserts(), upserts(), st.builds(Delete, st.just(TARGET), stamps, st.just("north")))


def through(sequence):
    """The resource after the operations, its state passing through JSON as it does in the store."""
    stored = None
    for operation in sequence:
        changed = apply(operation, stored, lambda target: f"id-of-{target.keys[0].value}")
        if changed is not None:
            body = loads_stored(dumps(changed.body)) if changed.body is not None else None
            stored = Stored(body, loads_stored(dumps(changed.state)))
    return stored.body if stored is not None else None


@settings(max_examples=400, deadline=None)
@given(st.lists(operations, max_size=7).flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))))
def test_order_of_arrival_does_not_matter(case):
    """Any permutation of any operations gives the same body."""
    sequence, permutation = case

    assert through(sequence) == through(permutation)


@settings(max_examples=100, deadline=None)
@given(st.lists(operations, max_size=6))
def test_repetition_does_not_matter(sequence):
    """Operations applied twice give what they give once, and the second time nothing changes."""
    stored = None
    for operation in sequence:
        stored = apply(operation, stored, lambda target: "id") or stored

    assert all(apply(operation, stored, lambda target: "id") is None for operation in sequence)
    assert through(sequence + sequence) == through(sequence)


@settings(max_examples=100, deadline=None)
@given(st.lists(upserts(), min_size=1, max_size=6))
def test_only_a_deletion_leaves_no_resource(sequence):
    """Whatever is asserted of something makes it: a version without a body says that it was deleted."""
    assert through(sequence) is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(upserts(), min_size=1, max_size=4))
def test_the_digest_knows_content_only(sequence):
    """Id, version and the order of members do not change the digest; any other change does."""
    body = through([Upsert(TARGET, Stamp(1, 9, ""), "north", (UnitChange("class", UnitKind.ELEMENT, "z"),)), *sequence])
    assert body is not None
    versioned = {
        **dict(reversed(body.items())),
        "id": "1",
        "meta": {"versionId": "7", "lastUpdated": "2026-01-01T00:00:00Z"},
    }

    assert content_digest(versioned) == content_digest(body)
    assert content_digest({**body, "language": "xx"}) != content_digest(body)
