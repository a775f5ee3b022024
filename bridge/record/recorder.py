"""The only way to change stored state: one call a transaction, for a batch of messages or a single write.

Order of the laws *Batch* and *Locks*: load and apply everything in memory, take all locks in one statement, make sure that
nothing moved meanwhile, then match, serialize, commit to leaves and write set by set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from bridge.config.site import AuthorityUse, Site
from bridge.errors import BridgeError, Conflict, Incorrect
from bridge.fhir.json import dumps
from bridge.fhir.references import parse_reference, patient_of
from bridge.fhir.search.index import EMPTY, extract
from bridge.keys.ports import KeyProvider, KeyPurpose
from bridge.ledger.commitment import LeafKind
from bridge.mapping.operations import IdentityKey, Merge
from bridge.matching.features import Features, features_of, keys_of
from bridge.matching.model import Model
from bridge.record import consents, deliveries, restrictions
from bridge.record.commitments import Commitments, RecordKeys, organization_owner
from bridge.record.ids import lock_slot
from bridge.record.persons import AssertedMerge, ChangedRecord, relink
from bridge.record.versions import stored_bytes
from bridge.record.work import Change, Draft, Entry, Work
from bridge.store import identity, resources
from bridge.store.database import Transaction
from bridge.store.rows import LinkEventRow, Outcome, ResourceRow, ResourceWrite, VersionRow
from bridge.telemetry.metrics import STAGE_SECONDS, Stage

# Bounded, so that no batch can fill the server's lock table; two keys of one slot only wait for each other needlessly.
LOCK_SLOTS: Final = 1 << 20
# One message may name thousands of patients (a Bundle); the server's lock table holds about twice as many as this.
MOST_LOCKS: Final = 10_000
# Names of these are locked whenever a batch mentions them; what else a message touches hangs on its patient.
LOCKED_TYPES = frozenset({"Patient", "Encounter", "ServiceRequest"})
# Resources that messages of different patients share: locked only where this batch changes them.
_SHARED_TYPES = frozenset({"Practitioner", "Organization", "Location"})


@dataclass(frozen=True, slots=True)
class Demographics:
    """A Patient of the working set whose matching features are new or different."""

    entry: Entry
    features: Features | None
    before: frozenset[int]


class Recorder:
    """Changes stored state; see :meth:`record`. One instance serves one thread.

    Args:
        keys: the deployment's keys.
        origin: of the transparency log.
        model: the matching rules.
        sites: all sites, for which identifiers are evidence.
        routes: what goes to which sink.
    """

    def __init__(
        self,
        keys: KeyProvider,
        origin: str,
        model: Model,
        sites: Iterable[Site],
        routes: Sequence[deliveries.Route] = (),
    ) -> None:
        self._identity_key = keys.secret_key(KeyPurpose.IDENTITY).reveal()
        self._lock_key = keys.secret_key(KeyPurpose.LOCKS).reveal()
        self._restriction_key = keys.secret_key(KeyPurpose.RESTRICTION).reveal()
        self._record_keys = RecordKeys(keys)
        self._origin = origin
        self._model = model
        self._routes = tuple(routes)
        self._evidence = frozenset(
            authority.system
            for site in sites
            for authority in site.authorities
            if authority.use is AuthorityUse.EVIDENCE
        )

    @property
    def record_keys(self) -> RecordKeys:
        """The keys that salt commitments."""
        return self._record_keys

    def commitments(self, txn: Transaction) -> Commitments:
        """An empty gathering of leaves for the deployment's log."""
        return Commitments(self._origin, txn.now_us())

    def record(self, txn: Transaction, changes: Sequence[Change]) -> list[Outcome | BridgeError]:
        """Applies ``changes`` in order and writes everything that follows from them.

        Returns:
            For each change its outcome (STORED or SUPERSEDED), or the error that makes it a dead letter; a change with an
            error has no effect at all.

        Raises:
            Conflict: another transaction changed the same resources or persons meanwhile: roll back and retry.
            Incorrect: the database refuses a value: roll back and halve the batch.
        """
        clock = _Clock(len(changes))
        work, demographics = self._locked(txn, changes)
        clock.stop(Stage.APPLY)
        commitments = self.commitments(txn)
        writes = self._writes(txn, work, commitments)
        clock.stop(Stage.SERIALIZE)
        identity.insert(txn, [(name, key) for name, key in work.new_names.items() if name not in work.adopted])
        self._adopt(txn, work)
        resources.write(txn, writes)
        resources.write_states(
            txn,
            [
                (entry.key, entry.row.version, dumps(entry.stored.state))
                for entry in work.restated()
                if entry.row is not None and entry.stored is not None
            ],
        )
        clock.stop(Stage.WRITE)
        linked = self._relink(txn, work, demographics, commitments)
        clock.stop(Stage.MATCH)
        projected = consents.project(txn, work, {write.row.resource_key: write.row for write in writes}, commitments)
        committed = commitments.write(txn, self._record_keys)
        clock.stop(Stage.COMMIT)
        consents.publish(txn, projected, committed)
        self._restrict(txn, work, changes)
        if self._routes:
            deliveries.queue(txn, self._routes, work, writes, linked, projected)
        return work.outcomes

    def _locked(self, txn: Transaction, changes: Sequence[Change]) -> tuple[Work, list[Demographics]]:
        work = Work(txn, changes, self._identity_key)
        demographics = self._demographics(work)
        if txn.dialect == "sqlite":  # a writer is alone there
            return work, demographics
        slots = self._slots(work, changes, demographics)
        if len(slots) > MOST_LOCKS:
            raise Incorrect(
                "too-many-locks",
                "A message changes more patients than one transaction can hold.",
                remedy="Send it in smaller Bundles.",
            )
        txn.lock(slots)
        if self._moved(txn, work):
            work = Work(txn, changes, self._identity_key)
            demographics = self._demographics(work)
            if not self._slots(work, changes, demographics) <= slots:
                raise Conflict(
                    "batch-moved", "Another worker changed the same records.", remedy="The batch is retried."
                )
        return work, demographics

    def hold_names(self, txn: Transaction, names: Iterable[IdentityKey]) -> None:
        """Holds names, to the end of the transaction, against whoever else would introduce what they name."""
        txn.lock({lock_slot(name, self._lock_key) % LOCK_SLOTS for name in names})

    def _slots(self, work: Work, changes: Sequence[Change], demographics: Sequence[Demographics]) -> set[int]:
        names: set[IdentityKey] = {name for name in work.names_looked_up if name.resource_type in LOCKED_TYPES}
        for change in changes:
            if change.conversion.kind == "fhir":  # may be about no patient whose lock would guard it
                for operation in change.conversion.operations:
                    if not isinstance(operation, Merge):
                        names.update(operation.target.keys)
                names.update(work.reserved_names())
        shared = {entry.key for entry in (*work.changed(), *work.restated()) if entry.type in _SHARED_TYPES}
        if shared:
            names.update(name for name, key in work.names_of(shared))
        slots = {lock_slot(name, self._lock_key) for name in names}
        for record in demographics:
            slots |= record.before
            if record.features is not None:
                slots |= keys_of(record.features, self._model).keys()
        return {slot % LOCK_SLOTS for slot in slots}

    @staticmethod
    def _moved(txn: Transaction, work: Work) -> bool:
        loaded = {e.key: (e.row.version, e.row.state) for e in work.entries.values() if e.row is not None}
        if resources.standing(txn, loaded) != loaded:
            return True
        return bool(identity.lookup(txn, work.unknown_names()))

    def _demographics(self, work: Work) -> list[Demographics]:
        found: list[Demographics] = []
        for entry in work.changed():
            if entry.type != "Patient":
                continue
            now = self._features(entry.stored.body if entry.stored else None)
            before = self._features(entry.loaded.body) if entry.loaded else None
            if entry.row is None or now != before:
                old = frozenset(keys_of(before, self._model)) if before else frozenset()
                found.append(Demographics(entry, now, old))
        return found

    def _features(self, patient: Mapping[str, Any] | None) -> Features | None:
        return None if patient is None else features_of(patient, self._evidence, self._model)

    def _writes(self, txn: Transaction, work: Work, commitments: Commitments) -> list[ResourceWrite]:
        now_us = txn.now_us()
        changed = work.changed()
        patients = _Patients(txn, work, changed)
        writes: list[ResourceWrite] = []
        for entry in changed:
            patient_key, owner = patients.of(entry)
            if owner is None:
                owner = organization_owner(entry.site, self._identity_key)
            previous = entry.row.version if entry.row else 0
            versions = [
                self._version(entry, draft, previous + number, now_us, owner, commitments)
                for number, draft in enumerate(entry.drafts, 1)
            ]
            writes.append(_write(entry, versions, previous, patient_key, now_us))
        return writes

    def _version(
        self,
        entry: Entry,
        draft: Draft,
        version: int,
        now_us: int,
        owner: str,
        commitments: Commitments,
    ) -> VersionRow:
        deleted = draft.body is None
        body = b"" if draft.body is None else stored_bytes(draft.body, draft.content, entry.fhir_id, version, now_us)
        leaf_id = commitments.add(
            LeafKind.DELETION if deleted else LeafKind.RECORD_VERSION,
            entry.record_uuid,
            version,
            body,
            owner=owner,
            subject_key=entry.key,
            subject_version=version,
        )
        raw_key, raw_received_us = draft.raw or (None, None)
        return VersionRow(entry.key, version, now_us, deleted, body, leaf_id, raw_key, raw_received_us)

    def _relink(
        self, txn: Transaction, work: Work, demographics: Sequence[Demographics], commitments: Commitments
    ) -> list[LinkEventRow]:
        changed = [
            ChangedRecord(d.entry.key, d.entry.record_uuid, d.features, d.before, d.entry.site, txn.now_us(), "")
            for d in demographics
        ]
        merges = [
            AssertedMerge(m.survivor, m.subsumed, work.entries[m.survivor].record_uuid, m.source, m.time_us, m.tie)
            for m in work.new_merges
        ]
        return relink(txn, changed, merges, self._model, commitments)

    @staticmethod
    def _adopt(txn: Transaction, work: Work) -> None:
        """Gives what hung on a reserved key to the resource that the name turned out to be of."""
        if work.adopted:
            identity.put(txn, [(name, key) for name, (_, key) in work.adopted.items()])
            moved = dict(work.adopted.values())
            resources.move_patient(txn, moved)
            restrictions.move(txn, moved)

    def _restrict(self, txn: Transaction, work: Work, changes: Sequence[Change]) -> None:
        created = {key: name for name, key in work.new_names.items() if name.resource_type == "Patient"}
        if created:
            names = [(name, key) for name, key in work.new_names.items() if key in created]
            restrictions.adopt(txn, names, self._restriction_key)
        patients = [
            key
            for change, outcome in zip(changes, work.outcomes, strict=True)
            if change.conversion.restricts_patient
            and not isinstance(outcome, BridgeError)
            and change.conversion.patient
            if (key := work.key_of(change.conversion.patient)) is not None
        ]
        restrictions.restrict_known(txn, patients, "consent-segment-unmapped")


