"""MLLP framing: frames come out whole, whatever stands around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.hl7v2.mllp import Frame, FrameReader, Stray, frame

ONE, TWO = b"MSH|one\r", b"MSH|two\r"


def whole(content: bytes) -> Frame:
    return Frame(content, len(content))


def read(stream: bytes, chunk: int = 1_000_000, limit: int = 1000) -> list[Frame | Stray]:
    reader = FrameReader(limit)
    found = [f for start in range(0, len(stream), chunk) for f in reader.feed(stream[start : start + chunk])]
    return found + reader.finish()


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", []),
        (frame(ONE), [whole(ONE)]),
        (frame(ONE) + frame(TWO), [whole(ONE), whole(TWO)]),
        (b"\r\n" + frame(ONE) + b"\r\n\n" + frame(TWO) + b"\n", [whole(ONE), whole(TWO)]),
        (b"\x0b" + ONE + b"\x1c\x0b" + TWO + b"\x1c\n", [whole(ONE), whole(TWO)]),
        (b"\x0b" + ONE + b"\x1c", [whole(ONE)]),
        (b"\x0b" + ONE + b"half" + frame(TWO), [Stray(len(ONE) + 5), whole(TWO)]),
        (frame(ONE) + b"\x0b" + b"half", [whole(ONE), Stray(5)]),
        (frame(b""), [whole(b"")]),
        (frame(b"a\x1cb\x0bc\x00d"), [whole(b"a\x1cb\x0bc\x00d")]),
        (frame(b"\x1c\x1c"), [whole(b"\x1c\x1c")]),
    ],
)
def test_frames_and_strays(stream, expected, chunk):
    """Glued, spaced, unterminated and odd frames are told apart, however the stream is cut into reads."""
    assert read(stream, chunk) == expected


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_noise_is_counted_and_harms_no_frame(chunk):
    """Bytes before, between and after frames are reported by number."""
    found = read(b"GET / HTTP/1.1\r\n" + frame(ONE) + b"noise" + frame(TWO), chunk)

    assert [f for f in found if isinstance(f, Frame)] == [whole(ONE), whole(TWO)]
    assert sum(f.count for f in found if isinstance(f, Stray)) == len(b"GET / HTTP/1.1noise")


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_a_frame_that_is_too_large_is_dropped_and_the_next_one_read(chunk):
    """It is reported with its beginning and its true size; a frame of exactly the limit is taken."""
    large = b"MSH|" + b"x" * 97
    found = read(frame(large) + frame(large[:100]) + frame(ONE), chunk, limit=100)

    assert found[0].too_large
    assert found[0].size == 101
    assert large.startswith(found[0].content)
    assert found[0].content.startswith(b"MSH|")
    assert found[1:] == [whole(large[:100]), whole(ONE)]


def test_no_more_than_the_limit_is_held():
    """A sender that never ends its frame fills no memory."""
    reader = FrameReader(1000)
    for _ in range(100):
        reader.feed(b"\x0b" + b"x" * 1000)

    assert len(reader._buffer) <= 2001
    assert reader.inside


def test_pause_after_fs():
    """A sender that leaves the CR out is recognized by its silence."""
    reader = FrameReader(1000)

    assert reader.feed(b"\x0b" + ONE + b"\x1c") == []
    assert reader.ends_in_fs
    assert reader.finish() == [whole(ONE)]
    assert not reader.inside
    assert reader.feed(b"\r" + frame(TWO)) == [whole(TWO)]


CONTENT = st.binary(max_size=60).map(lambda b: b"MSH|" + b.replace(b"\x1c", b"").replace(b"\x0b", b""))


@given(st.lists(CONTENT), st.lists(st.integers(1, 40), min_size=1))
def test_any_cutting_of_the_stream_gives_the_same_frames(contents, cuts):
    """Where the network cuts the bytes decides nothing."""
    stream = b"".join(map(frame, contents))
    reader = FrameReader(1000)
    found, position, turn = [], 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        found += reader.feed(stream[position : position + size])
        position, turn = position + size, turn + 1

    assert found + reader.finish() == [whole(content) for content in contents]


@given(st.lists(st.sampled_from([b"\x0b", b"\x1c", b"\r", b"\n", b"MSH|", b"x", b"\x00"])), st.integers(4, 20))
def test_nothing_that_came_before_harms_a_frame(pieces, limit):
    """Whatever came in, a message that follows an end of frame is read whole, and nothing is held at the end."""
    reader = FrameReader(limit)
    reader.feed(b"".join(pieces) + b"\x1c\r")
    found = reader.feed(frame(b"MSH|"))

    assert found[-1] == whole(b"MSH|")
    assert reader.finish() == []
