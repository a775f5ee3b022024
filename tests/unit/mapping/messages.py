"""Short messages for tests of the mapping: each segment by the fields that matter, and a store of one resource a name."""

from __future__ import annotations

from functools import cache

from bridge.config.load import mappings_root
from bridge.config.site import Authority, Events, Organization, Site, SystemIdentifier
from bridge.hl7v2.message import parse
from bridge.mapping.apply import apply
from bridge.mapping.convert import convert
from bridge.mapping.operations import Merge, Target
from bridge.mapping.rules import Rules, load_rules


@cache
def rules() -> Rules:
    return load_rules(mappings_root())


def site(name="north", **changes) -> Site:
    settings = {
        "site": name,
        "organization": Organization(name=name, identifier=SystemIdentifier(system="urn:x", value=name)),
        "time_zone": "Europe/London",
        "authorities": (
            Authority(name="NORTH", system=f"urn:{name}:mrn", use="record", default=True),
            Authority(name="REGION", system="urn:region", use="record"),
            Authority(name="NHS", system="urn:nhs", use="evidence"),
        ),
        "events": Events(allow=()),
    }
    return Site(**{**settings, **changes})


def segment(name, **fields):
    """``segment("PID", f3="1^^^NORTH")``: a segment with these fields."""
    numbers = {int(key[1:]): value for key, value in fields.items()}
    parts = [numbers.get(number, "") for number in range(1, max(numbers, default=0) + 1)]
    return "|".join([name, *parts])


def message(event, *segments, time="20260301120000", control="1", sequence=""):
    header = f"MSH|^~\\&|APP|FAC|||{time}||{event}|{control}|P|2.5|{sequence}"
    return "\r".join([header, *segments]).encode()


def adt(event, *segments, time="20260301120000", evn=None, **changes):
    """An ADT message whose EVN-2 is its time; PID and PV1 come with ``segments``."""
    return message(f"ADT^{event}", f"EVN|{event}|{evn or time}", *segments, time=time, **changes)


def pid(identifiers="100^^^NORTH^MR", **fields):
    return segment("PID", f3=identifiers, **fields)


def pv1(visit="V1", **fields):
    return segment("PV1", **{"f2": "I", "f19": visit, **fields})


def oru(*segments, time="20260301120000", patient=None, **changes):
    return message("ORU^R01", patient or pid(), *segments, time=time, **changes)


def converted(raw, at=None, **options):
    return convert(parse(raw), at or site(), rules(), **options)


def only(conversion, resource_type):
    """The one operation on a resource of this type."""
    found = [
        one for one in conversion.operations if not isinstance(one, Merge) and one.target.resource_type == resource_type
    ]
    assert len(found) == 1, [one.target.resource_type for one in conversion.operations]
    return found[0]


def every(conversion, resource_type):
    return [
        one for one in conversion.operations if not isinstance(one, Merge) and one.target.resource_type == resource_type
    ]


class Region:
    """Stores what conversions ask for, by the names of the identity table: a recorder in a few lines."""

    def __init__(self):
        self.ids: dict = {}
        self.stored: dict = {}
        self.versions: dict = {}

    def id(self, target: Target) -> str:
        known = next((self.ids[key] for key in target.keys if key in self.ids), None)
        known = known or f"{target.resource_type.lower()}-{'|'.join(target.keys[0])}"  # of the primary name alone
        for key in target.keys:
            self.ids.setdefault(key, known)
        return known

    def take(self, *raws, at=None):
        for raw in raws:
            for operation in converted(raw, at).operations:
                if isinstance(operation, Merge):
                    continue
                name = self.id(operation.target)
                changed = apply(operation, self.stored.get(name), self.id)
                if changed is not None:
                    self.stored[name] = changed
        return self

    def all(self, resource_type):
        return [one.body for one in self.stored.values() if one.body and one.body["resourceType"] == resource_type]

    def one(self, resource_type):
        found = self.all(resource_type)
        assert len(found) == 1, len(found)
        return found[0]
