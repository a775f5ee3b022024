"""The names of resources: which identifiers of a message name which resource (law *Identity*).

Every rule answers a :class:`Target` with the primary name first, or None where the message does not identify the resource.
Namespaces are the systems of the site's ``record`` authorities, or the site itself; never a global default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from bridge.config.site import AuthorityUse
from bridge.errors import Incorrect
from bridge.mapping.builtins import authority_name, authority_of
from bridge.mapping.conditions import NULL, Reference
from bridge.mapping.operations import IdentityKey, Target
from bridge.mapping.primitives import moment, text, universal_id

if TYPE_CHECKING:
    from bridge.mapping.grammar import Group
    from bridge.mapping.run import Pending, Run


class Found(NamedTuple):
    """A patient identifier of a message, as the site's file sees it."""

    use: AuthorityUse | None  # None: of an authority that the site does not list
    system: str
    identifier_type: str
    value: str


def site_namespace(run: Run) -> str:
    """The namespace of what only this site names."""
    return f"urn:hie-bridge:site:{run.source}"


def repetitions_of(references: tuple[Reference, ...], group: Group, run: Run) -> list[str]:
    """Raw repetitions of the fields, valued ones only."""
    found: list[str] = []
    for reference in references:
        segment = group.find(reference.owner)
        if segment is None:
            continue
        raw = segment.field(reference.field)
        if raw and raw != NULL:
            found += [part for part in raw.split(run.repetition) if part and part != NULL]
    return found


def patient_identifiers(raws: list[str], run: Run) -> list[Found]:
    """The CX identifiers with what the site's file says of their authorities."""
    found = []
    for raw in raws:
        parts = raw.split(run.component)
        value = _piece(parts, 1, run)
        if not value:
            continue
        kind = _piece(parts, 5, run)
        authority = authority_of(parts[3] if len(parts) > 3 else "", run, kind)
        if authority is None:
            found.append(Found(None, "", kind, value))
            continue
        if not kind and len(authority.types) == 1:
            kind = authority.types[0]
        found.append(Found(authority.use, authority.system, kind, value))
    return found


def patient_target(raws: list[str], run: Run, *, missing: str, place: str) -> Target:
    """The patient that CX identifiers name: all `record` ones, the primary first; else the site's first `evidence` one.

    Raises:
        Incorrect: ``missing`` where no identifier is valued; ``foreign-authority`` where the site lists none of their
            authorities.
    """
    identifiers = patient_identifiers(raws, run)
    if not identifiers:
        raise Incorrect(
            missing, f"{place} names no patient identifier", remedy="The sender must identify the patient by CX.1."
        )
    for one in identifiers:
        if one.use is None:
            run.report("authority-unlisted", place)
    ranks = run.site.record_rank
    records = sorted(
        {one for one in identifiers if one.use is AuthorityUse.RECORD}, key=lambda one: (ranks[one.system], one)
    )
    if records:
        return Target(tuple(IdentityKey("Patient", one.system, one.identifier_type, one.value) for one in records))
    evidence = {one for one in identifiers if one.use is AuthorityUse.EVIDENCE}
    if not evidence:
        raise Incorrect(
            "foreign-authority",
            f"{place} names the patient only by authorities that the site's file does not list",
            remedy="List the authority in the site's file if this site may use it.",
        )
    order = {authority.system: rank for rank, authority in enumerate(run.site.authorities)}
    first = min(evidence, key=lambda one: (order[one.system], one))
    return Target((IdentityKey("Patient", site_namespace(run), first.system, first.value),))


def _piece(parts: list[str], number: int, run: Run) -> str:
    raw = parts[number - 1] if number <= len(parts) else ""
    return (text(raw, run) or "") if raw and raw != NULL else ""


# slots of messages: (group, run, references by name, the slot's own resources by name) -> Target

Arguments = Mapping[str, tuple[Reference, ...]]
SlotRule = Callable[["Group", "Run", Arguments], "Target | None"]


def first_raw(arguments: Arguments, name: str, group: Group, run: Run) -> str:
    """The first repetition of the first valued of the fields."""
    for reference in arguments[name]:
        segment = group.find(reference.owner)
        if segment is None:
            continue
        fields = segment.fields
        raw = fields[reference.field] if reference.field < len(fields) else ""
        if raw and raw != NULL:
            return raw.split(run.repetition, 1)[0] if run.repetition in raw else raw
    return ""


