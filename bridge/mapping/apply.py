"""Applies operations to stored resources so that every order of arrival gives the same resource (laws *Change*, *Order*).

For each unit of a resource the state keeps the stamp of the value in force, and a change takes part only by comparison with
it, never by when it came. So each unit is a maximum, and the state a set of maxima:

- an element: the greatest stamp (of equal stamps, the greater canonical JSON);
- FILL values apart from the others, shown only where no other change of the unit is known;
- GROUP values for each source apart, shown joined in the order of sources;
- of a status: the greatest stamp of each level (PROGRESS), and the greatest RESET. In force is the highest level newer than
  that reset, else the reset's value;
- the greatest stamp of a whole statement or a deletion, before which all units are void;
- of changes that only may create: the one with the smallest stamp, as long as no other change is known.

State is JSON: ``s`` a list of stamps ``[rank, time_us, tie]`` that the others name by index; ``u`` elements, ``f`` fills, ``g``
groups by source, ``p`` progress by level, ``r`` resets; ``t`` the greatest change, ``w`` the greatest whole statement or
deletion, ``d`` the greatest deletion; ``c`` the creator. A value is ``[stamp, value]``, ``[stamp]`` if cleared, and just
``stamp`` where the body shows that value and nothing else in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from bridge.mapping.operations import (
    CLEARED,
    Delete,
    Merge,
    Operation,
    Reach,
    Stamp,
    Stored,
    Target,
    TargetReference,
    UnitKind,
    Upsert,
)

CONTENT: Final = "="
"""Begins a stamp's tie that is a digest of the operation's content: operations of equal such stamps are equal."""

Json = Any
Ids = Callable[[Target], str]

_canonical: Final = msgspec.json.Encoder(decimal_format="number", order="sorted").encode

# Encounter.status as far as it moves forward (FHIR R4 encounter.html); the final ones are above all others.
_LEVELS: Final = {
    status: level
    for level, status in enumerate(
        (
            "unknown",
            "planned",
            "arrived",
            "triaged",
            "onleave",
            "in-progress",
            "finished",
            "cancelled",
            "entered-in-error",
        )
    )
}

_APART: Final = frozenset({"active", "link"})  # what merges also write (with_merges): never read back from the body


class _Path(NamedTuple):
    base: str  # without the label of a part
    part: str
    outer: str
    inner: str
    choice: bool  # the value's members stand in its place


@lru_cache(maxsize=4096)
def _split(path: str) -> _Path:
    base, _, part = path.partition("#")
    outer, _, inner = base.partition(".")
    return _Path(base, part, outer, inner, base.endswith("[x]"))


_Entry = tuple[Stamp, Json]  # a value in force (CLEARED if cleared); a plain tuple, for being made so often
_Units = dict[str, _Entry]


class _State:
    __slots__ = ("creator", "deleted", "elements", "fills", "groups", "progress", "resets", "touched", "void")

    def __init__(self) -> None:
        self.elements: _Units = {}
        self.fills: _Units = {}
        self.groups: dict[str, _Units] = {}
        self.progress: dict[str, dict[str, Stamp]] = {}
        self.resets: _Units = {}
        self.touched: Stamp | None = None
        self.void: Stamp | None = None
        self.deleted: Stamp | None = None
        self.creator: tuple[Stamp, str, list[list[Json]]] | None = None


def apply(operation: Operation, stored: Stored | None, ids: Ids) -> Stored | None:
    """The resource after ``operation``.

    Args:
        operation: an upsert or a deletion. A merge changes no unit: the recorder keeps it as an assertion and shows it
            with :func:`with_merges`.
        stored: what is known of the resource, in whatever order it came; None if nothing. Its body may carry what
            :func:`with_merges` added.
        ids: the id of a referenced target.

    Returns:
        What to store now; None if nothing changes (the operation is superseded or repeats what is known). The body is
        None while the resource is deleted. Compare :func:`content_digest` of old and new body to learn whether a new version
        is due: a newer statement of the same content changes only the state.
    """
    if isinstance(operation, Merge) or (stored is not None and _repeated(operation.stamp, stored.state)):
        return None
    state = _decode(stored) if stored is not None else _State()
    changed = _delete(state, operation.stamp) if isinstance(operation, Delete) else _upsert(state, operation, ids)
    if not changed:
        return None
    return _encode(state, operation.target.resource_type)


def composed(stored: Stored, resource_type: str) -> Mapping[str, Json] | None:
    """The body as the units alone make it, without what :func:`with_merges` has added."""
    return _encode(_decode(stored), resource_type).body


def newest_us(state: Mapping[str, Json]) -> int:
    """The latest event time of all changes that a stored state keeps, µs; 0 for a state without changes."""
    return max((stamp[1] for stamp in state.get("s", ())), default=0)


def _repeated(stamp: Stamp, encoded: Mapping[str, Json]) -> bool:
    """Whether this very content was the latest change already, as with people and places named again and again."""
    if not stamp.tie.startswith(CONTENT):
        return False
    touched = encoded.get("t")
    return touched is not None and tuple(encoded["s"][touched]) == stamp


def content_digest(body: Mapping[str, Json]) -> bytes:
    """SHA-256 of the content, whatever the order of its members, without ``id`` and what a version adds to ``meta``."""
    content = {key: value for key, value in body.items() if key != "id"}
    meta = body.get("meta")
    if meta is not None:
        kept = {key: value for key, value in meta.items() if key not in ("versionId", "lastUpdated")}
        content.pop("meta")
        if kept:
            content["meta"] = kept
    return hashlib.sha256(_canonical(content)).digest()


def with_merges(
    body: Mapping[str, Json], *, replaced_by: Iterable[str] = (), replaces: Iterable[str] = ()
) -> dict[str, Json]:
    """A Patient's body with the links of the merges in force.

    Merges are assertions apart from the units (:class:`Merge`), so that later changes of the record do not lose them and
    their order of arrival does not matter: the recorder calls this with all merges in force each time it composes a body,
    after :func:`apply`.

    Args:
        body: as :func:`apply` answers it, or as stored.
        replaced_by: ids of the Patients that survived this one; the record is no longer active.
        replaces: ids of the Patients that this one has subsumed.
    """
    made = dict(body)
    derived = [("replaced-by", one) for one in sorted(set(replaced_by))]
    derived += [("replaces", one) for one in sorted(set(replaces))]
    own = [link for link in body.get("link", ()) if link.get("type") not in ("replaced-by", "replaces")]
    links = own + [{"other": {"reference": f"Patient/{one}"}, "type": kind} for kind, one in derived]
    if links:
        made["link"] = links
    else:
        made.pop("link", None)
    if any(kind == "replaced-by" for kind, _ in derived):
        made["active"] = False
    return made


# changes


def _delete(state: _State, stamp: Stamp) -> bool:
    if state.deleted is not None and stamp <= state.deleted:
        return False
    state.deleted = stamp
    state.creator = None
    _void(state, stamp)
    return True


def _void(state: _State, stamp: Stamp) -> None:
    """Everything older than ``stamp`` no longer counts."""
    if state.void is not None and stamp <= state.void:
        return
    state.void = stamp
    for units in (state.elements, state.fills, state.resets, *state.groups.values()):
        for path in [path for path, entry in units.items() if entry[0] < stamp]:
            del units[path]
    for levels in state.progress.values():
        for level in [level for level, reached in levels.items() if reached < stamp]:
            del levels[level]


def _upsert(state: _State, operation: Upsert, ids: Ids) -> bool:
    stamp = operation.stamp
    if operation.reach is Reach.CREATE_ONLY:
        return _create(state, operation, ids)
    changed = False
    if state.touched is None or stamp > state.touched:
        state.touched = stamp
        state.creator = None
        changed = True
    if operation.whole and (state.void is None or stamp > state.void):
        _void(state, stamp)
        changed = True
    if state.void is not None and stamp < state.void:
        return changed
    elements = state.elements
    for unit in operation.units:
        path, kind, value, refers = unit
        if refers:
            value = _resolved(value, ids)
        if kind is UnitKind.ELEMENT and path not in elements:
            elements[path] = (stamp, value)
            changed = True
        else:
            changed = _take(state, stamp, operation.source, path, kind, value) or changed
    return changed


def _create(state: _State, operation: Upsert, ids: Ids) -> bool:
    if state.touched is not None or state.deleted is not None:
        return False
    stamp = operation.stamp
    if state.creator is not None and stamp > state.creator[0]:
        return False
    units = [
        [unit.path, unit.kind.value]
        if unit.value is CLEARED
        else [unit.path, unit.kind.value, _resolved(unit.value, ids)]
        for unit in operation.units
    ]
    if state.creator is not None and stamp == state.creator[0] and _canonical(units) >= _canonical(state.creator[2]):
        return False
    state.creator = (stamp, operation.source, units)
    return True


def _take(state: _State, stamp: Stamp, source: str, path: str, kind: UnitKind, value: Json) -> bool:
    if kind is UnitKind.ELEMENT:
        return _raise(state.elements, path, stamp, value)
    if kind is UnitKind.GROUP:
        return _raise(state.groups.setdefault(path, {}), source, stamp, value)
    if kind is UnitKind.FILL:
        return _raise(state.fills, path, stamp, value)
    if kind is UnitKind.RESET:
        return _raise(state.resets, path, stamp, value)
    levels = state.progress.setdefault(path, {})
    known = levels.get(value)
    if known is not None and stamp <= known:
        return False
    levels[value] = stamp
    return True


def _raise(units: _Units, key: str, stamp: Stamp, value: Json) -> bool:
    known = units.get(key)
    if known is not None:
        if stamp < known[0]:
            return False
        if stamp == known[0] and _rank(value) <= _rank(known[1]):
            return False
    units[key] = (stamp, value)
    return True


def _rank(value: Json) -> bytes:
    return b"" if value is CLEARED else _canonical(value)


def _resolved(value: Json, ids: Ids) -> Json:  # noqa: C901 - hot path: calls would cost more than they tell
    """The value with references in place of targets; the same object where it names none."""
    kind = type(value)
    if kind is dict:
        made: dict[str, Json] | None = None
        for key, item in value.items():
            if type(item) not in _PLAIN:
                found = _reference(item, ids) if type(item) is TargetReference else _resolved(item, ids)
                if found is not item:
                    if made is None:
                        made = dict(value)
                    made[key] = found
        return value if made is None else made
    if kind is list:
        items: list[Json] | None = None
        for at, item in enumerate(value):
            if type(item) not in _PLAIN:
                found = _resolved(item, ids)
                if found is not item:
                    if items is None:
                        items = list(value)
                    items[at] = found
        return value if items is None else items
    return _reference(value, ids) if kind is TargetReference else value


def _reference(to: TargetReference, ids: Ids) -> str:
    return f"{to.target.resource_type}/{ids(to.target)}"


_PLAIN: Final = frozenset({str, int, bool, Decimal})


# composition


def _exists(state: _State) -> bool:
    if state.touched is not None:
        return state.deleted is None or state.touched > state.deleted
    return state.creator is not None and state.deleted is None


def _shown(state: _State) -> _State:
    """The state whose units are shown: with the creator's under all others, while it counts."""
    if state.creator is None:
        return state
    stamp, source, units = state.creator
    shown = _State()
    for entry in units:
        value = entry[2] if len(entry) > 2 else CLEARED
        _take(shown, stamp, source, entry[0], UnitKind(entry[1]), value)
    shown.elements.update(state.elements)
    shown.fills.update(state.fills)
    shown.resets.update(state.resets)
    for path, groups in state.groups.items():
        shown.groups.setdefault(path, {}).update(groups)
    for path, levels in state.progress.items():
        shown.progress.setdefault(path, {}).update(levels)
    return shown


