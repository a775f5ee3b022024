"""Where SQLite and PostgreSQL differ in what is said to them: SQL text and set parameters.

How it is said (connections, transactions, bulk loading) is in ``sqlite.py`` and ``postgresql.py``, what their errors mean in
``failures.py``. Everything else in this room is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from bridge.store.arrays import (
    ARRAY_OF,
    BOOL,
    BYTEA,
    INT8,
    TEXT,
    PostgresArray,
    bool_array,
    bytea_array,
    int8_array,
    text_array,
)
from bridge.store.failures import data_error
from bridge.store.schema import resource_index, resource_term

DialectName = Literal["sqlite", "postgresql"]
Parameters = Mapping[str, Any]
Row = tuple[Any, ...]

_SQLITE: Final = sqlite.dialect()
_CLAIMS: Final = 1212761427  # the advisory locks that are claims, apart from those of bridge.store.postgresql
_CLAIM_SLOTS: Final = 1 << 31
_POSTGRESQL: Final = PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


# --- sets of rows as one parameter ------------------------------------------------------------------------------------


_NOTED: Final = "hiebridge_rows_parameters"


class _RowsParameter(FunctionElement[Any]):
    """A sequence of rows, bound as one array a column (PostgreSQL) or as one JSON text (SQLite)."""

    name = "rows_parameter"
    inherit_cache = False

    def __init__(self, parameter: str, row_types: Mapping[str, sa.types.TypeEngine[Any]]) -> None:
        self.parameter = parameter
        self.row_types = row_types
        super().__init__()


def _note(compiler: Any, element: _RowsParameter) -> None:
    """Leaves the element with the compiled statement: what stands in an UPDATE's FROM no traversal of it would find."""
    vars(compiler).setdefault(_NOTED, {})[element.parameter] = element


@compiles(_RowsParameter, "postgresql")
def _rows_postgresql(element: _RowsParameter, compiler: Any, **options: Any) -> str:
    _note(compiler, element)
    quote = compiler.preparer.quote
    arrays = [
        compiler.process(sa.bindparam(f"{element.parameter}__{name}", type_=postgresql.ARRAY(type_)), **options)
        for name, type_ in element.row_types.items()
    ]
    return f"(SELECT * FROM unnest({', '.join(arrays)}) AS u({', '.join(map(quote, element.row_types))}))"  # noqa: S608 - names of our own columns


@compiles(_RowsParameter, "sqlite")
def _rows_sqlite(element: _RowsParameter, compiler: Any, **options: Any) -> str:
    _note(compiler, element)
    quote = compiler.preparer.quote
    single = len(element.row_types) == 1
    values = []
    for place, (name, type_) in enumerate(element.row_types.items()):
        value = "value" if single else f"json_extract(value, '$[{place}]')"
        values.append(f"{f'from_hex({value})' if _is_bytes(type_) else value} AS {quote(name)}")
    text = compiler.process(sa.bindparam(element.parameter, type_=sa.Text()), **options)
    return f"(SELECT {', '.join(values)} FROM json_each({text}))"  # noqa: S608 - names of our own columns


def rows_parameter(parameter: str, /, **row_types: sa.types.TypeEngine[Any]) -> sa.TableValuedAlias:
    """A table made of a parameter: a sequence of rows (of plain values, if there is one column).

    Args:
        parameter: its name among the statement's parameters, and of the table in the statement.
        row_types: the columns, in the order of each row's values.
    """
    element = _RowsParameter(parameter, row_types)
    return element.table_valued(*[sa.column(name, type_) for name, type_ in row_types.items()], name=parameter)


class _Claimed(FunctionElement[bool]):
    name = "claimed"
    type = sa.Boolean()
    inherit_cache = True


@compiles(_Claimed, "postgresql")
def _claimed_postgresql(element: _Claimed, compiler: Any, **options: Any) -> str:
    return f"pg_try_advisory_lock({_CLAIMS}, mod({compiler.process(element.clauses, **options)}, {_CLAIM_SLOTS})::int)"


@compiles(_Claimed, "sqlite")
def _claimed_sqlite(_element: _Claimed, _compiler: Any, **_options: Any) -> str:
    return "1"


