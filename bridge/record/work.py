"""The working set of a batch: everything its messages touch, loaded at once, changed in memory in message order.

Nothing here writes. A message that fails leaves no trace in the set, so that it alone becomes a dead letter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.consent.rule import compile_consent
from bridge.errors import BridgeError, Fault, Incorrect
from bridge.fhir.json import loads_stored
from bridge.mapping.apply import Ids, apply, composed
from bridge.mapping.operations import Conversion, Delete, IdentityKey, Merge, Stored, Target, TargetReference, Upsert
from bridge.record.ids import mint, random_uuid
from bridge.record.merges import MergeEvent, Merges, merges_among
from bridge.record.versions import content_bytes, content_digest, content_of
from bridge.store import identity, persons, resources
from bridge.store.database import Transaction
from bridge.store.rows import Outcome, ResourceRow

Json = Any


@dataclass(frozen=True, slots=True)
class Change:
    """What one message asks for, and where it came from.

    Attributes:
        conversion: the operations.
        site: name of the site, or of the API client's organisation, that asserts them.
        raw: ``(raw_key, received_us)`` of the stored raw message; None for an API write.
    """

    conversion: Conversion
    site: str
    raw: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A new content of one resource, made by one message; ``body`` is None and ``content`` empty for a deletion."""

    body: Mapping[str, Json] | None
    content: bytes
    raw: tuple[int, int] | None


@dataclass(slots=True)
class Entry:
    """A resource in the working set: as loaded (``row``), as the operations left it (``stored``), and its new versions.

    ``digest`` is that of the newest content, ``b""`` before the first version; merge links are in the content and not in
    ``stored``, so that they neither get lost in an update nor outlive their assertion.
    """

    key: int
    type: str
    fhir_id: str
    record_uuid: str
    site: str
    row: ResourceRow | None = None
    loaded: Stored | None = None
    stored: Stored | None = None
    digest: bytes = b""
    drafts: list[Draft] = field(default_factory=list)


@dataclass(slots=True)
class _Trial:
    """What one message would change; joined to the set only if the whole message succeeds."""

    stored: dict[int, Stored] = field(default_factory=dict)
    created: dict[int, Entry] = field(default_factory=dict)
    names: dict[IdentityKey, int] = field(default_factory=dict)
    reserved: dict[int, str] = field(default_factory=dict)
    adopted: dict[IdentityKey, int] = field(default_factory=dict)
    merges: list[MergeEvent] = field(default_factory=list)
    ids: dict[Target, str] = field(default_factory=dict)
    superseded: bool = True


