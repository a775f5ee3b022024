"""From an HL7 v2 message to operations on FHIR resources: pure, by compiled rules (laws *Identity*, *Change*, *Order*)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bridge.errors import Forbidden, Incorrect
from bridge.mapping.grammar import Group
from bridge.mapping.identity import nearest
from bridge.mapping.ledger import Ledger
from bridge.mapping.messages import ElementMap, Event, Link, MessageMap, SetUnit, Slot, Use
from bridge.mapping.operations import (
    CLEARED,
    Conversion,
    Merge,
    Operation,
    OutputEntry,
    Stamp,
    UnitChange,
    UnitKind,
)
from bridge.mapping.primitives import moment
from bridge.mapping.resources import day_stamp
from bridge.mapping.run import Pending, Run

if TYPE_CHECKING:
    from bridge.config.site import Site
    from bridge.hl7v2.message import Message, Segment
    from bridge.mapping.rules import Rules
    from bridge.mapping.units import UnitMap

Json = Any

_DAY_US: Final = 86_400_000_000
_CONSENT_SEGMENTS: Final = ("CON", "ARV")
_NO_DROPS: Final[dict[int, str]] = {}


def event_of(message: Message) -> str:
    """The trigger event as sites and mappings name it: ``ADT^A01``."""
    kind = message.type
    return f"{kind.code}^{kind.event}"


def convert(message: Message, site: Site, rules: Rules, *, explain: bool = False) -> Conversion:
    """What a message asks for.

    Args:
        message: as the reader gives it.
        site: the file of the site that sent it. Whether the site may send this event is the caller's question
            (:func:`event_of`, ``site.events``): filtered is not the same as wrong.
        rules: compiled mappings.
        explain: also answer the ledger of elements and the rule behind each output element.

    Raises:
        Incorrect: ``unknown-event``, ``patient-without-identifier``, ``foreign-authority``, ``merge-without-identifier``,
            ``merge-with-itself``.
        Forbidden: ``sender-not-allowed``, MSH-3 or MSH-4 is not one the site's file allows.
    """
    event_name = event_of(message)
    known = rules.events.get(event_name)
    if known is None:
        raise Incorrect(
            "unknown-event", "no mapping knows the trigger event", remedy="Filter the event at the site, or map it."
        )
    message_map, event = known
    _check_sender(message, site)
    root, placed, strays = message_map.grammar.sort(message.segments)
    run = Run(message, site, root, explain=explain)
    run.event = event_name
    _take_time(run)
    if message.charset_fallback:
        run.report("charset-fallback", "MSH-18")
    try:
        return _converted(message_map, event, rules, root, placed, strays, run)
    finally:
        _release(root)


def _release(group: Group) -> None:
    """Parts the instances from one another: cycles would leave each message to the garbage collector."""
    for child in group.children:
        _release(child)
    group.children.clear()
    group.pending.clear()
    group.below.clear()
    group.parent = None


def _converted(
    message_map: MessageMap,
    event: Event,
    rules: Rules,
    root: Group,
    placed: list[tuple[Segment, Group]],
    strays: list[Segment],
    run: Run,
) -> Conversion:
    pendings = _resources(message_map, root, run)
    ledger = _map_segments(rules, message_map, placed, {id(segment) for segment in strays}, run)
    if message_map.optional:
        pendings = _told(pendings)
    for pending, slot in pendings:
        _finish(pending, slot, event, run)
    return _conversion(message_map, event, pendings, ledger, run)


def _told(pendings: list[tuple[Pending, Slot]]) -> list[tuple[Pending, Slot]]:
    """Without the optional resources of which no segment said anything; nothing refers to those."""
    found = []
    for pending, slot in pendings:
        if slot.optional and not (pending.units or pending.groups):
            group: Group | None = pending.group
            while group is not None:
                for known in (group.pending.get(slot.name), group.below.get(slot.name)):
                    if known and pending in known:
                        known.remove(pending)
                group = group.parent
        else:
            found.append((pending, slot))
    return found


def _check_sender(message: Message, site: Site) -> None:
    sender = site.sender
    if not sender.applications and not sender.facilities:
        return
    header = message.header
    for allowed, value, field in (
        (sender.applications, header.sending_application, "MSH-3"),
        (sender.facilities, header.sending_facility, "MSH-4"),
    ):
        if allowed and value not in allowed:
            raise Forbidden(
                "sender-not-allowed",
                f"{field} names a sender that the site's file does not allow",
                remedy="List it there.",
            )


def _take_time(run: Run) -> None:
    """EVN-2, else MSH-7; a message that tells neither ranks behind all that do, and is reported."""
    message = run.message
    for name, number in (("EVN", 2), ("MSH", 7)):
        segment = message.segment(name)
        raw = segment.field(number) if segment is not None else ""
        found = moment(raw.split(run.component, 1)[0], run.zone) if raw else None
        if found is not None:
            run.time_us = found.us
            run.day_us = found.us - found.us % _DAY_US
            return
    run.timeless = True
    run.report("message-without-time", "MSH-7")


# resources and their names


def _resources(message_map: MessageMap, root: Group, run: Run) -> list[tuple[Pending, Slot]]:
    instances: dict[str, list[Group]] = {}
    _collect(root, instances)
    made: list[tuple[Pending, Slot]] = []
    for slot in message_map.slots:
        for group in instances.get(slot.group, ()):
            anchor = group.near.get(slot.anchor)
            if anchor is None:
                continue
            run.group = group
            if slot.when is not None and not slot.when(anchor.fields, run):
                continue
            if slot.unless and slot.unless in group.below:
                continue
            target = slot.identity(group, run, slot.arguments)
            if target is None:
                continue
            pending = Pending(slot.name, target, group, slot.reach)
            _take_order(pending, slot, group, run)
            made.append((pending, slot))
            _register(pending, group)
    if not any(slot.resource_type == "Patient" for _, slot in made):
        raise Incorrect(
            "patient-without-identifier",
            "the message has no segment that names a patient",
            remedy="The sender must identify the patient in PID-3.",
        )
    return made


def _collect(group: Group, into: dict[str, list[Group]]) -> None:
    into.setdefault(group.name, []).append(group)
    for child in group.children:
        _collect(child, into)


def _register(pending: Pending, group: Group) -> None:
    near = True
    here: Group | None = group
    while here is not None:
        here.below.setdefault(pending.slot, []).append(pending)
        if near:
            here.pending.setdefault(pending.slot, []).append(pending)
            near = not here.definition.repeats
        here = here.parent


def _take_order(pending: Pending, slot: Slot, group: Group, run: Run) -> None:
    """The resource's own time and finality (law *Order*), where it has them."""
    for reference in slot.time:
        segment = group.find(reference.owner)
        raw = segment.field(reference.field) if segment is not None else ""
        found = moment(raw.split(run.component, 1)[0], run.zone) if raw else None
        if found is not None:
            pending.time_us = found.us
            break
    if slot.status is not None:
        reference = slot.status.reference
        segment = group.find(reference.owner)
        raw = segment.field(reference.field) if segment is not None else ""
        if raw in slot.status.provisional:
            pending.rank = 0
        pending.status = str(slot.status.order.get(raw, 0))