def claimed(key: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Whether this session has, or now gets, a surrogate key's claim: until :data:`RELEASE_CLAIMS` or its own end.

    On SQLite always: its one worker claims nothing.
    """
    return _Claimed(key)


def insert(table: sa.Table) -> postgresql.Insert:
    """An ``INSERT`` with ``on_conflict_do_…``, which both dialects render alike."""
    return postgresql.insert(table)


def constant(text: str) -> sa.ColumnElement[str]:
    """``text`` as a literal in the statement, so that PostgreSQL's plans can use partial indexes on it."""
    return sa.literal_column(f"'{text}'", sa.Text())


def _is_bytes(type_: sa.types.TypeEngine[Any]) -> bool:
    return isinstance(type_, sa.LargeBinary)


def _is_text(type_: sa.types.TypeEngine[Any]) -> bool:
    return isinstance(type_, sa.Text)


def _array_encoder(type_: sa.types.TypeEngine[Any]) -> Callable[[Sequence[Any]], PostgresArray]:
    if _is_bytes(type_):
        return bytea_array
    if _is_text(type_):
        return text_array
    if isinstance(type_, sa.Boolean):
        return bool_array
    return int8_array


def oid_of(type_: sa.types.TypeEngine[Any]) -> int:
    """PostgreSQL's type number of a column of our schema, for binary COPY."""
    if isinstance(type_, sa.ARRAY):
        return ARRAY_OF[INT8]
    if _is_bytes(type_):
        return BYTEA
    if _is_text(type_):
        return TEXT
    return BOOL if isinstance(type_, sa.Boolean) else INT8


# --- SQLite's JSON parameters -----------------------------------------------------------------------------------------

_json = msgspec.json.Encoder().encode
_ESCAPED_NUL: Final = "\\u0000"


def _json_rows(rows: Sequence[Any], byte_places: frozenset[int], *, single: bool) -> str:
    if byte_places:
        if single:
            rows = [value.hex() for value in rows]
        else:
            rows = [
                [
                    value.hex() if place in byte_places and value is not None else value
                    for place, value in enumerate(row)
                ]
                for row in rows
            ]
    text = _json(rows).decode()
    if _ESCAPED_NUL in text and any("\0" in value for row in rows for value in _texts(row)):
        # json_extract would cut the text there, and so might find another row
        raise data_error("U+0000 in a text")
    return text


def _texts(row: Any) -> list[str]:
    return [value for value in ([row] if isinstance(row, str | int) else row) if isinstance(value, str)]


# --- statements -------------------------------------------------------------------------------------------------------


class Compiled:
    """A statement in one dialect: its text, and the way from named parameters to positional ones."""

    __slots__ = ("_constants", "_names", "_rows", "sql")

    def __init__(self, construct: sa.Executable, dialect: DialectName) -> None:
        compiled = construct.compile(dialect=_SQLITE if dialect == "sqlite" else _POSTGRESQL)  # type: ignore[attr-defined]  # Executable is compiled like ClauseElement
        self.sql: str = vault_names(str(compiled), dialect)
        names: list[str] = list(compiled.positiontup or ())
        self._constants: dict[str, Any] = {
            name: value for name, value in compiled.params.items() if value is not None and name in names
        }
        self._names = names
        noted: dict[str, _RowsParameter] = vars(compiled).get(_NOTED, {})
        self._rows = [(name, _rows_binder(element, dialect)) for name, element in noted.items()]

    def arguments(self, parameters: Parameters) -> list[Any]:
        """Positional arguments; KeyError if ``parameters`` lacks one."""
        if self._constants or self._rows:
            values = {**self._constants, **parameters}
            for name, bind in self._rows:
                values.update(bind(values[name]))
            parameters = values
        return [parameters[name] for name in self._names]


def _rows_binder(element: _RowsParameter, dialect: DialectName) -> Callable[[Any], dict[str, Any]]:
    parameter, types = element.parameter, element.row_types
    if dialect == "sqlite":
        places = frozenset(place for place, type_ in enumerate(types.values()) if _is_bytes(type_))
        single = len(types) == 1

        def bind_json(rows: Any) -> dict[str, Any]:
            return {parameter: _json_rows(list(rows), places, single=single)}

        return bind_json
    names = [f"{parameter}__{name}" for name in types]
    encoders = [_array_encoder(type_) for type_ in types.values()]
    if len(types) == 1:
        name, encode = names[0], encoders[0]
        return lambda rows: {name: encode(list(rows))}

    def bind_arrays(rows: Any) -> dict[str, Any]:
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        return {name: encode(column) for name, encode, column in zip(names, encoders, columns, strict=True)}

    return bind_arrays


class Statement:
    """A Core statement, compiled at first use in each dialect. Make them at import, never per call.

    Args:
        construct: the statement.
        sqlite: what SQLite is told instead, where it has no word for it (only this module passes it).
    """

    __slots__ = ("_compiled", "_constructs")

    def __init__(self, construct: sa.Executable, *, sqlite: sa.Executable | None = None) -> None:
        self._constructs: dict[DialectName, sa.Executable] = {
            "postgresql": construct,
            "sqlite": construct if sqlite is None else sqlite,
        }
        self._compiled: dict[DialectName, Compiled] = {}

    def compiled(self, dialect: DialectName) -> Compiled:
        """Text and parameter order for ``dialect``."""
        found = self._compiled.get(dialect)
        if found is None:
            found = self._compiled[dialect] = Compiled(self._constructs[dialect], dialect)
        return found


def either(postgresql: sa.Executable, sqlite: sa.Executable) -> Statement:
    """One question about tables that each database has in a form of its own."""
    return Statement(postgresql, sqlite=sqlite)


RELEASE_CLAIMS: Final = Statement(sa.select(sa.func.pg_advisory_unlock_all()), sqlite=sa.select(sa.null()))
"""Gives all claims of this session back, those included that a cancelled statement got and nobody heard of."""

_setting: Final = sa.table("pg_settings", sa.column("name", sa.Text())).c.name
LIMIT_CLAIMS: Final = Statement(
    sa.select(sa.func.set_config(_setting, sa.bindparam("idle", type_=sa.Text()), sa.false())).where(
        _setting == constant("idle_session_timeout")
    ),
    sqlite=sa.select(sa.null()),
)
"""From now on this session, and with it its claims, ends when it says nothing for as long as parameter ``idle``.

Its host may be gone without a word, or its process stopped. PostgreSQL before 14 knows no such limit.
"""


def first_of_each(key: sa.Column[int], value: sa.Column[int], *, keys: str, limit: str) -> Statement:
    """Selects (key, value) for each key in parameter ``keys``, at most as many of one key as parameter ``limit`` says.

    PostgreSQL stops reading a key's rows at the limit; SQLite has no lateral join, and numbers them all.
    """
    wanted = rows_parameter(keys, key=key.type)
    count: sa.BindParameter[int] = sa.bindparam(limit, type_=sa.BigInteger())
    lateral = sa.select(value).where(key == wanted.c.key).order_by(value).limit(count).lateral("found")
    place = sa.func.row_number().over(partition_by=key, order_by=value).label("place")
    ranked = sa.select(key, value, place).join_from(wanted, key.table, key == wanted.c.key).subquery("ranked")
    return Statement(
        sa.select(wanted.c.key, lateral.c[value.name]).join_from(wanted, lateral, sa.true()),
        sqlite=sa.select(ranked.c[key.name], ranked.c[value.name]).where(ranked.c.place <= count),
    )


_terms_wanted = rows_parameter("v", resource_key=resource_index.c.resource_key.type, terms=sa.Text())
_terms = sa.cast(_terms_wanted.c.terms, postgresql.ARRAY(sa.BigInteger()))
REPLACE_TERMS: Final = Statement(
    sa.update(resource_index)
    .values(terms=_terms)
    .where(resource_index.c.resource_key == _terms_wanted.c.resource_key, resource_index.c.terms != _terms)
)
"""PostgreSQL: index terms of known resources, as (key, array literal); rows whose terms are equal stay untouched."""

_term_keys = rows_parameter("keys", resource_key=resource_term.c.resource_key.type)
SELECT_TERMS: Final = Statement(
    sa.select(resource_term).join_from(
        _term_keys, resource_term, resource_term.c.resource_key == _term_keys.c.resource_key
    )
)
"""SQLite: (term, resource_key) of the resources in parameter ``keys``."""

DELETE_TERM: Final = "DELETE FROM resource_term WHERE term = ? AND resource_key = ?"


def vault_names(sql: str, dialect: DialectName) -> str:
    """SQLite has no schemas: there the vault's tables carry the schema's name as a prefix."""
    return sql.replace("vault.", "vault_") if dialect == "sqlite" else sql


_texts_cache: dict[tuple[object, ...], str] = {}


def insert_text(table: sa.Table, columns: Sequence[str], dialect: DialectName, *, ignore_existing: bool = False) -> str:
    """``INSERT`` of one row by position."""
    key = ("insert", table, tuple(columns), dialect, ignore_existing)
    text = _texts_cache.get(key)
    if text is None:
        placeholder = "?" if dialect == "sqlite" else "%s"
        head = f"INSERT INTO {_name(table, dialect)} ({_names(columns)})"
        tail = " ON CONFLICT DO NOTHING" if ignore_existing else ""
        text = _texts_cache[key] = f"{head} VALUES ({', '.join([placeholder] * len(columns))}){tail}"
    return text


def copy_text(table: sa.Table, columns: Sequence[str]) -> str:
    """``COPY … FROM STDIN`` in binary format."""
    return f"COPY {_name(table, 'postgresql')} ({_names(columns)}) FROM STDIN (FORMAT BINARY)"


def update_text(table: sa.Table, keys: Sequence[str], columns: Sequence[str]) -> str:
    """SQLite: ``UPDATE`` of one row; positions are ``columns`` and then ``keys``."""
    key = ("update", table, tuple(keys), tuple(columns))
    text = _texts_cache.get(key)
    if text is None:
        assignments = ", ".join(f"{_quote(column)} = ?" for column in columns)
        condition = " AND ".join(f"{_quote(column)} = ?" for column in keys)
        text = _texts_cache[key] = f"UPDATE {_name(table, 'sqlite')} SET {assignments} WHERE {condition}"  # noqa: S608 - our own names
    return text


def upsert_text(table: sa.Table, columns: Sequence[str], keys: Sequence[str]) -> str:
    """SQLite: ``INSERT`` of one row that replaces what has the same key."""
    text = insert_text(table, columns, "sqlite")
    assignments = ", ".join(f"{_quote(name)} = excluded.{_quote(name)}" for name in columns if name not in keys)
    return f"{text} ON CONFLICT ({_names(keys)}) DO UPDATE SET {assignments}"


_set_statements: dict[tuple[object, ...], Statement] = {}


def set_insert(table: sa.Table, columns: Sequence[str], *, keys: Sequence[str], replace: bool) -> Statement:
    """PostgreSQL: inserts the rows of parameter ``v`` in key order; an existing row is replaced or left alone."""
    cached = ("set_insert", table, tuple(columns), tuple(keys), replace)
    statement = _set_statements.get(cached)
    if statement is None:
        rows = rows_parameter("v", **{name: table.c[name].type for name in columns})
        source = sa.select(*[rows.c[name] for name in columns]).order_by(*[rows.c[name] for name in keys])
        insert = postgresql.insert(table).from_select(list(columns), source)
        others = {name: insert.excluded[name] for name in columns if name not in keys}
        insert = (
            insert.on_conflict_do_update(index_elements=list(keys), set_=others)
            if replace
            else insert.on_conflict_do_nothing()
        )
        statement = _set_statements[cached] = Statement(insert)
    return statement


def set_update(table: sa.Table, keys: Sequence[str], columns: Sequence[str]) -> Statement:
    """PostgreSQL: updates ``columns`` of the rows of parameter ``v`` (whose values are ``columns`` and then ``keys``)."""
    cached = ("set_update", table, tuple(keys), tuple(columns))
    statement = _set_statements.get(cached)
    if statement is None:
        rows = rows_parameter("v", **{name: table.c[name].type for name in (*columns, *keys)})
        update = sa.update(table).values({name: rows.c[name] for name in columns})
        statement = _set_statements[cached] = Statement(update.where(*[table.c[k] == rows.c[k] for k in keys]))
    return statement


def _quote(name: str) -> str:
    return f'"{name}"'


def _names(columns: Sequence[str]) -> str:
    return ", ".join(map(_quote, columns))


def _name(table: sa.Table, dialect: DialectName) -> str:
    return vault_names(f"{table.schema}.{table.name}" if table.schema else table.name, dialect)
