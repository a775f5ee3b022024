"""Access records, written ahead: durable before the first byte of an answer leaves, then closed with what became of it.

One thread commits for the whole process: everyone who waits shares the next commit. Each record becomes one leaf of the log
in the same transaction. A record that was never closed means that the process died in between: it is closed as
``assume-disclosed``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec

from bridge.access.tokens import Principal
from bridge.errors import BridgeError, Busy, Conflict, Unavailable
from bridge.ledger.commitment import LeafKind
from bridge.record.commitments import EVENT_FORM, Commitments, RecordKeys, organization_owner
from bridge.store import access
from bridge.store.database import Database
from bridge.store.rows import AccessRecord
from bridge.telemetry.failpoints import failpoint

MAX_WAITING: Final = 10_000
ABANDONED_SECONDS: Final = 120  # longer than any request may take
_SWEEP_SECONDS: Final = 30.0
_ATTEMPTS: Final = 3
ASSUME_DISCLOSED: Final = "assume-disclosed"


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """What is recorded of one request and patient.

    Attributes:
        interaction: FHIR interaction: read, vread, history-instance, search-type, create, update.
        decision: permit, deny, partial or none.
        rule: what decided.
        resource_type, resource_id: what was asked for, as far as the request names it.
        patient_key: the patient concerned.
        owner: record UUID of that patient, whose key salts the leaf; None = the organisation's.
        query_parameters: names of search parameters.
        consent_keys: Consents that decided.
    """

    interaction: str
    decision: str
    rule: str
    resource_type: str | None = None
    resource_id: str | None = field(default=None, repr=False)
    patient_key: int | None = None
    owner: str | None = None
    query_parameters: tuple[str, ...] = ()
    consent_keys: tuple[int, ...] = ()


class Ticket(NamedTuple):
    """A durable access record that waits for its outcome."""

    access_id: bytes
    started_us: int


class _Opening(NamedTuple):
    principal: Principal
    entries: Sequence[AccessEntry]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[Ticket]]


class _Closing(NamedTuple):
    tickets: Sequence[Ticket]
    outcome: str
    status: int
    finished_us: int


class AccessJournal:
    """The committer of one process.

    Args:
        database: a connection of its own.
        record_keys: keys that salt commitments; used by this thread only.
        origin: origin of the log.
        identity_key: the deployment's identity key (names the organisation's salt key).
    """

    def __init__(self, database: Database, record_keys: RecordKeys, origin: str, identity_key: bytes) -> None:
        self._database = database
        self._record_keys = record_keys
        self._origin = origin
        self._identity_key = identity_key
        self._wake = threading.Condition()
        self._openings: list[_Opening] = []
        self._closings: list[_Closing] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="access-journal", daemon=True)

    def start(self) -> None:
        """Closes what an earlier process left open, then begins to take records.

        Raises:
            Unavailable: the store does not answer.
        """
        self._sweep()
        self._thread.start()

    def stop(self) -> None:
        """Writes what waits and ends; idempotent."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._database.close()

    async def open(self, principal: Principal, entries: Sequence[AccessEntry]) -> list[Ticket]:
        """Returns once the records are durable.

        Raises:
            Busy: too many wait; nothing was recorded, so nothing may be answered.
            Unavailable: as above, since the store does not answer.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Ticket]] = loop.create_future()
        with self._wake:
            if self._stopping or len(self._openings) >= MAX_WAITING:
                raise Busy("access-record-busy", "too many requests wait for their access record", remedy="Retry.")
            self._openings.append(_Opening(principal, entries, loop, done))
            self._wake.notify()
        return await done

    def close(self, tickets: Sequence[Ticket], outcome: str, status: int) -> None:
        """Notes what became of the answer; written with the next commit.

        Args:
            tickets: of :meth:`open`.
            outcome: ``answered`` or ``broken-off``.
            status: HTTP status.
        """
        if tickets:
            with self._wake:
                self._closings.append(_Closing(tickets, outcome, status, time.time_ns() // 1000))
                self._wake.notify()

    def _run(self) -> None:
        next_sweep = time.monotonic() + _SWEEP_SECONDS
        while True:
            with self._wake:
                if not self._openings and not self._closings and not self._stopping:
                    self._wake.wait(max(0.0, next_sweep - time.monotonic()))
                openings, self._openings = self._openings, []
                closings, self._closings = self._closings, []
                stopping = self._stopping
            if openings or closings:
                self._commit(openings, closings)
            if stopping and not openings and not closings:
                return
            if time.monotonic() >= next_sweep:
                next_sweep = time.monotonic() + _SWEEP_SECONDS
                self._try_sweep()

    def _commit(self, openings: Sequence[_Opening], closings: Sequence[_Closing]) -> None:
        try:
            tickets = self._write(openings, closings)
        except Exception as error:  # noqa: BLE001 - whatever happens, those who wait get an answer and this thread lives on
            transient = isinstance(error, BridgeError) and error.transient
            if not transient and len(openings) > 1:  # one of them is at fault: the others must not suffer
                self._commit([], closings)
                for opening in openings:
                    self._commit([opening], [])
                return
            with self._wake:
                # After a fault of ours the sweep closes what these would have closed, on the side of caution.
                self._closings[:0] = closings if transient and not self._stopping else []
            tickets = None
        for number, opening in enumerate(openings):
            opening.loop.call_soon_threadsafe(_finish, opening.done, tickets[number] if tickets else None)

    def _write(self, openings: Sequence[_Opening], closings: Sequence[_Closing]) -> list[list[Ticket]]:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._write_once(openings, closings)
            except Conflict:
                continue
        return self._write_once(openings, closings)

    def _write_once(self, openings: Sequence[_Opening], closings: Sequence[_Closing]) -> list[list[Ticket]]:
        with self._database.transaction() as txn:
            commitments = Commitments(self._origin, txn.now_us())
            opened = [
                [self._row(txn.start_us, opening.principal, entry, commitments) for entry in opening.entries]
                for opening in openings
            ]
            access.put(txn, [row for rows in opened for row in rows])
            commitments.write(txn, self._record_keys)
            access.close(
                txn,
                [
                    (ticket.access_id, ticket.started_us, closing.outcome, closing.finished_us, closing.status)
                    for closing in closings
                    for ticket in closing.tickets
                ],
            )
            failpoint("access.before-commit")
        failpoint("access.after-commit")
        return [[Ticket(row.access_id, row.started_us) for row in rows] for rows in opened]

    def _row(self, started_us: int, principal: Principal, entry: AccessEntry, commitments: Commitments) -> AccessRecord:
        access_id, client = uuid4(), principal.client
        row = AccessRecord(
            access_id=access_id.bytes,
            started_us=started_us,
            actor=principal.actor,
            client_id=client.client_id,
            organization=client.organization,
            role=client.role.value,
            purpose=principal.purpose,
            interaction=entry.interaction,
            resource_type=entry.resource_type,
            resource_id=entry.resource_id,
            patient_key=entry.patient_key,
            query_parameters=" ".join(entry.query_parameters),
            decision=entry.decision,
            rule=entry.rule,
            consent_keys=" ".join(map(str, entry.consent_keys)),
            outcome=None,
            finished_us=None,
            status=None,
            leaf_id=b"",
        )
        leaf_id = commitments.add(
            LeafKind.DISCLOSURE,
            str(access_id),
            1,
            record_bytes(row),
            owner=entry.owner or organization_owner(client.organization, self._identity_key),
            form=EVENT_FORM,
            subject_key=entry.patient_key,
        )
        return row._replace(leaf_id=leaf_id)

    def _try_sweep(self) -> None:
        try:
            self._sweep()
        except Exception:  # noqa: BLE001 - as above
            return  # the next round tries again; nothing is promised by when

    def _sweep(self) -> None:
        """Closes records that nobody will close any more."""
        with self._database.transaction() as txn:
            before_us = txn.start_us - ABANDONED_SECONDS * 1_000_000
            abandoned = access.open_without_outcome(txn, before_us)
            if abandoned:
                access.close(
                    txn, [(row.access_id, row.started_us, ASSUME_DISCLOSED, txn.start_us, None) for row in abandoned]
                )


def record_bytes(row: AccessRecord) -> bytes:
    """The bytes that the record's leaf commits to: everything known before the answer, made anew from the row by ``fsck``."""
    content: dict[str, Any] = row._asdict()
    for later in ("outcome", "finished_us", "status", "leaf_id"):
        del content[later]
    content["access_id"] = row.access_id.hex()
    return msgspec.json.encode(content)


def _finish(done: asyncio.Future[list[Ticket]], tickets: list[Ticket] | None) -> None:
    if done.done():
        return
    if tickets is not None:
        done.set_result(tickets)
    else:
        done.set_exception(
            Unavailable(
                "access-record-failed", "the access could not be recorded, so nothing is answered", remedy="Retry."
            )
        )