class _Layout(NamedTuple):
    """How elements of certain paths stand to one another."""

    plain: tuple[str, ...]
    parts: tuple[tuple[str, str, str], ...]  # path, base, label
    rivals: tuple[tuple[str, str], ...]  # an element alone (``birthDate``) and its other form (``birthDate[x]``)


@lru_cache(maxsize=4096)
def _layout(paths: tuple[str, ...]) -> _Layout:
    parts = tuple((path, _split(path).base, _split(path).part) for path in paths if _split(path).part)
    whole = tuple(path for path in paths if not _split(path).part)
    return _Layout(whole, parts, tuple((path, f"{path}[x]") for path in whole if f"{path}[x]" in whole))


def _compose(state: _State, resource_type: str) -> dict[str, Json]:  # noqa: C901, PLR0912 - one pass over all kinds of units
    elements = state.elements
    layout = _layout(tuple(elements))
    values: dict[str, Json] = {path: elements[path][1] for path in layout.plain}
    for alone, extended in layout.rivals:  # told in both forms: the later is in force, at one time the fuller
        del values[extended if elements[alone][0] > elements[extended][0] else alone]
    parts: dict[str, list[tuple[str, Json]]] = {}
    for path, base, part in layout.parts:
        parts.setdefault(base, []).append((part, elements[path][1]))
    for path in {*state.progress, *state.resets}:
        status = _status(state, path)
        if status is not None:
            values[path] = status
    for path, groups in state.groups.items():
        base, part, _, _, _ = _split(path)
        for source in sorted(groups):
            parts.setdefault(base, []).append((f"~{part}{source}", groups[source][1]))
    for path, found in parts.items():
        whole = values.get(path)
        if whole is None and len(found) == 1:
            values[path] = found[0][1]
            continue
        joined = list(whole) if isinstance(whole, list) else []
        for _, value in sorted(found, key=_label):
            if value is not CLEARED:
                joined += [item for item in value if not _known(item, joined, path)]
        values[path] = joined or CLEARED
    for path, entry in state.fills.items():
        if path not in values and f"{path}[x]" not in values:
            values[path] = entry[1]
    body: dict[str, Json] = {"resourceType": resource_type}
    for path in sorted(values):
        value = values[path]
        if "." in path or path[-1] == "]":
            _place(body, path, value)
        elif value is not CLEARED:
            body[path] = value
        else:
            body.pop(path, None)
    return body


