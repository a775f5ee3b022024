"""How much of the official guide the mappings follow: rows there, rows that a rule of ours stands for, and the rest with reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tools.guide import sheets
from tools.guide.importer import HERE, PRIMITIVE_TYPES, decisions, make

MAPPINGS = HERE.parents[1] / "mappings" / "hl7v2"
_REFERENCE = re.compile(r"\b([A-Z][A-Z0-9]{1,2}[-.]\d+)")
_FILES = {"ADT_A11": "ADT_A09"}  # table 0354 gives A11 the structure ADT_A09
_FOLLOWED = ("made with", "code, unit and system together")  # said by another row's rule
_OPTIONAL = re.compile(r"\[\d.*|\(.*")


class Tally(NamedTuple):
    """Rows of one map of the guide.

    Attributes:
        name: of the map.
        rows: rows that name a target.
        followed: those that a rule of ours stands for.
        left: the others, with the reason.
        ours: the hand-made map that stands for it, '' where it is imported.
    """

    name: str
    rows: int
    followed: int
    left: tuple[str, ...]
    ours: str


def tallies(guide: Path) -> dict[str, list[Tally]]:
    """By kind of map: tables, datatypes, segments, messages."""
    imported = make(guide)
    found: dict[str, list[Tally]] = {"tables": [], "datatypes": [], "segments": [], "messages": []}
    for name, path in sheets.names(guide / "codesystems").items():
        codes = [code for code in sheets.codes(path) if code.source and code.code]
        patterns = sum("<" in code.source and len(code.source) > 1 for code in codes)
        left = (f"{patterns} patterns of codes, which no look-up finds",) if patterns else ()
        found["tables"].append(Tally(name, len(codes), len(codes) - patterns, left, ""))
    for kind in ("datatypes", "segments"):
        decided = decisions(kind)
        for name, path in sheets.names(guide / kind).items():
            rows = sheets.rows(path)
            made = imported.maps.get(name)
            if made is not None:
                gone = [(row, why) for row, why in made.left if not why.startswith(_FOLLOWED)]
                told = tuple(f"{row.place or 'all'} → {row.target}: {why}" for row, why in gone)
                found[kind].append(Tally(name, len(rows), len(rows) - len(gone), told, ""))
                continue
            if "left" in decided.get(name, {}):
                found[kind].append(Tally(name, len(rows), 0, (str(decided[name]["left"]),), ""))
                continue
            ours = str(decided.get(name, {}).get("ours", PRIMITIVE_TYPES.get(name, "")))
            why = str(decided.get(name, {}).get("why", "read as a primitive"))
            if name in PRIMITIVE_TYPES:
                found[kind].append(Tally(name, len(rows), len(rows), (), ours))
                continue
            read = {place for one in ours.split() for place in _read(one)}
            missing = [row for row in rows if not _is_read(row, read)]
            places = tuple(dict.fromkeys(f"{row.place or 'all'} → {row.target}" for row in missing))
            found[kind].append(Tally(name, len(rows), len(rows) - len(missing), places, f"{ours}: {why}"))
    found["messages"] = list(_messages(guide))
    return found


def _read(ours: str) -> set[str]:
    """The fields or components that a hand-made map reads, by any rule."""
    owner, _, name = ours.partition(".")
    found: set[str] = set()
    for kind in ("segments", "datatypes", "guide/segments", "guide/datatypes"):
        path = MAPPINGS / kind / f"{owner}.yaml"
        if path.exists():
            document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - texts alone
            found |= {piece for text in _texts(document["maps"].get(name, {})) for piece in _REFERENCE.findall(text)}
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _is_read(row: sheets.Row, read: set[str]) -> bool:
    if not row.place or not re.search(r"[-.]\d", row.place):
        return bool(read)  # what holds of the whole is said by the map as such
    places = {row.place, row.place.replace("CWE.", "CF.")}
    return bool(places & read) or (bool(read) and row.place.endswith(".1") and f"{row.place[:-2]}" in read)


def _messages(guide: Path) -> Iterator[Tally]:
    names = _segment_maps(guide)
    reasons = decisions("messages")
    for name, path in sheets.names(guide / "messages").items():
        file = MAPPINGS / "messages" / f"{_FILES.get(name, name)}.yaml"
        used = _used(file) if file.exists() else {}
        uses = sheets.uses(path)
        left = []
        for use in uses:
            wanted = [one.partition(".") for one in names.get(use.map, "").split()]
            if not any(one in used.get(segment, ()) for segment, _, one in wanted):
                why = reasons.get(use.map or use.target) or "not mapped"
                left.append(f"{use.place} → {_OPTIONAL.sub('', use.target)} by {use.map or 'no map'}: {why}")
        yield Tally(name, len(uses), len(uses) - len(left), tuple(dict.fromkeys(left)), "")


def _segment_maps(guide: Path) -> dict[str, str]:
    """The maps of ours by the guide's names."""
    decided = decisions("segments")
    found = {}
    for name in sheets.names(guide / "segments"):
        decision = decided.get(name, {})
        owner, _, target = name.rstrip("]").partition("[")
        if "left" not in decision:
            found[name] = str(decision.get("ours") or f"{owner}.{decision.get('as', target)}")
    return found


def _used(file: Path) -> dict[str, set[str]]:
    """The maps that a message of ours uses, by segment; what it is like included."""
    document = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - texts alone
    like = document.get("like", [])
    structure = set(re.findall(r"\b[A-Z][A-Z0-9]{2}\b", document["structure"]))
    found: dict[str, set[str]] = {}
    for other in [like] if isinstance(like, str) else like:
        for segment, maps in _used(file.with_name(f"{other}.yaml")).items():
            if segment in structure:
                found.setdefault(segment, set()).update(maps)
    for place, entries in document.get("segments", {}).items():
        found.setdefault(place.rpartition(".")[2], set()).update(entry["map"] for entry in entries)
    return found


def page(guide: Path) -> str:
    """The reference page."""
    found = tallies(guide)
    lines = [
        "# The official guide",
        "",
        "How far the mappings follow HL7's v2-to-FHIR guide, counted in rows of its tables that name a target. Made by",
        "`python -m tools.guide` from the guide, our decisions and the mapping files; change those, not this page.",
        "",
        "| kind | maps | imported | hand-made | not made | rows | followed | left |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, group in found.items():
        ours = sum(bool(one.ours) for one in group)
        gone = sum(not one.followed and not one.ours and one.rows > 0 for one in group)
        rows, followed = sum(one.rows for one in group), sum(one.followed for one in group)
        shown = (0, len(group), 0) if kind == "messages" else (len(group) - ours - gone, ours, gone)
        lines.append(
            f"| {kind} | {len(group)} | {shown[0]} | {shown[1]} | {shown[2]} | {rows} | {followed} | {rows - followed} |"
        )
    lines += [
        "",
        "A hand-made map (`mappings/hl7v2/segments`, `…/datatypes`, `…/messages`) counts a row as followed where one of its rules",
        "reads the row's field; an imported one (`mappings/hl7v2/guide`) where the row became a rule, as it is or by a decision.",
    ]
    for kind in ("messages", "segments", "datatypes", "tables"):
        lines += ["", f"## What is left of the {kind}"]
        for one in found[kind]:
            if one.left:
                lines += ["", f"{one.name}" + (f" (ours: {one.ours})" if one.ours else ""), ""]
                lines += [f"- {text}" for text in one.left]
    return "\n".join(lines).replace("<", "\\<").replace("](", "] (") + "\n"
