"""Makes ``mappings/hl7v2/guide`` from the official guide's tables and our decisions (``decisions/*.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tools.guide import sheets, tables, writing
from tools.guide.rules import MapRules, compile_rows

HERE: Final = Path(__file__).parent
_HEADER: Final = (
    "# Made by tools/guide from the v2-to-FHIR guide and tools/guide/decisions: change those, not this file."
)
PRIMITIVE_TYPES: Final = {
    "DTM[dateTime]": "dateTime",
    "DTM[DateTime]": "dateTime",
    "TS[dateTime]": "dateTime",
    "TS[DateTime]": "dateTime",
    "ID[code]": "code",
    "ID[string]": "string",
    "ID[boolean]": "boolean",
    "IS[code]": "code",
    "IS[string]": "string",
    "NM[positiveInt]": "positiveInt",
}


class Imported(NamedTuple):
    """The files to be, by path below ``mappings/hl7v2/guide``, and what became of each map's rows."""

    files: dict[str, str]
    maps: dict[str, MapRules]


def decisions(kind: str) -> dict[str, Any]:
    """Our decisions on one kind of map; all scalars are texts, save true and false."""
    path = HERE / "decisions" / f"{kind}.yaml"
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader
    return found or {}


class _Loader(yaml.SafeLoader):
    """YAML whose scalars are texts (``NO`` is a country), save true and false."""


_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:bool" and key in "tf"]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def type_names(folder: Path, decided: Mapping[str, Any]) -> dict[str, str]:
    """What a data type map of the guide is called in our files, by its name in small letters."""
    found = {name.lower(): primitive for name, primitive in PRIMITIVE_TYPES.items()}
    for name in sheets.names(folder):
        if name.lower() not in found:
            found[name.lower()] = str(decided.get(name, {}).get("ours") or _own_name(name))
    for name, decision in decided.items():  # names that the guide uses and has no file for
        if "ours" in decision:
            found.setdefault(name.lower(), str(decision["ours"]))
    return found


def _own_name(name: str) -> str:
    owner, _, target = name.rstrip("]").partition("[")
    return f"{owner}.{target.replace('.', '-')}"


def make(guide: Path) -> Imported:
    """All generated files.

    Args:
        guide: the folder of the guide's CSV files.
    """
    files: dict[str, str] = {}
    maps: dict[str, MapRules] = {}
    decided = decisions("tables")
    for name, path in sheets.names(guide / "codesystems").items():
        text = tables.table(name, sheets.codes(path), decided.get(name, {}))
        files[f"tables/{tables.file_name(name)}.yaml"] = f"{_HEADER}\n{text}"
    types = decisions("datatypes")
    names = type_names(guide / "datatypes", types)
    for kind, folder in (("datatypes", "datatypes"), ("segments", "segments")):
        decided = types if kind == "datatypes" else decisions("segments")
        owners: dict[str, list[str]] = {}
        drops: dict[str, list[str]] = {}
        for name, path in sheets.names(guide / folder).items():
            decision = decided.get(name, {})
            if "ours" in decision or "left" in decision or name in PRIMITIVE_TYPES:
                continue
            owner, _, target = name.rstrip("]").partition("[")
            made = compile_rows(
                sheets.rows(path),
                str(decision.get("type") or target.partition("-")[0].partition(".")[0]),
                owner if kind == "segments" else "",
                decision,
                names,
            )
            maps[name] = made
            if made.made:
                owners.setdefault(owner, []).append(_map(name, decision, made))
                if kind == "segments":
                    drops.setdefault(owner, _set_ids(sheets.set_ids(path)))
                for key, drop in decision.get("drop", {}).items():
                    drops[owner].append(f"  {key}: {writing.flow(drop)}")
        for owner, texts in owners.items():
            head = f"{'segment' if kind == 'segments' else 'datatype'}: {owner}"
            tail = ["drop:", *drops[owner]] if drops.get(owner) else []
            files[f"{kind}/{owner}.yaml"] = "\n".join([_HEADER, head, "maps:", *texts, *tail]) + "\n"
    return Imported(files, maps)


def _set_ids(fields: list[str]) -> list[str]:
    return [f"  set-id: {{fields: {writing.flow(fields)}, why: counts segments of this message}}"] if fields else []


def _map(name: str, decision: Mapping[str, Any], made: MapRules) -> str:
    lines = []
    if "why" in decision:
        lines += writing.comment(str(decision["why"]), 2)
    own = str(decision.get("as") or _own_name(name).partition(".")[2])
    lines.append(f"  {own}:  # {name}")
    for key in ("element", "resource", "identity"):
        if key in decision:
            lines.append(f"    {key}: {writing.scalar(decision[key])}")
    for row, why in made.left:
        lines += writing.comment(f"{row.place or 'all'} -> {row.target}: not mapped, {why}", 4)
    lines.append("    rules:")
    for one in made.made:
        if one.why:
            lines += writing.comment(f"ours: {one.why}", 6)
        line = f"      {one.name}: {writing.flow(one.rule)}"
        if len(line) <= 150:
            lines.append(line)
        else:
            lines.append(f"      {one.name}:")
            lines += [f"        {key}: {writing.flow(value)}" for key, value in one.rule.items()]
    return "\n".join(lines)
