"""Whom an actor of a Consent means, where it names the caller otherwise than the caller's credential does.

A permit is taken literally: it opens to whoever goes by exactly that name. A deny is not, since one person or organisation
has several names. It holds unless it is sure to mean someone else, which two names tell only if they are of one kind: ids of
one type on one server, or values of one identifier system.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

from bridge.consent.rule import Provision, Rule
from bridge.fhir.references import parse_absolute, parse_reference

_STAFF: Final = frozenset({"Practitioner", "PractitionerRole", "Person"})  # of whom one person may be several
_OTHERS: Final = frozenset({"Patient", "RelatedPerson", "Device"})  # go by this name or are not the caller


def may_mean(
    actors: Collection[str], names: frozenset[str], meanings: Mapping[str, frozenset[str]] | None = None
) -> bool:
    """Whether a deny of ``actors`` means the caller, or cannot be told not to.

    Args:
        actors: as :class:`bridge.consent.rule.Provision` has them.
        names: every name of the caller that is known.
        meanings: further names of actors, found in the resources that they refer to.
    """
    known = _kinds(names)
    return any(
        actor in names or _undecided(actor, names, known, (meanings or {}).get(actor, frozenset())) for actor in actors
    )


def undecided(actors: Collection[str], names: frozenset[str]) -> frozenset[str]:
    """Those of the actors of whom it cannot be told without looking further whether they are the caller."""
    known = _kinds(names)
    return frozenset(actor for actor in actors if actor not in names and _undecided(actor, names, known, frozenset()))


@lru_cache(maxsize=4096)
def denied_actors(rule: Rule) -> frozenset[str]:
    """Everyone whom a provision of the rule denies by name."""
    return frozenset(_denied(rule.root))


def _denied(provision: Provision) -> set[str]:
    found = set(provision.actors) if provision.permit is False else set()
    return found.union(*(_denied(child) for child in provision.exceptions))


def _undecided(actor: str, names: frozenset[str], known: frozenset[str], meaning: frozenset[str]) -> bool:
    if not names.isdisjoint(meaning):
        return True
    if _kind(actor) in known or not known.isdisjoint(map(_kind, meaning)):
        return False
    kind = _type(actor)
    if kind in _STAFF:  # a client without a user has nobody behind it, says its profile
        return any(_type(name) in _STAFF for name in names)
    return kind not in _OTHERS


@lru_cache(maxsize=4096)
def _kinds(names: frozenset[str]) -> frozenset[str]:
    return frozenset(map(_kind, names))


def _kind(name: str) -> str:
    """What two names must have in common for their difference to mean anything; an identifier without system has none."""
    system, separator, _ = name.rpartition("|")
    if separator:
        return f"{system}|" if system else name
    server, kind = _place(name)
    return f"{server}{kind}/" if kind else name


def _type(name: str) -> str:
    return "" if "|" in name else _place(name)[1]


def _place(name: str) -> tuple[str, str]:
    """Server and type of a literal reference; what is none, has neither."""
    target = parse_reference(name)
    if target:
        return "", target.type
    elsewhere = parse_absolute(name)
    return (elsewhere[0], elsewhere[1].type) if elsewhere else ("", "")