def patient(group: Group, run: Run, arguments: Arguments) -> Target:
    """By ``identifiers``."""
    references = arguments["identifiers"]
    place = str(references[0])
    return patient_target(
        repetitions_of(references, group, run), run, missing="patient-without-identifier", place=place
    )


def subsumed(group: Group, run: Run, arguments: Arguments) -> Target:
    """The record that a merge ends, by ``identifiers``."""
    references = arguments["identifiers"]
    place = str(references[0])
    return patient_target(repetitions_of(references, group, run), run, missing="merge-without-identifier", place=place)


def encounter(group: Group, run: Run, arguments: Arguments) -> Target | None:
    """By the visit ``number`` within the site; else by patient and time of ``admission``."""
    number = value_of(first_raw(arguments, "number", group, run), run)
    if number:
        return one_key("Encounter", site_namespace(run), "visit", number)
    admitted = moment(value_of(first_raw(arguments, "admission", group, run), run), run.zone)
    owner = nearest(group, "patient")
    if admitted is None or owner is None:
        run.report("encounter-without-identity")
        return None
    key = owner.target.keys[0]
    return one_key("Encounter", site_namespace(run), "patient+admission", joined(*key[1:], str(admitted.us)))


def order(group: Group, run: Run, arguments: Arguments) -> Target:
    """By ``placer`` and ``filler`` number, both as soon as one message tells both; without either by its report's name."""
    keys = []
    for name in ("placer", "filler"):
        number = entity(first_raw(arguments, name, group, run), run)
        if number:
            keys.append(IdentityKey("ServiceRequest", site_namespace(run), name, number))
    if keys:
        return Target(tuple(keys))
    return one_key("ServiceRequest", site_namespace(run), "message+set-id", _within_message(group, run, arguments))


def _within_message(group: Group, run: Run, arguments: Arguments) -> str:
    header = run.message.header
    set_id = value_of(first_raw(arguments, "set-id", group, run), run) or str(group.ordinal)
    return joined(header.sending_application, header.sending_facility, header.control_id, set_id)


def report(group: Group, run: Run, arguments: Arguments) -> Target:
    """By ``filler`` number and ``code``, else ``placer`` and code, else sender, control id and ``set-id`` (reported)."""
    code = coded(first_raw(arguments, "code", group, run), run)
    for name in ("filler", "placer"):
        number = entity(first_raw(arguments, name, group, run), run)
        if number:
            return one_key("DiagnosticReport", site_namespace(run), f"{name}+code", joined(number, code))
    run.report("report-without-order-number", str(arguments["filler"][0]))
    return one_key("DiagnosticReport", site_namespace(run), "message+set-id", _within_message(group, run, arguments))


_OBSERVED: Final = ("specimen", "report", "immunization", "order")


def observation(group: Group, run: Run, arguments: Arguments) -> Target | None:
    """By what it is of, ``code`` and ``sub-id``; equal ones by their order.

    It is of the specimen, report, vaccination or order that its group has; else of the visit or the patient, with ``time``.
    """
    base = next((found for slot in _OBSERVED if (found := nearest(group, slot)) is not None), None)
    if base is None and nearest(group, "patient") is None:
        return None
    within = base.target.keys[0] if base is not None else None
    name = joined(
        coded(first_raw(arguments, "code", group, run), run), value_of(first_raw(arguments, "sub-id", group, run), run)
    )
    if within is None:
        base = nearest(group, "encounter") or nearest(group, "patient")
        assert base is not None
        within = base.target.keys[0]
        name = joined(name, value_of(first_raw(arguments, "time", group, run), run) or str(run.time_us))
    kind = f"{within.resource_type}/{within.identifier_type}"
    full = joined(within.value, name)
    key = IdentityKey("Observation", within.namespace, kind, full)
    count = run.ordinals[key] = run.ordinals.get(key, 0) + 1
    if count > 1:  # the rule for equal pairs: the nth of them in order of writing
        key = key._replace(value=joined(full, str(count)))
    return Target((key,))


def specimen(group: Group, run: Run, arguments: Arguments) -> Target | None:
    """By the assigned numbers (EIP: placer, filler), else by the report or order and the set id or place in it."""
    keys = []
    raw = first_raw(arguments, "number", group, run)
    if raw:
        parts = raw.split(run.component)
        for index, kind in ((1, "filler"), (0, "placer")):
            number = entity(parts[index].replace(run.subcomponent, run.component), run) if index < len(parts) else ""
            if number:
                keys.append(IdentityKey("Specimen", site_namespace(run), kind, number))
    if keys:
        return Target(tuple(keys))
    base = nearest(group, "report") or nearest(group, "order") or nearest(group, "patient")
    if base is None:
        return None
    key = base.target.keys[0]
    set_id = value_of(first_raw(arguments, "set-id", group, run), run) or str(group.ordinal)
    return one_key("Specimen", key.namespace, f"{key.resource_type}/{key.identifier_type}", joined(key.value, set_id))