def _known(item: Json, joined: list[Json], path: str) -> bool:
    """Whether an item of a list is shown already: the same, or an identifier of the same system and value."""
    if path == "identifier" and isinstance(item, dict) and "system" in item and "value" in item:
        name = (item["system"], item["value"])
        return any(isinstance(one, dict) and (one.get("system"), one.get("value")) == name for one in joined)
    return item in joined


def _label(part: tuple[str, Json]) -> str:
    return part[0]


def _place(body: dict[str, Json], path: str, value: Json) -> None:
    _, _, outer, inner, choice = _split(path)
    holder = body
    if inner:
        if value is CLEARED and outer not in body:
            return
        known = body.get(outer)
        holder = body[outer] = dict(known) if isinstance(known, dict) else {}
        path = inner
    if choice:
        if value is not CLEARED:
            holder.update(value)
    elif value is CLEARED:
        holder.pop(path, None)
    else:
        holder[path] = value
    if inner and not holder:
        del body[outer]


def _status(state: _State, path: str) -> str | None:
    reset = state.resets.get(path)
    element = state.elements.get(path)
    if element is not None and (reset is None or element[0] > reset[0]):
        reset = element
    levels = [status for status, stamp in state.progress.get(path, {}).items() if reset is None or stamp > reset[0]]
    if levels:
        return max(levels, key=lambda status: (_LEVELS.get(status, -1), status))
    return reset[1] if reset is not None else None


