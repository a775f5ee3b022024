"""What a receiver remembers of control ids."""

from __future__ import annotations

from bridge.hl7v2.acknowledge import AckCode, read_asked
from bridge.hl7v2.repeats import Answered, Repeats, digest_of, sender_key

KEY = ("LAB", "NORTH", "1")
ONE, TWO = digest_of(b"one"), digest_of(b"two")


def answered(digest: bytes, at: float = 0) -> Answered:
    return Answered(digest, at, AckCode.ACCEPT, b"answer")


def test_the_same_bytes_are_the_same_message_for_a_while():
    """Until the time is over; after that they are neither the same nor others."""
    repeats = Repeats(10, 60)
    repeats.keep(KEY, answered(ONE, at=100))

    assert repeats.same(KEY, ONE, 159.9) == answered(ONE, at=100)
    assert repeats.same(KEY, ONE, 160) is None
    assert not repeats.other(KEY, ONE)


def test_other_bytes_under_the_same_id_are_seen():
    """By application, facility and control id together: another sender's id is its own."""
    repeats = Repeats(10, 60)
    repeats.keep(KEY, answered(ONE))

    assert repeats.other(KEY, TWO)
    assert repeats.same(KEY, TWO, 1) is None
    assert not repeats.other(("LAB", "SOUTH", "1"), TWO)


def test_the_oldest_are_forgotten():
    """No more than the limit is held, none with a limit of 0; one that came again is young."""
    repeats, none = Repeats(2, 60), Repeats(0, 60)
    for key in (("", "", "1"), ("", "", "2"), ("", "", "1"), ("", "", "3")):
        repeats.keep(key, answered(ONE))
    none.keep(KEY, answered(ONE))

    assert [n for n in "123" if repeats.same(("", "", n), ONE, 1)] == ["1", "3"]
    assert none.same(KEY, ONE, 1) is None


def test_a_huge_header_is_not_remembered():
    """What is remembered has a bound in bytes, whatever senders write into their headers and have echoed."""
    repeats = Repeats(10, 60)
    named = ("LAB", "NORTH", "1" * 3000)
    repeats.keep(named, answered(ONE))
    repeats.keep(KEY, Answered(ONE, 0, AckCode.ACCEPT, b"x" * 3000))

    assert repeats.same(named, ONE, 1) is None
    assert repeats.same(KEY, ONE, 1) is None


def test_a_message_without_control_id_has_no_name():
    """Nor has one whose header can't be read; each is taken anew."""
    assert sender_key(read_asked(b"MSH|^~\\&|LAB|NORTH|C|D|2026||ADT^A01|1|P|2.5")) == KEY
    assert sender_key(read_asked(b"MSH|^~\\&|LAB|NORTH|C|D|2026||ADT^A01||P|2.5")) is None
    assert sender_key(read_asked(b"PID|1")) is None
