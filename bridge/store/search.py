"""Search: a syntax tree and a caller's visibility become one statement over the hot columns and the index tables.

The statement may find too much, never too little: hashes collide, strings are folded, visibility is coarse. What it finds is
checked again on the body and decided one by one. Statements are compiled once per *shape* (which clauses, not which values);
values and sets of values travel as parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from bridge.consent.decision import Visibility
from bridge.fhir.dates import MINIMUM_US
from bridge.fhir.search.definitions import definitions
from bridge.fhir.search.query import (
    DateClause,
    IdClause,
    PatientClause,
    Prefix,
    Query,
    ReferenceClause,
    Sort,
    SortBy,
    StringClause,
    StringMatch,
    TokenClause,
)
from bridge.fhir.search.terms import normalize, term
from bridge.store import schema
from bridge.store.dialect import DialectName, Statement, constant, rows_parameter

_LAST: Final = "\U0010ffff"  # sorts after every text, byte by byte
_r: Final = schema.resource.c
_Column = sa.ColumnElement[Any]


class Position(NamedTuple):
    """A place in the order of an answer: the sort key's value and the resource's key."""

    sort_us: int
    resource_key: int


@dataclass(frozen=True, slots=True)
class Patients:
    """What one patient clause stands for: the resource keys of all records it reaches, and their references."""

    keys: tuple[int, ...]
    references: frozenset[str] = field(repr=False)


class Search(NamedTuple):
    """A statement with its parameters; its rows are :class:`bridge.store.reader.Found` in column order."""

    statement: Statement
    parameters: dict[str, Any]


class _Part(NamedTuple):
    """One clause: its shape, which decides the statement's text, and its values."""

    shape: tuple[str, ...]
    values: dict[str, Any]


class _View(NamedTuple):
    """The shape of a visibility: rows in no compartment, patients without a consent, only own ones, some left out."""

    is_open: bool
    without_consent: bool
    only_own: bool
    some_closed: bool


def search_statement(
    dialect: DialectName,
    query: Query,
    visibility: Visibility,
    patients: Sequence[Patients],
    *,
    after: Position | None,
    horizon_us: int,
    limit: int,
) -> Search:
    """The statement for one page.

    Args:
        dialect: of the transaction.
        query: as parsed.
        visibility: what the caller may see at most.
        patients: what each patient clause stands for, in order.
        after: the position behind which the page begins.
        horizon_us: rows changed later are left out, if the query filters or sorts by ``_lastUpdated``.
        limit: rows at most.
    """
    parameters: dict[str, Any] = {"type": query.type, "limit": limit, "horizon": horizon_us}
    shapes = []
    expanded = iter(patients)
    for number, clause in enumerate(query.clauses):
        part = _part(query.type, clause, next(expanded) if isinstance(clause, PatientClause) else None)
        shapes.append(part.shape)
        parameters.update({f"c{number}_{name}": value for name, value in part.values.items()})
    if after is not None:
        parameters.update(after_us=after.sort_us, after_key=after.resource_key)
    if visibility.own is not None:
        parameters["own"] = sorted(visibility.own)
    if visibility.closed:
        parameters["closed"] = sorted(visibility.closed)
    view = _View(
        query.type in visibility.open_types,
        visibility.without_consent,
        visibility.own is not None,
        bool(visibility.closed),
    )
    statement = _statement(dialect, tuple(shapes), query.sort, view, after is not None)
    return Search(statement, parameters)


def _part(kind: str, clause: Any, patients: Patients | None) -> _Part:
    match clause:
        case IdClause():
            part = _Part(("id",), {"set": clause.ids})
        case PatientClause():
            part = _patient_part(kind, patients)
        case TokenClause() if clause.parameter == "status" and definitions()[kind].status:
            codes = [token.code for token in clause.tokens]
            part = _Part(("status-any",), {}) if None in codes else _Part(("status",), {"set": codes})
        case TokenClause():
            part = _Part(("term",), {"set": [term(kind, clause.parameter, text) for text in _token_texts(clause)]})
        case ReferenceClause():
            part = _Part(("term",), {"set": [term(kind, clause.parameter, str(target)) for target in clause.targets]})
        case StringClause():
            part = _string_part(kind, clause)
        case DateClause():
            part = _date_part(clause)
        case _:
            raise AssertionError
    return part


