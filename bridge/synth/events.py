"""What happens to people in hospitals: journeys as events, before any facility has written a message about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Final

from bridge.synth.people import Demographics, Person, Registration
from bridge.synth.tables import Analyte, Answer, Facility, Panel, tables, weighted

HOUR: Final = 3600
DAY: Final = 86_400
LONGEST_JOURNEY: Final = 8 * DAY


class Outcome(StrEnum):
    """What a bridge with the region's site files should make of a message."""

    STORED = "stored"
    FILTERED = "filtered"
    DEAD = "dead"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Place:
    """A bed."""

    ward: str
    room: str
    bed: str


@dataclass(frozen=True, slots=True)
class Visit:
    """A stay or attendance as it stands at an event. Times are seconds since the epoch; ``patient_class`` by table 0004."""

    number: str
    patient_class: str
    place: Place
    physician: int
    admitted: int
    prior: Place | None = None
    discharged: int | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """An observation's result: a number as text, a coded answer, or lines of text; ``flag`` by table 0078."""

    analyte: Analyte
    status: str
    number: str = ""
    answer: Answer | None = None
    lines: tuple[str, ...] = ()
    flag: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One order's results at one moment. ``status`` by table 0123; ``orderer`` is a physician's index."""

    placer: str
    filler: str
    panel: Panel
    status: str
    values: tuple[Value, ...]
    orderer: int
    collected: int
    reported: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a facility tells of.

    Attributes:
        time: when it happened, seconds since the epoch.
        facility: who tells it.
        kind: message code and trigger event, e.g. ``ADT^A01``; ``malformed/…`` or as listed for uncovered events.
        outcome: what a bridge should make of it.
        registration: whose record it is about; its facility is another than ``facility`` where a reference laboratory
            reports under the hospital's number.
        said, national: what the facility says of the person now.
        visit, report: what it is about.
        subsumed: the record that a merge ends.
        thin: only the barest PID is sent.
    """

    time: int
    facility: Facility
    kind: str
    registration: Registration
    said: Demographics
    national: str = ""
    outcome: Outcome = Outcome.STORED
    visit: Visit | None = None
    report: Report | None = None
    subsumed: Registration | None = None
    thin: bool = False


