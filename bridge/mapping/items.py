"""The names of what a message tells about a patient beside visits, orders and results (law *Identity*).

A number that the sender gave the thing itself names it. Where there is none, it is named by what it belongs to (the visit,
else the patient) and what it is (its code, name or plan); a thing that tells neither is named by its set id, which is reported:
a later message may mean another by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bridge.mapping.identity import (
    Arguments,
    SlotRule,
    coded,
    entity,
    first_raw,
    joined,
    nearest,
    one_key,
    site_namespace,
    value_of,
)
from bridge.mapping.operations import IdentityKey, Target

if TYPE_CHECKING:
    from bridge.mapping.grammar import Group
    from bridge.mapping.run import Pending, Run

_NO_NUMBER: Final = frozenset(
    {"9999"}
)  # what registries of vaccinations write where there was no order (CDC guide, ORC-3)


def _numbered(resource_type: str, names: tuple[str, ...], fallback: SlotRule) -> SlotRule:
    """By the numbers in the fields of ``names``, all that the message tells; else as ``fallback`` says."""

    def rule(group: Group, run: Run, arguments: Arguments) -> Target | None:
        keys = []
        for name in names:
            raw = first_raw(arguments, name, group, run)
            number = entity(raw, run)
            if number and value_of(raw, run) not in _NO_NUMBER:
                keys.append(IdentityKey(resource_type, site_namespace(run), name, number))
        return Target(tuple(keys)) if keys else fallback(group, run, arguments)

    return rule


def _within(resource_type: str, bases: tuple[str, ...], names: tuple[str, ...]) -> SlotRule:
    """By the nearest resource of the slots ``bases`` and the codes (or texts) in the fields of ``names``."""

    def rule(group: Group, run: Run, arguments: Arguments) -> Target | None:
        base = next((found for slot in bases if (found := _base(group, slot)) is not None), None)
        if base is None:
            return None
        texts = [(_person if name == "name" else coded)(first_raw(arguments, name, group, run), run) for name in names]
        key = base.target.keys[0]
        kind = f"{key.resource_type}/{key.identifier_type}"
        if any(text.strip("|") for text in texts):
            return one_key(resource_type, key.namespace, kind, joined(key.value, *texts))
        run.report("item-without-identity", str(arguments["set-id"][0]))
        set_id = value_of(first_raw(arguments, "set-id", group, run), run) or str(group.ordinal)
        return one_key(resource_type, key.namespace, f"{kind}/set-id", joined(key.value, set_id))

    return rule


def _base(group: Group, slot: str) -> Pending | None:
    """The nearest resource of a slot; else the first of those in the groups below."""
    below = group.below.get(slot)
    return nearest(group, slot) or (below[0] if below else None)


def _person(raw: str, run: Run) -> str:
    """A person's name (XPN) as one text: surname, given and further given names, in small letters."""
    parts = raw.split(run.component)[:3]
    return joined(*(value_of(part.replace(run.component, ""), run).casefold() for part in parts))


def _once(resource_type: str) -> SlotRule:
    """The one of its type that a patient has by the field that tells it."""

    def rule(group: Group, _run: Run, arguments: Arguments) -> Target | None:
        owner = nearest(group, "patient")
        if owner is None:
            return None
        key = owner.target.keys[0]
        name = joined(key.value, str(arguments["fact"][0]))
        return one_key(resource_type, key.namespace, f"Patient/{key.identifier_type}", name)

    return rule


def _of_visit(resource_type: str) -> SlotRule:
    """The one of its type that a visit has by the field that tells it."""

    def rule(group: Group, _run: Run, arguments: Arguments) -> Target | None:
        owner = nearest(group, "encounter")
        if owner is None:
            return None
        key = owner.target.keys[0]
        name = joined(key.value, str(arguments["fact"][0]))
        return one_key(resource_type, key.namespace, f"Encounter/{key.identifier_type}", name)

    return rule


_VISIT: Final = ("encounter", "patient")
_PATIENT: Final = ("patient",)

ITEM_RULES: Final[dict[str, tuple[SlotRule, frozenset[str]]]] = {
    "allergy": (
        _numbered("AllergyIntolerance", ("number",), _within("AllergyIntolerance", _PATIENT, ("code",))),
        frozenset({"number", "code", "set-id"}),
    ),
    "condition": (
        _numbered("Condition", ("number",), _within("Condition", _VISIT, ("code",))),
        frozenset({"number", "code", "set-id"}),
    ),
    "procedure": (
        _numbered("Procedure", ("number",), _within("Procedure", _VISIT, ("code", "time"))),
        frozenset({"number", "code", "time", "set-id"}),
    ),
    "coverage": (_within("Coverage", _PATIENT, ("insurer", "plan")), frozenset({"insurer", "plan", "set-id"})),
    "visit-coverage": (_of_visit("Coverage"), frozenset({"fact"})),
    "related-person": (
        _numbered("RelatedPerson", ("number",), _within("RelatedPerson", _PATIENT, ("name", "relationship"))),
        frozenset({"number", "name", "relationship", "set-id"}),
    ),
    "mother": (_once("RelatedPerson"), frozenset({"fact"})),
    "care-team": (_once("CareTeam"), frozenset({"fact"})),
    "account": (_numbered("Account", ("number",), _once("Account")), frozenset({"number", "fact"})),
    "immunization": (
        _numbered("Immunization", ("placer", "filler"), _within("Immunization", _PATIENT, ("code", "time"))),
        frozenset({"placer", "filler", "code", "time", "set-id"}),
    ),
    "appointment": (
        _numbered("Appointment", ("placer", "filler"), _within("Appointment", _PATIENT, ("time",))),
        frozenset({"placer", "filler", "time", "set-id"}),
    ),
    "document": (
        _numbered("DocumentReference", ("number",), _within("DocumentReference", _VISIT, ("code", "time"))),
        frozenset({"number", "code", "time", "set-id"}),
    ),
    "medication-order": (
        _numbered("MedicationRequest", ("placer", "filler"), _within("MedicationRequest", _VISIT, ("code", "time"))),
        frozenset({"placer", "filler", "code", "time", "set-id"}),
    ),
}
