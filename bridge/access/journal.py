"""Access records, written ahead: durable before the first byte of an answer leaves, then closed with what became of it.

One committer a process: everyone who waits shares the next commit. The records of a request become one leaf of the log in the
same transaction (see :mod:`bridge.ledger.disclosure`). A record that was never closed means that the process died in between: it is closed as ``assume-disclosed``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import msgspec

from bridge.access.tokens import Principal
from bridge.errors import BridgeError, Busy, Conflict, Unavailable
from bridge.ledger.commitment import LeafKind, derive_salt, new_nonce
from bridge.ledger.disclosure import CONTENT, FORM, record_digest
from bridge.record.commitments import Commitments, RecordKeys, organization_owner
from bridge.store import access, vault
from bridge.store.async_database import AsyncDatabase
from bridge.store.database import Transaction
from bridge.store.rows import AccessRecord
from bridge.telemetry.failpoints import failpoint
from bridge.telemetry.stop import Stop

MAX_WAITING: Final = 10_000
ABANDONED_SECONDS: Final = 120  # longer than any request may take
SWEEP_SECONDS: Final = 30.0
ASSUME_DISCLOSED: Final = "assume-disclosed"
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """What is recorded of one request and patient.

    Attributes:
        interaction: FHIR interaction: read, vread, history-instance, search-type, create, update.
        decision: permit, deny, partial or none.
        rule: what decided.
        resource_type, resource_id: what was asked for, as far as the request names it.
        patient_key: the patient concerned.
        owner: record UUID of that patient, whose key salts the record's digest; None = the organisation's.
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
    done: asyncio.Future[list[Ticket]]


class _Closing(NamedTuple):
    tickets: Sequence[Ticket]
    outcome: str
    status: int
    finished_us: int


