"""Whether what a rule reads is there in HL7 v2, and whether a condition can be true at all."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple, cast

from bridge.errors import Where
from bridge.hl7v2.values import components_of
from bridge.mapping.conditions import NULL, Reference, Scope, compile_condition, parse_reference

_QUOTED: Final = re.compile(r'"[^"]*"')
_REFERENCE: Final = re.compile(r"(?<![\w.-])[A-Z][A-Z0-9]{1,2}(?:-\d+(?:\.\d+){0,2}|(?:\.\d+){1,2})(?![\w.])")
_LITERAL: Final = re.compile(r'"([^"]*)"|(?<![\w.:/+~-])([\w.:/+~-]+)')
_WORDS: Final = frozenset({"valued", "not", "and", "or", "in", "is", "number", "count", "length"})
_MOST: Final = 50_000  # assignments tried
_COMPONENT, _REPETITION, _SUBCOMPONENT = "\x01", "\x02", "\x03"  # never in a literal


@cache
def field_counts() -> dict[str, int]:
    """How many fields each segment has at most."""
    text = files("bridge.hl7v2").joinpath("fields.tsv").read_text(encoding="ascii")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return {name: int(count) for name, count in rows}


def references_in(condition: str) -> Iterator[str]:
    """The places that a condition reads."""
    return (match[0] for match in _REFERENCE.finditer(_QUOTED.sub(lambda found: " " * len(found[0]), condition)))


def unknown_source(reference: Reference) -> str | None:
    """Why HL7 v2 has no such place; None where it has, or where that is not known (Z-segments, own data types)."""
    if reference.field:
        count = field_counts().get(reference.owner)
        if count is not None and reference.field > count:
            return f"{reference.owner} has {count} fields"
        return None
    parts = _parts(reference.owner)
    if not parts or not reference.component:
        return None
    if reference.component > len(parts):
        return f"{reference.owner} has {len(parts)} components"
    inner = _parts(parts[reference.component - 1])
    if inner and reference.subcomponent > len(inner):
        return f"{reference.owner}.{reference.component} has {len(inner)} subcomponents"
    return None


@cache
def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.type for part in components_of(name))


def never_true(text: str, scope: Scope, where: Where) -> bool:
    """Whether no values of the places that a condition reads make it true, by trying those that could matter.

    Args:
        text: a condition that compiles.
        scope: as :func:`bridge.mapping.conditions.compile_condition` takes it.
        where: its place.
    """
    condition = compile_condition(text, scope, where)
    references = [parse_reference(one, where) for one in dict.fromkeys(references_in(text))]
    leaves = [one for one in references if not any(other != one and _within(other, one) for other in references)]
    literals = {quoted or bare for quoted, bare in _LITERAL.findall(_REFERENCE.sub(" ", text))} - _WORDS
    measures = {int(literal) for literal in literals if literal.isdigit()} if "(" in text else set()
    values = ["", "?", NULL, "7", *sorted(literals)]
    for number in {0, *measures, *(number + 1 for number in measures)}:
        if number < 100:
            values += ["x" * number, _REPETITION.join(["x"] * number)]
    values = list(dict.fromkeys(values))
    if len(values) ** len(leaves) > _MOST:
        return False
    for chosen in itertools.product(values, repeat=len(leaves)):
        parts, run = _message(dict(zip(leaves, chosen, strict=True)), scope)
        if condition(parts, cast("Any", run)):
            return False
    return True


def _within(inner: Reference, outer: Reference) -> bool:
    return (
        inner.owner == outer.owner
        and inner.field == outer.field
        and (not outer.component or inner.component == outer.component)
        and (not outer.subcomponent or inner.subcomponent == outer.subcomponent)
    )


class _Segment(NamedTuple):
    fields: list[str]


class _Group(NamedTuple):
    segments: dict[str, _Segment]

    def find(self, name: str) -> _Segment | None:
        return self.segments.get(name)


class _Run(NamedTuple):
    """As much of :class:`bridge.mapping.run.Run` as conditions look at."""

    group: _Group
    component: str = _COMPONENT
    repetition: str = _REPETITION
    subcomponent: str = _SUBCOMPONENT


def _message(values: dict[Reference, str], scope: Scope) -> tuple[list[str], _Run]:
    tree: dict[str, dict[int, dict[int, dict[int, str]]]] = {}
    for reference, value in values.items():
        field = tree.setdefault(reference.owner, {}).setdefault(reference.field, {})
        field.setdefault(reference.component or 1, {})[reference.subcomponent or 1] = value
    segments = {
        owner: _Segment(_filled({number: _joined(parts) for number, parts in fields.items()}, 0))
        for owner, fields in tree.items()
    }
    if scope.level == 0:
        return segments.get(scope.owner, _Segment([])).fields, _Run(_Group(segments))
    own = tree.get(scope.owner, {}).get(0, {})
    parts = _filled({number: _SUBCOMPONENT.join(_filled(subs, 1)) for number, subs in own.items()}, 1)
    return parts, _Run(_Group(segments))


def _joined(parts: dict[int, dict[int, str]]) -> str:
    return _COMPONENT.join(_filled({number: _SUBCOMPONENT.join(_filled(subs, 1)) for number, subs in parts.items()}, 1))


def _filled(texts: dict[int, str], first: int) -> list[str]:
    return [texts.get(number, "") for number in range(first, max(texts, default=first - 1) + 1)]
