"""Restricted patients: whoever's consent could not be understood is closed to all but emergency access.

Law *Consent never fails open*.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

from bridge.mapping.operations import IdentityKey
from bridge.record.ids import length_prefixed
from bridge.store import identity
from bridge.store import restrictions as repository
from bridge.store.database import Transaction
from bridge.store.rows import RestrictionRow


def identity_mac(name: IdentityKey, key: bytes) -> bytes:
    """The keyed digest under which a restriction waits for a patient who is not known yet."""
    message = b"hie-bridge/restriction/v1\x00" + length_prefixed(name.namespace, name.value)
    return hmac.digest(key, message, "sha256")


def restrict(txn: Transaction, names: Sequence[IdentityKey], code: str, key: bytes, dead_key: int | None = None) -> int:
    """Restricts every patient that one of ``names`` names, now or once they are known; answers how many rows it wrote."""
    known = identity.lookup_any_type(txn, names)
    patients = sorted({patient for found in known.values() for patient in found})
    macs = dict.fromkeys(identity_mac(name, key) for name in names if name not in known)
    return _add(txn, [(patient, None) for patient in patients] + [(None, mac) for mac in macs], code, dead_key)


def restrict_known(txn: Transaction, patients: Iterable[int], code: str) -> int:
    """Restricts patients by their resource keys; one who is restricted for that reason already stays so."""
    wanted = set(patients)
    if not wanted:
        return 0
    closed = {key for key, rows in repository.open_for(txn, wanted).items() if any(row.code == code for row in rows)}
    return _add(txn, [(patient, None) for patient in sorted(wanted - closed)], code, None)


def adopt(txn: Transaction, names: Sequence[tuple[IdentityKey, int]], key: bytes) -> None:
    """Gives the restrictions that waited for these names to the patients who are now known by them."""
    repository.resolve_identity(txn, {identity_mac(name, key): patient for name, patient in names})


def _add(txn: Transaction, whom: Sequence[tuple[int | None, bytes | None]], code: str, dead_key: int | None) -> int:
    if not whom:
        return 0
    now_us = txn.now_us()
    keys = txn.allocate("restriction", len(whom))
    rows = [
        RestrictionRow(restriction_key, patient, mac, dead_key, code, "open", now_us)
        for restriction_key, (patient, mac) in zip(keys, whom, strict=True)
    ]
    repository.add(txn, rows)
    return len(rows)
