"""Compiles the maps that make resources: rules grouped by the unit of the resource that they change.

A unit is the smallest part that one message replaces as a whole (law *Change*): an element (``birthDate``), an element of a
backbone (``period.end``), the choice among types (``deceased[x]``), or the part of a list that one field fills
(``name#PID.05``; parts are shown in order of field number).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bridge.errors import Where
from bridge.mapping.conditions import NULL, Scope
from bridge.mapping.objects import Leaf, Part, Path, Step, build, build_list, choice_of
from bridge.mapping.operations import CLEARED, UnitChange, UnitKind
from bridge.mapping.places import Cover
from bridge.mapping.source import Map, mistake

if TYPE_CHECKING:
    from bridge.mapping.compiler import Compiler, Rule
    from bridge.mapping.run import Run

Json = Any

_ELEMENT: Final = UnitKind.ELEMENT


class Unit(NamedTuple):
    """A compiled unit.

    Attributes:
        path: of the unit.
        alone: the field (or component) that alone is read; -1 where there are several, or none.
        indexes: all that are read.
        leaf: computes the value from the fields; where several rules make the unit it also notes those that fired.
        name: of the rule; of the first, where several make the unit.
        covers: what is read.
        single: one rule makes the unit.
        within: nothing but ``indexes`` is read: without any of them the unit is absent.
    """

    path: str
    alone: int
    indexes: tuple[int, ...]
    leaf: Leaf
    name: str
    covers: tuple[tuple[int, Cover], ...]
    single: bool
    within: bool


class UnitMap(NamedTuple):
    """The units of one map of a segment (or of a data type that makes a resource)."""

    name: str
    units: tuple[Unit, ...]

    def run(  # noqa: C901, PLR0912 - hot path: calls would cost more than they tell
        self, fields: list[str], run: Run, into: list[UnitChange], names: list[str]
    ) -> None:
        """Appends the units that the fields change to ``into``, their rules to ``names``, what was read to ``run.fired``."""
        count = len(fields)
        fired = run.fired
        for path, index, indexes, leaf, name, covers, single, within in self.units:
            referred = run.referred
            if index >= 0:
                if index >= count:
                    continue
                raw = fields[index]
                if not raw:
                    continue
                if raw == NULL:
                    value: Json = CLEARED
                    fired.append((name, covers))
                else:
                    value = leaf(fields, run)
                    if value is None:
                        continue
                    if single:
                        fired.append((name, covers))
            else:
                if within:
                    for at in indexes:
                        if at < count and fields[at]:
                            break
                    else:
                        continue
                value = leaf(fields, run)
                if value is None:
                    if not _all_null(fields, indexes, count):
                        continue
                    value = CLEARED
                    fired.append((name, covers))
            into.append(UnitChange(path, _ELEMENT, value, run.referred > referred))
            names.append(name)


def _all_null(fields: list[str], indexes: tuple[int, ...], count: int) -> bool:
    """Whether the sender clears the unit: something null, and nothing valued, in what it is made of."""
    null = False
    for index in indexes:
        raw = fields[index] if index < count else ""
        if raw == NULL:
            null = True
        elif raw:
            return False
    return null


def compile_units(compiler: Compiler, source: Map, scope: Scope, file: str, name: str) -> UnitMap:
    """The units of a map."""
    rules = [compiler.rule(key, entry, scope, file) for key, entry in source.map("rules").maps()]
    where = {f"{file}#{key}": entry.where for key, entry in source.map("rules").maps()}
    grouped: dict[str, list[tuple[Rule, Part]]] = {}
    spread = {path[0].name for rule in rules for (path, *_) in rule.parts if _spreads(path)}
    for rule in rules:
        for part in rule.parts:
            if part.path and part.path[0].name in spread:  # its members and what is spread over it are one unit
                grouped.setdefault(part.path[0].name, []).append((rule, part._replace(path=part.path[1:])))
                continue
            path, inner = _unit_of(part.path, rule, scope, where[rule.name])
            grouped.setdefault(path, []).append((rule, part._replace(path=inner)))
    return UnitMap(name, tuple(_unit(path, members) for path, members in _joined(grouped)))


def _spreads(path: Path) -> bool:
    """Whether a rule writes several members of an element that no list and no choice holds (``doseQuantity.*``)."""
    return len(path) == 2 and path[1].name == "*" and path[0].label is None and choice_of(path[0].name) is None


def _joined(grouped: dict[str, list[tuple[Rule, Part]]]) -> Iterable[tuple[str, list[tuple[Rule, Part]]]]:
    """An element and the extensions of its primitive (``_birthDate``) are one unit."""
    for path, members in grouped.items():
        if path.startswith("_"):
            continue
        extension = grouped.get(f"_{path}")
        if extension is None:
            yield path, members
        else:
            yield (
                f"{path}[x]",
                [
                    (rule, part._replace(path=(Step(element, None), *part.path)))
                    for element, found in ((path, members), (f"_{path}", extension))
                    for rule, part in found
                ],
            )


def _unit_of(path: Path, rule: Rule, scope: Scope, where: Where) -> tuple[str, Path]:  # noqa: PLR0911 - one answer for each form of path
    """The unit that a rule's element path belongs to, and the path within the unit."""
    if not path or path[0].name == "*":
        raise mistake("mapping-path-invalid", "a resource is not written as a whole", where)
    first = path[0]
    if first.label == "x":
        return f"{first.name}[x]", ()
    if first.label is not None:
        return f"{first.name}#{_label(first.label, rule, scope)}", path
    choice = choice_of(first.name)
    if choice is not None:
        return choice, path
    if first.name.startswith("_"):
        return first.name, path[1:]
    if len(path) == 1:
        return first.name, ()
    second = path[1]
    if second.label is not None:
        return f"{first.name}.{second.name}#{_label(second.label, rule, scope)}", path[1:]
    choice = choice_of(second.name)
    if choice is not None:
        return f"{first.name}.{choice}", path[1:]
    return f"{first.name}.{second.name}", path[2:]


