"""What another set of mappings makes of the same message: element by element, and in sum over many messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from bridge.errors import BridgeError
from bridge.mapping.bundle import RunningIds, to_bundle
from bridge.mapping.operations import Conversion

Json = Any
Result = Conversion | BridgeError


class Kind(StrEnum):
    """How an element, or a resource, differs."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Change(NamedTuple):
    """One element that differs.

    Attributes:
        resource: type and number within the message: ``Patient[1]``.
        path: the element, without places in lists: ``name.given``; '' for the whole resource.
        kind: how it differs.
        before: the values that are no longer there.
        after: the values that were not there.
    """

    resource: str
    path: str
    kind: Kind
    before: tuple[Json, ...] = ()
    after: tuple[Json, ...] = ()

    @property
    def element(self) -> str:
        """Type and path: what changes of many messages have in common."""
        kind = self.resource.partition("[")[0]
        return f"{kind}.{self.path}" if self.path else kind


def changes(before: Conversion, after: Conversion) -> list[Change]:
    """The elements that two conversions of one message make differently; the order within lists does not count."""
    ids = RunningIds()
    old, new = _resources(before, ids), _resources(after, ids)
    found: list[Change] = []
    numbers: Counter[str] = Counter()
    for name in dict.fromkeys([*old, *new]):
        kind = (old.get(name) or new[name])["resourceType"]
        numbers[kind] += 1
        label = f"{kind}[{numbers[kind]}]"
        if name not in new:
            found.append(Change(label, "", Kind.REMOVED))
        elif name not in old:
            found.append(Change(label, "", Kind.ADDED))
        else:
            found += _elements(label, old[name], new[name])
    return found


def _resources(conversion: Conversion, ids: RunningIds) -> dict[str, Mapping[str, Json]]:
    return {entry["fullUrl"]: entry["resource"] for entry in to_bundle(conversion, ids)["entry"]}


def _elements(label: str, old: Mapping[str, Json], new: Mapping[str, Json]) -> Iterator[Change]:
    left, right = _grouped(old), _grouped(new)
    for path in dict.fromkeys([*left, *right]):
        gone, come = left.get(path, Counter()), right.get(path, Counter())
        if gone == come:
            continue
        kind = Kind.REMOVED if not come else Kind.ADDED if not gone else Kind.CHANGED
        yield Change(label, path, kind, tuple((gone - come).elements()), tuple((come - gone).elements()))


def _grouped(resource: Mapping[str, Json]) -> dict[str, Counter[Json]]:
    found: dict[str, Counter[Json]] = {}
    for path, value in _leaves(resource, ""):
        found.setdefault(path, Counter())[value] += 1
    return found


def _leaves(value: Json, path: str) -> Iterator[tuple[str, Json]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, value


@dataclass(slots=True)
class Sums:
    """What a change of mappings alters over many messages.

    Attributes:
        messages: all that were looked at.
        changed: those of which both make something, and not the same.
        refused: by the code: those that only the new mappings refuse.
        taken: by the code: those that only the old mappings refuse.
        elements: messages in which an element differs, by how and which.
        before: elements of input mapped, dropped and unmapped by the old mappings.
        after: the same by the new ones.
    """

    messages: int = 0
    changed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    elements: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)

    def add(self, before: Result, after: Result) -> list[Change]:
        """Adds one message; answers what differs, where both make something of it."""
        self.messages += 1
        for result, fates in ((before, self.before), (after, self.after)):
            if isinstance(result, Conversion):
                fates.update(mapped=result.mapped, dropped=result.dropped, unmapped=result.unmapped)
        if isinstance(before, BridgeError) or isinstance(after, BridgeError):
            if isinstance(after, BridgeError) and not isinstance(before, BridgeError):
                self.refused[after.code] += 1
            elif isinstance(before, BridgeError) and not isinstance(after, BridgeError):
                self.taken[before.code] += 1
            return []
        found = changes(before, after)
        if found:
            self.changed += 1
            self.elements.update({(one.kind, one.element) for one in found})
        return found

    @property
    def differs(self) -> bool:
        """Whether anything at all does."""
        return bool(self.changed or self.refused or self.taken or self.before != self.after)

    def described(self) -> dict[str, Json]:
        """As plain data."""
        return {
            "messages": self.messages,
            "changed": self.changed,
            "refused_by_new": dict(self.refused),
            "refused_by_old": dict(self.taken),
            "elements": [
                {"element": element, "change": str(kind), "messages": count}
                for (kind, element), count in self.elements.most_common()
            ],
            "inputs": {"old": dict(self.before), "new": dict(self.after)},
        }

    def lines(self) -> Iterator[str]:
        """As text."""
        yield f"{self.messages} messages: {self.changed} changed"
        yield from (f"  {count} refused by the new mappings alone: {code}" for code, count in self.refused.items())
        yield from (f"  {count} refused by the old mappings alone: {code}" for code, count in self.taken.items())
        for (kind, element), count in self.elements.most_common():
            yield f"  {element} {kind} in {count}"
        for fate in ("mapped", "dropped", "unmapped"):
            if self.before[fate] != self.after[fate]:
                yield f"elements of input {fate}: {self.before[fate]} -> {self.after[fate]}"
