"""The synthetic hospital region: a deterministic feed of HL7 v2 messages, and the truth about it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from math import gcd
from typing import Final

from bridge.errors import Incorrect
from bridge.synth.events import DAY, LONGEST_JOURNEY, Event, Journey, Outcome
from bridge.synth.feed import SynthMessage, messages_of
from bridge.synth.noise import MALFORMED
from bridge.synth.people import Person, Population, Registration, Variation, registrations_of, stream
from bridge.synth.tables import tables
from bridge.synth.truth import Truth, truth_of

START: Final = 1_704_700_800  # 2024-01-08 08:00 UTC
_MESSAGES_A_JOURNEY: Final = 7.5  # about; only the density of the feed in time rests on it


class Region:
    """A region's hospitals, their patients, and the messages they send. Iterating yields the feed, always the same.

    Memory does not grow with ``messages`` or ``patients``: only journeys under way are held.

    Args:
        seed: 0 to 2³¹ - 1; the same seed and numbers give the same bytes.
        patients: people of the region, at most 10⁷; with few messages not all of them appear.
        messages: length of the feed, everything counted.
        uncovered_percent: of ``messages``: well-formed events that no map covers; some the sites' files exclude
            (filtered), some they allow (dead letters).
        malformed_percent: of ``messages``: bytes that can only become dead letters. They carry no news of anyone.
        duplicate_percent: of ``messages``: repetitions, byte for byte, of the covered message before.
        variation: how the facilities' beliefs about a person differ.

    Raises:
        Incorrect: ``synth-arguments``, a number is out of its range.
    """

    def __init__(
        self,
        seed: int,
        patients: int,
        messages: int,
        uncovered_percent: float = 0.0,
        malformed_percent: float = 0.0,
        duplicate_percent: float = 0.0,
        variation: Variation | None = None,
    ) -> None:
        shares = {
            Outcome.FILTERED: uncovered_percent,
            Outcome.DEAD: malformed_percent,
            Outcome.DUPLICATE: duplicate_percent,
        }
        if not (0 <= seed < 1 << 31 and 1 <= patients <= 10**7 and messages >= 0):
            raise Incorrect(
                "synth-arguments",
                "seed, patients or messages is out of range",
                remedy="Seed 0 to 2147483647, 1 to 10000000 patients, 0 or more messages.",
            )
        if min(shares.values()) < 0 or sum(shares.values()) > 50:
            raise Incorrect(
                "synth-arguments",
                "the shares of uncovered, malformed and repeated messages are out of range",
                remedy="Each 0 or more, together at most 50 percent.",
            )
        self.seed = seed
        self.patients = patients
        self.messages = messages
        self.variation = variation or Variation()
        self._quotas = {outcome: round(messages * percent / 100) for outcome, percent in shares.items()}
        self._step = self._coprime(patients)
        self._shift = (seed * 7_919) % patients
        journeys = max(1, messages / _MESSAGES_A_JOURNEY)
        turns = max(1.0, journeys / patients)
        turn_seconds = max(LONGEST_JOURNEY, 28 * DAY / turns)
        self._gap = turn_seconds / min(patients, journeys)
        self._population = Population(seed, self._born)

    @staticmethod
    def _coprime(modulus: int) -> int:
        step = int(modulus * 0.618) | 1
        while gcd(step, modulus) != 1:
            step += 2
        return step

    def _born(self, person: int) -> int:
        """When the first journey of this person begins."""
        order = (person - self._shift) * pow(self._step, -1, self.patients) % self.patients
        return START + int(order * self._gap)

    def registrations(self) -> Iterator[Registration]:
        """Every record of everyone in the region, whether the feed comes to tell of it or not."""
        for number in range(self.patients):
            yield from registrations_of(self.seed, self._population[number], self.variation)

    def __len__(self) -> int:
        return self.messages

    def __iter__(self) -> Iterator[SynthMessage]:
        return messages_of(self.events())

    def truth(self) -> Truth:
        """The truth about this feed; takes a pass over the events, without writing messages."""
        return truth_of(self.events())

    def events(self) -> Iterator[Event]:
        """What happens, in feed order: journeys interleaved, with the chosen shares of other messages among them."""
        happenings = self._happenings()
        told = dict.fromkeys(self._quotas, 0)
        noise = stream(self.seed, "noise", 0)
        last: Event | None = None
        for index in range(1, self.messages + 1):
            due = None
            if last is not None:
                for outcome, quota in self._quotas.items():
                    if 2 * (index * quota - told[outcome] * self.messages) >= self.messages:
                        due = outcome
                        break
            if due is None or last is None:
                last = next(happenings)
                yield last
                continue
            told[due] += 1
            yield self._noise(due, last, noise.random())

    def _noise(self, due: Outcome, last: Event, draw: float) -> Event:
        if due is Outcome.DUPLICATE:
            return replace(last, outcome=due)
        event = replace(
            last, facility=last.registration.facility, thin=False, visit=None, report=None, subsumed=None
        )  # fmt: skip
        if due is Outcome.DEAD:
            reasons = tuple(MALFORMED)
            return replace(event, outcome=due, kind=f"malformed/{reasons[int(draw * len(reasons))]}")
        choices = [(kind, Outcome(outcome)) for outcome, kinds in tables().uncovered.items() for kind in kinds]
        kind, outcome = choices[int(draw * len(choices))]
        return replace(event, outcome=outcome, kind=kind)

    def _happenings(self) -> Iterator[Event]:
        """The events of all journeys in order of time; without end."""
        under_way: list[tuple[int, int, Event, Iterator[Event]]] = []
        order = 0
        turn_order = 0
        while True:
            start = START + int(turn_order * self._gap)
            while under_way and under_way[0][0] < start:
                _, number, event, rest = under_way[0]
                yield event
                following = next(rest, None)
                if following is None:
                    heapq.heappop(under_way)
                else:
                    heapq.heapreplace(under_way, (following.time, number, following, rest))
            for journey in self._journeys(turn_order, start):
                rest = journey.events()
                first = next(rest)
                heapq.heappush(under_way, (first.time, order, first, rest))
                order += 1
            turn_order += 1

    def _journeys(self, turn_order: int, start: int) -> Iterator[Journey]:
        """The journeys that begin at this turn: one; of newborn twins both, together, and none at the second's own turn."""
        turn, position = divmod(turn_order, self.patients)
        person = self._population[(self._step * position + self._shift) % self.patients]
        travellers: tuple[Person, ...] = (person,)
        if person.newborn and turn == 0:
            travellers = self._population.newborn_siblings(person.number)
            if travellers[0].number != person.number:
                return
        for traveller in travellers:
            if traveller.number < self.patients:
                records = registrations_of(self.seed, traveller, self.variation)
                rng = stream(self.seed, "journey", traveller.number, turn)
                yield Journey(traveller, records, turn, start, rng)
