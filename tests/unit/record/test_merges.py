"""Merges take effect in event-time order, whatever order they are learned in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.record.merges import MergeEvent, Merges

RECORDS = range(5)
IDS = {record: f"id-{record}" for record in RECORDS}
events = st.lists(
    st.builds(
        MergeEvent,
        st.sampled_from(RECORDS),
        st.sampled_from(RECORDS),
        st.integers(1, 9),
        st.sampled_from("abc"),
        st.just("north"),
    ).filter(lambda event: event.survivor != event.subsumed),
    max_size=8,
    unique=True,
)


def known(found: list[MergeEvent]) -> Merges:
    merges = Merges()
    merges.add_all(found)
    return merges


def test_the_survivor_replaces_the_subsumed() -> None:
    """As A40 says."""
    merges = known([MergeEvent(1, 2, 5, "a", "north")])

    assert (merges.replaced_by(2, IDS), merges.replaced_by(1, IDS)) == (1, None)
    assert (merges.replaces(1, IDS), merges.replaces(2, IDS)) == ([2], [])
    assert [merges.concern(record) for record in (1, 2, 3)] == [True, True, False]


@given(events, st.randoms())
def test_the_order_of_learning_does_not_matter(found: list[MergeEvent], random: object) -> None:
    """Promise P3 for assertions."""
    other = list(found)
    random.shuffle(other)  # type: ignore[attr-defined]
    one, two = known(found), known(other)

    for record in RECORDS:
        assert one.replaced_by(record, IDS) == two.replaced_by(record, IDS)
        assert one.replaces(record, IDS) == two.replaces(record, IDS)


@given(events)
def test_both_sides_of_a_link_agree(found: list[MergeEvent]) -> None:
    """Whoever is replaced by a record is among those that it replaces, and nobody else is."""
    merges = known(found)

    for record in RECORDS:
        assert merges.replaces(record, IDS) == [other for other in RECORDS if merges.replaced_by(other, IDS) == record]


@given(events)
def test_the_latest_assertion_about_a_record_decides(found: list[MergeEvent]) -> None:
    """One that survived the last merge it was part of is nobody's past."""
    merges = known(found)

    for record in RECORDS:
        about = [event for event in found if record in (event.survivor, event.subsumed)]
        latest = max(about, key=_order) if about else None
        expected = latest.survivor if latest is not None and latest.subsumed == record else None
        assert merges.replaced_by(record, IDS) == expected


def _order(event: MergeEvent) -> tuple[int, str, str, str]:
    return event.time_us, event.tie, IDS[event.survivor], IDS[event.subsumed]


@given(events)
def test_adding_tells_everyone_who_may_show_otherwise(found: list[MergeEvent]) -> None:
    """What :meth:`add` does not name shows as it did."""
    merges = Merges()
    for event in found:
        before = {record: (merges.replaced_by(record, IDS), merges.replaces(record, IDS)) for record in RECORDS}
        touched = merges.add(event)
        assert merges.knows(event)
        for record in set(RECORDS) - touched:
            assert before[record] == (merges.replaced_by(record, IDS), merges.replaces(record, IDS))


def test_a_body_shows_the_links_and_nothing_of_it_is_kept() -> None:
    """Shown on top of the content, so that an update neither loses nor outlives them."""
    body = {"resourceType": "Patient", "active": True}
    ids = {1: "one", 2: "two"}
    merges = known([MergeEvent(1, 2, 5, "a", "north")])
    link = {"other": {"reference": "Patient/one"}, "type": "replaced-by"}

    assert merges.shown(2, body, ids) == {"resourceType": "Patient", "active": False, "link": [link]}
    assert body == {"resourceType": "Patient", "active": True}
    assert merges.shown(2, body, {}) == body