# segments


def _map_segments(
    rules: Rules, message_map: MessageMap, placed: list[tuple[Segment, Group]], strays: set[int], run: Run
) -> Ledger:
    ledger = Ledger(run.message.delimiters, explain=run.trace is not None)
    uses_of = message_map.uses
    segments = rules.segments
    for segment, group in placed:
        name = segment.name
        fields = segment.fields
        run.group = group
        run.segment = segment
        run.fields = fields
        run.fired = []
        known = segments.get(name)
        uses = uses_of.get((group.name, name), ())
        if id(segment) in strays:
            out_of_place = name in message_map.grammar.root.names
            run.report("segment-out-of-place" if out_of_place else "segment-unknown", f"{name}:{segment.position}")
            if group.near.get(name) is not segment:
                uses = ()  # a second one where there can be but one: whose it is cannot be known
        for use in uses:
            pending = _first_below(group, use.slot) if use.fill else nearest(group, use.slot)
            if pending is None or (use.when is not None and not use.when(fields, run)):
                continue
            if isinstance(use.map, ElementMap):
                _map_element(use, use.map, fields, pending, run)
            elif use.fill:
                _spare(use.map, fields, pending, run)
            else:
                start = len(pending.units)
                use.map.run(fields, run, pending.units, pending.names)
                if run.trace is not None:
                    _trace(pending, start, run)
        ledger.add(segment, run.fired, known.drops if known is not None else _NO_DROPS)
    return ledger


