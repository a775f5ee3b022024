"""The group structure of a message, from its abstract syntax, and the sorting of segments into groups.

The syntax is that of HL7 v2.9 chapter 2.12, with a name before each group: ``PID [PD1] NEXT_OF_KIN=[{ NK1 [OH2] }]``.
``[…]`` may be absent, ``{…}`` may repeat. Where a segment belongs follows from the syntax and from the place reached so
far, never from the segment before it alone. What fits nowhere ahead is put into the nearest open group that knows such a
segment, and is reported; what no group knows stays with the group that is open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bridge.errors import Where
from bridge.hl7v2.message import Segment
from bridge.mapping.source import mistake

if TYPE_CHECKING:
    from bridge.mapping.run import Pending

_TOKEN: Final = re.compile(r"([A-Z][A-Z0-9_]*)\s*=|([A-Z][A-Z0-9]{2})\b|([\[\]{}])|(\s+)|(.)", re.DOTALL)


class GroupDef:
    """A group of the syntax: its parts in order, each a segment name or a group."""

    __slots__ = ("name", "names", "parent", "parts", "repeating", "repeats", "starts")

    def __init__(self, name: str, parent: GroupDef | None, *, repeats: bool) -> None:
        self.name = name
        self.parent = parent
        self.repeats = repeats
        self.parts: list[str | GroupDef] = []
        self.repeating: set[int] = set()  # indexes of segments that may repeat within one instance
        self.names: set[str] = set()  # of all segments in it, at any depth
        self.starts: set[str] = set()  # of segments that can be its first


class Group:
    """One instance of a group in one message."""

    __slots__ = ("below", "children", "definition", "name", "near", "ordinal", "parent", "pending", "segments")

    def __init__(self, definition: GroupDef, parent: Group | None, ordinal: int) -> None:
        self.definition = definition
        self.name = definition.name
        self.parent = parent
        self.ordinal = ordinal
        self.children: list[Group] = []
        self.segments: list[Segment] = []
        self.near: dict[str, Segment] = {}
        """The first segment of each name that belongs to this one instance: its own, and those of groups in it that do
        not repeat."""
        self.pending: dict[str, list[Pending]] = {}
        """Resources being built, by slot, with the same reach as ``near``."""
        self.below: dict[str, list[Pending]] = {}
        """All resources being built for this instance and the groups in it, by slot."""

    def find(self, name: str) -> Segment | None:
        """The segment of this name that belongs to this instance or to one that holds it."""
        group: Group | None = self
        while group is not None:
            found = group.near.get(name)
            if found is not None:
                return found
            group = group.parent
        return None


_Step = tuple[tuple[GroupDef, ...], int, int]  # groups from the root, index in the last, how many of them stay open


class Grammar:
    """A compiled structure; :meth:`sort` puts a message's segments into group instances."""

    def __init__(self, syntax: str, where: Where) -> None:
        self.root = GroupDef("", None, repeats=False)
        self.groups: dict[str, GroupDef] = {"": self.root}
        _parse(syntax, self, where)
        _measure(self.root)
        self._steps: dict[tuple[tuple[GroupDef, ...], int, str], _Step | None] = {}

    def add(self, name: str, parent: GroupDef, *, repeats: bool, where: Where) -> GroupDef:
        """Adds a group to ``parent``."""
        if name in self.groups:
            raise mistake("mapping-structure-invalid", f"two groups are called {name}", where)
        group = self.groups[name] = GroupDef(name, parent, repeats=repeats)
        parent.parts.append(group)
        return group

    def sort(self, segments: Sequence[Segment]) -> tuple[Group, list[tuple[Segment, Group]], list[Segment]]:
        """Sorts the segments.

        Returns:
            The root instance, each segment with its group in order of writing, and the segments found out of place.
        """
        root = Group(self.root, None, 1)
        placed: list[tuple[Segment, Group]] = []
        strays: list[Segment] = []
        path: tuple[GroupDef, ...] = (self.root,)
        index = -1
        open_groups = [root]
        steps = self._steps
        for segment in segments:
            name = segment.name
            key = (path, index, name)
            try:
                step = steps[key]
            except KeyError:
                step = steps[key] = self._step(path, index, name)
            if step is None:
                strays.append(segment)
                group = self._aside(open_groups, name)
            else:
                path, index, keep = step
                del open_groups[keep:]
                for definition in path[keep:]:
                    open_groups.append(_open(definition, open_groups[-1]))
                group = open_groups[-1]
            group.segments.append(segment)
            placed.append((segment, group))
            reach: Group | None = group
            while reach is not None:
                reach.near.setdefault(name, segment)
                if reach.definition.repeats:
                    break
                reach = reach.parent
        return root, placed, strays

    def _step(self, path: tuple[GroupDef, ...], index: int, name: str) -> _Step | None:
        """The next place for a segment ``name``; None if it fits nowhere ahead."""
        within: _Step | None = None
        for depth in range(len(path) - 1, -1, -1):
            group = path[depth]
            at = index if depth == len(path) - 1 else group.parts.index(path[depth + 1])
            if at >= 0 and group.parts[at] == name and at in group.repeating:
                return path[: depth + 1], at, depth + 1
            found = _forward(group, at + 1, name)
            if found is not None:
                step = path[: depth + 1] + found[0], found[1], depth + 1
                if found[2]:
                    return step
                within = within or step
            if group.repeats and name in group.starts:
                found = _forward(group, 0, name)
                assert found is not None
                return path[: depth + 1] + found[0], found[1], depth
        return within

    def _aside(self, open_groups: list[Group], name: str) -> Group:
        """The group instance for a segment that fits nowhere ahead."""
        for group in reversed(open_groups):
            if name in group.definition.names:
                return _descend(group, name)
        return open_groups[-1]