class _Clock:
    """Observes how long the stages of one call took, per message."""

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._since = perf_counter()

    def stop(self, stage: Stage) -> None:
        now = perf_counter()
        STAGE_SECONDS.labels(stage).observe((now - self._since) / self._messages)
        self._since = now


class _Patients:
    """In whose compartment each changed resource is: the Patient's key, and the record UUID whose key salts its leaves."""

    def __init__(self, txn: Transaction, work: Work, changed: Sequence[Entry]) -> None:
        self._by_id: dict[str, tuple[int | None, str | None]] = {
            entry.fhir_id: (entry.key, entry.record_uuid) for entry in work.entries.values() if entry.type == "Patient"
        }
        # A resource that came before its Patient is in the compartment from the start; its salt is the organisation's.
        self._by_id.update({fhir_id: (key, None) for fhir_id, key in work.reserved().items()})
        self._ids = {entry.key: _patient_id(entry) for entry in changed}
        unknown = {fhir_id for fhir_id in self._ids.values() if fhir_id and fhir_id not in self._by_id}
        if unknown:
            found = resources.load_by_id(txn, [("Patient", fhir_id) for fhir_id in unknown])
            self._by_id.update({row.fhir_id: (row.resource_key, row.record_uuid) for row in found.values()})

    def of(self, entry: Entry) -> tuple[int | None, str | None]:
        if entry.type == "Patient":
            return entry.key, entry.record_uuid
        fhir_id = self._ids[entry.key]
        if fhir_id is not None:
            return self._by_id.get(fhir_id, (None, None))
        return None, None


def _patient_id(entry: Entry) -> str | None:
    """The id of the patient that the newest content names; a deletion stays with the patient of what it deletes."""
    body = next((draft.body for draft in reversed(entry.drafts) if draft.body is not None), None)
    if body is None and entry.loaded is not None:
        body = entry.loaded.body
    reference = patient_of(body) if body is not None else None
    target = parse_reference(reference) if reference else None
    return target.id if target is not None and target.type == "Patient" else None


def _write(
    entry: Entry, versions: list[VersionRow], previous: int, patient_key: int | None, now_us: int
) -> ResourceWrite:
    draft = entry.drafts[-1]
    assert entry.stored is not None
    index = EMPTY if draft.body is None else extract(draft.body)
    row = ResourceRow(
        entry.key,
        entry.type,
        entry.fhir_id,
        entry.record_uuid,
        patient_key,
        versions[-1].version,
        now_us,
        draft.body is None,
        index.status,
        index.date_start_us,
        index.date_end_us,
        entry.site,
        0,
        entry.digest,
        dumps(entry.stored.state),
    )
    return ResourceWrite(row, tuple(versions), previous, tuple(sorted(index.terms)), index.strings)
