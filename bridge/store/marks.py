"""What a store is, beside what it holds: set when it is made, never taken away."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement
from bridge.store.schema import store_mark as t

_ALL: Final = Statement(sa.select(t.c.mark))


class Mark(StrEnum):
    """The marks there are."""

    DEMONSTRATION = "demonstration"  # made by `hiebridge demo`: holds nobody's data, and may run in development mode


def put(txn: Transaction, mark: Mark) -> None:
    """Marks the store; once marked it stays so."""
    txn.insert_rows(t, [(mark.value, txn.start_us)], ignore_existing=True)


def has(txn: Transaction, mark: Mark) -> bool:
    """Whether the store carries the mark."""
    return (mark.value,) in txn.execute(_ALL)
