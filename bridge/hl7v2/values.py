"""Typed access to fields: times, numbers and composite types, without losing what does not fit its type.

Source: HL7 v2.9 chapter 2A; the composite types stand in ``datatypes.tsv``.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from bridge.hl7v2.delimiters import Delimiters, unescape
from bridge.hl7v2.message import NULL, Null
from bridge.hl7v2.times import Time, parse_time

if TYPE_CHECKING:
    from bridge.hl7v2.message import Segment

Typed: TypeAlias = "str | Decimal | Time | Null | Composite"
Composite: TypeAlias = "dict[str, Typed]"

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


class Component(NamedTuple):
    """A component of a composite type."""

    name: str
    type: str


def parse_number(text: str) -> Decimal | None:
    """Reads NM with all its digits (``1.50`` has three); None where ``text`` is no number (chapter 2A.2.47)."""
    plain = text.strip()
    return Decimal(plain) if _NUMBER.fullmatch(plain) else None


@cache
def components_of(name: str) -> tuple[Component, ...]:
    """The components of a composite type; empty for a primitive one."""
    return _types().get(name, ())


def typed(text: str, name: str, delimiters: Delimiters) -> Typed | None:
    """What one raw repetition says as a value of type ``name``; None where it says nothing.

    A composite is a dict of its valued components by name (positions that the type does not have: ``component_N``, from
    1), which are typed in turn; one whose text is not divided is its first component. DT and DTM become :class:`Time`, NM
    becomes Decimal; what has not the form of its type stays text, and so does every other primitive, unescaped, with the
    delimiters that it should not have.

    Args:
        text: as :meth:`Segment.repetitions` gives it.
        name: of the type, as in chapter 2A.
        delimiters: of the message.
    """
    return _read(text, name, delimiters, (delimiters.component, delimiters.subcomponent))


def typed_field(segment: Segment, number: int, name: str) -> list[Typed | None]:
    """The repetitions of a field as values of type ``name``, in their places."""
    return [typed(text, name, segment.delimiters) for text in segment.repetitions(number)]


def _read(text: str, name: str, delimiters: Delimiters, dividers: tuple[str, ...]) -> Typed | None:
    if not text:
        return None
    if text == '""':
        return NULL
    definition = components_of(name)
    if not definition:
        return _primitive(unescape(text, delimiters), name)
    parts = text.split(dividers[0]) if dividers else [text]
    found: Composite = {}
    for number, part in enumerate(parts, 1):
        known = definition[number - 1] if number <= len(definition) else Component(f"component_{number}", "ST")
        value = _read(part, known.type, delimiters, dividers[1:])
        if value is not None:
            found[known.name] = value
    return found or None


def _primitive(text: str, name: str) -> Typed:
    if name == "NM":
        number = parse_number(text)
        return text if number is None else number
    if name in ("DT", "DTM"):
        time = parse_time(text)
        return text if time is None else time
    return text


@cache
def _types() -> dict[str, tuple[Component, ...]]:
    text = files("bridge.hl7v2").joinpath("datatypes.tsv").read_text(encoding="ascii")
    types: dict[str, tuple[Component, ...]] = {}
    same: dict[str, str] = {}
    for line in text.splitlines():
        name, *rest = line.split("\t")
        if line.startswith("#"):
            continue
        if rest[0].startswith("="):
            same[name] = rest[0][1:]
        else:
            types[name] = tuple([Component(*reversed(part.split(" "))) for part in rest])
    return types | {name: types[other] for name, other in same.items()}
