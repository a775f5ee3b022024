"""What messages of a sender show of it, and the site file that follows from that."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from bridge.hl7v2.message import Message, Segment
from bridge.mapping.convert import event_of

_IDENTIFIERS: Final = (("PID", 3), ("PID", 2), ("PID", 4), ("MRG", 1))
_CODED: Final = (
    ("AL1", 3), ("DG1", 3), ("IAM", 3), ("OBR", 4), ("OBX", 3), ("OBX", 5), ("PR1", 3), ("RXA", 5), ("RXE", 2), ("RXO", 1), ("SPM", 4),
)  # fmt: skip
_CODES: Final = frozenset({"CE", "CWE", "CNE", "CF"})
# types of identifiers that name a sender's own records (HL7 table 0203, and as senders write them)
_RECORD: Final = frozenset({"", "AN", "EN", "LR", "MR", "MRN", "MRT", "PI", "PN", "PT", "U", "VN", "VS", "XX"})
_MOST_TYPES: Final = 6  # more than that are no restriction
_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9]\d*))+")
_HL7_TABLE: Final = re.compile(r"(?:HL7|hl7|v2-|HL7-)\d{4}")
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9^_-]*")  # a text in YAML without quotes, but for these words
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_NO_OFFSET: Final = re.compile(r"\d{9,}(?:\.\d+)?")


@dataclass(slots=True)
class Authority:
    """An assigning authority as messages name it.

    Attributes:
        identifiers: how many it issued.
        types: their types.
        oid: its universal id, where it has one.
    """

    identifiers: int = 0
    types: Counter[str] = field(default_factory=Counter)
    oid: str = ""

    @property
    def evidence(self) -> bool:
        """Whether nothing that it issued is of a type that names a sender's own records."""
        return bool(self.types) and _RECORD.isdisjoint(self.types)


@dataclass(slots=True)
class Observed:
    """What the messages of one sender show.

    Attributes:
        messages: how many were looked at.
        applications, facilities: MSH-3.1 and MSH-4.1.
        events: by how often.
        authorities: by their names; '' where identifiers have none.
        charsets: MSH-18.
        undeclared: messages that are not in the character set that they declare.
        without_offset: messages whose MSH-7 has a time of day and no offset.
        systems: names of coding systems.
    """

    messages: int = 0
    applications: Counter[str] = field(default_factory=Counter)
    facilities: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    authorities: dict[str, Authority] = field(default_factory=dict)
    charsets: Counter[str] = field(default_factory=Counter)
    undeclared: int = 0
    without_offset: int = 0
    systems: Counter[str] = field(default_factory=Counter)

    def add(self, message: Message) -> None:
        """Adds one message."""
        header = message.segments[0]
        self.messages += 1
        self.events[event_of(message)] += 1
        for number, counter in ((3, self.applications), (4, self.facilities), (18, self.charsets)):
            if text := _text(header, number, 1):
                counter[text] += 1
        self.undeclared += message.charset_fallback
        self.without_offset += _NO_OFFSET.fullmatch(_text(header, 7, 1)) is not None
        for segment in message.segments:
            self._identifiers(segment)
            self._systems(segment)

    def _identifiers(self, segment: Segment) -> None:
        for name, number in _IDENTIFIERS:
            if segment.name != name:
                continue
            for repetition in range(1, len(segment.repetitions(number)) + 1):
                if not _text(segment, number, 1, repetition=repetition):
                    continue
                known = self.authorities.setdefault(_text(segment, number, 4, repetition=repetition), Authority())
                known.identifiers += 1
                if kind := _text(segment, number, 5, repetition=repetition):
                    known.types[kind] += 1
                universal = _text(segment, number, 4, 2, repetition=repetition)
                if _OID.fullmatch(universal):
                    known.oid = universal

    def _systems(self, segment: Segment) -> None:
        for name, number in _CODED:
            if segment.name == name and (number != 5 or name != "OBX" or _text(segment, 2, 1) in _CODES):
                for component in (3, 6):
                    if text := _text(segment, number, component):
                        self.systems[text] += 1


