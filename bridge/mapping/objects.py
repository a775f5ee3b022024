"""Paths, templates and the building of FHIR objects from the parts of a segment or data type.

A path as mapping files write it: ``type.coding[1].code`` (the bracketed label only tells items of a list apart; items without
content leave no gap), ``given[]`` (append), ``*`` (the value's own members), ``$`` (the value itself).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bridge.errors import Where
from bridge.mapping.conditions import NULL
from bridge.mapping.source import mistake

if TYPE_CHECKING:
    from bridge.mapping.run import Run

Json = Any
Converter = Callable[[str, "Run"], Json]
Leaf = Callable[[list[str], "Run"], Json]

_STEP: Final = re.compile(r"(_?[a-zA-Z][A-Za-z0-9]*|\*)(?:\[([+]?[A-Za-z0-9_.-]*)\])?")

# Elements of R4 that take one of several types (datatypes.html, "value[x]"), as far as the maps write them.
_CHOICES: Final = re.compile(
    r"(deceased|multipleBirth|value|effective|occurrence|occurred|collected|fastingStatus|additive|quantity|asNeeded|onset|performed|medication)"
    r"[A-Z][A-Za-z]*"
)


class Step(NamedTuple):
    """One step of a path: an element name and the label in brackets, '' for ``[]``, None without brackets."""

    name: str
    label: str | None


Path = tuple[Step, ...]


def parse_path(text: str, where: Where) -> Path:
    """A path from its text; ``$`` is the empty path."""
    if text == "$":
        return ()
    steps = []
    for piece in _split(text):
        match = _STEP.fullmatch(piece)
        if match is None:
            raise mistake("mapping-path-invalid", f"'{text}' is no element path", where)
        steps.append(Step(match[1], match[2]))
    return tuple(steps)


def _split(text: str) -> list[str]:
    pieces, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character == "[":
            depth += 1
        elif character == "]":
            depth -= 1
        elif character == "." and depth == 0:
            pieces.append(text[start:at])
            start = at + 1
    return [*pieces, text[start:]]


def choice_of(name: str) -> str | None:
    """``value[x]`` for ``valueQuantity`` and its like; ``birthDate[x]`` for the extension of a primitive ``_birthDate``."""
    match = _CHOICES.fullmatch(name.lstrip("_"))
    return f"{match[1]}[x]" if match else None


def template(value: Json, where: Where) -> Callable[[Json], Json]:
    """A function that puts its argument in place of ``$`` in ``value``."""
    if "$" not in _scalars(value):
        raise mistake("mapping-template-invalid", "the template has no place for the value ($)", where)
    return _template(plain(value))


def plain(value: Json) -> Json:
    """Mappings read from a file as ordinary ones."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _scalars(value: Json) -> list[Json]:
    if isinstance(value, dict):
        return [scalar for item in value.values() for scalar in _scalars(item)]
    if isinstance(value, list):
        return [scalar for item in value for scalar in _scalars(item)]
    return [value]


def _template(value: Json) -> Callable[[Json], Json]:
    if value == "$":
        return lambda inner: inner
    if isinstance(value, dict):
        fixed = {key: item for key, item in value.items() if "$" not in _scalars(item)}
        moving = [(key, _template(item)) for key, item in value.items() if "$" in _scalars(item)]
        if len(moving) == 1:
            key, fill = moving[0]
            return lambda inner: {**fixed, key: fill(inner)}
        return lambda inner: {**fixed, **{key: fill(inner) for key, fill in moving}}
    fills = [_template(item) if "$" in _scalars(item) else None for item in value]
    return lambda inner: [item if fill is None else fill(inner) for fill, item in zip(fills, value, strict=True)]


class Part(NamedTuple):
    """A rule's contribution to an object.

    Attributes:
        path: where its value goes, relative to the object.
        leaf: computes the value from the parts; None for a constant.
        constant: the value of a constant.
        when: a condition of a constant.
        at: for the plainest rules, the part that alone is read, with its converter; else -1.
        converter: see ``at``.
        listed: the value is a list already, an item a repetition.
    """

    path: Path
    leaf: Leaf | None
    constant: Json = None
    when: Leaf | None = None
    at: int = -1
    converter: Converter | None = None
    listed: bool = False


class Built(NamedTuple):
    """A compiled object: its leaf, or its constant content if nothing in it depends on the message."""

    leaf: Leaf | None
    constant: Json
    guard: Leaf | None = None