def _map_element(use: Use, element: ElementMap, fields: list[str], pending: Pending, run: Run) -> None:
    value = element.leaf(fields, run)
    for member, slot in use.refer:
        referred = nearest(run.group, slot)
        if referred is not None:
            value = value or {}
            value = {**value, member: {**value.get(member, {}), **referred.reference}}
    if value is None and not any(index < len(fields) and fields[index] for index in element.indexes):
        return
    items = pending.groups.setdefault(element.path, [])
    if element.items and value is not None:
        items += value["items"]
    else:
        items.append(value)
    if run.trace is not None:
        run.trace.append((pending.target, element.path, element.name))


def _spare(unit_map: UnitMap, fields: list[str], pending: Pending, run: Run) -> None:
    """What counts only as far as the resource's own segment says nothing."""
    units: list[UnitChange] = []
    names: list[str] = []
    unit_map.run(fields, run, units, names)
    pending.spare += zip(units, names, strict=True)


def _trace(pending: Pending, start: int, run: Run) -> None:
    assert run.trace is not None
    for unit, name in zip(pending.units[start:], pending.names[start:], strict=True):
        run.trace.append((pending.target, unit.path, name))


# what comes from the event and from the other resources


def _finish(pending: Pending, slot: Slot, event: Event, run: Run) -> None:  # noqa: C901, PLR0912 - all sources of units, in their order
    start = len(pending.units)
    if pending.spare:
        known = {unit.path for unit in pending.units}
        for unit, name in pending.spare:
            if unit.path not in known:
                pending.units.append(unit)
                pending.names.append(name)
    for path, values in pending.groups.items():
        items = [value for value in values if value is not None]
        pending.units.append(UnitChange(path, UnitKind.GROUP, items or CLEARED))
        pending.names.append("")
    for setting in event.sets.get(slot.name, ()):
        if setting.kind is not UnitKind.FILL or all(unit.path not in setting.forms for unit in pending.units):
            _set(setting, pending, run)
    if slot.sets:
        told = {
            unit.path.partition("#")[0] if "#" in unit.path else unit.path
            for unit in pending.units
            if unit.value is not CLEARED
        }
        for setting in slot.sets:
            if setting.kind is not UnitKind.FILL or told.isdisjoint(setting.forms):
                _set(setting, pending, run)
                told.update(unit.path for unit in pending.units[-1:])
    for link in slot.links:
        value = _linked(link, pending)
        if value is not None:
            pending.units.append(UnitChange(link.path, link.kind, value))
            pending.names.append(f"messages/{slot.name}#{link.path}")
    if run.trace is not None:
        for change, name in zip(pending.units[start:], pending.names[start:], strict=True):
            if name:
                run.trace.append((pending.target, change.path, name))


