"""Page tokens: they say what they were made with, to whom they were made, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.access.continuation import Continuation, ContinuationSealer
from bridge.errors import Incorrect

SEALER = ContinuationSealer(b"k" * 32)
CONTINUATIONS = st.builds(
    Continuation,
    st.sampled_from(["Patient", "Observation"]),
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))),
        max_size=3,
    ).map(tuple),
    st.integers(-(2**62), 2**62),
    st.integers(0, 2**62),
    st.just("id"),
)


@given(CONTINUATIONS, st.binary(max_size=8))
def test_a_token_opens_to_what_was_sealed(continuation, binding):
    """For its caller it is the same again, and its text is safe in a link."""
    token = SEALER.seal(continuation, binding)

    assert SEALER.open(token, binding) == continuation
    assert token.replace("-", "").replace("_", "").isalnum()


@given(CONTINUATIONS, st.integers(0))
def test_an_altered_token_is_refused(continuation, place):
    """One changed character suffices."""
    token = bytearray(SEALER.seal(continuation, b"me").encode())
    place %= len(token) - 1  # the last character may hold unused bits
    token[place] = ord("A") if token[place] != ord("A") else ord("B")

    with pytest.raises(Incorrect):
        SEALER.open(token.decode(), b"me")


@pytest.mark.parametrize("token", ["", "A", "é", "AAAA", "=" * 20, "A" * 60])
def test_what_was_never_sealed_is_refused(token):
    """Any text gives the same error; another caller's token too."""
    own = SEALER.seal(Continuation("Patient", (), 0, 1), b"me")

    for text, binding in ((token, b"me"), (own, b"you")):
        with pytest.raises(Incorrect) as caught:
            SEALER.open(text, binding)
        assert caught.value.code == "page-token-invalid"


def test_a_token_shows_nothing_of_the_search():
    """Two tokens for one search have nothing in common."""
    continuation = Continuation("Patient", (("family", "Mustermann"),), 0, 1)

    assert SEALER.seal(continuation, b"me")[:16] != SEALER.seal(continuation, b"me")[:16]
