"""Does a resource answer a query? Computed on the body; the index only proposes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bridge.fhir.dates import Interval, interval_of
from bridge.fhir.references import parse_reference, patients_of
from bridge.fhir.search.definitions import Definition, definitions
from bridge.fhir.search.index import date_interval, tokens_of
from bridge.fhir.search.query import (
    Clause,
    DateClause,
    IdClause,
    PatientClause,
    Prefix,
    Query,
    ReferenceClause,
    StringClause,
    StringMatch,
    TokenClause,
)
from bridge.fhir.search.terms import normalize

Json = Any


def matches(query: Query, resource: Mapping[str, Json], patients: Sequence[frozenset[str]] = ()) -> bool:
    """Whether the resource answers the query.

    Args:
        query: as parsed.
        resource: body with ``id`` and ``meta``.
        patients: for each patient clause in order, the references (``Patient/id``) it stands for after expansion over
            merges and, where asked for, over the person.
    """
    definition = definitions()[query.type]
    expanded = iter(patients)
    return resource.get("resourceType") == query.type and all(
        not next(expanded).isdisjoint(patients_of(resource))
        if isinstance(clause, PatientClause)
        else _holds(clause, definition, resource)
        for clause in query.clauses
    )


def _holds(clause: Clause, definition: Definition, resource: Mapping[str, Json]) -> bool:
    match clause:
        case IdClause():
            return resource.get("id") in clause.ids
        case TokenClause():
            return _token(clause, definition, resource)
        case StringClause():
            return _string(clause, definition, resource)
        case DateClause():
            return _date(clause, definition, resource)
        case ReferenceClause():
            values = definition.references[clause.parameter].values(resource)
            texts = (value.get("reference") for value in values if isinstance(value, dict))
            return any(parse_reference(text) in clause.targets for text in texts if isinstance(text, str))
        case _:
            raise AssertionError


def _token(clause: TokenClause, definition: Definition, resource: Mapping[str, Json]) -> bool:
    parameter = definition.tokens.get(clause.parameter) or definition.status
    if parameter is None:
        return False
    pairs = [pair for value in parameter.values(resource) for pair in tokens_of(parameter, value)]
    return any(
        (token.system is None or token.system == system) and token.code in (None, code)
        for token in clause.tokens
        for system, code in pairs
    )


def _string(clause: StringClause, definition: Definition, resource: Mapping[str, Json]) -> bool:
    parameter = definition.strings[clause.parameter]
    names = (clause.parameter, *parameter.also)
    values = [v for name in names for v in definition.strings[name].values(resource) if isinstance(v, str)]
    if clause.match is StringMatch.EXACT:
        return any(text in values for text in clause.texts)
    folded = [normalize(value) for value in values]
    wanted = [normalize(text) for text in clause.texts]
    if clause.match is StringMatch.CONTAINS:
        return any(text in value for text in wanted for value in folded)
    return any(value.startswith(text) for text in wanted for value in folded)


def _date(clause: DateClause, definition: Definition, resource: Mapping[str, Json]) -> bool:
    if clause.parameter == "_lastUpdated":
        meta = resource.get("meta")
        interval = interval_of(meta.get("lastUpdated")) if isinstance(meta, dict) else None
    else:
        interval = date_interval(definition, resource)
    if interval is None:
        return False
    return any(COMPARE[prefix](interval, value) for prefix, value in clause.comparisons)


def _contained(target: Interval, value: Interval) -> bool:
    return value.start_us <= target.start_us and target.end_us <= value.end_us


# On closed intervals, the resource's against the parameter's, as search.html#prefix words it.
COMPARE: Final[Mapping[Prefix, Callable[[Interval, Interval], bool]]] = {
    Prefix.EQ: _contained,
    Prefix.NE: lambda target, value: not _contained(target, value),
    Prefix.GT: lambda target, value: target.end_us > value.end_us,
    Prefix.LT: lambda target, value: target.start_us < value.start_us,
    Prefix.GE: lambda target, value: target.end_us > value.end_us or _contained(target, value),
    Prefix.LE: lambda target, value: target.start_us < value.start_us or _contained(target, value),
    Prefix.SA: lambda target, value: target.start_us > value.end_us,
    Prefix.EB: lambda target, value: target.end_us < value.start_us,
}
