"""Sending: every message's fate is counted once, in the order of the feed, at the rate that was asked for."""

from __future__ import annotations

import asyncio

import pytest

from bridge.cli import sending
from bridge.cli.sending import Sending
from bridge.errors import BridgeError, Incorrect, Unavailable
from bridge.pipeline.ports import Receipt

REFUSED = Incorrect("mllp-refused", "refused: AR")
NOT_TAKEN = Unavailable("mllp-not-taken", "not taken: AE")
NO_ANSWER = Unavailable("mllp-no-answer", "no answer")


class Place:
    """An intake that answers as it is told: a code, or an error."""

    def __init__(self, *answers: str | BridgeError) -> None:
        self.answers = list(answers)
        self.got: list[bytes] = []

    async def accept(self, raw):
        self.got.append(raw.content)
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if self.answers else "AA"
        if isinstance(answer, BridgeError):
            raise answer
        return Receipt("there", answer)

    def close(self):
        """Nothing to let go of."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """No pause before a message is sent again."""
    monkeypatch.setattr(sending, "_PAUSE_SECONDS", 0)


def sent(*places: Place, messages: int = 4, attempts: int = 2, rate: float | None = None) -> Sending:
    run = Sending(places, rate=rate, attempts=attempts)
    asyncio.run(run.run(b"%d" % number for number in range(messages)))
    return run


def test_each_message_is_counted_by_its_answer():
    """Codes of acceptance, refusals by their words, silence that was asked for; waits only of what was answered."""
    place = Place("AA", REFUSED, "CA", "")

    said = sent(place).statistics

    assert place.got == [b"0", b"1", b"2", b"3"]
    assert said.acknowledged == {"AA": 1, "CA": 1, "": 1}
    assert said.failed == {("mllp-refused", "refused: AR"): 1}
    assert (said.repeated, len(said.waited)) == (0, 2)


def test_what_was_not_taken_is_sent_again_before_the_next():
    """Up to the attempts; then it is counted, and the next one's turn comes."""
    place = Place(NOT_TAKEN, "AA", NOT_TAKEN, NOT_TAKEN, "AA")

    said = sent(place, messages=3).statistics

    assert place.got == [b"0", b"0", b"1", b"1", b"2"]
    assert said.acknowledged == {"AA": 2}
    assert said.failed == {("mllp-not-taken", "not taken: AE"): 1}
    assert said.repeated == 2


def test_a_place_that_stops_answering_ends_the_run():
    """No message is skipped: the rest is not sent, and the error is the caller's."""
    place = Place("AA", NO_ANSWER, NO_ANSWER)
    run = Sending([place], rate=None, attempts=2)

    with pytest.raises(Unavailable) as caught:
        asyncio.run(run.run(b"%d" % number for number in range(4)))

    assert caught.value.code == "mllp-no-answer"
    assert place.got == [b"0", b"1", b"1"]
    assert run.statistics.acknowledged == {"AA": 1}
    assert run.statistics.failed == {("mllp-no-answer", "no answer"): 1}


def test_several_places_share_the_messages():
    """Each goes to one of them, once."""
    places = [Place(), Place(), Place()]

    said = sent(*places, messages=30).statistics

    assert sorted(int(one) for place in places for one in place.got) == list(range(30))
    assert all(place.got for place in places)
    assert said.acknowledged == {"AA": 30}


def test_the_rate_is_of_all_together():
    """Four messages at 20 a second take no less than the three pauses between them."""
    assert sent(Place(), Place(), rate=20).statistics.seconds >= 0.15


def test_the_answer_for_people_and_programs():
    """Counts, rate and waits; nothing is divided by nothing."""
    said = sent(Place("AA", REFUSED, NOT_TAKEN, "AA", ""), messages=4).statistics
    text = "\n".join(said.lines())

    assert "2 AA, 1 without acknowledgement" in text
    assert "failed: 1 refused: AR [mllp-refused]" in text
    assert "sent again: 1" in text
    assert said.described()["acknowledged"] == {"AA": 2, "not-asked": 1}
    assert said.described()["failed"] == [{"code": "mllp-refused", "message": "refused: AR", "messages": 1}]
    assert set(said.described()["acknowledgement_milliseconds"]) == {"p50", "p99", "max"}
    assert "acknowledged: nothing" in "\n".join(sent(Place(), messages=0).statistics.lines())