def _open(definition: GroupDef, parent: Group) -> Group:
    ordinal = 1 + sum(child.definition is definition for child in parent.children)
    group = Group(definition, parent, ordinal)
    parent.children.append(group)
    return group


def _descend(group: Group, name: str) -> Group:
    while name not in group.definition.parts:
        definition = next(part for part in group.definition.parts if isinstance(part, GroupDef) and name in part.names)
        instances = [child for child in group.children if child.definition is definition]
        group = instances[-1] if instances else _open(definition, group)
    return group


def _forward(group: GroupDef, start: int, name: str) -> tuple[tuple[GroupDef, ...], int, bool] | None:
    """The first place of ``name`` at or after part ``start``, by what begins a later group before what stands within one.

    Returns:
        The groups on the way, the index in the last, and whether the segment begins each of them.
    """
    later: tuple[tuple[GroupDef, ...], int, bool] | None = None
    for index in range(start, len(group.parts)):
        part = group.parts[index]
        if part == name:
            return (), index, True
        if isinstance(part, GroupDef) and name in part.names:
            inner = _forward(part, 0, name)
            assert inner is not None
            groups, last, begins = inner
            if name in part.starts:
                return (part, *groups), last, begins
            later = later or ((part, *groups), last, False)
    return later


def _parse(syntax: str, grammar: Grammar, where: Where) -> None:  # noqa: C901 - one branch for each token
    group = grammar.root
    stack: list[tuple[str, GroupDef | None]] = []  # each open bracket, with the group that it opened
    name = ""
    for label, segment, bracket, space, _other in _TOKEN.findall(syntax):
        if label:
            name = label
        elif segment and not name:
            if _braced(stack):
                group.repeating.add(len(group.parts))
            group.parts.append(segment)
        elif bracket in ("[", "{"):
            if name:
                group = grammar.add(name, group, repeats=bracket == "{", where=where)
                stack.append((bracket, group))
                name = ""
            elif bracket == "{" and stack and stack[-1][1] is group and not group.parts:
                group.repeats = True  # NAME=[{ … }]
                stack.append(("{own", None))
            else:
                stack.append((bracket, None))
        elif bracket and stack and stack[-1][0][0] == _OPENS[bracket]:
            _, opened = stack.pop()
            if opened is not None and opened.parent is not None:
                group = opened.parent
        elif not space:
            raise mistake("mapping-structure-invalid", "the structure is not well formed", where)
    if stack or name:
        raise mistake("mapping-structure-invalid", "a bracket of the structure is not closed", where)


_OPENS: Final = {"]": "[", "}": "{"}


def _braced(stack: list[tuple[str, GroupDef | None]]) -> bool:
    """Whether the innermost brackets since the group's own say that the segment may repeat."""
    for bracket, opened in reversed(stack):
        if opened is not None or bracket == "{own":
            return False
        if bracket == "{":
            return True
    return False


def _measure(group: GroupDef) -> None:
    open_start = True
    for part in group.parts:
        if isinstance(part, GroupDef):
            _measure(part)
            group.names |= part.names
            if open_start:
                group.starts |= part.starts
        else:
            group.names.add(part)
            if open_start:
                group.starts.add(part)
                open_start = False
