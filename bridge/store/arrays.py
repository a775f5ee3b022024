"""One-dimensional arrays in PostgreSQL's binary format: psycopg's own list dumper costs several times as much."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from bridge.store.failures import data_error, wrong_type

INT8, TEXT, BYTEA, BOOL = 20, 25, 17, 16
ARRAY_OF: Final = {INT8: 1016, TEXT: 1009, BYTEA: 1001, BOOL: 1000}
_NULL: Final = struct.pack(">i", -1)
_header = struct.Struct(">iiiii").pack
_length = struct.Struct(">i").pack
_int8 = struct.Struct(">iq").pack


class PostgresArray:
    """A one-dimensional array in PostgreSQL's binary format; never prints itself."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Int8Array(PostgresArray):
    """``bigint[]``."""

    __slots__ = ()


class TextArray(PostgresArray):
    """``text[]``."""

    __slots__ = ()


class ByteaArray(PostgresArray):
    """``bytea[]``."""

    __slots__ = ()


class BoolArray(PostgresArray):
    """``boolean[]``."""

    __slots__ = ()


def int8_array_data(values: Sequence[int | None]) -> bytes:
    """``values`` as a binary ``bigint[]``."""
    try:
        return _array(INT8, len(values), [_int8(8, value) if value is not None else _NULL for value in values])
    except struct.error:
        numbers = all(value is None or isinstance(value, int) for value in values)
    raise data_error("a number outside 64 bits") if numbers else wrong_type()


def _array(oid: int, count: int, elements: Sequence[bytes]) -> bytes:
    if not count:
        return _header(0, 0, oid, 0, 0)[:12]
    return _header(1, 1, oid, count, 1) + b"".join(elements)


def int8_array(values: Sequence[int | None]) -> Int8Array:
    """``bigint[]``."""
    return Int8Array(int8_array_data(values))


def text_array(values: Sequence[str | None]) -> TextArray:
    """``text[]``."""
    encoded = [None if value is None else value.encode() for value in values]
    elements = [_NULL if value is None else _length(len(value)) + value for value in encoded]
    return TextArray(_array(TEXT, len(values), elements))


def bytea_array(values: Sequence[bytes | None]) -> ByteaArray:
    """``bytea[]``."""
    elements = [_NULL if value is None else _length(len(value)) + value for value in values]
    return ByteaArray(_array(BYTEA, len(values), elements))


def bool_array(values: Sequence[bool | None]) -> BoolArray:
    """``boolean[]``."""
    elements = [_NULL if value is None else b"\0\0\0\1\1" if value else b"\0\0\0\1\0" for value in values]
    return BoolArray(_array(BOOL, len(values), elements))