def order_specimen(group: Group, run: Run, arguments: Arguments) -> Target | None:
    """The specimen that the order's own segment describes: by the report, else the order."""
    base = nearest(group, "report") or nearest(group, "order")
    if base is None:
        return None
    key = base.target.keys[0]
    set_id = value_of(first_raw(arguments, "set-id", group, run), run) or "1"
    return one_key(
        "Specimen", key.namespace, f"{key.resource_type}/{key.identifier_type}/OBR", joined(key.value, set_id)
    )


def patient_fact(group: Group, _run: Run, arguments: Arguments) -> Target | None:
    """Something that is known once of a patient: by the patient and the field that tells it."""
    owner = nearest(group, "patient")
    if owner is None:
        return None
    key = owner.target.keys[0]
    return one_key(
        "Observation", key.namespace, f"Patient/{key.identifier_type}", joined(key.value, str(arguments["fact"][0]))
    )


def named_organization(group: Group, run: Run, arguments: Arguments) -> Target | None:
    """The organisation of an XON field."""
    raw = first_raw(arguments, "organization", group, run)
    return organization(raw.split(run.component), run) if raw else None


def named_practitioner(group: Group, run: Run, arguments: Arguments) -> Target | None:
    """The practitioner of an XCN field."""
    raw = first_raw(arguments, "practitioner", group, run)
    return practitioner(raw.split(run.component), run) if raw else None


def named_place(group: Group, run: Run, arguments: Arguments) -> Target | None:
    """The smallest place of a PL field."""
    raw = first_raw(arguments, "place", group, run)
    parts = raw.split(run.component)
    labels = [(code, place_name(parts[index], run)) for index, code in PLACES if index < len(parts)]
    path = place_path([(code, label) for code, label in labels if label])
    return one_key("Location", site_namespace(run), "place", path) if path else None


# components of PL (from 0) and the physical type of what they name, the largest first
PLACES: Final = ((3, "si"), (6, "bu"), (7, "lvl"), (0, "poc"), (1, "ro"), (2, "bd"))


def place_path(labels: list[tuple[str, str]]) -> str:
    """The name of a place within the site: physical types and names, the largest first."""
    return joined(*(f"{code}={label}" for code, label in labels))


def place_name(raw: str, run: Run) -> str:
    """The name of one place of a PL (HD or IS): its first valued part."""
    for part in raw.split(run.subcomponent):
        if part and part != NULL:
            return text(part, run) or ""
    return ""


def provenance(group: Group, run: Run, arguments: Arguments) -> Target:
    """By the message (sender, control id, time, event) and the segment ``of`` which it tells the origin."""
    header = run.message.header
    segment = arguments["of"][0].owner
    name = joined(
        header.sending_application,
        header.sending_facility,
        header.control_id,
        str(run.time_us),
        run.event,
        segment,
        str(group.ordinal),
    )
    return one_key("Provenance", site_namespace(run), "message", name)


SLOT_RULES: Final[dict[str, tuple[SlotRule, frozenset[str]]]] = {
    "patient": (patient, frozenset({"identifiers"})),
    "subsumed": (subsumed, frozenset({"identifiers"})),
    "encounter": (encounter, frozenset({"number", "admission"})),
    "order": (order, frozenset({"placer", "filler", "set-id"})),
    "report": (report, frozenset({"placer", "filler", "code", "set-id"})),
    "observation": (observation, frozenset({"code", "sub-id", "time"})),
    "specimen": (specimen, frozenset({"number", "set-id"})),
    "order-specimen": (order_specimen, frozenset({"set-id"})),
    "patient-fact": (patient_fact, frozenset({"fact"})),
    "organization": (named_organization, frozenset({"organization"})),
    "practitioner": (named_practitioner, frozenset({"practitioner"})),
    "place": (named_place, frozenset({"place"})),
    "provenance": (provenance, frozenset({"of"})),
}


# resources that a data type makes: (components, run) -> Target

TypeRule = Callable[[list[str], "Run"], "Target | None"]


def practitioner(parts: list[str], run: Run) -> Target | None:
    """XCN or CNN: id and assigning authority."""
    value = _piece(parts, 1, run)
    if not value:
        return None
    namespace = _namespace(parts[8] if len(parts) > 8 else "", run)
    return one_key("Practitioner", namespace, "", value)


