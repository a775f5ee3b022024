"""Which sources an alarm has paused until an operator lets them go on."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement
from bridge.store.rows import SourceControlRow
from bridge.store.schema import source_control as t

_PAUSED: Final = Statement(sa.select(t).where(t.c.paused))


def pause(txn: Transaction, source: str, reason: str) -> None:
    """Stops intake from a source; ``reason`` is a code."""
    txn.upsert_rows(t, [(source, True, reason, txn.start_us)])


def resume(txn: Transaction, source: str, reason: str) -> None:
    """Lets a source go on; ``reason`` says why that is right."""
    txn.upsert_rows(t, [(source, False, reason, txn.start_us)])


def paused(txn: Transaction) -> dict[str, SourceControlRow]:
    """The paused sources, by name."""
    return {row[0]: SourceControlRow(row[0], bool(row[1]), row[2], row[3]) for row in txn.execute(_PAUSED)}
