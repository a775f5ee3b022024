"""Consents that callers write, through the recorder: resource, decision state and outbox in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from bridge.access.ports import StoredConsent
from bridge.errors import BridgeError, Conflict, Fault
from bridge.fhir.json import loads_stored
from bridge.mapping.apply import newest_us
from bridge.mapping.operations import Conversion, IdentityKey, Stamp, Target, UnitChange, UnitKind, Upsert
from bridge.record.recorder import Recorder
from bridge.record.work import Change
from bridge.store import identity, resources
from bridge.store.async_database import AsyncDatabase
from bridge.store.database import Transaction
from bridge.telemetry.failpoints import failpoint

_ATTEMPTS = 5
_NAMESPACE = "urn:hie-bridge:api"
_SERVERS_OWN = frozenset({"resourceType", "id"})


class StoreConsentRecorder:
    """See :class:`bridge.access.ports.ConsentRecorder`. The recorder is used on the store's writer thread only."""

    def __init__(self, store: AsyncDatabase, recorder: Recorder) -> None:
        self._store = store
        self._recorder = recorder

    async def create_consent(self, resource: Mapping[str, Any], *, organization: str) -> StoredConsent:
        """Stores a new Consent under an id of its own."""
        target = Target((IdentityKey("Consent", _NAMESPACE, "", str(uuid4())),))

        def write(txn: Transaction) -> StoredConsent:
            return self._record(txn, target, resource, organization, after_us=0)

        stored = await self._written(write)
        failpoint("consent.after-commit")
        return stored

    async def update_consent(
        self, fhir_id: str, resource: Mapping[str, Any], *, expected_version: int, organization: str
    ) -> StoredConsent:
        """Stores a new version of a Consent."""

        def write(txn: Transaction) -> StoredConsent:
            row = resources.load_by_id(txn, [("Consent", fhir_id)]).get(("Consent", fhir_id))
            if row is None or row.deleted or row.version != expected_version:
                raise Conflict("version-conflict", "the Consent has changed meanwhile", remedy="Read it again.")
            target = Target(tuple(identity.names_of(txn, row.resource_key)))
            after_us = max(row.last_updated_us, newest_us(loads_stored(row.state)))
            return self._record(txn, target, resource, organization, after_us=after_us)

        stored = await self._written(write)
        failpoint("consent.after-commit")
        return stored

    async def _written(self, write: Callable[[Transaction], StoredConsent]) -> StoredConsent:
        """Writes, again where a batch of messages moved the same rows meanwhile; a caller has nothing to do with those."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._store.write(write)
            except Conflict as error:
                if error.code == "version-conflict":
                    raise
        return await self._store.write(write)

    def _record(
        self, txn: Transaction, target: Target, resource: Mapping[str, Any], organization: str, *, after_us: int
    ) -> StoredConsent:
        # A write over the API is newer than what it replaces, whatever clocks said then: a revocation of a Consent that
        # a feed dated into the future would otherwise be answered with 200 and superseded.
        stamp = Stamp(1, max(txn.start_us, after_us + 1), "api")
        units = tuple(
            UnitChange(name, UnitKind.ELEMENT, value)
            for name, value in _content(resource).items()
            if name not in _SERVERS_OWN
        )
        operation = Upsert(target, stamp, organization, units, whole=True)
        conversion = Conversion("fhir:Consent", "fhir", stamp.time_us, None, (operation,))
        [outcome] = self._recorder.record(txn, [Change(conversion, organization)])
        if isinstance(outcome, BridgeError):
            raise outcome
        key = identity.lookup(txn, target.keys)[target.keys[0]]
        row = resources.load(txn, [key]).get(key)
        if row is None:
            raise Fault("consent-not-stored", "A Consent was recorded and is not there.", remedy="Report it.")
        failpoint("consent.before-commit")
        return StoredConsent(row.fhir_id, row.version, row.last_updated_us, row.body)


def _content(resource: Mapping[str, Any]) -> dict[str, Any]:
    content = dict(resource)
    meta = {k: v for k, v in (content.pop("meta", None) or {}).items() if k not in {"versionId", "lastUpdated"}}
    return {**content, "meta": meta} if meta else content
