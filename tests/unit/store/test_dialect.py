"""What is said to the databases: sets of rows as one parameter, and what their errors mean."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int8

from bridge.errors import Category, Incorrect
from bridge.store import arrays, sqlite
from bridge.store.dialect import Statement, constant, rows_parameter
from bridge.store.failures import translate
from bridge.store.schema import BIGINT, BYTES, TEXT, nonce, raw_message

INT8 = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def psycopg_array(values: list) -> bytes:
    """The same array as psycopg itself would send it, decoded by psycopg's loader: the oracle."""
    transformer = Transformer()
    data = transformer.get_dumper(values, PyFormat.BINARY).dump(values)
    assert data is not None
    return bytes(data)


@given(st.lists(INT8, min_size=1))
def test_integer_arrays_read_back_as_they_were(values):
    loaded = (
        Transformer()
        .get_loader(arrays.ARRAY_OF[arrays.INT8], psycopg.pq.Format.BINARY)
        .load(arrays.int8_array_data(values))
    )

    assert loaded == values


@given(st.lists(INT8, min_size=1))
def test_integer_arrays_are_psycopg_s_own_save_for_the_flag_of_nulls(values):
    ours, theirs = arrays.int8_array_data(values), psycopg_array([Int8(value) for value in values])

    assert ours[:4] + ours[8:] == theirs[:4] + theirs[8:]


@pytest.mark.parametrize("values", [[2**63], [1, -(2**63) - 1]])
def test_an_integer_beyond_64_bits_is_a_data_error(values):
    with pytest.raises(Incorrect, match="data-error"):
        arrays.int8_array_data(values)


rows = rows_parameter("rows", number=BIGINT, text=TEXT, data=BYTES)
BACK = Statement(sa.select(rows.c.number, rows.c.text, rows.c.data))
single = rows_parameter("items", item=TEXT)
ITEMS = Statement(sa.select(single.c.item))
ROW = st.tuples(INT8, st.none() | TEXTS, st.none() | st.binary())


@pytest.fixture(scope="module")
def connection():
    opened = sqlite3.connect(":memory:")
    opened.create_function("from_hex", 1, sqlite._from_hex, deterministic=True)
    yield opened
    opened.close()


@given(values=st.lists(ROW))
def test_rows_come_back_from_sqlite_as_they_went(connection, values):
    compiled = BACK.compiled("sqlite")

    assert connection.execute(compiled.sql, compiled.arguments({"rows": values})).fetchall() == values


@given(values=st.lists(TEXTS))
def test_a_single_column_takes_plain_values(connection, values):
    compiled = ITEMS.compiled("sqlite")

    assert connection.execute(compiled.sql, compiled.arguments({"items": values})).fetchall() == [(v,) for v in values]


@given(values=st.lists(TEXTS, min_size=1), at=st.integers(0), place=st.integers(0))
def test_a_text_with_u0000_never_reaches_sqlite(values, at, place):
    number = at % len(values)
    text = values[number]
    values[number] = text[: place % (len(text) + 1)] + "\0" + text[place % (len(text) + 1) :]

    with pytest.raises(Incorrect):
        ITEMS.compiled("sqlite").arguments({"items": values})
    with pytest.raises(Incorrect):
        BACK.compiled("sqlite").arguments({"rows": [(1, value, None) for value in values]})


@given(values=st.lists(ROW))
def test_rows_go_to_postgresql_as_one_array_a_column(values):
    arrays = BACK.compiled("postgresql").arguments({"rows": values})
    loaders = [Transformer().get_loader(oid, psycopg.pq.Format.BINARY) for oid in (1016, 1009, 1001)]

    assert len(arrays) == 3
    assert [loader.load(array.data) for loader, array in zip(loaders, arrays, strict=True)] == [
        [row[place] for row in values] for place in range(3)
    ]


def test_constants_stand_in_the_text_so_that_partial_indexes_apply():
    waiting = Statement(sa.select(raw_message.c.raw_key).where(raw_message.c.state == constant("waiting")))

    for dialect in ("sqlite", "postgresql"):
        assert "state = 'waiting'" in waiting.compiled(dialect).sql
        assert waiting.compiled(dialect).arguments({}) == []