def organization(parts: list[str], run: Run) -> Target | None:
    """XON: organisation identifier (XON.10, else XON.3) and authority, else the name within the site."""
    value = _piece(parts, 10, run) or _piece(parts, 3, run)
    if value:
        return one_key("Organization", _namespace(parts[5] if len(parts) > 5 else "", run), "", value)
    name = _piece(parts, 1, run)
    return one_key("Organization", site_namespace(run), "name", name) if name else None


def organization_by_code(parts: list[str], run: Run) -> Target | None:
    """CWE: the code and its coding system within the site, else the name."""
    name = coded(run.component.join(parts), run)
    return one_key("Organization", site_namespace(run), "code", name) if name.strip("|") else None


def organization_by_authority(parts: list[str], run: Run) -> Target | None:
    """HD: universal id, else namespace id within the site."""
    universal = parts[1] if len(parts) > 1 and parts[1] != NULL else ""
    uri = universal_id(universal, run) if universal else None
    if uri:
        return one_key("Organization", uri, "", uri)
    name = _piece(parts, 1, run) or _piece(parts, 2, run)
    return one_key("Organization", site_namespace(run), "authority", name) if name else None


def location_by_authority(parts: list[str], run: Run) -> Target | None:
    """HD: a facility."""
    name = _piece(parts, 1, run) or _piece(parts, 2, run)
    return one_key("Location", site_namespace(run), "facility", name) if name else None


def location_type(parts: list[str], run: Run) -> Target | None:
    """DLD: a kind of place to which patients of this site are discharged."""
    name = _piece(parts, 1, run)
    return one_key("Location", site_namespace(run), "discharge", name) if name else None


def location_by_name(parts: list[str], run: Run) -> Target | None:
    """XON that names a place."""
    name = _piece(parts, 10, run) or _piece(parts, 3, run) or _piece(parts, 1, run)
    return one_key("Location", site_namespace(run), "name", name) if name else None


TYPE_RULES: Final[dict[str, TypeRule]] = {
    "practitioner": practitioner,
    "organization": organization,
    "organization-code": organization_by_code,
    "organization-by-authority": organization_by_authority,
    "location-by-authority": location_by_authority,
    "location-type": location_type,
    "location-by-name": location_by_name,
}


def nearest(group: Group, slot: str) -> Pending | None:
    """The resource of a slot that belongs to the group instance or to one that holds it."""
    here: Group | None = group
    while here is not None:
        found = here.pending.get(slot)
        if found:
            return found[0]
        here = here.parent
    return None


def _namespace(raw: str, run: Run) -> str:
    name = authority_name(raw, run)
    if not name:
        return site_namespace(run)
    parts = raw.split(run.subcomponent)
    uri = universal_id(parts[1], run) if len(parts) > 1 and parts[1] and parts[1] != NULL else None
    return uri or f"{site_namespace(run)}:{name}"


def value_of(raw: str, run: Run) -> str:
    """The first component of a raw repetition, unescaped."""
    raw = raw.split(run.component, 1)[0].split(run.subcomponent, 1)[0]
    return (text(raw, run) or "") if raw and raw != NULL else ""


def entity(raw: str, run: Run) -> str:
    """An EI as one text: its number, and its authority if it names one."""
    parts = raw.split(run.component)
    number = _piece(parts, 1, run)
    if not number:
        return ""
    authority = _piece(parts, 3, run) or _piece(parts, 2, run)
    return joined(number, authority) if authority else number


def coded(raw: str, run: Run) -> str:
    """A CWE as one text: code and coding system, of the first coding that has a code; else its texts."""
    parts = raw.split(run.component)
    for first in (1, 4, 10):
        if first > len(parts):
            break
        code = _piece(parts, first, run)
        if code:
            return joined(code, _piece(parts, first + 2, run))
    return joined("", _piece(parts, 9, run) or _piece(parts, 2, run))


def joined(*texts: str) -> str:
    """Texts as one, so that different lists of texts give different texts."""
    joined = "|".join(texts)
    if joined.count("|") == len(texts) - 1 and "\\" not in joined:
        return joined
    return "|".join([piece.replace("\\", "\\\\").replace("|", "\\|") for piece in texts])


def one_key(resource_type: str, namespace: str, kind: str, value: str) -> Target:
    """A target with one name."""
    return Target((IdentityKey(resource_type, namespace, kind, value),))
