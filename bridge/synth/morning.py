"""A hospital's morning: about seventy messages of three hospitals, composed by hand, for demonstrations and first tests.

The person to ask for is :data:`PERSON`: two hospitals know her by the region's number, under two short forms of her name;
a third does not know that number and has the same name, birth date, sex and phone. Among the others are a
merge, a newborn, father and son of one name, cancelled admissions and discharges, one malformed message, one event that no
map covers, one that its site's file excludes, and one message sent twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Final

from bridge.synth.events import Event, Outcome, Place, Report, Value, Visit
from bridge.synth.feed import SynthMessage, messages_of
from bridge.synth.people import Address, Demographics, Registration
from bridge.synth.scribe import ZONE
from bridge.synth.tables import Analyte, read_data, tables
from bridge.synth.truth import Truth, truth_of


@dataclass(frozen=True, slots=True)
class PersonOfInterest:
    """Whom the demonstration asks for, in FHIR's terms.

    Attributes:
        records: system and value of her identifier at each site.
        national: system and value of her number in the region's own numbering.
        creatinine: LOINC code of the result that was preliminary, final, then corrected, at ``result_site``;
            ``values`` are its three values in that order, in ``unit``.
    """

    family: str
    given: str
    birth_date: str
    gender: str
    phone: str
    records: Mapping[str, tuple[str, str]]
    national: tuple[str, str]
    result_site: str
    creatinine: str
    values: tuple[str, str, str]
    unit: str


PERSON: Final = PersonOfInterest(
    family="Wiśniewska",
    given="Zofia",
    birth_date="1984-06-17",
    gender="female",
    phone="01632214907",
    records={
        "st-olave": ("urn:oid:2.16.840.1.113883.19.7.1", "40310552"),
        "queensbridge": ("urn:oid:2.16.840.1.113883.19.7.2", "Q1004417"),
        "rivermoor": ("urn:oid:2.16.840.1.113883.19.7.4", "100882"),
    },
    national=("urn:oid:2.16.840.1.113883.19.7.100", "9482137057"),
    result_site="st-olave",
    creatinine="2160-0",
    values=("2.4", "2.31", "1.31"),
    unit="mg/dL",
)
SITES: Final = ("st-olave", "queensbridge", "rivermoor")
MERGED: Final = ("queensbridge", "urn:oid:2.16.840.1.113883.19.7.2", "Q1004803", "Q1004790")
"""Site, system, subsumed and surviving identifier of the morning's one merge."""


def messages() -> tuple[SynthMessage, ...]:
    """The morning's messages in feed order; the same bytes each time."""
    return tuple(messages_of(_events()))


def truth() -> Truth:
    """Who is who in the morning, and what should become of each message. Persons are numbered as ``data/morning.yaml`` lists them."""
    return truth_of(_events())


def _events() -> Iterator[Event]:
    scene = _Scene()
    return (scene.event(line) for line in _data()["timeline"])


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = read_data("morning.yaml")
    return data