def build(parts: list[Part]) -> Built:
    """Compiles the parts of one object, list item or value."""
    here = [part for part in parts if not part.path]
    if here:
        deeper = [part for part in parts if part.path]
        if deeper:  # an element as a whole, else by its members
            here.append(Part((), build(deeper).leaf))
        return _alternatives(here)
    names: dict[str, list[Part]] = {}
    for part in parts:
        names.setdefault(part.path[0].name, []).append(part)
    moving: list[tuple[str, int, Any]] = []
    spread: list[Leaf] = []
    constants: list[tuple[str, Json, Leaf | None]] = []
    for name, members in names.items():
        if name == "*":
            spread += [part.leaf for part in members if part.leaf is not None]
            continue
        built, plainest = _member(members)
        if built.leaf is None:
            constants.append((name, built.constant, built.guard))
        elif plainest is not None:
            moving.append((name, plainest.at, plainest.converter))
        else:
            moving.append((name, -1, built.leaf))
    if not moving and not spread:
        return Built(None, {name: value for name, value, _ in constants})
    return Built(_object(tuple(moving), tuple(spread), tuple(constants)), None)


def _member(members: list[Part]) -> tuple[Built, Part | None]:
    if members[0].path[0].label is not None:
        return build_list(members), None
    inner = [part._replace(path=part.path[1:]) for part in members]
    plainest = inner[0] if len(inner) == 1 and not inner[0].path and inner[0].at >= 0 else None
    return build(inner), plainest


def _alternatives(parts: list[Part]) -> Built:
    """The first part that has a value."""
    if len(parts) == 1:
        part = parts[0]
        return Built(part.leaf, part.constant, part.when)
    if any(part.leaf is None for part in parts):  # a constant among them says nothing by itself
        return Built(None, None, _first([part.leaf or _constant(part) for part in parts]))
    return Built(_first([part.leaf for part in parts if part.leaf is not None]), None)


def _first(leaves: list[Leaf]) -> Leaf:
    def first(parts: list[str], run: Run) -> Json:
        for leaf in leaves:
            value = leaf(parts, run)
            if value is not None:
                return value
        return None

    return first


def _constant(part: Part) -> Leaf:
    value, when = part.constant, part.when
    return lambda parts, run: value if when is None or when(parts, run) else None


def build_list(members: list[Part]) -> Built:  # noqa: C901 - compiles one closure
    """Compiles the items of one list, from parts whose first step carries a label."""
    labels: dict[str, list[Part]] = {}
    order: list[str | Part] = []
    for part in members:
        label = part.path[0].label
        rest = part._replace(path=part.path[1:])
        if label == "" and not rest.path:
            order.append(rest)
            continue
        key = label or f"[]{len(order)}"
        if key not in labels:
            order.append(key)
        labels.setdefault(key, []).append(rest)
    leaves: list[tuple[Leaf, bool]] = []
    fixed: list[Json] = []
    for entry in order:
        built = build(labels[entry]) if isinstance(entry, str) else Built(entry.leaf, entry.constant)
        if built.leaf is None:
            fixed.append(built.constant)
        else:
            leaves.append((built.leaf, not isinstance(entry, str)))
    if not leaves:
        return Built(None, fixed)
    if len(members) == 1 and members[0].listed and len(members[0].path) == 1:
        return Built(members[0].leaf, None)

    def items(parts: list[str], run: Run) -> Json:
        found: list[Json] = []
        for leaf, appended in leaves:
            value = leaf(parts, run)
            if value is None:
                continue
            if appended and type(value) is list:
                found += value
            else:
                found.append(value)
        return found + fixed if found else None

    return Built(items, None)


def _object(  # noqa: C901 - hot path: calls would cost more than they tell
    moving: tuple[tuple[str, int, Any], ...],
    spread: tuple[Leaf, ...],
    constants: tuple[tuple[str, Json, Leaf | None], ...],
) -> Leaf:
    def members(parts: list[str], run: Run) -> Json:  # noqa: C901, PLR0912 - hot path: calls would cost more than they tell
        made: dict[str, Json] = {}
        count = len(parts)
        for name, index, read in moving:
            if index < 0:
                value = read(parts, run)
            elif index < count and (raw := parts[index]) and raw != NULL:
                value = read(raw, run)
            else:
                continue
            if value is not None:
                made[name] = value
        for leaf in spread:
            value = leaf(parts, run)
            if value is not None:
                made.update(value)
        if not made:
            return None
        for name, value, guard in constants:
            if name not in made:
                if guard is None:
                    made[name] = value
                elif value is None:
                    found = guard(parts, run)
                    if found is not None:
                        made[name] = found
                elif guard(parts, run):
                    made[name] = value
        return made

    return members
