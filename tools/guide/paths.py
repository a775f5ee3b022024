"""The guide's element paths in the notation of our mapping files, held against FHIR R4."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tools.guide.elements import element

_STEP: Final = re.compile(r"([a-z][A-Za-z0-9]*)(?:\[(\d+|each)\])?")
_REFERRED: Final = re.compile(
    r"\([A-Za-z\[\]0-9|]*\)(?:\[\d\])?"
)  # participant.actor(Practitioner): what kind of thing is meant


class UndecidedError(ValueError):
    """The guide leaves open, or contradicts itself in, what a person must decide."""


class Step(NamedTuple):
    """One step: element, the guide's number ('' for none), whether it may repeat, and its type."""

    name: str
    number: str
    listed: bool
    type: str


def steps(target: str, owner: str) -> tuple[Step, ...]:
    """The steps of a target from the type ``owner``; empty for the whole value (``$value``).

    Raises:
        UndecidedError: R4 has no such element, or it belongs to another resource than the row is about.
    """
    if target in ("$value", "$this"):
        return ()
    text = _REFERRED.sub("", target)
    if "(" in text:
        raise UndecidedError("an element of another resource")
    found: list[Step] = []
    kind = owner
    for piece in text.split("."):
        match = _STEP.fullmatch(piece)
        if match is None:
            raise UndecidedError("no path of elements")
        name, index = match[1], match[2] or ""
        known = element(kind, name)
        if known is None and found and name == "extension" and kind[0].islower():
            last = found[-1]
            if last.listed:
                raise UndecidedError("an extension of a repeating primitive")
            found[-1] = last._replace(name=f"_{last.name}")
            found.append(Step(name, index, True, "Extension"))
            kind = "Extension"
            continue
        if known is None:
            raise UndecidedError(f"{kind} has no element '{name}' in R4")
        found.append(Step(name, index, known.listed, known.type))
        kind = known.type
    return tuple(found)


def render(path: tuple[Step, ...], segment: str) -> str:
    """The path in our notation: lists on the way carry a label, a list at the end takes an item for each value."""
    if not path:
        return "$"
    pieces = []
    for at, step in enumerate(path):
        if not step.listed:
            pieces.append(step.name)
        elif at == len(path) - 1:
            pieces.append(f"{step.name}[]")
        else:
            label = step.number or "1"
            pieces.append(f"{step.name}[{segment}.{label}]" if at < 2 and segment else f"{step.name}[{label}]")
    return ".".join(pieces)


def nest(path: tuple[Step, ...], value: object) -> object:
    """``value`` as the content below the path."""
    for step in reversed(path):
        value = {step.name: [value] if step.listed else value}
    return value


def merge(left: object, right: object) -> object:
    """Two contents of one object; lists of one item each are the same item."""
    if isinstance(left, dict) and isinstance(right, dict):
        merged = dict(left)
        for key, value in right.items():
            merged[key] = merge(merged[key], value) if key in merged else value
        return merged
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right) == 1:
        return [merge(left[0], right[0])]
    raise UndecidedError("two values for one element")
