"""Control ids that a receiver has seen: what a message that comes again is told, and which ids stand on other messages.

Source: HL7 v2.9 chapter 2.9.2 (MSH-10 identifies a message uniquely within the sending application), 2.10.2 (a sender that
hears nothing sends the same message again).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, TypeAlias

from bridge.hl7v2.acknowledge import AckCode, Asked

_LONGEST: Final = 2048  # of a name and an answer together; real ones have some 300 characters

SenderKey: TypeAlias = tuple[str, str, str]
"""Sending application, sending facility and control id, as written."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an accepted message was told.

    Attributes:
        digest: of its bytes.
        at: when, in seconds of the caller's clock.
        code: MSA-1; None where no answer was asked for.
        answer: the acknowledgement, b'' where none was.
    """

    digest: bytes = field(repr=False)
    at: float
    code: AckCode | None
    answer: bytes = field(repr=False)


def sender_key(asked: Asked) -> SenderKey | None:
    """What names a message among those of a receiver; None for one without a control id."""
    control_id = asked.written(10)
    return (asked.written(3), asked.written(4), control_id) if control_id else None


def digest_of(content: bytes) -> bytes:
    """What tells two messages with one control id apart."""
    return blake2b(content, digest_size=16).digest()


class Repeats:
    """The messages accepted last, by who sent them and their control id. In memory only; not thread-safe.

    Args:
        most: how many are remembered; 0 = none.
        seconds: how long the same message is given the same answer.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._answered: OrderedDict[SenderKey, Answered] = OrderedDict()

    def same(self, key: SenderKey, digest: bytes, now: float) -> Answered | None:
        """What the same bytes were told not long ago; None if they were not."""
        found = self._answered.get(key)
        return found if found is not None and found.digest == digest and now - found.at < self._seconds else None

    def other(self, key: SenderKey, digest: bytes) -> bool:
        """Whether the control id is remembered for other bytes."""
        found = self._answered.get(key)
        return found is not None and found.digest != digest

    def keep(self, key: SenderKey, answered: Answered) -> None:
        """Remembers an accepted message, and forgets the oldest beyond the limit; one with a huge header is taken anew."""
        if sum(map(len, key)) + len(answered.answer) > _LONGEST:
            return
        answers = self._answered
        answers[key] = answered
        answers.move_to_end(key)
        while len(answers) > self._most:
            answers.popitem(last=False)