# state as JSON


def _encode(state: _State, resource_type: str) -> Stored:  # noqa: C901 - one pass over all kinds of units
    shown = _shown(state)
    body = _compose(shown, resource_type) if _exists(state) else None
    stamps: dict[Stamp, int] = {}

    def index(stamp: Stamp) -> int:
        return stamps.setdefault(stamp, len(stamps))

    def entry(one: _Entry) -> list[Json]:
        return [index(one[0])] if one[1] is CLEARED else [index(one[0]), one[1]]

    encoded: dict[str, Json] = {}
    if state.elements:
        read_back = _read_back(state) if body is not None else frozenset()
        units: dict[str, Json] = {}
        last: Stamp | None = None
        at = 0
        for path, (stamp, value) in state.elements.items():
            if stamp is not last:  # most units share one
                last = stamp
                at = stamps.setdefault(stamp, len(stamps))
            units[path] = [at] if value is CLEARED else at if path in read_back else [at, value]
        encoded["u"] = units
    if state.fills:
        encoded["f"] = {path: entry(one) for path, one in state.fills.items()}
    groups = {path: units for path, units in state.groups.items() if units}
    if groups:
        encoded["g"] = {path: {source: entry(one) for source, one in units.items()} for path, units in groups.items()}
    progress = {path: levels for path, levels in state.progress.items() if levels}
    if progress:
        encoded["p"] = {
            path: {level: index(stamp) for level, stamp in levels.items()} for path, levels in progress.items()
        }
    if state.resets:
        encoded["r"] = {path: entry(one) for path, one in state.resets.items()}
    for key, whole in (("t", state.touched), ("w", state.void), ("d", state.deleted)):
        if whole is not None:
            encoded[key] = index(whole)
    if state.creator is not None:
        encoded["c"] = [index(state.creator[0]), state.creator[1], state.creator[2]]
    encoded["s"] = [list(stamp) for stamp in stamps]
    return Stored(body, encoded)


