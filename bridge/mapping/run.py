"""What one conversion knows while it runs, and the resources it is building."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.mapping.operations import (
    IdentityKey,
    Reach,
    Report,
    Stamp,
    Target,
    TargetReference,
    UnitChange,
    UnitKind,
    Upsert,
)

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from bridge.config.site import Site
    from bridge.hl7v2.message import Message, Segment
    from bridge.mapping.grammar import Group
    from bridge.mapping.places import Cover

Json = Any


class Pending:
    """A resource that a conversion is building."""

    __slots__ = (
        "group",
        "groups",
        "names",
        "rank",
        "reach",
        "reference",
        "slot",
        "spare",
        "status",
        "target",
        "time_us",
        "units",
    )

    def __init__(self, slot: str, target: Target, group: Group, reach: Reach) -> None:
        self.slot = slot
        self.target = target
        self.group = group
        self.reach = reach
        self.reference = {"reference": TargetReference(target)}
        self.units: list[UnitChange] = []
        self.names: list[str] = []  # the rule that made each unit
        self.groups: dict[str, list[Json]] = {}  # GROUP units: one item a segment; None for a segment that clears
        self.spare: list[tuple[UnitChange, str]] = []  # what another segment says, for what its own does not
        self.rank = 1
        self.time_us = -1  # own time, where the resource has one
        self.status = ""  # order among results of the same time

    def upsert(self, stamp: Stamp, source: str) -> Upsert:
        """The finished operation; of two rules for one unit the first is in force, save in an item that both write to."""
        units = self.units
        if len({unit.path for unit in units}) < len(units):
            seen: dict[tuple[str, UnitKind], UnitChange] = {}
            for unit in units:
                known = seen.setdefault((unit.path, unit.kind), unit)
                if known is not unit and "#+" in unit.path and type(known.value) is type(unit.value) is list:
                    item = together(known.value[0], unit.value[0])
                    seen[unit.path, unit.kind] = known._replace(value=[item], refers=known.refers or unit.refers)
            units = list(seen.values())
        return Upsert(self.target, stamp, source, tuple(units), self.reach)


def together(first: Json, second: Json) -> Json:
    """One value that says what both do; where they differ, what the first does. Neither is changed."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {**second, **{key: together(value, second.get(key)) for key, value in first.items()}}
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second) == 1:
        return [together(first[0], second[0])]
    return first


class Run:
    """The state of one conversion; made for one message, thrown away with it.

    Attributes:
        group: the group instance of the segment at hand, for conditions on other segments.
        fields: the fields of the segment at hand.
        dialect: the site and how the message is written: equal texts of one dialect mean the same.
        timeless: the message tells no time of its own.
        fired: the rules that made something of it, with what they read.
        shared: finished operations on resources that many messages name (practitioners, places, organisations).
        referred: how often a value took a reference to one of them.
        trace: for an explained conversion, ``(target, path, rule)`` of every output element; else None.
    """

    __slots__ = (
        "component",
        "control_id",
        "day_us",
        "dialect",
        "escape",
        "event",
        "fields",
        "fired",
        "group",
        "message",
        "ordinals",
        "referred",
        "repetition",
        "reports",
        "segment",
        "shared",
        "site",
        "source",
        "subcomponent",
        "time_us",
        "timeless",
        "trace",
        "zone",
    )

    def __init__(self, message: Message, site: Site, group: Group, *, explain: bool) -> None:
        delimiters = message.delimiters
        self.message = message
        self.site = site
        self.source = site.site
        self.zone: ZoneInfo | None = site.zone
        self.component = delimiters.component
        self.subcomponent = delimiters.subcomponent
        self.repetition = delimiters.repetition
        self.escape = delimiters.escape
        self.dialect = f"{self.source}{delimiters.field}{delimiters.encoding_characters}{delimiters.charset}"
        self.group = group
        self.segment: Segment | None = None
        self.fields: list[str] = []
        self.fired: list[tuple[str, tuple[tuple[int, Cover], ...]]] = []
        self.shared: dict[Target, Upsert] = {}
        self.referred = 0
        self.ordinals: dict[IdentityKey, int] = {}  # how often an observation's name was seen
        self.reports: dict[Report, None] = {}
        self.trace: list[tuple[Target, str, str]] | None = [] if explain else None
        self.event = ""
        self.time_us = 0
        self.timeless = False
        self.day_us = 0
        self.control_id = ""

    def report(self, code: str, place: str = "") -> None:
        """Notes something the sender should know; the same thing once."""
        self.reports[Report(code, place)] = None
