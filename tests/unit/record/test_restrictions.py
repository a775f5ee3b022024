"""Restrictions close whoever is named, now or later, under names that tell nobody anything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.mapping.operations import IdentityKey
from bridge.record.restrictions import adopt, identity_mac, restrict
from bridge.store import identity, restrictions
from bridge.store.database import Database

KEY = b"k" * 32
name_texts = st.text(max_size=8)


@given(name_texts, name_texts, name_texts, name_texts)
def test_a_digest_is_of_namespace_and_value_under_a_key(namespace: str, value: str, other: str, kind: str) -> None:
    """The type of the identifier is left out: senders write it as they like."""
    mine = identity_mac(IdentityKey("Patient", namespace, "MR", value), KEY)

    assert mine == identity_mac(IdentityKey("Patient", namespace, kind, value), KEY)
    assert mine != identity_mac(IdentityKey("Patient", namespace, "MR", value), b"o" * 32)
    assert (mine == identity_mac(IdentityKey("Patient", namespace, "MR", other), KEY)) == (value == other)
    assert len(mine) == 32


def test_known_patients_are_closed_at_once_and_others_when_they_come(store: Database) -> None:
    """Each name closes its patient: by key where it is known, else by digest until it is adopted."""
    known = IdentityKey("Patient", "urn:n", "MR", "1")
    unknown = IdentityKey("Patient", "urn:n", "MR", "2")
    with store.transaction() as txn:
        identity.insert(txn, [(known, 11)])
        assert restrict(txn, [known._replace(identifier_type=""), unknown], "test", KEY, dead_key=7) == 2
    with store.transaction(read_only=True) as txn:
        held = restrictions.of_dead_letters(txn, [7])
    assert {(row.patient_key, row.identity_mac) for row in held} == {(11, None), (None, identity_mac(unknown, KEY))}

    with store.transaction() as txn:
        adopt(txn, [(unknown, 12), (IdentityKey("Patient", "urn:n", "MR", "3"), 13)], KEY)
    with store.transaction(read_only=True) as txn:
        closed = restrictions.open_for(txn, [11, 12, 13])
    assert [len(closed[patient]) for patient in (11, 12, 13)] == [1, 1, 0]


def test_one_name_in_many_types_waits_once(store: Database) -> None:
    """The tolerant scan tries every type; the digest is the same."""
    with store.transaction() as txn:
        names = [IdentityKey("Patient", "urn:n", kind, "2") for kind in ("", "MR", "PI")]
        assert restrict(txn, names, "test", KEY) == 1


def test_naming_nobody_writes_nothing(store: Database) -> None:
    """The caller must raise the alarm."""
    with store.transaction() as txn:
        assert restrict(txn, [], "test", KEY) == 0