def _set(unit: SetUnit, pending: Pending, run: Run) -> None:
    value = unit.value
    kind = unit.kind
    path = unit.path
    if unit.segment:
        segment = pending.group.find(unit.segment)
        fields = segment.fields if segment is not None else []
        run.group = pending.group
        run.fields = fields
        if unit.when is not None and not unit.when(fields, run):
            return
        if unit.leaf is not None:
            value = unit.leaf(fields, run)
            if value is None:
                return
    for at, known in enumerate(pending.units):
        if known.path in unit.forms and (kind is UnitKind.ELEMENT or known.value is CLEARED):
            del pending.units[at], pending.names[at]
            if kind is UnitKind.FILL:  # what must be there is not cleared
                kind = UnitKind.ELEMENT
                if known.path.endswith("[x]") and not path.endswith("[x]"):
                    path, value = known.path, {path: value}
            break
    pending.units.append(UnitChange(path, kind, value))
    pending.names.append(unit.name)


def _linked(link: Link, pending: Pending) -> Json:
    group: Group | None = pending.group
    found: list[Pending] = []
    if link.scope == "nearest":
        one = nearest(pending.group, link.slots[0])
        if one is not None:
            found.append(one)
    else:
        if link.scope != "every":
            while group is not None and group.name != link.group:
                group = group.parent
        if group is not None:
            for slot in link.slots:
                found += group.below.get(slot, ())
        if link.scope == "only" and len(found) > 1:
            return None
    references = [one.reference for one in found if one is not pending]
    if link.listed:
        return references or None
    return references[0] if references else None


def _first_below(group: Group, slot: str) -> Pending | None:
    found = group.below.get(slot)
    return found[0] if found else None


# the result


def _conversion(
    message_map: MessageMap, event: Event, pendings: list[tuple[Pending, Slot]], ledger: Ledger, run: Run
) -> Conversion:
    header = run.message.header
    source = run.source
    tie = f"{header.sequence_number:0>15}:{source}:{header.control_id}"
    stamp = Stamp(0 if run.timeless else 1, run.time_us, tie)
    operations: list[Operation] = list(run.shared.values())
    patient = None
    for pending, slot in pendings:
        if slot.resource_type == "Patient" and patient is None:
            patient = pending.target
        own = stamp
        if slot.shared:
            own = day_stamp(run, pending.units)
        elif pending.status or pending.time_us >= 0:
            time_us = pending.time_us if pending.time_us >= 0 else run.time_us
            rank = pending.rank if pending.time_us >= 0 else min(pending.rank, stamp.rank)
            own = Stamp(rank, time_us, f"{pending.status or 0}:{run.time_us:020}:{tie}")
        if pending.units:
            operations.append(pending.upsert(own, source))
    if message_map.merge is not None:
        merges = _merges(message_map.merge, pendings, stamp, source)
        if not merges:
            raise Incorrect(
                "merge-without-identifier",
                "the merge does not name the record that it ends",
                remedy="The sender must fill MRG-1.",
            )
        operations += merges
    return Conversion(
        event=run.event,
        kind=event.kind,
        time_us=run.time_us,
        patient=patient,
        operations=tuple(operations),
        restricts_patient=any(_valued(run.message, name) for name in _CONSENT_SEGMENTS),
        ledger=tuple(ledger.entries or ()),
        mapped=ledger.mapped,
        dropped=ledger.dropped,
        unmapped=ledger.unmapped,
        reports=tuple(run.reports),
        outputs=tuple(OutputEntry(target, path, rule) for target, path, rule in run.trace or ()),
    )


def _valued(message: Message, name: str) -> bool:
    return any(any(segment.fields[1:]) for segment in message.all(name))


def _merges(slots: tuple[str, str], pendings: list[tuple[Pending, Slot]], stamp: Stamp, source: str) -> list[Operation]:
    survivor_slot, subsumed_slot = slots
    merges: list[Operation] = []
    for pending, slot in pendings:
        if slot.name != subsumed_slot:
            continue
        survivor = nearest(pending.group, survivor_slot)
        if survivor is None:
            continue
        if set(survivor.target.keys) & set(pending.target.keys):
            raise Incorrect(
                "merge-with-itself",
                "the merge names one record as both survivor and subsumed",
                remedy="The sender must name two records.",
            )
        merges.append(Merge(survivor.target, pending.target, stamp, source))
    return merges