class Work:
    """Loads what ``changes`` touch and applies them. Read ``outcomes``, ``entries``, ``new_names``, ``merges``.

    ``adopted`` names were reserved for references and turned out to name something known: name → (reserved key, key).
    """

    def __init__(self, txn: Transaction, changes: Sequence[Change], identity_key: bytes) -> None:
        self._txn = txn
        self._identity_key = identity_key
        self._names: dict[IdentityKey, int] = {}
        self._looked_up: set[IdentityKey] = set()
        self._fresh_keys: list[int] = []
        self._reserved: dict[int, str] = {}
        self.entries: dict[int, Entry] = {}
        self.new_names: dict[IdentityKey, int] = {}
        self.merges = Merges()
        self.new_merges: list[MergeEvent] = []
        self.adopted: dict[IdentityKey, tuple[int, int]] = {}
        self.outcomes: list[Outcome | BridgeError] = []
        self._load(_names_in(changes))
        for change in changes:
            self.outcomes.append(self._attempt(change))

    @property
    def names_looked_up(self) -> Collection[IdentityKey]:
        """Every name the batch mentions."""
        return self._looked_up

    def unknown_names(self) -> list[IdentityKey]:
        """Names that nobody knew when the batch was loaded."""
        return [name for name in self._looked_up if name not in self._names or name in self.new_names]

    def names_of(self, keys: Collection[int]) -> list[tuple[IdentityKey, int]]:
        """The names, among those mentioned, of these resources."""
        return [(name, key) for name, key in self._names.items() if key in keys]

    def key_of(self, target: Target) -> int | None:
        """Resource key of a target, if it is known by now."""
        return next((self._names[name] for name in target.keys if name in self._names), None)

    def owner_of(self, key: int) -> str | None:
        """Record UUID of a resource in the working set."""
        entry = self.entries.get(key)
        return entry.record_uuid if entry else None

    def reserved_names(self) -> list[IdentityKey]:
        """Names that this batch reserves for what it refers to."""
        return [name for name, key in self.new_names.items() if key in self._reserved]

    def reserved(self) -> dict[str, int]:
        """Resource keys of what is referred to and not there yet, by the id it will have."""
        return {fhir_id: key for key, fhir_id in self._reserved.items() if key not in self.entries}

    def changed(self) -> list[Entry]:
        """Entries with new versions, in key order."""
        return sorted((entry for entry in self.entries.values() if entry.drafts), key=lambda entry: entry.key)

    def restated(self) -> list[Entry]:
        """Entries whose content is as it was and whose units' stamps are not, in key order."""
        found = (e for e in self.entries.values() if not e.drafts and e.row is not None and e.stored is not e.loaded)
        return sorted(found, key=lambda entry: entry.key)

    def _load(self, names: Iterable[IdentityKey]) -> None:
        wanted = [name for name in names if name not in self._looked_up]
        if not wanted:
            return
        self._looked_up.update(wanted)
        found = identity.lookup(self._txn, wanted)
        self._names.update(found)
        patients = self._load_entries(set(found.values()))
        # A name without a resource was reserved by whoever referred to it first: exactly one name, and its minted id.
        for name, key in found.items():
            if key not in self.entries:
                self._reserved[key] = mint(name, self._identity_key)
        while patients:
            events = merges_among(persons.events(self._txn, patients))
            self.merges.add_all(events)
            patients = self._load_entries({key for event in events for key in (event.survivor, event.subsumed)})

    def _load_entries(self, keys: Collection[int]) -> set[int]:
        """Loads the entries that are not there yet; answers the Patients among them."""
        missing = sorted(set(keys) - self.entries.keys())
        loaded = resources.load(self._txn, missing) if missing else {}
        for key, row in loaded.items():
            stored = stored_of(row)
            self.entries[key] = Entry(
                key, row.type, row.fhir_id, row.record_uuid, row.site, row, stored, stored, row.content_digest
            )
        return {key for key, row in loaded.items() if row.type == "Patient"}

    def _attempt(self, change: Change) -> Outcome | BridgeError:
        trial = _Trial()

        def id_of(target: Target) -> str:
            known = trial.ids.get(target)
            if known is None:
                known = trial.ids[target] = self._id_of(target, trial)
            return known

        try:
            for operation in change.conversion.operations:
                if isinstance(operation, Merge):
                    self._merge(operation, trial)
                else:
                    self._apply(operation, change, trial, id_of)
        except BridgeError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever one message does to the code, the others go on
            fault = Fault(
                "apply-failed",
                f"Applying the message failed ({type(error).__name__}).",
                remedy="Report it with the mapping in force.",
            )
            fault.__cause__ = error
            return fault
        self._join(trial, change)
        return Outcome.SUPERSEDED if trial.superseded and change.conversion.operations else Outcome.STORED

    def _apply(self, operation: Upsert | Delete, change: Change, trial: _Trial, id_of: Ids) -> None:
        target = operation.target
        key = self._key_of(target, trial)
        if key is None or (key not in self.entries and key not in trial.created):
            key = self._create(target, change.site, trial, key)
        stored = trial.stored.get(key)
        if stored is None and key in self.entries:
            stored = self.entries[key].stored
        result = apply(operation, stored, id_of)
        if result is None:
            if key in trial.created and key not in trial.stored:
                self._forget(key, trial)
            return
        if target.resource_type == "Consent" and result.body is not None:
            compile_consent(result.body)  # one that cannot be decided on must not be stored as if it could
        trial.stored[key] = result
        if len(target.keys) > 1:  # by a single name it was found, or made
            self._name(target, key, trial)

    def _merge(self, operation: Merge, trial: _Trial) -> None:
        survivor, subsumed = self._key_of(operation.survivor, trial), self._key_of(operation.subsumed, trial)
        if survivor is None or subsumed is None:
            raise Incorrect("merge-without-record", "A merge names a record that its own message does not introduce.")
        if survivor == subsumed:
            return
        stamp = operation.stamp
        event = MergeEvent(survivor, subsumed, stamp.time_us, stamp.tie, operation.source)
        if not self.merges.knows(event):
            trial.merges.append(event)

    def _join(self, trial: _Trial, change: Change) -> None:
        self.entries.update(trial.created)
        self._names.update(trial.names)
        self._reserved.update(trial.reserved)
        for name, key in trial.adopted.items():
            self.adopted[name] = (self._names[name], key)
            self._names[name] = key
        self.new_names.update(trial.names)
        self.new_merges.extend(trial.merges)
        touched = set(trial.stored)
        for event in trial.merges:
            touched.update(self.merges.add(event))
            trial.superseded = False
        for key, stored in trial.stored.items():
            self.entries[key].stored = stored
        for key in sorted(touched & self.entries.keys()):
            entry = self.entries[key]
            draft = self._draft(entry, change.raw)
            digest = content_digest(draft.content)
            if digest == entry.digest:
                continue
            entry.digest = digest
            entry.drafts.append(draft)
            # Every message leaves its Provenance; that alone is no effect.
            trial.superseded = trial.superseded and entry.type == "Provenance"

    def _draft(self, entry: Entry, raw: tuple[int, int] | None) -> Draft:
        body = entry.stored.body if entry.stored else None
        if entry.type == "Patient" and entry.stored is not None and self.merges.concern(entry.key):
            body = composed(entry.stored, entry.type)
        if body is None:
            return Draft(None, b"", raw)
        if entry.type == "Patient" and self.merges.concern(entry.key):
            ids = {key: other.fhir_id for key, other in self.entries.items() if other.type == "Patient"}
            body = self.merges.shown(entry.key, body, ids)
        return Draft(body, content_bytes(body), raw)

    def _key_of(self, target: Target, trial: _Trial) -> int | None:
        for name in target.keys:
            key = trial.names.get(name) or self._names.get(name)
            if key is not None:
                return key
        return None

    def _id_of(self, target: Target, trial: _Trial) -> str:
        """Id of a target; for one that nobody has introduced yet, name, key and id are reserved."""
        if any(name not in self._looked_up for name in target.keys):
            self._load(target.keys)
        key = self._key_of(target, trial)
        if key is None:
            key = self._fresh_key()
            trial.names[target.keys[0]] = key
            trial.reserved[key] = mint(target.keys[0], self._identity_key)
        entry = trial.created.get(key) or self.entries.get(key)
        return entry.fhir_id if entry is not None else trial.reserved.get(key) or self._reserved[key]

    def _fresh_key(self) -> int:
        if not self._fresh_keys:
            self._fresh_keys = list(reversed(self._txn.allocate("resource", 64)))
        return self._fresh_keys.pop()

    def _create(self, target: Target, site: str, trial: _Trial, reserved: int | None) -> int:
        if reserved is None:
            key, fhir_id = self._fresh_key(), mint(target.keys[0], self._identity_key)
        else:
            key, fhir_id = reserved, trial.reserved.get(reserved) or self._reserved[reserved]
        trial.created[key] = Entry(key, target.resource_type, fhir_id, random_uuid(), site)
        self._name(target, key, trial)
        return key

    def _name(self, target: Target, key: int, trial: _Trial) -> None:
        for name in target.keys:
            known = trial.names.get(name) or self._names.get(name)
            if known is None:
                trial.names[name] = key
            elif known != key and known not in self.entries and known not in trial.created:
                trial.adopted[name] = key  # reserved for a reference, and now shown to be a name of this one

    def _forget(self, key: int, trial: _Trial) -> None:
        del trial.created[key]
        trial.ids.clear()
        trial.names = {name: other for name, other in trial.names.items() if other != key}


def stored_of(row: ResourceRow) -> Stored:
    """A loaded row as ``bridge.mapping.apply`` takes it: without id and version."""
    return Stored(None if row.deleted else content_of(row.body), loads_stored(row.state))


def _names_in(changes: Sequence[Change]) -> Iterable[IdentityKey]:
    for change in changes:
        # An HL7 v2 message refers only to what it introduces itself; FHIR input refers to anything.
        within_itself = change.conversion.kind != "fhir"
        for operation in change.conversion.operations:
            if isinstance(operation, Merge):
                yield from operation.survivor.keys
                yield from operation.subsumed.keys
            else:
                yield from operation.target.keys
                if within_itself:
                    continue
                if isinstance(operation, Upsert):
                    yield from _names_referenced(operation)


def _names_referenced(operation: Upsert) -> Iterable[IdentityKey]:
    for unit in operation.units:
        yield from _references(unit.value)


def _references(value: Json) -> Iterable[IdentityKey]:
    if isinstance(value, dict):
        for item in value.values():
            if isinstance(item, TargetReference):
                yield from item.target.keys
            elif isinstance(item, dict | list):
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list):
                yield from _references(item)