def _patient_part(kind: str, patients: Patients | None) -> _Part:
    assert patients is not None
    if kind == "Provenance":  # may be about several patients; the column holds the first
        terms = [term(kind, "target", reference) for reference in patients.references]
        return _Part(("patient-or-term",), {"set": patients.keys, "terms": terms})
    return _Part(("patient",), {"set": patients.keys})


def _date_part(clause: DateClause) -> _Part:
    shape = ["updated" if clause.parameter == "_lastUpdated" else "date"]
    values = {}
    for number, (prefix, interval) in enumerate(clause.comparisons):
        shape.append(prefix.value)
        values[f"start{number}"], values[f"end{number}"] = interval
    return _Part(tuple(shape), values)


def _token_texts(clause: TokenClause) -> Iterable[str]:
    for token in clause.tokens:
        if token.code is None:
            yield f"{token.system}|"
        else:
            yield f"{token.system}|{token.code}" if token.system else token.code


def _string_part(kind: str, clause: StringClause) -> _Part:
    parameter = definitions()[kind].strings[clause.parameter]
    texts = [normalize(text) for text in clause.texts]
    values: dict[str, Any] = {"names": (clause.parameter, *parameter.also)}
    if clause.match is StringMatch.CONTAINS:
        values.update({f"like{number}": f"%{_escape(text)}%" for number, text in enumerate(texts)})
        return _Part(("contains", *("like" for _ in texts)), values)
    for number, text in enumerate(texts):
        values[f"from{number}"], values[f"to{number}"] = text, text + _LAST
    return _Part(("starts", *("range" for _ in texts)), values)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


@lru_cache(maxsize=512)  # of at most some 200 kB each: a query's comparisons are counted
def _statement(
    dialect: DialectName,
    shapes: tuple[tuple[str, ...], ...],
    sort: Sort | None,
    view: _View,
    continued: bool,
) -> Statement:
    version = schema.resource_version.c
    sort_us = _sort_column(sort)
    conditions: list[_Column] = [_r.type == _text("type"), ~_r.deleted]
    conditions += [_condition(dialect, f"c{number}", shape) for number, shape in enumerate(shapes)]
    conditions += _visible(view)
    if (sort and sort.by is SortBy.LAST_UPDATED) or any(shape[0] == "updated" for shape in shapes):
        conditions.append(_r.last_updated_us <= _integer("horizon"))
    descending = sort is not None and sort.descending
    order: list[_Column] = [_r.resource_key] if sort is None else [sort_us, _r.resource_key]
    if continued:
        place, bound = sa.tuple_(*order), sa.tuple_(*_bounds[-len(order) :])
        conditions.append(place < bound if descending else place > bound)
    found = (
        sa.select(
            _r.resource_key,
            _r.fhir_id,
            _r.patient_key,
            _r.version,
            _r.last_updated_us,
            sort_us.label("sort_us"),
            version.body,
        )
        .select_from(schema.resource)
        .join(
            schema.resource_version,
            sa.and_(
                version.resource_key == _r.resource_key,
                version.version == _r.version,
                version.last_updated_us == _r.last_updated_us,
            ),
        )
        .where(*conditions)
        .order_by(*([column.desc() for column in order] if descending else order))
        .limit(_integer("limit"))
    )
    return Statement(found)


def _sort_column(sort: Sort | None) -> _Column:
    if sort is None:
        return sa.literal_column("0", sa.BigInteger())
    if sort.by is SortBy.LAST_UPDATED:
        return _r.last_updated_us
    return sa.func.coalesce(_r.date_start_us, sa.literal_column(str(MINIMUM_US), sa.BigInteger()))


def _integer(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger())


_bounds: Final = (_integer("after_us"), _integer("after_key"))


def _text(name: str) -> sa.BindParameter[str]:
    return sa.bindparam(name, type_=sa.Text())


def _texts_set(name: str) -> sa.Select[Any]:
    return sa.select(rows_parameter(name, item=sa.Text()).c.item)


def _keys_set(name: str) -> sa.Select[Any]:
    return sa.select(rows_parameter(name, item=sa.BigInteger()).c.item)


def _with_terms(dialect: DialectName, name: str) -> _Column:
    """Filed under any of the terms: the one index that is another table on each database."""
    if dialect == "postgresql":
        terms = rows_parameter(name, item=sa.BigInteger())
        wanted = sa.select(sa.func.array_agg(terms.c.item)).scalar_subquery()
        index = schema.resource_index.c
        return _r.resource_key.in_(sa.select(index.resource_key).where(index.terms.op("&&")(wanted)))
    filed = schema.resource_term.c
    return _r.resource_key.in_(sa.select(filed.resource_key).where(filed.term.in_(_keys_set(name))))


