"""Conversions that need more than the text: coding systems, and assigning authorities by the site's file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from bridge.mapping.conditions import NULL
from bridge.mapping.primitives import text, universal_id

if TYPE_CHECKING:
    from bridge.config.site import Authority
    from bridge.mapping.objects import Converter, Leaf
    from bridge.mapping.run import Run
    from bridge.mapping.tables import CodingSystems

Json = Any


def authority_of(raw: str, run: Run, identifier_type: str) -> Authority | None:
    """The site's authority that an HD names (by namespace, else by universal id), if it may issue such identifiers.

    An empty HD is the site's default authority.
    """
    name = authority_name(raw, run)
    authority = run.site.by_authority.get(name)
    if authority is None or (authority.types and identifier_type and identifier_type not in authority.types):
        return None
    return authority


def authority_name(raw: str, run: Run) -> str:
    """HD.1, or HD.2 where HD.1 is empty, unescaped; '' for an empty HD."""
    if not raw or raw == NULL:
        return ""
    parts = raw.split(run.subcomponent) if run.subcomponent in raw else (raw,)
    for part in parts[:2]:
        if part and part != NULL:
            return text(part, run) or ""
    return ""


def _named(raw: str, run: Run) -> dict[str, Json]:
    """``system`` of an assigning authority that the site lists or that has a universal id; else ``assigner``."""
    name = authority_name(raw, run)
    authority = run.site.by_authority.get(name) if name else None
    if authority is not None:
        return {"system": authority.system}
    parts = raw.split(run.subcomponent)
    known: dict[str, Json] = {}
    if len(parts) > 1 and parts[1] and parts[1] != NULL:
        uri = universal_id(parts[1], run)
        if uri:
            known["system"] = uri
    if name:
        known["assigner"] = {"display": name}
    return known


def _authority(raw: str, run: Run) -> dict[str, Json] | None:
    """Members of an Identifier from an HD."""
    return _named(raw, run) or None


def _patient_authority(index: int) -> Leaf:
    """Members of a patient's Identifier: an empty authority is the site's default one (law Identity)."""

    def members(parts: list[str], run: Run) -> dict[str, Json] | None:
        raw = parts[index] if index < len(parts) else ""
        kind = parts[4] if len(parts) > 4 and parts[4] != NULL else ""
        authority = authority_of(raw, run, kind)
        if authority is not None:
            return {"system": authority.system}
        if not authority_name(raw, run):
            return None
        found = _named(raw, run)
        if run.site.by_authority.get(authority_name(raw, run)) is not None:
            return {"assigner": {"display": authority_name(raw, run)}}  # listed, but not for identifiers of this type
        return found or None

    return members


def _coding_system(systems: CodingSystems) -> Converter:
    def coding_system(raw: str, run: Run) -> str | None:
        name = text(raw, run)
        return systems.uri(name, run) if name else None

    return coding_system


CONVERTERS: Final[dict[str, Callable[[CodingSystems], Converter]]] = {
    "coding-system": _coding_system,
    "authority": lambda _systems: _authority,
}
LEAVES: Final[dict[str, Callable[[int], Leaf]]] = {"patient-authority": _patient_authority}