class Journey:
    """One person's way through the hospitals within a few days.

    Args:
        person: who.
        registrations: the person's records, as ``registrations_of`` gives them.
        turn: which journey of this person it is, from 0; the first one shows every record the person has.
        start: seconds since the epoch.
        rng: of this journey alone.
    """

    def __init__(
        self, person: Person, registrations: tuple[Registration, ...], turn: int, start: int, rng: Random
    ) -> None:
        self._person = person
        self._records = [registration for registration in registrations if registration.slot == 0]
        self._second_records = [registration for registration in registrations if registration.slot]
        self._turn = turn
        self._start = start
        self._rng = rng
        self._orders = 0
        self._visits = 0
        self._events: list[Event] = []

    def events(self) -> Iterator[Event]:
        """The journey's events, in order of strictly rising time."""
        main = self._records[self._turn % len(self._records)]
        end = self._birth(main) if self._person.newborn and self._turn == 0 else self._episode(main)
        if self._turn == 0:
            for second in self._second_records:
                self._second_record(second, end)
            for other in self._records[1:]:
                end += int((2 + 8 * self._rng.random()) * HOUR)
                end = self._attendance(other, end, other.said)
        self._events.sort(key=lambda event: event.time)
        last = 0
        for event in self._events:
            last = max(event.time, last + 2)
            yield event if event.time == last else replace(event, time=last)

    def _tell(self, record: Registration, kind: str, time: int, said: Demographics, visit: Visit | None) -> None:
        self._events.append(
            Event(time=time, facility=record.facility, kind=kind, registration=record, said=said,
                  national=record.national, visit=visit)
        )  # fmt: skip

    def _hours(self, least: float, most: float) -> int:
        return int((least + (most - least) * self._rng.random()) * HOUR)

    def _visit(self, record: Registration, patient_class: str, admitted: int) -> Visit:
        self._visits += 1
        number = f"V{self._person.number * 10_000 + self._turn % 1000 * 10 + self._visits % 10:08d}"
        physician = int(self._rng.random() * len(tables().physicians))
        return Visit(number, patient_class, self._place(record.facility), physician, admitted)

    def _place(self, facility: Facility) -> Place:
        draw, wards = self._rng.random, facility.wards
        return Place(wards[int(draw() * len(wards))], str(1 + int(draw() * 12)), str(1 + int(draw() * 4)))

    def _episode(self, record: Registration) -> int:
        """A stay or an attendance, and the person's life event within it; answers when it ends."""
        home_again = self._turn and record is self._records[0]
        said = record.later if home_again else record.said
        return (
            self._stay(record, self._start, said)
            if self._rng.random() < 0.55
            else self._attendance(record, self._start, said)
        )

    def _update(self, record: Registration, time: int, said: Demographics, visit: Visit) -> Demographics:
        """An A08, where there is news or by chance; answers what is said from then on."""
        news = record.later is not said and self._turn == 0
        if news or self._rng.random() < 0.2:
            self._tell(record, "ADT^A08", time, record.later if news else said, visit)
        return record.later if news else said

    def _attendance(self, record: Registration, time: int, said: Demographics) -> int:
        visit = self._visit(record, "E" if self._rng.random() < 0.5 else "O", time)
        self._tell(record, "ADT^A04", time, said, visit)
        said = self._update(record, time + self._hours(0.2, 1), said, visit)
        if self._rng.random() < 0.8:
            self._results(record, time + self._hours(0.3, 1), said, visit)
        end = time + self._hours(2, 7)
        if visit.patient_class == "E":
            self._tell(record, "ADT^A03", end, said, replace(visit, discharged=end))
        return end

    def _stay(self, record: Registration, time: int, said: Demographics) -> int:
        draw = self._rng.random
        if draw() < 0.4:
            visit = self._visit(record, "E", time)
            self._tell(record, "ADT^A04", time, said, visit)
            time += self._hours(1, 5)
            visit = replace(visit, patient_class="I", admitted=time)
        else:
            visit = self._visit(record, "I", time)
        self._tell(record, "ADT^A01", time, said, visit)
        if draw() < 0.05:
            end = time + self._hours(0.3, 2)
            self._tell(record, "ADT^A11", end, said, visit)
            return end
        said = self._update(record, time + self._hours(0.5, 3), said, visit)
        for _ in range(1 + int(draw() * 3)):
            self._results(record, time + self._hours(0.5, 20), said, visit)
        at = time
        for _ in range(int(draw() * 2.4)):
            at += self._hours(4, 16)
            visit = replace(visit, prior=visit.place, place=self._place(record.facility))
            self._tell(record, "ADT^A02", at, said, visit)
        end = at + self._hours(18, 50)
        self._tell(record, "ADT^A03", end, said, replace(visit, discharged=end))
        if draw() < 0.06:
            self._tell(record, "ADT^A13", end + self._hours(0.2, 1), said, visit)
            end += self._hours(5, 12)
            self._tell(record, "ADT^A03", end, said, replace(visit, discharged=end))
        return end

    def _birth(self, record: Registration) -> int:
        """A newborn without a name or number of the region, who gets both before going home."""
        visit = self._visit(record, "I", self._start)
        self._tell(replace(record, national=""), "ADT^A01", self._start, record.said, visit)
        named = self._start + self._hours(8, 30)
        self._tell(record, "ADT^A08", named, record.later, visit)
        end = named + self._hours(6, 30)
        self._tell(record, "ADT^A03", end, record.later, replace(visit, discharged=end))
        return end

    def _second_record(self, second: Registration, time: int) -> None:
        """The first facility registers the person anew, finds out, and merges."""
        visit = self._visit(second, "O", time + HOUR)
        self._tell(second, "ADT^A04", time + HOUR, second.said, visit)
        if self._rng.random() < 0.6:
            self._results(second, time + 2 * HOUR, second.said, visit, latest=time + 10 * HOUR)
        survivor = self._records[0]
        self._events.append(
            Event(time=time + 11 * HOUR + self._hours(0, 12), facility=survivor.facility, kind="ADT^A40",
                  registration=survivor, said=survivor.later, national=survivor.national, subsumed=second)
        )  # fmt: skip

    def _results(
        self, record: Registration, time: int, said: Demographics, visit: Visit, latest: int | None = None
    ) -> None:
        """One order: preliminary now and then, final, corrected rarely."""
        draw = self._rng.random
        self._orders += 1
        number = self._person.number * 1_000_000 + self._turn * 1000 + self._orders
        sender, thin = record.facility, draw() < 0.2
        if sender.reference_laboratory and draw() < 0.25:
            sender, thin = tables().laboratory, True
        panel = tables().panels[weighted(tables().panel_bounds, draw())]
        orderer = int(draw() * len(tables().physicians))
        values = tuple(result(analyte, self._rng) for analyte in panel.tests)
        note = tables().notes[int(draw() * len(tables().notes))] if draw() < 0.1 else ""
        reports: list[tuple[int, str, tuple[Value, ...]]] = []
        at = time + self._hours(0.5, 2)
        if draw() < 0.3:
            early = values[: max(1, len(values) // 2)]
            reports.append((at, "P", tuple(replace(value, status="P") for value in early)))
            at += self._hours(0.5, 3)
        reports.append((at, "F", values))
        if draw() < 0.06:
            changed = replace(result(values[0].analyte, self._rng), status="C")
            reports.append((at + self._hours(1, 4), "C", (changed, *values[1:])))
        for moment, status, told in reports:
            if latest is not None and moment > latest:
                break
            report = Report(placer=f"P{number}", filler=f"F{number}", panel=panel, status=status, values=told,
                            orderer=orderer, collected=time, reported=moment, note=note)  # fmt: skip
            self._events.append(
                Event(time=moment, facility=sender, kind="ORU^R01", registration=record, said=said,
                      national=record.national, visit=visit, report=report, thin=thin)
            )  # fmt: skip


def result(analyte: Analyte, rng: Random) -> Value:
    """A plausible final result."""
    if analyte.mean is not None:
        number = max(rng.gauss(analyte.mean, analyte.spread), analyte.mean / 8)
        flag = "L" if number < analyte.low else "H" if number > analyte.high else ""
        if analyte.least is not None and number < analyte.least:
            return Value(analyte, "F", number=f"<{analyte.least:g}")
        return Value(analyte, "F", number=f"{number:.{analyte.decimals}f}", flag=flag)
    if analyte.answers:
        answer = analyte.answers[int(rng.random() * len(analyte.answers))]
        return Value(analyte, "F", answer=answer, flag="A" if answer.abnormal else "")
    return Value(analyte, "F", lines=analyte.text[int(rng.random() * len(analyte.text))])