def _text(segment: Segment, field_: int, component: int, subcomponent: int = 1, *, repetition: int = 1) -> str:
    value = segment.get(field_, component, subcomponent, repetition)
    return value if isinstance(value, str) and value.isprintable() else ""


def site_file(name: str, observed: Observed, mapped: Collection[str], systems: Collection[str]) -> str:
    """A site file that takes in what was observed; its comments say what a person has to decide.

    Args:
        name: of the site, a slug.
        observed: what its messages show; without any, the file is a template.
        mapped: events that mappings know.
        systems: names of coding systems that need no entry.
    """
    parts = (_head(name, observed), _authorities(name, observed), _events(observed, mapped), _rest(observed, systems))
    return "\n".join([line for part in parts for line in part]) + "\n"


def _head(name: str, observed: Observed) -> Iterator[str]:
    if observed.messages:
        yield f"# Made from {observed.messages} messages; look at every line before you use it."
    yield f"site: {name}"
    yield "organization:"
    yield f"  name: {_quoted(next(iter(observed.facilities), name))}  # as people call it"
    yield f'  identifier: {{system: "urn:hie-bridge:organizations", value: {name}}}  # as the region names it'
    if observed.without_offset or not observed.messages:
        why = f"{observed.without_offset} messages tell times without an offset" if observed.messages else "IANA name"
        yield f"# time_zone: Europe/London  # {why}: without a zone they are cut to dates"
    if observed.undeclared:
        yield f"# charset: 8859/1  # {observed.undeclared} messages are not in the character set that MSH-18 declares"
    if observed.applications or observed.facilities:
        yield f"sender: {{applications: {_listed(observed.applications)}, facilities: {_listed(observed.facilities)}}}"


def _authorities(name: str, observed: Observed) -> Iterator[str]:
    yield "authorities:  # record: names this site's own records, the first is primary; evidence: for matching only"
    named = {one: known for one, known in observed.authorities.items() if one}
    unnamed = observed.authorities.get("")
    ranked = sorted(named, key=lambda one: (named[one].evidence, -named[one].identifiers, one))
    if not ranked or named[ranked[0]].evidence:
        own = name.upper()
        default = ", default: true" if unnamed else ""
        yield f'  - {{name: {own}, system: "urn:hie-bridge:{name}:{own}", use: record{default}}}'
        unnamed = None
    for one in ranked:
        known = named[one]
        system = f"urn:oid:{known.oid}" if known.oid else f"urn:hie-bridge:{name}:{quote(one, safe='')}"
        use = "evidence" if known.evidence else "record"
        default = ", default: true" if unnamed and one == ranked[0] else ""
        types = f", types: {_listed(known.types)}" if 0 < len(known.types) <= _MOST_TYPES else ""
        said = f"{known.identifiers} identifiers" + ("" if known.oid else "; give the system that the region uses")
        yield f"  - {{name: {_quoted(one)}, system: {_quoted(system)}, use: {use}{default}{types}}}  # {said}"


def _events(observed: Observed, mapped: Collection[str]) -> Iterator[str]:
    known = [event for event in sorted(observed.events) if event in mapped]
    unknown = [event for event in sorted(observed.events) if event not in mapped]
    yield "events:"
    yield f"  allow: [{', '.join(map(_quoted, known))}]" + ("" if observed.messages else "  # as ADT^A01")
    if unknown:
        yield f"  filter: [{', '.join(map(_quoted, unknown))}]  # no mapping knows them"


def _rest(observed: Observed, systems: Collection[str]) -> Iterator[str]:
    local = [
        one
        for one, _ in observed.systems.most_common()
        if one not in systems and not _HL7_TABLE.fullmatch(one) and not _OID.fullmatch(one) and "://" not in one
    ]
    if local:
        yield "# code_systems:  # the URI of each of these coding systems, if it has one"
        yield from (f'#   {_quoted(one)}: ""  # {observed.systems[one]} codes' for one in local)


def _listed(counted: Counter[str]) -> str:
    return f"[{', '.join(_quoted(one) for one in sorted(counted))}]"


def _quoted(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)
