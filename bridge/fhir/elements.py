"""The elements of R4's types (``elements.tsv``): what a mapping may write, of which type, how often, and which codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

_ITEM: Final = re.compile(r"(?P<name>\w+):(?P<kind>\w+)(?P<many>\*?)(?P<required>!?)(?:\((?P<codes>[^)]*)\))?")


class Element(NamedTuple):
    """An element of a type.

    Attributes:
        kind: its type: a primitive of FHIR (``dateTime``), a data type, or a type within a resource (``PatientContact``).
        many: it repeats.
        required: it must be there.
        codes: what its required binding allows; empty where it has none, or where that is not known.
    """

    kind: str
    many: bool
    required: bool
    codes: frozenset[str]

    @property
    def primitive(self) -> bool:
        """Whether it holds one value, not members."""
        return self.kind[:1].islower()


@cache
def elements() -> Mapping[str, Mapping[str, Element]]:
    """Every type with members, by name, with its elements by name."""
    text = files("bridge.fhir").joinpath("elements.tsv").read_text(encoding="ascii")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return {name: dict(_element(item) for item in items) for name, *items in rows}


def _element(item: str) -> tuple[str, Element]:
    match = _ITEM.fullmatch(item)
    assert match is not None
    codes = frozenset((match["codes"] or "").split())
    return match["name"], Element(match["kind"], bool(match["many"]), bool(match["required"]), codes)
