"""Restricted patients: whoever's consent could not be understood is closed to all but emergency access.

Law *Consent never fails open*. To close or to open a patient changes what consents permit, so it advances the consent version
of her person.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping, Sequence

from bridge.mapping.operations import IdentityKey
from bridge.record.ids import length_prefixed
from bridge.store import identity, persons
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
    """Closes the patients who are now known by these names to what waited for them, or closed another of such a name.

    As whoever cannot tell types of identifiers apart closes all who are known by a name, so it closes all who come by it.
    """
    bearers: dict[bytes, set[int]] = {}
    for name, patient in names:
        bearers.setdefault(identity_mac(name, key), set()).add(patient)
    rows = repository.open_by_identity(txn, bearers)
    closed = {(row.identity_mac, row.dead_key, row.patient_key) for row in rows}
    given: dict[int, int] = {}
    more: list[RestrictionRow] = []
    for row in rows:
        assert row.identity_mac is not None
        for patient in sorted(bearers[row.identity_mac]):
            if (row.identity_mac, row.dead_key, patient) in closed:
                continue
            if row.patient_key is None and row.restriction_key not in given:
                given[row.restriction_key] = patient
            else:
                more.append(row._replace(patient_key=patient))
    repository.give(txn, given)
    keys = txn.allocate("restriction", len(more)) if more else []
    repository.add(txn, [row._replace(restriction_key=new) for new, row in zip(keys, more, strict=True)])
    _tell(txn, {*given.values(), *(row.patient_key for row in more if row.patient_key is not None)})


def move(txn: Transaction, moved: Mapping[int, int]) -> None:
    """Gives the restrictions of reserved keys to the patients whose names those turned out to be: reserved key → key."""
    repository.move(txn, moved)
    _tell(txn, set(moved.values()))


def lift(txn: Transaction, rows: Sequence[RestrictionRow], *, by: str, reason: str) -> int:
    """Opens the patients of those of ``rows`` that are still open; answers how many these were."""
    lifted = repository.lift(txn, [row.restriction_key for row in rows], lifted_by=by, reason=reason)
    if lifted:
        _tell(txn, {row.patient_key for row in rows if row.patient_key is not None})
    return lifted


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
    _tell(txn, {patient for patient, _ in whom if patient is not None})
    return len(rows)


def _tell(txn: Transaction, patients: Collection[int]) -> None:
    """Says of the persons of these patients that what consents permit may have changed."""
    if patients:
        links = persons.links(txn, patients)
        persons.advance_consent_version(txn, {link.person_key for link in links.values()})
