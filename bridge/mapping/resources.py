"""Data types that make resources of their own: practitioners, organisations and places that a message names in passing.

Such resources are the same in message after message, so their operations are made once a day and site and kept for the next
message that names them with the same text. Their changes are stamped with the day, not the moment, and then by their
content: thousands of equal mentions change nothing in the store, and different mentions of one day have an order that every
delivery order agrees on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bridge.mapping.apply import CONTENT
from bridge.mapping.conditions import NULL, Scope
from bridge.mapping.identity import PLACES, TYPE_RULES, place_name, place_path, site_namespace
from bridge.mapping.operations import IdentityKey, Stamp, Target, TargetReference, UnitChange, UnitKind, Upsert
from bridge.mapping.places import ALL, Cover, union
from bridge.mapping.source import Map, mistake
from bridge.mapping.units import compile_units

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.mapping.compiler import Compiler, TypeMap
    from bridge.mapping.objects import Converter
    from bridge.mapping.run import Run

Json = Any

_KEPT: Final = 4_000  # texts remembered a data type, before they are forgotten together: of up to some 4 kB each
_CHAIN_KEYS: Final = ("from", "type")

Made = tuple[dict[str, Json], tuple[Upsert, ...], tuple[tuple[Target, str, str], ...]]


def compile_resource(compiler: Compiler, type_map: TypeMap, level: int) -> tuple[Converter, Cover]:
    """The converter from a data type's text to a reference to the resource that it makes."""
    if "chain" in type_map.source:
        make, cover = _chain(compiler, type_map, level)
    else:
        make, cover = _single(compiler, type_map, level)
    return _remembered(make, level), cover


def _remembered(make: Callable[[list[str], Run], Made | None], level: int) -> Converter:
    known: dict[tuple[str, str, int], Made | None] = {}

    def convert(raw: str, run: Run) -> Json:
        key = (raw, run.dialect, run.day_us)
        try:
            made = known[key]
        except KeyError:
            before = len(run.reports)
            delimiter = run.subcomponent if level else run.component
            made = make(raw.split(delimiter), run)
            if len(known) >= _KEPT:
                known.clear()
            if len(run.reports) == before:  # what had to be reported is looked at again each time
                known[key] = made
        if made is None:
            return None
        reference, operations, names = made
        run.referred += 1
        shared = run.shared
        for operation in operations:
            if operation.target not in shared:
                shared[operation.target] = operation
        if run.trace is not None:
            run.trace += names
        return reference

    return convert


def _single(compiler: Compiler, type_map: TypeMap, level: int) -> tuple[Callable[[list[str], Run], Made | None], Cover]:
    source = type_map.source
    rule_name = source.text("identity")
    identify = TYPE_RULES.get(rule_name)
    if identify is None:
        raise mistake("mapping-identity-unknown", f"no identity rule '{rule_name}'", source.at("identity"), TYPE_RULES)
    scope = Scope(type_map.owner, level + 1)
    units = compile_units(compiler, source, scope, type_map.file, type_map.name)
    resource = source.text("resource")

    def make(parts: list[str], run: Run) -> Made | None:
        changes: list[UnitChange] = []
        names: list[str] = []
        outer = run.fired
        run.fired = []
        units.run(parts, run, changes, names)
        run.fired = outer
        display = _display(changes)
        target = identify(parts, run)
        if target is None:
            return ({"display": display}, (), ()) if display else None
        reference: dict[str, Json] = {"reference": TargetReference(target)}
        if display:
            reference["display"] = display
        operation = Upsert(target, day_stamp(run, changes), run.source, tuple(changes))
        trace = tuple((target, change.path, name) for change, name in zip(changes, names, strict=True))
        return reference, (operation,), trace

    assert resource
    covers = [cover for unit in units.units for cover in unit.covers]
    parts: dict[int, list[Cover]] = {}
    for index, cover in covers:
        parts.setdefault(index + 1, []).append(cover)
    return make, Cover({number: union(found) for number, found in parts.items()})


