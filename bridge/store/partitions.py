"""PostgreSQL's monthly partitions, made ahead of time; on SQLite there is nothing to make."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement
from bridge.store.schema import MONTHLY, metadata

MONTHS_AHEAD: Final = 3
_SECOND_US: Final = 1_000_000
_SLOT: Final = 2**31 - 1  # one maker at a time; a batch that happens to hash to it only waits

_EXISTS: Final = Statement(sa.select(sa.func.to_regclass(sa.bindparam("name", type_=sa.Text())).is_not(None)))


def ensure_partitions(txn: Transaction, *, months_ahead: int = MONTHS_AHEAD) -> list[str]:
    """Makes the partitions of this month and the ``months_ahead`` next; the names of those it made.

    Rows of a month without a partition go to the table's ``_other`` partition; a month of which rows are there already
    gets no partition of its own. Call it at start and daily.
    """
    if txn.dialect == "sqlite":
        return []
    txn.lock([_SLOT])
    made = []
    for table, column in MONTHLY.items():
        for month in range(months_ahead + 1):
            first, after = _bounds(txn.start_us, month)
            name = f"{table}_{datetime.fromtimestamp(first / _SECOND_US, UTC):%Y%m}"
            if txn.execute(_EXISTS, {"name": name})[0][0]:
                continue
            if txn.execute(_occupied(table, column), {"first": first, "after": after}):
                continue
            # attaching locks out neither readers nor writers of the other partitions, as CREATE … PARTITION OF would
            txn.change(Statement(sa.text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")))
            attach = f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({after})"
            txn.change(Statement(sa.text(attach)))
            made.append(name)
    return made


def _occupied(table: str, column: str) -> Statement:
    other = sa.table(f"{table}_other", sa.column(column, metadata.tables[table].c[column].type))
    inside = sa.and_(other.c[column] >= sa.bindparam("first"), other.c[column] < sa.bindparam("after"))
    return Statement(sa.select(sa.literal_column("1")).select_from(other).where(inside).limit(1))


def _bounds(time_us: int, months_later: int) -> tuple[int, int]:
    now = datetime.fromtimestamp(time_us / _SECOND_US, UTC)
    count = now.year * 12 + now.month - 1 + months_later
    return _month_us(count), _month_us(count + 1)


def _month_us(count: int) -> int:
    return int(datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC).timestamp()) * _SECOND_US
