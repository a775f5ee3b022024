"""Reads the tables of the official v2-to-FHIR guide: one CSV file a map, two lines of headings, then the rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

_WIDTH = 18


class Row(NamedTuple):
    """One row of a segment or data type map.

    Attributes:
        number: of its line in the file, from 1.
        place: the field or component (``PID-3``, ``CX.4``); the segment, or nothing, for what holds of the whole.
        name: of the field or component.
        kind: its data type.
        when: the condition in the guide's computable language, '' for always.
        prose: whether a further condition is told in words only.
        target: the element, in the guide's notation.
        type: FHIR type of the element.
        map: data type map (``CWE[CodeableConcept]``).
        table: vocabulary map.
        value: what is assigned, quotation marks included; instructions in words stand between slashes.
    """

    number: int
    place: str
    name: str
    kind: str
    when: str
    prose: bool
    target: str
    type: str
    map: str
    table: str
    value: str


class Use(NamedTuple):
    """One row of a message map: where a segment stands, and which map it is read by."""

    number: int
    place: str
    when: str
    prose: bool
    target: str
    map: str


class Code(NamedTuple):
    """One row of a vocabulary map."""

    source: str
    code: str
    display: str
    system: str
    table: str


def names(folder: Path) -> dict[str, Path]:
    """The maps of a folder by name (``PID[Patient]``)."""
    return {path.name.partition("_ ")[2].partition(" - ")[0]: path for path in sorted(folder.glob("*.csv"))}


def rows(path: Path) -> list[Row]:
    """The rows of a segment or data type map that say where something goes."""
    found = []
    for number, cells in _cells(path):
        row = Row(
            number,
            cells[1],
            cells[2],
            cells[3],
            cells[6],
            bool(cells[8]),
            cells[9],
            cells[11],
            cells[14],
            cells[15],
            cells[16],
        )
        if row.target:
            found.append(row)
    return found


def set_ids(path: Path) -> list[str]:
    """The fields that number the segments of a message."""
    return [cells[1] for _, cells in _cells(path) if cells[3] == "SI" and not cells[9]]


def uses(path: Path) -> list[Use]:
    """The rows of a message map that name a target."""
    found = []
    for number, cells in _cells(path):
        if cells[9]:
            place = cells[1].replace(":follow:", ".").replace("(", "").strip("/ ")
            found.append(Use(number, place, cells[6], bool(cells[8]), cells[9], cells[10]))
    return found


def codes(path: Path) -> list[Code]:
    """The rows of a vocabulary map, untranslated codes included."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        headings = [*csv.reader(file)][1]
    display = headings.index("Display")  # some files lack an empty column before it
    return [
        Code(cells[0], cells[6], cells[display], cells[display + 1], cells[2])
        for _, cells in _cells(path)
        if cells[0] or cells[6]
    ]


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        found = []
        for number, row in enumerate(csv.reader(file), 1):
            cells = [" ".join(cell.split()) for cell in row]
            if number > 2 and any(cells):
                found.append((number, cells + [""] * (_WIDTH - len(cells))))
        return found
