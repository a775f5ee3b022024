"""Compiles message maps: which groups a message has, which resources it yields, and which segment changes which of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bridge.errors import Where
from bridge.fhir.types import format_instant
from bridge.mapping.conditions import Condition, Reference, Scope, compile_condition, parse_reference
from bridge.mapping.grammar import Grammar
from bridge.mapping.identity import SLOT_RULES, SlotRule
from bridge.mapping.items import ITEM_RULES
from bridge.mapping.objects import Leaf, build
from bridge.mapping.operations import CLEARED, Reach, UnitKind
from bridge.mapping.places import Cover
from bridge.mapping.source import Map, mistake
from bridge.mapping.units import UnitMap, compile_units

if TYPE_CHECKING:
    from bridge.mapping.compiler import Compiler, Rule
    from bridge.mapping.run import Run

Json = Any

_MESSAGE_KEYS: Final = ("message", "like", "without", "events", "structure", "resources", "segments", "merge")
_EVENT_KEYS: Final = ("kind", "set")
_SLOT_KEYS: Final = (
    "type",
    "per",
    "with",
    "identity",
    "reach",
    "references",
    "set",
    "when",
    "unless",
    "shared",
    "time",
    "status",
    "optional",
)
_STATUS_KEYS: Final = ("from", "provisional", "order")
_USE_KEYS: Final = ("map", "to", "when", "fill", "refer")
_REFERENCE_KEYS: Final = ("every", "only", "of")
_SET_KEYS: Final = ("to", "value", "progress", "reset", "fill", "clear", "message-time", "from", "as", "when", "table")
_SEGMENT_KEYS: Final = ("segment", "maps", "drop")
_MAP_KEYS: Final = ("rules", "element", "items")
KINDS: Final = ("person", "visit", "result")
_ALL: Final = ("*",)  # every: all that the message tells of a patient
_NO_TARGETS: Final = frozenset({"Provenance", "Practitioner", "Organization", "Location"})
_IDENTITY: Final = {**SLOT_RULES, **ITEM_RULES}


class ElementMap(NamedTuple):
    """A map from a whole segment to one item of a list (``Patient.contact``): a GROUP unit."""

    name: str
    path: str
    leaf: Leaf
    indexes: tuple[int, ...]
    items: bool  # the segment makes several items, in its member ``items``


class SegmentMaps(NamedTuple):
    """All maps of one segment."""

    name: str
    maps: Mapping[str, UnitMap | ElementMap]
    drops: Mapping[int, str]  # fields left out on purpose, with the rule that says so


class Use(NamedTuple):
    """One use of a segment map in a message."""

    map: UnitMap | ElementMap
    slot: str
    when: Condition | None
    fill: bool  # only what the resource does not have yet
    refer: tuple[tuple[str, str], ...] = ()  # members of the item that refer to another resource of the message


class Link(NamedTuple):
    """A reference between resources of one message."""

    path: str
    kind: UnitKind
    slots: tuple[str, ...]
    scope: str  # nearest, every (of the own group), within (every of another) or only
    group: str  # for only and within: the group that holds them
    listed: bool


class SetUnit(NamedTuple):
    """A unit that the event, not a field, sets."""

    path: str
    kind: UnitKind
    value: Json
    leaf: Leaf | None
    segment: str
    when: Condition | None
    name: str

    @property
    def forms(self) -> tuple[str, ...]:
        """The paths of units that tell the same element."""
        plain = self.path.removesuffix("[x]")
        return plain, f"{plain}[x]"


class Status(NamedTuple):
    """How final a result says it is, for the order of changes."""

    reference: Reference
    provisional: frozenset[str]
    order: Mapping[str, int]  # among changes of the same time the greater is in force


class Slot(NamedTuple):
    """A resource that a message yields."""

    name: str
    resource_type: str
    group: str
    anchor: str  # the segment whose presence makes it
    identity: SlotRule
    arguments: Mapping[str, tuple[Reference, ...]]
    reach: Reach
    links: tuple[Link, ...]
    sets: tuple[SetUnit, ...]
    when: Condition | None
    unless: str  # not where the same group has a resource of this slot
    shared: bool  # named in passing by many messages: stamped with the day (bridge.mapping.resources)
    time: tuple[Reference, ...]
    status: Status | None
    optional: bool  # only where a segment says something of it


class Event(NamedTuple):
    """A trigger event: what kind of message it is, and what it sets by itself."""

    name: str
    kind: str
    sets: Mapping[str, tuple[SetUnit, ...]]  # by slot


class MessageMap(NamedTuple):
    """A compiled message map."""

    name: str
    events: Mapping[str, Event]
    grammar: Grammar
    slots: tuple[Slot, ...]
    uses: Mapping[tuple[str, str], tuple[Use, ...]]  # by group and segment
    merge: tuple[str, str] | None  # slots of survivor and subsumed
    optional: bool  # some of the slots are


def compile_segment(compiler: Compiler, source: Map, file: str) -> SegmentMaps:
    """The maps of one segment file."""
    source.only(_SEGMENT_KEYS, "a segment")
    segment = source.text("segment")
    scope = Scope(segment, 0)
    maps: dict[str, UnitMap | ElementMap] = {}
    for name, entry in source.map("maps").maps():
        entry.only(_MAP_KEYS, "a segment map")
        label = f"{segment}.{name}"
        if "element" in entry:
            maps[label] = _element(compiler, entry, scope, file, label)
        else:
            maps[label] = compile_units(compiler, entry, scope, file, label)
    drops: dict[int, str] = {}
    for name, entry in source.map("drop").maps():
        entry.only(("fields", "why"), "a drop rule")
        entry.text("why")
        for text in entry.texts("fields"):
            drops[parse_reference(text, entry.at("fields")).field] = f"{file}#{name}"
    return SegmentMaps(segment, maps, drops)


def _element(compiler: Compiler, source: Map, scope: Scope, file: str, name: str) -> ElementMap:
    rules = [compiler.rule(key, entry, scope, file) for key, entry in source.map("rules").maps()]
    parts = [part._replace(leaf=_noting(part.leaf, rule)) for rule in rules for part in rule.parts]
    parts = [part._replace(at=-1, converter=None) for part in parts]
    leaf = build(parts).leaf
    if leaf is None:
        raise mistake("mapping-rules-empty", "no rule reads anything", source.where)
    indexes = tuple(sorted({index for rule in rules for index in rule.indexes}))
    return ElementMap(name, source.text("element"), leaf, indexes, source.flag("items"))


def _noting(leaf: Leaf | None, rule: Rule) -> Leaf | None:
    if leaf is None:
        return None
    entry: tuple[str, tuple[tuple[int, Cover], ...]] = (rule.name, rule.covers)

    def noting(fields: list[str], run: Any) -> Json:
        value = leaf(fields, run)
        if value is not None:
            run.fired.append(entry)
        return value

    return noting


def compile_message(
    compiler: Compiler, source: Map, file: str, segments: Mapping[str, SegmentMaps], like: Sequence[Map] = ()
) -> MessageMap:
    """A message map from its file; what it does not say itself it has from ``like``, as far as its structure has it."""
    source.only(_MESSAGE_KEYS, "a message")
    grammar = Grammar(source.text("structure"), source.at("structure"))
    if like:
        source = _inherit(source, like, grammar)
    slots = tuple(_slot(compiler, name, entry, grammar, file) for name, entry in source.map("resources").maps())
    clinical = tuple(slot.name for slot in slots if slot.resource_type not in _NO_TARGETS and not slot.shared)
    slots = tuple(
        slot._replace(links=tuple(link._replace(slots=clinical) if link.slots == _ALL else link for link in slot.links))
        for slot in slots
    )
    names = {slot.name for slot in slots}
    for slot in slots:
        for link in slot.links:
            for target in link.slots if not like else ():
                _known(target, names, source.map("resources").at(slot.name))
    uses: dict[tuple[str, str], tuple[Use, ...]] = {}
    for place, entries in source.map("segments").items():
        where = source.map("segments").at(place)
        group, segment = _place(place)
        if group not in grammar.groups or segment not in grammar.groups[group].parts:
            raise mistake("mapping-place-unknown", f"the structure has no '{place}'", where)
        uses[group, segment] = tuple(_use(entry, segment, segments, names, where) for entry in entries)
    events = {name: _event(compiler, name, entry, names, file) for name, entry in source.map("events").maps()}
    merge = source.map("merge")
    merge.only(("survivor", "subsumed"), "merge")
    pair = (merge.text("survivor"), merge.text("subsumed")) if merge else None
    for name in pair or ():
        _known(name, names, merge.where)
    optional = any(slot.optional for slot in slots)
    return MessageMap(source.text("message"), events, grammar, slots, uses, pair, optional)


def _inherit(source: Map, like: Sequence[Map], grammar: Grammar) -> Map:
    """``source`` with the resources and segments of ``like`` that it does not define and that its structure has.

    What is inherited stands first: names of what the message adds may build on it.
    """
    without = source.texts("without")
    merged = Map(source.where)
    merged.update(source)
    merged.keys_at = dict(source.keys_at)
    for key in ("resources", "segments"):
        own = source.map(key)
        both = Map(own.where)
        for other in like:
            theirs = other.map(key)
            for name, value in theirs.items():
                group, anchor = (value.text("per", ""), value.text("with")) if key == "resources" else _place(name)
                known = grammar.groups.get(group)
                if known is None or anchor not in (known.names if key == "resources" else known.parts):
                    continue
                if name not in own and name not in both and name not in without:
                    both[name] = value
                    both.keys_at[name] = theirs.at(name)
        for name, value in own.items():
            both[name] = value
            both.keys_at[name] = own.at(name)
        merged[key] = both
    for name, uses in merged.map("segments").items():
        if name not in source.map("segments"):
            merged.map("segments")[name] = _usable(uses, merged.map("resources"))
    return merged


def _usable(uses: Json, resources: Map) -> Json:
    """The uses of segment maps whose resource the message yields."""
    if not isinstance(uses, list):
        return uses
    return [use for use in uses if not isinstance(use, Map) or use.get("to") in resources]


def _place(text: str) -> tuple[str, str]:
    group, _, segment = text.rpartition(".")
    return group, segment


def _known(name: str, names: set[str], where: Where) -> None:
    if name not in names:
        raise mistake("mapping-resource-unknown", f"the message yields no '{name}'", where, names)


def _use(entry: Json, segment: str, segments: Mapping[str, SegmentMaps], names: set[str], where: Where) -> Use:
    if not isinstance(entry, Map):
        raise mistake("mapping-value-invalid", "a use of a segment map must be a mapping", where)
    entry.only(_USE_KEYS, "a use of a segment map")
    known = segments[segment].maps if segment in segments else {}
    name = f"{segment}.{entry.text('map')}"
    if name not in known:
        raise mistake("mapping-map-unknown", f"there is no segment map {name}", entry.at("map"), known)
    slot = entry.text("to")
    _known(slot, names, entry.at("to"))
    when = None
    if "when" in entry:
        when = compile_condition(entry.text("when"), Scope(segment, 0), entry.at("when"))
    refer = tuple((member, entry.map("refer").text(member)) for member in entry.map("refer"))
    if refer and not isinstance(known[name], ElementMap):
        raise mistake("mapping-value-invalid", "refer is for maps that make an item of a list", entry.at("refer"))
    for _, target in refer:
        _known(target, names, entry.at("refer"))
    return Use(known[name], slot, when, entry.flag("fill"), refer)


def _slot(compiler: Compiler, name: str, source: Map, grammar: Grammar, file: str) -> Slot:
    source.only(_SLOT_KEYS, "a resource of a message")
    group = source.text("per", "")
    anchor = source.text("with")
    if group not in grammar.groups or anchor not in grammar.groups[group].names:
        raise mistake("mapping-place-unknown", f"the structure has no {anchor} in '{group}'", source.at("per"))
    identity = source.map("identity")
    rule_name = identity.text("rule")
    if rule_name not in _IDENTITY:
        raise mistake("mapping-identity-unknown", f"no identity rule '{rule_name}'", identity.at("rule"), _IDENTITY)
    rule, arguments = _IDENTITY[rule_name]
    identity.only({"rule", *arguments}, f"the identity rule {rule_name}")
    for argument in arguments:
        if argument not in identity:
            raise mistake("mapping-identity-incomplete", f"the rule needs '{argument}'", identity.where)
    scope = Scope(anchor, 0)
    return Slot(
        name=name,
        resource_type=source.text("type"),
        group=group,
        anchor=anchor,
        identity=rule,
        arguments={key: _references(identity, key) for key in sorted(arguments)},
        reach=_reach(source),
        links=tuple(_link(path, value, source.map("references")) for path, value in source.map("references").items()),
        sets=tuple(_set(compiler, entry, f"{file}#{name}", anchor) for entry in source.get("set", ())),
        when=compile_condition(source.text("when"), scope, source.at("when")) if "when" in source else None,
        unless=source.text("unless", ""),
        shared=source.flag("shared"),
        time=_references(source, "time"),
        status=_status(source.map("status")) if "status" in source else None,
        optional=source.flag("optional"),
    )


def _reach(source: Map) -> Reach:
    reach = source.text("reach", Reach.ANY)
    if reach not in set(Reach):
        raise mistake("mapping-value-invalid", "a reach is any or create-only", source.at("reach"), [*Reach])
    return Reach(reach)


def _status(source: Map) -> Status:
    source.only(_STATUS_KEYS, "a status")
    order = {code: rank for rank, code in enumerate(source.texts("order"), 1)}
    reference = parse_reference(source.text("from"), source.at("from"))
    return Status(reference, frozenset(source.texts("provisional")), order)


def _references(source: Map, key: str) -> tuple[Reference, ...]:
    return tuple(parse_reference(text, source.at(key)) for text in source.texts(key))


def _link(path: str, value: Json, source: Map) -> Link:
    listed = path.endswith("[]")
    path = path.removesuffix("[]")
    if isinstance(value, str):
        return Link(path, UnitKind.ELEMENT, (value,), "nearest", "", listed)
    if not isinstance(value, Map):
        raise mistake("mapping-value-invalid", "a reference names a resource of the message", source.at(path))
    value.only(_REFERENCE_KEYS, "a reference")
    if "every" in value:
        scope = "within" if "of" in value else "every"
        return Link(path, UnitKind.GROUP, value.texts("every"), scope, value.text("of", ""), listed)
    return Link(path, UnitKind.ELEMENT, value.texts("only"), "only", value.text("of"), listed)


def _event(compiler: Compiler, name: str, source: Map, names: set[str], file: str) -> Event:
    source.only(_EVENT_KEYS, "an event")
    kind = source.text("kind")
    if kind not in KINDS:
        raise mistake("mapping-value-invalid", "an event is of kind person, visit or result", source.at("kind"), KINDS)
    sets: dict[str, tuple[SetUnit, ...]] = {}
    for slot, entries in source.map("set").items():
        _known(slot, names, source.map("set").at(slot))
        sets[slot] = tuple(_set(compiler, entry, f"{file}#{name}", "") for entry in entries)
    return Event(name, kind, sets)


def _set(compiler: Compiler, source: Map, name: str, anchor: str) -> SetUnit:
    source.only(_SET_KEYS, "a unit that is set")
    path = source.text("to")
    for key, kind in (("progress", UnitKind.PROGRESS), ("reset", UnitKind.RESET), ("fill", UnitKind.FILL)):
        if key in source and isinstance(source[key], str):
            return SetUnit(path, kind, source[key], None, "", None, name)
    segment = ""
    leaf: Leaf | None = None
    kind = UnitKind.FILL if source.get("fill") is True else UnitKind.ELEMENT
    if "from" in source:
        segment = parse_reference(source.texts("from")[0], source.at("from")).owner
        entry = Map(source.where)
        entry.update({key: source[key] for key in ("from", "as", "table") if key in source})
        entry["to"] = "$"
        entry.keys_at = source.keys_at
        part = compiler.rule("set", entry, Scope(segment, 0), name.partition("#")[0]).parts[0]
        leaf = part.leaf
    when = None
    if "when" in source:
        owner = segment or anchor or parse_reference(source.text("when").split()[0], source.at("when")).owner
        when = compile_condition(source.text("when"), Scope(owner, 0), source.at("when"))
        segment = owner
    if source.flag("message-time"):
        return SetUnit(path, kind, None, _message_time, "MSH", when, name)
    if source.flag("clear"):
        return SetUnit(path, kind, CLEARED, None, segment, when, name)
    return SetUnit(path, kind, source.get("value"), leaf, segment, when, name)


def _message_time(_fields: list[str], run: Run) -> str | None:
    return None if run.timeless else format_instant(run.time_us)