def test_a_set_may_stand_in_a_statement_twice_and_in_an_update(connection):
    values = rows_parameter("v", nonce=BYTES, leaf_id=BYTES)
    twice = Statement(
        sa.update(nonce)
        .values(nonce=values.c.nonce)
        .where(nonce.c.leaf_id == values.c.leaf_id, nonce.c.leaf_id.in_(sa.select(values.c.leaf_id)))
    )

    for dialect, repeats in (("sqlite", 2), ("postgresql", 4)):
        assert len(twice.compiled(dialect).arguments({"v": [(b"n", b"l")]})) == repeats


def test_the_vault_is_a_schema_or_a_prefix():
    select = Statement(sa.select(nonce.c.nonce))

    assert "FROM vault.nonce" in select.compiled("postgresql").sql
    assert "FROM vault_nonce" in select.compiled("sqlite").sql


def failed(state: str) -> psycopg.Error:
    kind = psycopg.errors.lookup(state)
    return kind("Xylophonist-4711")


@pytest.mark.parametrize(
    ("state", "category"),
    [
        ("08006", Category.UNAVAILABLE),
        ("25006", Category.UNAVAILABLE),
        ("53100", Category.UNAVAILABLE),
        ("53300", Category.UNAVAILABLE),
        ("57014", Category.UNAVAILABLE),
        ("57P01", Category.UNAVAILABLE),
        ("58030", Category.UNAVAILABLE),
        ("40001", Category.CONFLICT),
        ("40P01", Category.CONFLICT),
        ("55P03", Category.CONFLICT),
        ("22021", Category.INCORRECT),
        ("22003", Category.INCORRECT),
        ("23505", Category.INCORRECT),
        ("23514", Category.INCORRECT),
        ("25P03", Category.UNAVAILABLE),
        ("42P01", Category.UNAVAILABLE),
        ("42501", Category.UNAVAILABLE),
        ("42601", Category.FAULT),
        ("54000", Category.INCORRECT),
        ("XX001", Category.UNAVAILABLE),
    ],
)
def test_each_class_of_postgresql_errors_has_its_category(state, category):
    error = translate(failed(state))

    assert error.category is category
    assert "4711" not in str(error)


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (psycopg.OperationalError("gone"), Category.UNAVAILABLE),
        (psycopg.InterfaceError("closed"), Category.UNAVAILABLE),
        (psycopg.DataError("NUL"), Category.INCORRECT),
        (psycopg.ProgrammingError("cannot adapt"), Category.FAULT),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate"), Category.INCORRECT),
        (OverflowError("too large"), Category.INCORRECT),
    ],
)
def test_errors_of_the_client_have_theirs(error, category):
    assert translate(error).category is category


@pytest.mark.parametrize(
    ("code", "category"),
    [
        (sqlite3.SQLITE_BUSY, Category.CONFLICT),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Category.CONFLICT),
        (sqlite3.SQLITE_FULL, Category.UNAVAILABLE),
        (sqlite3.SQLITE_IOERR, Category.UNAVAILABLE),
        (sqlite3.SQLITE_IOERR_FSYNC, Category.UNAVAILABLE),
        (sqlite3.SQLITE_CANTOPEN, Category.UNAVAILABLE),
        (sqlite3.SQLITE_READONLY, Category.UNAVAILABLE),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, Category.INCORRECT),
        (sqlite3.SQLITE_TOOBIG, Category.INCORRECT),
        (sqlite3.SQLITE_CORRUPT, Category.UNAVAILABLE),
        (sqlite3.SQLITE_ERROR, Category.FAULT),
    ],
)
def test_each_sqlite_error_has_its_category(code, category):
    error = sqlite3.OperationalError("Xylophonist-4711")
    error.sqlite_errorcode = code

    assert translate(error).category is category
    assert "4711" not in str(translate(error))
