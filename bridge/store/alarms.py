"""Conditions that an operator must see until they are cleared."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, insert
from bridge.store.rows import AlarmRow
from bridge.store.schema import alarm as t

_new = insert(t).values(
    code=sa.bindparam("code"),
    subject=sa.bindparam("subject"),
    raised_us=sa.bindparam("now"),
    detail=sa.bindparam("detail"),
)
_RAISE: Final = Statement(
    _new.on_conflict_do_update(
        index_elements=["code", "subject"],
        set_={
            "raised_us": sa.case((t.c.cleared_us.is_(None), t.c.raised_us), else_=_new.excluded.raised_us),
            "cleared_us": sa.null(),
            "detail": _new.excluded.detail,
        },
    )
)
_CLEAR: Final = Statement(
    sa.update(t)
    .values(cleared_us=sa.bindparam("now"))
    .where(t.c.code == sa.bindparam("code_"), t.c.subject == sa.bindparam("subject_"), t.c.cleared_us.is_(None))
)
_ACTIVE: Final = Statement(sa.select(t).where(t.c.cleared_us.is_(None)).order_by(t.c.raised_us, t.c.code, t.c.subject))


def raise_alarm(txn: Transaction, code: str, subject: str, detail: str) -> None:
    """Raises an alarm; one that is up keeps the time it was raised."""
    txn.change(_RAISE, {"code": code, "subject": subject, "now": txn.start_us, "detail": detail})


def clear(txn: Transaction, code: str, subject: str) -> bool:
    """Clears an alarm; False if it was not up."""
    return txn.change(_CLEAR, {"code_": code, "subject_": subject, "now": txn.start_us}) == 1


def active(txn: Transaction) -> list[AlarmRow]:
    """The alarms that are up, oldest first."""
    return [AlarmRow._make(row) for row in txn.execute(_ACTIVE)]
