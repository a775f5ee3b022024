"""The decision state of consents: what the FHIR Consents of a patient say, as the decision reads it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import sqlalchemy as sa

from bridge.store.database import Transaction
from bridge.store.dialect import Statement, rows_parameter
from bridge.store.rows import ConsentStateRow
from bridge.store.schema import BIGINT, BYTES
from bridge.store.schema import consent_state as t

_keys: Final = rows_parameter("keys", key=BIGINT)
_OF_PATIENTS: Final = Statement(
    sa.select(t).join_from(_keys, t, t.c.patient_key == _keys.c.key).order_by(t.c.consent_key)
)
_BY_KEY: Final = Statement(sa.select(t).join_from(_keys, t, t.c.consent_key == _keys.c.key))
_handles: Final = rows_parameter("handles", handle=BYTES)
_BY_HANDLE: Final = Statement(sa.select(t).join_from(_handles, t, t.c.handle == _handles.c.handle))


def state_for_patients(txn: Transaction, patient_keys: Collection[int]) -> dict[int, list[ConsentStateRow]]:
    """All consents of each patient record, whatever their status; an empty list where there are none."""
    found: dict[int, list[ConsentStateRow]] = {key: [] for key in patient_keys}
    if found:
        for row in txn.execute(_OF_PATIENTS, {"keys": list(found)}):
            found[row[1]].append(ConsentStateRow._make(row))
    return found


def load(txn: Transaction, consent_keys: Collection[int]) -> dict[int, ConsentStateRow]:
    """Consents by key."""
    if not consent_keys:
        return {}
    return {row[0]: ConsentStateRow._make(row) for row in txn.execute(_BY_KEY, {"keys": set(consent_keys)})}


def load_by_handle(txn: Transaction, handles: Collection[bytes]) -> dict[bytes, ConsentStateRow]:
    """Consents by the handle they have on the chain."""
    if not handles:
        return {}
    return {row[2]: ConsentStateRow._make(row) for row in txn.execute(_BY_HANDLE, {"handles": set(handles)})}


def write(txn: Transaction, rows: Sequence[ConsentStateRow]) -> None:
    """Stores consents as they now stand, at most one row each; Incorrect ``data-error`` for a handle of another."""
    txn.upsert_rows(t, rows)
