"""Deciding which records are one person's: a pure function of the records' current features.

A person is a connected component of the graph whose edges are the certain links of :func:`decide` and the sources' own
assertions (merges). Because every edge depends on current content only, the persons are the same whatever order the
messages came in; a changed record is decided again, and its person split where the edge is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bridge.matching.features import Features, keys_of
from bridge.matching.model import Model


class Certainty(StrEnum):
    """How sure a link is; consent lets a permit reach over ASSERTED and CERTAIN links."""

    ASSERTED = "asserted"
    CERTAIN = "certain"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A record that shares at least one key with the record to be decided."""

    record: int
    features: Features


@dataclass(frozen=True, slots=True)
class Link:
    """An edge between the decided record and a candidate, with the rule that made it."""

    record: int
    rule: str
    certainty: Certainty = Certainty.CERTAIN


@dataclass(frozen=True, slots=True)
class MatchDecision:
    """Links of one record.

    Attributes:
        model: name of the model that decided.
        links: the edges, strongest rule first, then by record.
        refused: candidates that a rule would have linked and a conflict forbade, with that rule.
        capped: rules whose key was shared by too many records to be evidence.
    """

    model: str
    links: tuple[Link, ...]
    refused: tuple[Link, ...] = ()
    capped: tuple[str, ...] = ()


def conflicting(left: Features, right: Features) -> bool:
    """Whether both carry an identifier of one evidence system and share none of its values."""
    theirs: dict[str, set[str]] = {}
    for system, value in right.evidence:
        theirs.setdefault(system, set()).add(value)
    ours: dict[str, set[str]] = {}
    for system, value in left.evidence:
        ours.setdefault(system, set()).add(value)
    return any(system in theirs and not values & theirs[system] for system, values in ours.items())


def decide(
    record: Features, candidates: Sequence[Candidate], model: Model, capped: frozenset[int] = frozenset()
) -> MatchDecision:
    """The certain links of one record.

    Args:
        record: its features.
        candidates: every other record that shares a key with it (others are harmless).
        model: the rules.
        capped: keys that too many records share; they are no evidence.
    """
    mine = keys_of(record, model)
    strength = {rule.name: rank for rank, rule in enumerate(model.rules)}
    rests_on_identifier = {rule.name for rule in model.rules if "evidence" in rule.equal}
    links: list[Link] = []
    refused: list[Link] = []
    for candidate in candidates:
        shared = (mine.keys() & keys_of(candidate.features, model).keys()) - capped
        rules = sorted({mine[key] for key in shared}, key=strength.__getitem__)
        if not rules:
            continue
        link = Link(candidate.record, rules[0])
        forbidden = (
            model.evidence_conflicts
            and link.rule not in rests_on_identifier
            and conflicting(record, candidate.features)
        )
        (refused if forbidden else links).append(link)

    def order(link: Link) -> tuple[int, int]:
        return strength[link.rule], link.record

    return MatchDecision(
        model=model.name,
        links=tuple(sorted(links, key=order)),
        refused=tuple(sorted(refused, key=order)),
        capped=tuple(sorted({mine[key] for key in mine.keys() & capped})),
    )


def components(records: Iterable[int], edges: Mapping[int, Iterable[int]]) -> list[frozenset[int]]:
    """Connected components of ``records`` under ``edges`` (taken as undirected), in order of their smallest record."""
    members = sorted(set(records))
    root = {record: record for record in members}

    def find(record: int) -> int:
        while root[record] != record:
            root[record] = root[root[record]]
            record = root[record]
        return record

    for left, others in edges.items():
        for right in others:
            if left in root and right in root:
                low, high = sorted((find(left), find(right)))
                root[high] = low
    groups: dict[int, set[int]] = {}
    for record in members:
        groups.setdefault(find(record), set()).add(record)
    return [frozenset(group) for group in groups.values()]