def _condition(dialect: DialectName, name: str, shape: tuple[str, ...]) -> _Column:
    match shape[0]:
        case "id":
            condition: _Column = _r.fhir_id.in_(_texts_set(f"{name}_set"))
        case "patient":
            condition = _r.patient_key.in_(_keys_set(f"{name}_set"))
        case "patient-or-term":
            condition = sa.or_(_r.patient_key.in_(_keys_set(f"{name}_set")), _with_terms(dialect, f"{name}_terms"))
        case "status":
            condition = _r.status.in_(_texts_set(f"{name}_set"))
        case "status-any":
            condition = _r.status.is_not(None)
        case "term":
            condition = _with_terms(dialect, f"{name}_set")
        case "contains" | "starts":
            condition = _string_condition(name, shape)
        case _:
            condition = _date_condition(name, shape)
    return condition


def _string_condition(name: str, shape: tuple[str, ...]) -> _Column:
    strings = schema.resource_string.c
    alternatives: list[_Column] = []
    for number in range(len(shape) - 1):
        if shape[0] == "contains":
            alternatives.append(strings.value.like(_text(f"{name}_like{number}"), escape="\\"))
        else:
            alternatives.append(
                sa.and_(strings.value >= _text(f"{name}_from{number}"), strings.value < _text(f"{name}_to{number}"))
            )
    found = sa.select(strings.resource_key).where(
        strings.type == _text("type"), strings.parameter.in_(_texts_set(f"{name}_names")), sa.or_(*alternatives)
    )
    return _r.resource_key.in_(found)


_Compare = Callable[[_Column, _Column, _Column, _Column], _Column]
# The same comparisons as bridge.fhir.search.match.COMPARE, on columns: (target start, target end, value start, value end).
_COMPARE: Final[dict[Prefix, _Compare]] = {
    Prefix.EQ: lambda a, b, c, d: sa.and_(a >= c, b <= d),
    Prefix.NE: lambda a, b, c, d: sa.or_(a < c, b > d),
    Prefix.GT: lambda _a, b, _c, d: b > d,
    Prefix.LT: lambda a, _b, c, _d: a < c,
    Prefix.GE: lambda a, b, c, d: sa.or_(b > d, sa.and_(a >= c, b <= d)),
    Prefix.LE: lambda a, b, c, d: sa.or_(a < c, sa.and_(a >= c, b <= d)),
    Prefix.SA: lambda a, _b, _c, d: a > d,
    Prefix.EB: lambda _a, b, c, _d: b < c,
}


def _date_condition(name: str, shape: tuple[str, ...]) -> _Column:
    updated = shape[0] == "updated"
    start, end = (_r.last_updated_us, _r.last_updated_us) if updated else (_r.date_start_us, _r.date_end_us)
    return sa.or_(
        *(
            _COMPARE[Prefix(prefix)](start, end, _integer(f"{name}_start{number}"), _integer(f"{name}_end{number}"))
            for number, prefix in enumerate(shape[1:])
        )
    )


def _visible(view: _View) -> list[_Column]:
    """The caller's visibility on columns; rows in no compartment follow their type."""
    patient = _r.patient_key
    restriction, consent = schema.restriction.c, schema.consent_state.c
    closed = sa.exists().where(restriction.patient_key == patient, restriction.state == constant("open"))
    conditions: list[_Column] = [~closed]
    if view.only_own:
        conditions.append(patient.in_(_keys_set("own")))
    if view.some_closed:
        conditions.append(patient.not_in(_keys_set("closed")))
    if not view.without_consent:
        active = consent.status == constant("active")
        mine, others = schema.person_link.alias("mine"), schema.person_link.alias("others")
        linked: sa.Select[Any] = (
            sa.select(sa.literal_column("1"))
            .select_from(mine.join(others, mine.c.person_key == others.c.person_key))
            .join(schema.consent_state, consent.patient_key == others.c.record_key)
            .where(mine.c.record_key == patient, active)
        )
        conditions.append(sa.or_(sa.exists().where(consent.patient_key == patient, active), linked.exists()))
    in_compartment = sa.and_(patient.is_not(None), *conditions)
    return [sa.or_(patient.is_(None), in_compartment) if view.is_open else in_compartment]
