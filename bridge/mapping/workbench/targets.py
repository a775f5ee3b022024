"""Whether what a rule writes is there in FHIR R4: element, cardinality, type and code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from bridge.fhir.elements import Element, elements
from bridge.mapping.objects import Path, Step

Json = Any
Complaint = tuple[str, str]

_PRIMITIVE_PARTS: Final = ("id", "extension")
_NUMBERS: Final = frozenset({"integer", "positiveInt", "unsignedInt", "decimal"})
_ANY: Final = "Resource"  # anything may stand in it


class Place(NamedTuple):
    """Where a rule writes: the type of the value, and the codes that it may have; ``kind`` is '' where that is not known."""

    kind: str
    codes: frozenset[str] = frozenset()
    listed: bool = False  # the value is the whole list

    @property
    def primitive(self) -> bool:
        """Whether it takes one value, not members."""
        return self.kind[:1].islower()


def resolve(kind: str, path: Path) -> tuple[Place, list[Complaint]]:
    """What stands at ``path`` in a value of the type, and what is wrong with the path.

    Args:
        kind: a type of R4.
        path: as rules have it: ``name[a].given[]``; ``*`` ends in the value itself.
    """
    place = Place(kind)
    told = kind
    for step in path:
        if step.name == "*":
            return Place(place.kind), []
        if not place.kind or place.kind == _ANY:
            break
        told = f"{told}.{step.name}"
        place, complaint = _stepped(place.kind, step, told, last=step is path[-1])
        if complaint is not None:
            return Place(""), [complaint]
    return (place if place.kind != _ANY else Place("")), []


def _stepped(kind: str, step: Step, told: str, *, last: bool) -> tuple[Place, Complaint | None]:
    if step.label == "x":
        known = any(name.startswith(step.name) for name in elements().get(kind, {}))
        return Place(""), None if known else ("target-unknown", f"R4 has no {told}[x]")
    element = _member(kind, step.name)
    if element is None:
        return Place(""), ("target-unknown", f"R4 has no {told}")
    if step.label is not None and not element.many:
        return Place(""), ("target-cardinality", f"{told} does not repeat in R4")
    listed = element.many and step.label is None
    if listed and not last:
        return Place(""), ("target-cardinality", f"{told} repeats in R4: say which item, as {step.name}[name]")
    return Place(element.kind, element.codes, listed), None


def _member(kind: str, name: str) -> Element | None:
    if name.startswith("_"):  # what stands beside a primitive's value
        found = elements().get(kind, {}).get(name[1:])
        return Element("Element", found.many, False, frozenset()) if found is not None and found.primitive else None
    if kind == "Element":
        return elements()["Extension"].get(name) if name in _PRIMITIVE_PARTS else None
    return elements().get(kind, {}).get(name)


def constant(place: Place, value: Json, told: str, hole: list[Place] | None = None) -> Iterator[Complaint]:
    """What is wrong with a value that a mapping states.

    Args:
        place: where it is written.
        value: as the file has it.
        told: how to call the place.
        hole: takes the place of ``$``, where a template's value comes.
    """
    if value == "$" and hole is not None:
        hole.append(place)
        return
    if not place.kind or place.kind == _ANY:
        return
    if place.listed and isinstance(value, list):
        for item in value:
            yield from constant(place._replace(listed=False), item, told, hole)
    elif place.listed or isinstance(value, list):
        yield (
            "target-cardinality",
            f"{told} {'repeats in R4: write a list' if place.listed else 'does not repeat in R4'}",
        )
    elif isinstance(value, dict):
        yield from _members(place, value, told, hole)
    elif not place.primitive:
        yield "target-type", f"{told} is of type {place.kind}, not a single value"
    elif place.codes and str(value) not in place.codes:
        yield "code-not-in-value-set", f"{told} may not be '{value}': R4 allows {', '.join(sorted(place.codes))}"
    elif not _fits(place.kind, value):
        yield "target-type", f"{told} is of type {place.kind}"


def _fits(kind: str, value: Json) -> bool:
    if isinstance(value, bool) or kind == "boolean":
        return isinstance(value, bool) and kind == "boolean"
    return kind not in _NUMBERS or isinstance(value, int)


def _members(place: Place, value: dict[str, Json], told: str, hole: list[Place] | None) -> Iterator[Complaint]:
    if place.primitive:
        yield "target-type", f"{told} is of type {place.kind}, which has no members"
        return
    for name, item in value.items():
        element = _member(place.kind, name)
        if element is None:
            yield "target-unknown", f"R4 has no {told}.{name} in {place.kind}"
        else:
            yield from constant(Place(element.kind, element.codes, element.many), item, f"{told}.{name}", hole)
