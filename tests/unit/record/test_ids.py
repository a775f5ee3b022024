"""FHIR ids and lock slots: functions of names and a key, and of nothing else."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from bridge.fhir.types import is_id
from bridge.mapping.operations import IdentityKey
from bridge.record.ids import length_prefixed, lock_slot, mint, uuid_text

KEY, OTHER = b"k" * 32, b"o" * 32
names = st.builds(IdentityKey, *[st.text(max_size=8)] * 4)


@given(names)
def test_an_id_is_a_uuid_of_version_8(name: IdentityKey) -> None:
    """RFC 9562 section 5.8, and an id as FHIR wants it."""
    made = mint(name, KEY)

    assert is_id(made)
    assert str(UUID(made)) == made
    assert (UUID(made).version, UUID(made).variant) == (8, "specified in RFC 4122")


@given(names, names)
def test_one_name_one_id(left: IdentityKey, right: IdentityKey) -> None:
    """The same name always mints the same id; another name, wherever its parts are cut, another one.

    Locks leave the type of identifier out, as restrictions do, so that these two meet.
    """
    assert (mint(left, KEY) == mint(right, KEY)) == (left == right)
    alike = left._replace(identifier_type="") == right._replace(identifier_type="")
    assert (lock_slot(left, KEY) == lock_slot(right, KEY)) == alike


@given(names)
def test_without_the_key_nobody_guesses_an_id(name: IdentityKey) -> None:
    """Another key gives another id: a table of all MRNs does not lead back."""
    assert mint(name, KEY) != mint(name, OTHER)
    assert lock_slot(name, KEY) != lock_slot(name, OTHER)


@given(names)
def test_a_lock_slot_is_a_signed_64_bit_number(name: IdentityKey) -> None:
    """As PostgreSQL's bigint."""
    assert -(2**63) <= lock_slot(name, KEY) < 2**63


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_no_two_lists_of_parts_look_alike(left: list[str], right: list[str]) -> None:
    """The length stands before each part."""
    assert (length_prefixed(*left) == length_prefixed(*right)) == (left == right)


@given(st.binary(min_size=16, max_size=16), st.sampled_from([4, 8]))
def test_uuid_text_agrees_with_the_library(octets: bytes, version: int) -> None:
    """Version and variant are set in the same bits, everything else is kept."""
    made = UUID(uuid_text(octets, version))
    kept = (1 << 128) - 1 & ~(0xF << 76) & ~(0x3 << 62)

    assert made.version == version
    assert made.int & kept == int.from_bytes(octets, "big") & kept
