"""What goes to a chain has one size and means nothing by itself; words pack and unpack without loss or guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Incorrect
from bridge.ledger.chain import (
    DAY_US,
    Anchor,
    ConsentStatus,
    ConsentWord,
    Handle,
    LogId,
    PolicyTag,
    Root,
)

tags = st.binary(min_size=16, max_size=16).map(PolicyTag)
numbers = st.integers(0, 2**32 - 1)
words = st.builds(ConsentWord, st.sampled_from(ConsentStatus), numbers, numbers, tags)


@given(words)
def test_words_round_trip(word) -> None:
    """A packed word is 32 bytes, never the empty slot, and unpacks to itself."""
    slot = word.pack()

    assert len(slot) == 32
    assert slot != bytes(32)
    assert ConsentWord.unpack(slot) == word


@given(st.binary(min_size=32, max_size=32))
def test_unknown_slots_are_never_grants(slot) -> None:
    """A slot that is not exactly a packed word is refused, not read as something near it."""
    try:
        word = ConsentWord.unpack(slot)
    except Incorrect:
        return
    assert word is None or word.pack() == slot


@given(numbers, st.integers(0, 2**50), tags, st.integers(-2 * DAY_US, 2 * DAY_US))
def test_rounding_never_lengthens_a_grant(version, not_after_us, tag, offset) -> None:
    """After its true end a grant is over on chain as well; without an end it holds; a revoked word never permits."""
    word = ConsentWord.granted(version, not_after_us, tag)
    now = max(0, not_after_us + offset)
    if now >= max(not_after_us, DAY_US):
        assert not word.permits(now)
    if now < not_after_us - DAY_US:
        assert word.permits(now)

    assert ConsentWord.granted(version, None, tag).permits(now)
    assert not ConsentWord.revoked(version, tag).permits(now)


@pytest.mark.parametrize("kind", [LogId, Root, Handle, PolicyTag])
def test_opaque_values_have_one_size(kind) -> None:
    """One byte more or less, or another type, is refused; equal bytes of two kinds are not equal."""
    for value in (b"", bytes(kind.SIZE - 1), bytes(kind.SIZE + 1), "0" * kind.SIZE, bytearray(kind.SIZE)):
        with pytest.raises(Incorrect, match="opaque-length"):
            kind(value)

    assert kind(bytes(kind.SIZE)) == kind(bytes(kind.SIZE))
    assert Root(bytes(32)) != Handle(bytes(32))


def test_handles_are_random_and_ids_follow_origins() -> None:
    """Handles never repeat; a log's id is the same each time; tags are the start of the commitment."""
    assert len({Handle.random() for _ in range(100)}) == 100
    assert LogId.of_origin("example.org/log") == LogId.of_origin("example.org/log") != LogId.of_origin("example.org/l")
    assert PolicyTag.of_commitment(bytes(range(32))).value == bytes(range(16))


@pytest.mark.parametrize("size", [0, -1, 1 << 63])
def test_anchors_are_of_logs_with_leaves(size) -> None:
    """The empty log is not anchored."""
    with pytest.raises(Incorrect, match="anchor-size"):
        Anchor(LogId(bytes(32)), size, Root(bytes(32)))
    with pytest.raises(Incorrect, match="consent-word-range"):
        ConsentWord(ConsentStatus.GRANTED, size or 1 << 32, 1 << 32, PolicyTag(bytes(16)))