def _label(label: str, rule: Rule, scope: Scope) -> str:
    number = rule.indexes[0] if rule.indexes else 0
    return label or f"{scope.owner}.{number:02}"


def _unit(path: str, members: list[tuple[Rule, Part]]) -> Unit:
    rules = [rule for rule, _ in members]
    indexes = tuple(sorted({index for rule in rules for index in rule.indexes}))
    covers = tuple(cover for rule in rules for cover in rule.covers)
    single = len(members) == 1 and bool(indexes)
    parts = [
        part if single else part._replace(leaf=_tracked(part.leaf, rule), at=-1, converter=None)
        for rule, part in members
    ]
    alone = indexes[0] if len(indexes) == 1 and all(rule.indexes == indexes or not rule.reads for rule in rules) else -1
    if path.endswith("[x]"):
        leaf = _choice(parts)
    else:
        listed = parts[0].path and parts[0].path[0].label is not None
        built = build_list(parts) if listed else build(parts)
        leaf = built.leaf or _constant_leaf(built.constant, built.guard)
    within = all(rule.within for rule in rules)
    return Unit(path, alone, indexes, leaf, rules[0].name, covers, single, within)


def _choice(parts: list[Part]) -> Leaf:
    """The members of one element with a choice of types: the first type that has a value, and its extensions."""
    if not parts[0].path:
        leaf = parts[0].leaf
        assert leaf is not None
        return leaf
    names: dict[str, list[Part]] = {}
    for part in parts:
        names.setdefault(part.path[0].name, []).append(part._replace(path=part.path[1:]))
    leaves = [(name, build(members).leaf) for name, members in names.items()]

    def first(fields: list[str], run: Run) -> Json:
        made: dict[str, Json] = {}
        chosen = ""
        for name, leaf in leaves:
            if leaf is None or (chosen and name.lstrip("_") != chosen):
                continue
            value = leaf(fields, run)
            if value is not None:
                made[name] = value
                chosen = name.lstrip("_")
        return made or None

    return first


def _constant_leaf(value: Json, guard: Leaf | None) -> Leaf:
    if guard is None:
        return lambda _fields, _run: value
    if value is None:
        return guard
    return lambda fields, run: value if guard(fields, run) else None


def _tracked(leaf: Leaf | None, rule: Rule) -> Leaf | None:
    """Notes that the rule fired."""
    if leaf is None:
        return None
    name, covers = rule.name, rule.covers

    def tracked(fields: list[str], run: Run) -> Json:
        value = leaf(fields, run)
        if value is not None:
            run.fired.append((name, covers))
        return value

    return tracked