class _Scene:
    """Plays the timeline: keeps what each hospital believes of each person, and their visits."""

    def __init__(self) -> None:
        self._people: dict[str, dict[str, Any]] = _data()["people"]
        self._said: dict[tuple[str, str], Demographics] = {}
        self._visits: dict[tuple[str, str, str], Visit] = {}
        self._last: Event | None = None

    def event(self, line: dict[str, Any]) -> Event:
        """The event that a line of the timeline tells of."""
        tell, who, site = line["tell"], line["who"], line["site"]
        if tell == "again":
            assert self._last is not None
            return replace(self._last, outcome=Outcome.DUPLICATE)
        time = int(datetime.fromisoformat(f"{_data()['date']} {line['time']}").replace(tzinfo=ZONE).timestamp())
        record = self._record(who, site, second=line.get("use") == "second")
        said = self._belief(who, site, line.get("change", {}))
        event = Event(
            time=time,
            facility=record.facility,
            kind=tell if "^" in tell or "/" in tell else "ORU^R01" if tell == "ORU" else f"ADT^{tell}",
            registration=record,
            said=said,
            national=record.national,
            outcome=_outcome(tell),
        )
        if event.outcome is not Outcome.STORED:
            return event
        visit = self._visit(line, record, time)
        self._last = replace(
            event,
            visit=None if tell == "A40" else visit,
            report=self._report(line, record, time) if tell == "ORU" else None,
            subsumed=self._record(who, site, second=True) if tell == "A40" else None,
        )
        return self._last

    def _record(self, who: str, site: str, *, second: bool) -> Registration:
        person, facility = self._people[who], tables().facilities[site]
        said = self._belief(who, site, {})
        mother = person.get("mother")
        return Registration(
            person=list(self._people).index(who),
            facility=facility,
            slot=int(second),
            identifier=person["second"] if second else person["records"][site],
            national=person.get("national", "") if facility.national_percent and not second else "",
            said=said,
            later=said,
            mother=self._people[mother]["records"][site] if mother else "",
        )

    def _belief(self, who: str, site: str, change: dict[str, Any]) -> Demographics:
        """What a hospital believes of someone from now on."""
        believed = self._said.get((who, site))
        if believed is None:
            facts = {**self._people[who], **self._people[who].get("at", {}).get(site, {})}
            text = {name: facts.get(name, "") for name in ("middle", "suffix", "phone", "mobile", "email")}
            believed = Demographics(
                family=facts["family"],
                given=facts["given"],
                sex=facts["sex"],
                birth=facts["birth"],
                address=Address(**facts["address"]),
                married=facts.get("married", False),
                **text,
            )
        if "address" in change:
            change = {**change, "address": Address(**change["address"])}
        believed = replace(believed, **change)
        self._said[who, site] = believed
        return believed

    def _visit(self, line: dict[str, Any], record: Registration, time: int) -> Visit | None:
        key = (line["who"], record.facility.site, record.identifier)
        visit = self._visits.get(key)
        place = Place(*line["place"]) if "place" in line else None
        if "class" in line:
            assert place is not None
            number = visit.number if visit is not None else f"V25{len(self._visits) + 1:04d}"
            visit = Visit(number, line["class"], place, len(self._visits) % len(tables().physicians), time)
        elif visit is None:
            return None
        elif line["tell"] == "A02":
            assert place is not None
            visit = replace(visit, prior=visit.place, place=place)
        elif line["tell"] in ("A03", "A13"):
            visit = replace(visit, discharged=time if line["tell"] == "A03" else None)
        self._visits[key] = visit
        return visit

    def _report(self, line: dict[str, Any], record: Registration, time: int) -> Report:
        panel = tables().panel(line["panel"])
        status = line["status"]
        corrected = line.get("corrected", ())
        values = tuple(
            _value(analyte, line["values"][analyte.key], status if status == "P" or analyte.key in corrected else "F")
            for analyte in panel.tests
            if analyte.key in line["values"]
        )
        number = f"25{record.identifier[-6:]}{line['order']}"
        collected = self._visits[line["who"], record.facility.site, record.identifier].admitted + 120
        return Report(f"P{number}", f"F{number}", panel, status, values, line["order"], collected, time)


def _outcome(tell: str) -> Outcome:
    if tell.startswith("malformed/"):
        return Outcome.DEAD
    return next((Outcome(name) for name, kinds in tables().uncovered.items() if tell in kinds), Outcome.STORED)


def _value(analyte: Analyte, told: str, status: str) -> Value:
    if analyte.mean is not None:
        number = float(told.removeprefix("<"))
        flag = "" if told.startswith("<") else "L" if number < analyte.low else "H" if number > analyte.high else ""
        return Value(analyte, status, number=told, flag=flag)
    if analyte.answers:
        answer = next(answer for answer in analyte.answers if answer.code == told)
        return Value(analyte, status, answer=answer, flag="A" if answer.abnormal else "")
    return Value(analyte, status, lines=analyte.text[int(told)])
