"""From rows of the guide to rules of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tools.guide.conditions import UnreadableError, translate
from tools.guide.paths import Step, UndecidedError, merge, nest, render, steps
from tools.guide.sheets import Row
from tools.guide.tables import file_name

Json = Any
_PRIMITIVES: Final = {
    "dateTime": "dateTime",
    "date": "date",
    "instant": "instant",
    "time": "time",
    "decimal": "decimal",
    "integer": "integer",
    "positiveInt": "positiveInt",
    "unsignedInt": "unsignedInt",
    "boolean": "boolean",
    "code": "code",
    "uri": "uri",
    "url": "url",
    "base64Binary": "base64",
}
_QUOTED: Final = re.compile(r'"([^"]*)"')
_RULE_KEYS: Final = (
    "from",
    "value",
    "text",
    "to",
    "as",
    "by",
    "choose",
    "table",
    "when",
    "within",
    "default",
    "add",
    "after",
)


@dataclass(slots=True)
class Made:
    """A rule, with what is to be said beside it."""

    name: str
    rule: dict[str, Json]
    numbers: list[int]
    why: str = ""


@dataclass(slots=True)
class MapRules:
    """What became of the rows of one map."""

    made: list[Made] = field(default_factory=list)
    left: list[tuple[Row, str]] = field(default_factory=list)  # rows without a rule, with the reason


@dataclass(slots=True)
class _Value:
    row: Row
    path: tuple[Step, ...]
    when: str
    constant: Json
    reads: bool


def compile_rows(
    rows: Sequence[Row], owner: str, segment: str, decisions: Mapping[str, Any], types: Mapping[str, str]
) -> MapRules:
    """The rules of one map.

    Args:
        rows: of the guide.
        owner: FHIR type that the map fills.
        segment: its segment; '' for a data type.
        decisions: of this map: ``element``, ``rows`` (by line: replacing keys, or ``skip`` with the reason), ``add``.
        types: our data type maps by the guide's names, in small letters.
    """
    result = MapRules()
    decided: Mapping[str, Mapping[str, Json]] = decisions.get("rows", {})
    prefix = str(decisions.get("element", ""))
    values: list[_Value] = []
    for row in rows:
        decision = decided.get(str(row.number), {})
        if "skip" in decision:
            result.left.append((row, str(decision["skip"])))
            continue
        if "to" in decision:  # decided as a whole
            rule = {key: decision[key] for key in _RULE_KEYS if key in decision}
            if not rule.keys() & {"from", "value", "text"}:
                rule = {"from": row.place, **rule}
            result.made.append(Made(_slug(row), rule, [row.number], str(decision.get("why", ""))))
            continue
        try:
            values.append(_value(row, owner, prefix, decision))
        except UndecidedError as undecided:
            result.left.append((row, str(undecided)))
    for group in _groups(values):
        try:
            result.made += _rules(group, segment, decided, types, len(prefix) > 0)
        except UndecidedError as undecided:
            result.left += [(value.row, str(undecided)) for value in group]
    for name, rule in decisions.get("add", {}).items():
        entry = {key: rule[key] for key in _RULE_KEYS if key in rule}
        result.made.append(Made(name, entry, [], str(rule.get("why", "not in the guide"))))
    result.made.sort(key=lambda made: made.numbers[0] if made.numbers else 10_000)
    _name(result.made)
    return result


def _value(row: Row, owner: str, prefix: str, decision: Mapping[str, Json]) -> _Value:  # noqa: C901, PLR0912 - one branch for each way the guide leaves something open
    target, assigned = row.target, row.value
    if "=" in target:
        target, _, assigned = target.partition("=")
    if "target" in decision:
        target = str(decision["target"])
    if "value" in decision:
        assigned = f'"{decision["value"]}"'
    path = steps(target, owner)
    if prefix:
        if not path or path[0].name != prefix:
            raise UndecidedError(f"outside of {prefix}")
        path = path[1:]
    if row.prose and not row.when and not decision:
        raise UndecidedError("its condition is told in words only")
    if "when" in decision:
        when = str(decision["when"])
    else:
        try:
            when = translate(row.when, row.place)
        except UnreadableError as error:
            raise UndecidedError(f"its condition cannot be computed: {error}") from error
    if not assigned:
        if "-" not in row.place and "." not in row.place:
            raise UndecidedError("it names no source")
        return _Value(row, path, when, None, reads=True)
    match = _QUOTED.fullmatch(assigned)
    if match is None:
        raise UndecidedError("its value is told in words only")
    constant: Json = match[1].strip()
    if path and path[-1].type == "boolean":
        constant = constant == "true"
    return _Value(row, path, when, constant, reads=False)


def _groups(values: list[_Value]) -> list[list[_Value]]:
    """Rows that make one rule: one place, one condition, one item of a list or one element."""
    groups: dict[tuple[str, str, str, str], list[_Value]] = {}
    order: list[tuple[str, str, str, str]] = []
    for value in values:
        first = value.path[0] if value.path else None
        key = (value.row.place, value.when, first.name if first else "$", first.number if first else "")
        if key not in groups:
            groups[key] = []
            order.append(key)
        groups[key].append(value)
    return [groups[key] for key in order]


def _rules(  # noqa: C901 - one branch for each form of group
    group: list[_Value],
    segment: str,
    decided: Mapping[str, Mapping[str, Json]],
    types: Mapping[str, str],
    relative: bool,
) -> list[Made]:
    readers = [value for value in group if value.reads]
    constants = [value for value in group if not value.reads]
    label = "" if relative else segment
    if not constants:
        return [_reader(value, render(value.path, label), decided, types) for value in readers]
    place = constants[0].row.place
    numbers = [value.row.number for value in group]
    if not readers:
        content: Json = None
        for value in constants:
            inner = nest(value.path[1:], value.constant)
            content = inner if content is None else merge(content, inner)
        first = constants[0].path[0]
        to = render((first._replace(listed=False),), label)
        if first.listed:
            to = f"{first.name}[{segment}.{first.number or '1'}]"
        when = constants[0].when
        if not when and ("-" in place or "." in place):
            when = f"{place} valued"
        rule: dict[str, Json] = {"value": content, "to": to}
        if when:
            rule["when"] = when
        return [Made(_slug(constants[0].row), rule, numbers, _why(constants, decided))]
    if len(readers) > 1:
        raise UndecidedError("several values of one field in one item")
    reader = readers[0]
    first = reader.path[0]
    if len(reader.path) == 1:  # the item itself, with members that the guide adds
        extra: Json = {}
        for value in constants:
            extra = merge(extra, nest(value.path[1:], value.constant))
        made = _reader(reader, render(reader.path, label), decided, types)
        made.rule.setdefault("default", extra)
    else:
        content = nest(reader.path[1:], "$")
        for value in constants:
            content = merge(content, nest(value.path[1:], value.constant))
        made = _reader(reader, render(reader.path[:1], label), decided, types)
        made.rule.setdefault("within", content)
    made.numbers = numbers
    return [made]


def _reader(value: _Value, to: str, decided: Mapping[str, Mapping[str, Json]], types: Mapping[str, str]) -> Made:
    row = value.row
    decision = decided.get(str(row.number), {})
    rule: dict[str, Json] = {"from": row.place, "to": to}
    if "as" not in decision:
        convert = _type(value, types)
        if convert:
            rule["as"] = convert
    if row.table and "table" not in decision:
        rule["table"] = file_name(_TABLES.get(row.table, row.table))
    if value.when:
        rule["when"] = value.when
    rule.update({key: decision[key] for key in _RULE_KEYS if key in decision and key not in ("value", "when")})
    if rule.get("table") is False:
        del rule["table"]
    return Made(_slug(row), rule, [row.number], str(decision.get("why", "")))


# the guide's own spellings of its tables
_TABLES: Final = {"Test/ServiceDefaultDurationUnits": "TestServiceDefaultDurationUnits", "Contact Role": "ContactRole"}


def _type(value: _Value, types: Mapping[str, str]) -> str:
    row = value.row
    if row.map:
        known = types.get(row.map.lower())
        if known is None:
            raise UndecidedError(f"there is no data type map {row.map}")
        return "" if known == "string" else known
    kind = value.path[-1].type if value.path else row.type
    if row.kind in ("CWE", "CE", "CNE", "CF") and kind in ("code", "string", "uri"):
        return f"CWE.{kind}"
    if kind == "CodeableConcept":
        found = types.get(f"{row.kind}[codeableconcept]".lower())
        if found is None:
            raise UndecidedError(f"no map of {row.kind} makes a CodeableConcept")
        return found
    if kind == "Quantity" and row.kind == "NM":
        return "NM.Quantity"
    if kind in ("string", "markdown", "id"):
        return ""
    if kind not in _PRIMITIVES:
        raise UndecidedError(f"no map makes {kind} of {row.kind or 'it'}")
    return _PRIMITIVES[kind]


def _why(values: list[_Value], decided: Mapping[str, Mapping[str, Json]]) -> str:
    return next(
        (str(decided[str(one.row.number)]["why"]) for one in values if "why" in decided.get(str(one.row.number), {})),
        "",
    )


def _slug(row: Row) -> str:
    name = re.sub(r"\s+-\s+[A-Z0-9]{3}$", "", row.name)
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"['\u2019]", "", name.lower())).strip("-")
    return words or row.place.lower().replace(".", "-") or "always"


def _name(made: list[Made]) -> None:
    """Gives each rule of a map a name of its own: the field's, and behind it the element's where one field makes several."""
    counts: dict[str, int] = {}
    for one in made:
        counts[one.name] = counts.get(one.name, 0) + 1
    used: set[str] = set()
    for one in made:
        name = one.name
        if counts[name] > 1:
            last = re.sub(r"\[[^\]]*\]", "", str(one.rule.get("to", "$"))).strip("_$.*").split(".")[-1]
            name = f"{name}-{re.sub(r'(?<!^)(?=[A-Z])', '-', last).lower()}" if last else name
        full, number = name, 2
        while full in used:
            full, number = f"{name}-{number}", number + 1
        used.add(full)
        one.name = full