def day_stamp(run: Run, changes: list[UnitChange]) -> Stamp:
    """The stamp of what is shared between messages: the day, then the content (see ``bridge.mapping.apply``)."""
    return Stamp(1, run.day_us, f"{CONTENT}{_digest(changes)}:{run.source}")


def _digest(changes: list[UnitChange]) -> str:
    content = [(change.path, change.value) for change in changes]
    return hashlib.sha256(_encoder.encode(content)).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return [list(key) for key in value.target.keys] if isinstance(value, TargetReference) else str(value)


_encoder: Final = msgspec.json.Encoder(enc_hook=_plain, order="sorted")


def _display(changes: list[UnitChange]) -> str:
    """How a reference names its target: a person's or an organisation's name."""
    for path, _, value, _ in changes:
        if not path.startswith("name"):
            continue
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value and isinstance(value[0], dict):
            name = value[0]
            pieces = [*name.get("prefix", ()), *name.get("given", ()), name.get("family", ""), *name.get("suffix", ())]
            return " ".join(piece for piece in pieces if piece)
    return ""


def _chain(compiler: Compiler, type_map: TypeMap, level: int) -> tuple[Callable[[list[str], Run], Made | None], Cover]:
    """PL: a place in a place in a place, the smallest first; the reference is to the smallest."""
    source = type_map.source
    steps: list[tuple[int, str, dict[str, Json], str]] = []
    for name, entry in source.map("chain").maps():
        entry.only(_CHAIN_KEYS, "a place of a chain")
        component = int(entry.text("from").rpartition(".")[2])
        steps.append((component - 1, entry.text("type"), _physical_type(entry), f"{type_map.file}#{name}"))
    if tuple((index, code) for index, code, _, _ in reversed(steps)) != PLACES:
        raise mistake("mapping-chain-invalid", "the chain must name all places, the smallest first", source.at("chain"))
    scope = Scope(type_map.owner, level + 1)
    smallest = compile_units(compiler, source, scope, type_map.file, type_map.name)

    def make(parts: list[str], run: Run) -> Made | None:
        present = [step for step in steps if step[0] < len(parts) and parts[step[0]] and parts[step[0]] != NULL]
        path: list[tuple[str, str]] = []
        operations: list[Upsert] = []
        trace: list[tuple[Target, str, str]] = []
        outer: Target | None = None
        reference: dict[str, Json] = {}
        for index, code, physical, name in reversed(present):
            label = place_name(parts[index], run)
            if not label:
                continue
            path.append((code, label))
            target = Target((IdentityKey("Location", site_namespace(run), "place", place_path(path)),))
            changes = [
                UnitChange("identifier#PL.01", UnitKind.ELEMENT, [{"value": label}]),
                UnitChange("mode", UnitKind.ELEMENT, "instance"),
                UnitChange("name", UnitKind.ELEMENT, label),
                UnitChange("physicalType", UnitKind.ELEMENT, physical),
            ]
            names = [name] * len(changes)
            if outer is not None:
                changes.append(UnitChange("partOf", UnitKind.ELEMENT, {"reference": TargetReference(outer)}))
                names.append(name)
            if index == present[0][0]:
                fired, run.fired = run.fired, []
                smallest.run(parts, run, changes, names)
                run.fired = fired
            operations.append(Upsert(target, day_stamp(run, changes), run.source, tuple(changes)))
            trace += [(target, change.path, made_by) for change, made_by in zip(changes, names, strict=True)]
            outer = target
            reference = {"reference": TargetReference(target), "display": label}
        return (reference, tuple(operations), tuple(trace)) if operations else None

    cover = {index + 1: ALL for index, _, _, _ in steps}
    for unit in smallest.units:
        cover.update({index + 1: found for index, found in unit.covers})
    return make, Cover(cover)


def _physical_type(entry: Map) -> dict[str, Json]:
    code = entry.text("type")
    if code == "poc":
        return {"text": "point of care"}
    system = "http://terminology.hl7.org/CodeSystem/location-physical-type"
    return {"coding": [{"system": system, "code": code}]}
