"""Which primitive positions of a field a rule reads, and so what became of each valued one.

A :class:`Cover` says it for one field (or one component, one level down): everything, or some components, each in turn
wholly or in some subcomponents. It is known when the rules are compiled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Cover(NamedTuple):
    """What is read of a field.

    Attributes:
        parts: by component number from 1; None for all.
        every: of every repetition, not of the first alone.
    """

    parts: dict[int, Cover] | None
    every: bool = True

    def reads(self, component: int, subcomponent: int) -> bool:
        """Whether the position is read."""
        if self.parts is None:
            return True
        inner = self.parts.get(component)
        if inner is None:
            return False
        return inner.parts is None or subcomponent in inner.parts


ALL = Cover(None)
FIRST = Cover({1: ALL})


def union(covers: Iterable[Cover]) -> Cover:
    """What any of them reads."""
    merged: dict[int, Cover] = {}
    every = False
    for cover in covers:
        every = every or cover.every
        if cover.parts is None:
            return Cover(None, every)
        for number, inner in cover.parts.items():
            known = merged.get(number)
            merged[number] = inner if known is None else union((known, inner))
    return Cover(merged, every)


def at(number: int, cover: Cover) -> Cover:
    """``cover`` of one component, seen from the field (or of one subcomponent, seen from the component)."""
    return Cover({number: cover})