def _read_back(state: _State) -> frozenset[str]:
    """Elements whose value is all that the body shows in their place."""
    if state.creator is not None:
        return frozenset()
    others = (*state.fills, *state.groups, *state.progress, *state.resets)
    return _plain_elements(tuple(state.elements), others)


@lru_cache(maxsize=4096)
def _plain_elements(elements: tuple[str, ...], others: tuple[str, ...]) -> frozenset[str]:
    shared = {_split(path).outer.removesuffix("[x]") for path in others} | _APART
    places: dict[str, list[str]] = {}
    for path in elements:
        places.setdefault(_split(path).outer.removesuffix("[x]"), []).append(path)
    found: set[str] = set()
    for outer, paths in places.items():
        plain = not any(_split(path).part or _split(path).choice for path in paths)
        if plain and outer not in shared and (len(paths) == 1 or all("." in path for path in paths)):
            found.update(paths)
    return frozenset(found)


def _decode(stored: Stored) -> _State:
    state = _State()
    encoded = stored.state
    stamps = [Stamp(rank, time_us, tie) for rank, time_us, tie in encoded["s"]]
    body = stored.body or {}

    def units(found: Mapping[str, Json]) -> _Units:
        return {
            path: (stamps[one], _at(body, path))
            if type(one) is int
            else (stamps[one[0]], one[1] if len(one) > 1 else CLEARED)
            for path, one in found.items()
        }

    state.elements = units(encoded.get("u", _NONE))
    state.fills = units(encoded.get("f", _NONE))
    state.groups = {path: units(found) for path, found in encoded.get("g", _NONE).items()}
    state.progress = {
        path: {level: stamps[at] for level, at in found.items()} for path, found in encoded.get("p", _NONE).items()
    }
    state.resets = units(encoded.get("r", _NONE))
    state.touched = _stamp(stamps, encoded.get("t"))
    state.void = _stamp(stamps, encoded.get("w"))
    state.deleted = _stamp(stamps, encoded.get("d"))
    creator = encoded.get("c")
    if creator is not None:
        state.creator = (stamps[creator[0]], creator[1], creator[2])
    return state


def _stamp(stamps: Sequence[Stamp], at: int | None) -> Stamp | None:
    return None if at is None else stamps[at]


def _at(body: Mapping[str, Json], path: str) -> Json:
    _, _, outer, inner, _ = _split(path)
    return body[outer][inner] if inner else body[path]


_NONE: Final[Mapping[str, Json]] = {}
