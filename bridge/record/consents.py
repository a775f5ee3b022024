"""Consents: from the FHIR resource to the state that decisions read, and to the word that goes on chain.

Resource, decision state and outbox change in one transaction, so that a revocation holds the moment the write returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bridge.consent.rule import Rule, Status, chain_word, compile_consent, decode, encode
from bridge.errors import Incorrect
from bridge.ledger.chain import Handle, PolicyTag
from bridge.ledger.commitment import LeafKind
from bridge.record.commitments import EVENT_FORM, Commitments
from bridge.record.work import Work
from bridge.store import consents as repository
from bridge.store import outbox, persons
from bridge.store.database import Transaction
from bridge.store.rows import ConsentStateRow, ResourceRow

CHAIN_DESTINATION = "chain.consent"


@dataclass(frozen=True, slots=True)
class Projected:
    """A consent whose state changed, and the leaf that says so."""

    row: ConsentStateRow
    granted: bool
    leaf_id: bytes


class ConsentPayload(msgspec.Struct, frozen=True):
    """What waits in the outbox to become a consent word."""

    handle: bytes
    granted: bool
    version: int
    not_after_us: int | None
    tag: bytes


def project(txn: Transaction, work: Work, rows: Mapping[int, ResourceRow], commitments: Commitments) -> list[Projected]:
    """Brings the decision state of every changed Consent up to date.

    Raises:
        Incorrect: ``consent-patient-unknown``; a consent must be about a Patient that is here.
    """
    changed = [entry for entry in work.changed() if entry.type == "Consent"]
    if not changed:
        return []
    awaited = set(work.reserved().values())
    known = repository.load(txn, [entry.key for entry in changed])
    projected: list[Projected] = []
    for entry in changed:
        body = entry.drafts[-1].body
        row = rows[entry.key]
        before = known.get(entry.key)
        patient = row.patient_key if row.patient_key is not None else (before.patient_key if before else None)
        if patient is None or patient in awaited:
            raise Incorrect(
                "consent-patient-unknown",
                "A Consent names a Patient that is not here.",
                remedy="Send the Patient first.",
            )
        rule = compile_consent(body) if body is not None else None
        state = _state(entry.key, patient, rule, before, txn.now_us())
        granted = rule is not None and chain_word(rule).granted
        leaf_id = commitments.add(
            LeafKind.CONSENT,
            entry.record_uuid,
            state.version,
            state_bytes(state),
            owner=work.owner_of(patient) or entry.record_uuid,
            form=EVENT_FORM,
            subject_key=entry.key,
            subject_version=state.version,
        )
        projected.append(Projected(state, granted, leaf_id))
    concerned = {item.row.patient_key for item in projected} | {before.patient_key for before in known.values()}
    links = persons.links(txn, concerned)
    persons.advance_consent_version(txn, {link.person_key for link in links.values()})
    return projected


def publish(txn: Transaction, projected: Sequence[Projected], committed: Mapping[bytes, bytes]) -> None:
    """Writes the states, and their words into the outbox; a revocation cancels its unsent grant."""
    if not projected:
        return
    states: list[ConsentStateRow] = []
    words: list[tuple[str, str, bytes]] = []
    for item in projected:
        tag = PolicyTag.of_commitment(committed[item.leaf_id])
        state = item.row._replace(policy_tag=tag.value.hex())
        states.append(state)
        payload = ConsentPayload(state.handle, item.granted, state.version, state.not_after_us, tag.value)
        words.append((CHAIN_DESTINATION, state.handle.hex(), msgspec.json.encode(payload)))
        outbox.cancel(txn, CHAIN_DESTINATION, state.handle.hex())
    repository.write(txn, states)
    outbox.put(txn, words)


def _state(
    consent_key: int, patient: int, rule: Rule | None, before: ConsentStateRow | None, now_us: int
) -> ConsentStateRow:
    status = rule.status if rule is not None else Status.REVOKED
    # Whatever was no grant stands on the chain as revoked, and that is absorbing: a grant after it takes a new handle.
    regrant = before is not None and rule is not None and chain_word(rule).granted and not _granted(before)
    handle = Handle.random().value if before is None or regrant else before.handle
    return ConsentStateRow(
        consent_key,
        patient,
        handle,
        status.value,
        before.version + 1 if before is not None else 1,
        encode(rule) if rule is not None else (before.rule if before is not None else b""),
        rule.custodian if rule is not None else (before.custodian if before is not None else ""),
        chain_word(rule).not_after_us if rule is not None else None,
        "",
        now_us,
    )


def _granted(state: ConsentStateRow) -> bool:
    return state.status == Status.ACTIVE and chain_word(decode(state.rule)).granted


def state_bytes(state: ConsentStateRow) -> bytes:
    """The bytes that a consent leaf commits to, made anew from the row by ``fsck``: everything that decides.

    So they say as much as the Consent itself; the rule as base64, for fsck must see any byte of it, and only its policy tag is
    missing, which is made of the commitment.
    """
    content: dict[str, Any] = {
        "custodian": state.custodian,
        "handle": state.handle.hex(),
        "not_after_us": state.not_after_us,
        "patient": state.patient_key,
        "rule": state.rule,
        "status": state.status,
        "version": state.version,
    }
    return msgspec.json.encode(content)