class AccessJournal:
    """The committer of one process; belongs to one event loop.

    Args:
        database: the store; records are written by its one writing thread.
        record_keys: keys that salt commitments; used on that thread only.
        origin: origin of the log.
        identity_key: the deployment's identity key (names the organisation's salt key).
    """

    def __init__(self, database: AsyncDatabase, record_keys: RecordKeys, origin: str, identity_key: bytes) -> None:
        self._database = database
        self._record_keys = record_keys
        self._origin = origin
        self._identity_key = identity_key
        self._openings: list[_Opening] = []
        self._closings: list[_Closing] = []
        self._committer: asyncio.Task[None] | None = None

    async def run(self, stop: Stop) -> None:
        """Closes what an earlier process left open, now and from time to time, until ``stop``; then writes what waits.

        While the store is away it goes on trying: answers that need it are refused one by one, and the role stays.
        """
        stopped = asyncio.create_task(stop.wait_async())
        while not stopped.done():
            with suppress(BridgeError):  # the next round tries again; nothing is promised by when
                await self.sweep()
            await asyncio.wait([stopped], timeout=SWEEP_SECONDS)
        await self.flush()

    async def open(self, principal: Principal, entries: Sequence[AccessEntry]) -> list[Ticket]:
        """Returns once the records are durable.

        Raises:
            Busy: too many wait; nothing was recorded, so nothing may be answered.
            Unavailable: as above, since the store does not take them.
        """
        if len(self._openings) >= MAX_WAITING:
            raise Busy("access-record-busy", "too many requests wait for their access record", remedy="Retry.")
        opening = _Opening(principal, entries, asyncio.get_running_loop().create_future())
        self._openings.append(opening)
        self._commit_soon()
        return await opening.done

    def close(self, tickets: Sequence[Ticket], outcome: str, status: int) -> None:
        """Notes what became of the answer; written with the next commit.

        Args:
            tickets: of :meth:`open`.
            outcome: ``answered`` or ``broken-off``.
            status: HTTP status.
        """
        if tickets:
            self._closings.append(_Closing(tickets, outcome, status, time.time_ns() // 1000))
            self._commit_soon()

    async def flush(self) -> None:
        """Returns when nothing waits any more."""
        while self._committer is not None and not self._committer.done():
            await asyncio.wait([self._committer])

    async def sweep(self) -> None:
        """Closes records that nobody will close any more."""

        def close_abandoned(txn: Transaction) -> None:
            abandoned = access.open_without_outcome(txn, txn.start_us - ABANDONED_SECONDS * 1_000_000)
            rows = [(row.access_id, row.started_us, ASSUME_DISCLOSED, txn.start_us, None) for row in abandoned]
            if rows:
                access.close(txn, rows)

        await self._database.write(close_abandoned)

    def _commit_soon(self) -> None:
        if self._committer is None or self._committer.done():
            self._committer = asyncio.get_running_loop().create_task(self._commit_all())

    async def _commit_all(self) -> None:
        while self._openings or self._closings:
            openings, self._openings = self._openings, []
            closings, self._closings = self._closings, []
            await self._commit(openings, closings)

    async def _commit(self, openings: Sequence[_Opening], closings: Sequence[_Closing]) -> None:
        try:
            tickets = await self._write(openings, closings)
        except Exception as error:  # noqa: BLE001 - whatever happens, those who wait get an answer: nothing is shown
            transient = isinstance(error, BridgeError) and error.transient
            if not transient and len(openings) > 1:  # one of them is at fault: the others must not suffer
                await self._commit([], closings)
                for opening in openings:
                    await self._commit([opening], [])
                return
            # What stays unclosed is closed by the sweep, on the side of caution.
            for opening in openings:
                if not opening.done.done():
                    opening.done.set_exception(_not_recorded())
            return
        for opening, given in zip(openings, tickets, strict=True):
            if not opening.done.done():
                opening.done.set_result(given)

    async def _write(self, openings: Sequence[_Opening], closings: Sequence[_Closing]) -> list[list[Ticket]]:
        for attempt in range(_ATTEMPTS):
            try:
                tickets = await self._database.write(lambda txn: self._put(txn, openings, closings))
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                failpoint("access.after-commit")
                return tickets
        raise AssertionError

    def _put(self, txn: Transaction, openings: Sequence[_Opening], closings: Sequence[_Closing]) -> list[list[Ticket]]:
        commitments = Commitments(self._origin, txn.now_us())
        opened = write_records(
            txn, [self._request(txn.start_us, opening) for opening in openings], commitments, self._record_keys
        )
        if closings:
            closed = [
                (ticket.access_id, ticket.started_us, closing.outcome, closing.finished_us, closing.status)
                for closing in closings
                for ticket in closing.tickets
            ]
            access.close(txn, closed)
        failpoint("access.before-commit")
        return [[Ticket(row.access_id, row.started_us) for row in rows] for rows in opened]

    def _request(self, started_us: int, opening: _Opening) -> Request:
        client = opening.principal.client
        organization = organization_owner(client.organization, self._identity_key)
        return Request(
            organization,
            [(_row(started_us, opening.principal, entry), entry.owner or organization) for entry in opening.entries],
        )


class Request(NamedTuple):
    """The records of one request, each with whose key salts its digest; ``organization``: whose key salts the leaf."""

    organization: str
    records: Sequence[tuple[AccessRecord, str]]


def write_records(
    txn: Transaction, requests: Sequence[Request], commitments: Commitments, record_keys: RecordKeys
) -> list[list[AccessRecord]]:
    """Stores the records of each request under one leaf; answers them with it.

    Raises:
        Forbidden, Conflict: as :meth:`bridge.record.commitments.RecordKeys.load`.
    """
    keys = record_keys.load(txn, {owner for request in requests for _, owner in request.records})
    nonces: list[tuple[bytes, bytes]] = []
    written: list[list[AccessRecord]] = []
    for request in requests:
        digests: dict[str, str] = {}
        for row, owner in request.records:
            nonce = new_nonce()
            nonces.append((row.access_id, nonce))
            digests[str(UUID(bytes=row.access_id))] = record_digest(derive_salt(keys[owner], nonce), record_bytes(row))
        leaf_id = commitments.add(
            LeafKind.DISCLOSURE, str(uuid4()), 1, CONTENT, owner=request.organization, form=FORM, extra=digests
        )
        written.append([row._replace(leaf_id=leaf_id) for row, _ in request.records])
    if written:
        access.put(txn, [row for rows in written for row in rows])
        vault.put_nonces(txn, nonces)
        commitments.write(txn, record_keys)
    return written


def _row(started_us: int, principal: Principal, entry: AccessEntry) -> AccessRecord:
    client = principal.client
    return AccessRecord(
        access_id=uuid4().bytes,
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


def record_bytes(row: AccessRecord) -> bytes:
    """The bytes that the record's digest is made of: everything known before the answer, made anew from the row by ``fsck``."""
    content: dict[str, Any] = row._asdict()
    for later in ("outcome", "finished_us", "status", "leaf_id"):
        del content[later]
    content["access_id"] = row.access_id.hex()
    return msgspec.json.encode(content)


def _not_recorded() -> Unavailable:
    return Unavailable(
        "access-record-failed", "the access could not be recorded, so nothing is answered", remedy="Retry."
    )
