"""What a message asks for: operations on FHIR resources, before anyone knows the resources' ids.

A conversion never looks at stored state. It names resources by :class:`Target` (the identity table turns these into ids) and
changes them by *units*: the smallest part that one message replaces as a whole (an element, or the part of it that one
source's segment group fills). Units carry the stamp of the value in force, so that applying the operations of all messages
gives the same resource whatever order they arrive in (laws *Identity*, *Change*, *Order*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, NamedTuple

Json = Any


class IdentityKey(NamedTuple):
    """One name of a resource: ``(Patient, system of the assigning authority, type, value)``. Many name one resource."""

    resource_type: str
    namespace: str
    identifier_type: str
    value: str

    def __repr__(self) -> str:
        return f"IdentityKey({self.resource_type}, <redacted>)"


class Target(NamedTuple):
    """A resource by all the names one message gives it; the primary name (from which an id would be minted) first."""

    keys: tuple[IdentityKey, ...]

    @property
    def resource_type(self) -> str:
        """FHIR type of the resource."""
        return self.keys[0].resource_type


@dataclass(frozen=True, slots=True)
class TargetReference:
    """Stands for the text of ``Reference.reference`` until the target's id is known."""

    target: Target


class Stamp(NamedTuple):
    """Where a change stands in the order of changes; greater is in force. Compared field by field.

    Attributes:
        rank: 0 = provisional (a preliminary result), 1 = in force (ADT; final or corrected result).
        time_us: event time, µs since the epoch, UTC (EVN-2, else MSH-7; OBX-14 or OBR-22; FHIR lastUpdated).
        tie: MSH-13, else site and control id: any total order that every delivery order agrees on.
    """

    rank: int
    time_us: int
    tie: str


class Cleared(Enum):
    """HL7 null, an all-null segment group, or an event that ends something: the unit is emptied."""

    CLEARED = "cleared"


CLEARED = Cleared.CLEARED


class UnitKind(StrEnum):
    """How a unit takes a new value."""

    ELEMENT = "element"  # the greater stamp wins
    GROUP = "group"  # one value (a list) per source; each source's greater stamp wins; shown joined in source order
    FILL = "fill"  # as ELEMENT, but any ELEMENT change of the same unit ranks above it
    PROGRESS = "progress"  # a status that only moves forward, save by a RESET: see bridge.mapping.apply
    RESET = "reset"


class UnitChange(NamedTuple):
    """A new value for one unit; ``value`` is FHIR JSON with :class:`TargetReference` for references, or CLEARED."""

    path: str
    """Element path from the resource's root with at most one dot: ``birthDate``, ``period.end``. A path ending in ``[x]``
    (``deceased[x]``) holds an object whose members stand in its place; ``name#PID.05`` is one part of a list, shown with
    the list's other parts in order of their labels."""
    kind: UnitKind
    value: Json
    refers: bool = True
    """Whether the value may hold a :class:`TargetReference`."""


class Reach(StrEnum):
    """What a change may do to a resource that is, or is not, there."""

    ANY = "any"  # creates or changes
    CREATE_ONLY = "create-only"  # ORU, ORM, MDM on Patient: counts only while no ANY change is known


@dataclass(frozen=True, slots=True)
class Upsert:
    """Creates or changes one resource.

    Attributes:
        target: the resource.
        stamp: place in the order of changes, for every unit of this operation.
        source: the site, as the scope of GROUP units.
        units: the changed units; a unit not listed is kept.
        reach: what it may do.
        whole: the operation states the whole resource (FHIR input): older units that are not listed are cleared.
    """

    target: Target
    stamp: Stamp
    source: str
    units: tuple[UnitChange, ...] = field(repr=False)
    reach: Reach = Reach.ANY
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes one resource, unless a greater stamp has changed it."""

    target: Target
    stamp: Stamp
    source: str


@dataclass(frozen=True, slots=True)
class Merge:
    """The source asserts that two of its records are one person's, and which survives (A40: PID survives, MRG is subsumed)."""

    survivor: Target
    subsumed: Target
    stamp: Stamp
    source: str


Operation = Upsert | Delete | Merge


class Fate(StrEnum):
    """What became of a valued input element."""

    MAPPED = "mapped"
    DROPPED = "dropped"
    UNMAPPED = "unmapped"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What became of one valued input element. Places only, never values.

    Attributes:
        place: ``PID[1]-5[1].2``: segment, its 1-based ordinal among its name, field, repetition, component, subcomponent.
        fate: mapped, dropped by a named rule, or unmapped.
        rule: the rule that read or dropped it, e.g. ``segments/PID.yaml#name``; empty when unmapped.
    """

    place: str
    fate: Fate
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Something the sender should know that did not stop the message: code and place, never values."""

    code: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class OutputEntry:
    """Which rule made a unit of a resource; for explanations."""

    target: Target
    path: str
    rule: str


@dataclass(frozen=True, slots=True)
class Conversion:
    """All that one message asks for.

    Attributes:
        event: ``ADT^A08``, ``ORU^R01``, ``fhir:Patient``.
        kind: ``person``, ``visit``, ``result``, ``fhir``.
        time_us: event time, µs.
        patient: the patient the message is about; None for FHIR input without one.
        operations: in message order; a Patient before what refers to it.
        restricts_patient: the message carries consent content (CON, ARV) that no mapping covers yet.
        ledger: what became of every valued input element; empty unless asked for, counts are always there.
        mapped, dropped, unmapped: counts of elements.
        reports: what to tell the sender.
        outputs: the rule behind each unit; empty unless asked for.
    """

    event: str
    kind: str
    time_us: int
    patient: Target | None
    operations: tuple[Operation, ...]
    restricts_patient: bool = False
    ledger: tuple[LedgerEntry, ...] = ()
    mapped: int = 0
    dropped: int = 0
    unmapped: int = 0
    reports: tuple[Report, ...] = ()
    outputs: tuple[OutputEntry, ...] = ()


class Stored(NamedTuple):
    """A resource as stored: its content without ``id`` and ``meta.versionId``/``lastUpdated``, and its units' stamps.

    ``state`` is JSON (lists, numbers, texts), opaque outside ``bridge.mapping.apply``. ``body`` is None when deleted.
    """

    body: Mapping[str, Json] | None
    state: Mapping[str, Json]
