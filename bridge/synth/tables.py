"""The small tables that the region is drawn from (``data/``), read once."""

from __future__ import annotations

import csv
from bisect import bisect
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import yaml

_DATA: Final = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class GivenName:
    """A given name and the short forms people go by."""

    name: str
    nicknames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Town:
    """A made-up town and its postal district."""

    name: str
    district: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A coded answer: SNOMED CT code and the laboratory's own."""

    code: str
    name: str
    local: str
    abnormal: bool = False


@dataclass(frozen=True, slots=True)
class Analyte:
    """One observation: numeric where ``mean`` is set, coded where ``answers`` are, else text."""

    key: str
    code: str
    name: str
    unit: str = ""
    mean: float | None = None
    spread: float = 0.0
    decimals: int = 0
    low: float = 0.0
    high: float = 0.0
    least: float | None = None
    answers: tuple[Answer, ...] = ()
    text: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """What is ordered as one."""

    code: str
    name: str
    local: str
    local_name: str
    specimen: str
    section: str
    tests: tuple[Analyte, ...]


@dataclass(frozen=True, slots=True)
class Physician:
    """Someone who attends and orders."""

    code: str
    family: str
    given: str


@dataclass(frozen=True, slots=True)
class Facility:
    """A sender and its habits; ``data/facilities.yaml`` explains them."""

    site: str
    application: str
    facility: str
    version: str
    charset: str
    newline: str
    authority: str
    oid: str
    type: str
    mrn: str
    mrn_start: int
    mrn_step: int
    share: int
    identifiers: tuple[str, ...]
    national_percent: int
    namespace: str
    phone: str
    codes: str
    timestamps: str
    wards: tuple[str, ...]
    z_segments: bool = False
    reference_laboratory: bool = False
    thin: bool = False


@dataclass(frozen=True, slots=True)
class National:
    """The region's own numbering of people."""

    name: str
    oid: str
    type: str


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that is drawn from. ``surnames`` falls in frequency; the ``*_bounds`` are cumulated weights."""

    given: dict[str, tuple[GivenName, ...]]
    surnames: tuple[str, ...]
    streets: tuple[str, ...]
    towns: tuple[Town, ...]
    households: tuple[tuple[str, ...], ...]
    household_bounds: tuple[int, ...]
    panels: tuple[Panel, ...]
    panel_bounds: tuple[int, ...]
    notes: tuple[str, ...]
    specimens: dict[str, str]
    physicians: tuple[Physician, ...]
    national: National
    facilities: dict[str, Facility]
    hospitals: tuple[Facility, ...]
    hospital_bounds: tuple[int, ...]
    laboratory: Facility
    uncovered: dict[str, tuple[str, ...]]

    def panel(self, code: str) -> Panel:
        """The panel of this LOINC code."""
        return next(panel for panel in self.panels if panel.code == code)


def weighted(bounds: tuple[int, ...], fraction: float) -> int:
    """The index that ``fraction`` (0 ≤ fraction < 1) of the cumulated weights falls on."""
    return bisect(bounds, fraction * bounds[-1])


def read_data(name: str) -> Any:
    """The parsed content of one of the YAML files in ``data/``."""
    return yaml.safe_load((_DATA / name).read_text("utf-8"))


@cache
def tables() -> Tables:
    """The tables, read from ``data/`` at the first call."""
    names, results, facilities = read_data("names.yaml"), read_data("results.yaml"), read_data("facilities.yaml")
    tests = {key: _analyte(key, value) for key, value in results["tests"].items()}
    senders = {item["site"]: _facility(item) for item in facilities["facilities"]}
    hospitals = tuple(facility for facility in senders.values() if facility.share)
    return Tables(
        given=_given(),
        surnames=(*names["surnames"], *(head + end for head in names["heads"] for end in names["endings"])),
        streets=tuple(names["streets"]),
        towns=tuple(Town(**town) for town in names["towns"]),
        households=tuple(tuple(household["members"]) for household in names["households"]),
        household_bounds=tuple(accumulate(household["weight"] for household in names["households"])),
        panels=tuple(_panel(panel, tests) for panel in results["panels"]),
        panel_bounds=tuple(accumulate(panel["weight"] for panel in results["panels"])),
        notes=tuple(results["notes"]),
        specimens=dict(results["specimens"]),
        physicians=tuple(Physician(**physician) for physician in facilities["physicians"]),
        national=National(**facilities["national"]),
        facilities=senders,
        hospitals=hospitals,
        hospital_bounds=tuple(accumulate(facility.share for facility in hospitals)),
        laboratory=next(facility for facility in senders.values() if facility.thin),
        uncovered={outcome: tuple(events) for outcome, events in facilities["uncovered"].items()},
    )


def _facility(item: dict[str, Any]) -> Facility:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
    return Facility(**values)


def _given() -> dict[str, tuple[GivenName, ...]]:
    found: dict[str, list[GivenName]] = {"F": [], "M": []}
    with (_DATA / "given.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["sex"]].append(GivenName(row["given"], tuple(row["nicknames"].split())))
    return {sex: tuple(names) for sex, names in found.items()}


def _analyte(key: str, value: dict[str, Any]) -> Analyte:
    answers = tuple(Answer(**answer) for answer in value.pop("answers", ()))
    text = tuple(tuple(lines) for lines in value.pop("text", ()))
    return Analyte(key=key, answers=answers, text=text, **value)


def _panel(value: dict[str, Any], tests: dict[str, Analyte]) -> Panel:
    members = tuple(tests[key] for key in value["tests"])
    return Panel(**{key: value[key] for key in Panel.__dataclass_fields__ if key != "tests"}, tests=members)
