"""Holds every logged row against its leaf, and every leaf against the row that it is about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from bridge.consent.rule import Status, chain_word, compile_consent, encode
from bridge.errors import BridgeError
from bridge.fhir.json import loads_stored
from bridge.fhir.references import parse_reference, patient_of
from bridge.fhir.types import format_instant
from bridge.keys.ports import KeyWrapper
from bridge.ledger import disclosure
from bridge.ledger.commitment import Context, LeafKind, commit, leaf_data
from bridge.pipeline.findings import UNREADABLE, Finding, Tally
from bridge.pipeline.openings import Salts, Unopenable
from bridge.pipeline.proving import context_of
from bridge.record.commitments import EVENT_FORM, RESOURCE_FORM
from bridge.record.consents import state_bytes
from bridge.record.persons import event_bytes
from bridge.record.versions import content_bytes, content_digest, content_of
from bridge.store import consents, leaves, resources, scans
from bridge.store.database import Transaction
from bridge.store.rows import AccessRecord, CommitmentRow, ConsentStateRow, LinkEventRow, ResourceRow, VersionRow
from bridge.store.scans import ConsentLeaf, ResourceFacts

CHUNK: Final = 1_000
_VERSION_KINDS: Final = (LeafKind.RECORD_VERSION, LeafKind.DELETION)
_LINK_KINDS: Final = (LeafKind.LINK, LeafKind.UNLINK, LeafKind.MERGE)
_WORDS: Final[Mapping[str, str]] = {
    "commitment-missing": "nothing says what its leaf commits to",
    "commitment-differs": "its commitment is about something else",
    "leaf-missing": "its leaf is neither in the log nor waiting for its place",
    "nonce-missing": "the nonce of its commitment is gone, and its record key is not",
    "record-key-missing": "the record key of its commitment is gone",
    "record-key-unreadable": "the record key of its commitment can't be unwrapped",
    "bytes-differ": "the stored bytes are not those that its leaf commits to",
}


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the leaf of a row must say; ``record`` None: only the leaf knows it."""

    leaf_id: bytes
    kind: str
    record: str | None
    version: int
    form: str
    subject: tuple[int | None, int | None]
    content: bytes


class _Meta(msgspec.Struct):
    versionId: str = ""  # noqa: N815 - FHIR's name
    lastUpdated: str = ""  # noqa: N815 - FHIR's name


class _Head(msgspec.Struct):
    resourceType: str = ""  # noqa: N815 - FHIR's name
    id: str = ""
    meta: _Meta = msgspec.field(default_factory=_Meta)


_head: Final = msgspec.json.Decoder(_Head).decode


class RowCheck:
    """Passes over the tables whose rows have leaves. Memory does not grow with them.

    Args:
        wrapper: unwraps record keys.
        origin: of the log.
        access_bytes: the bytes that an access record's leaf commits to.
        tally: counts what was checked.
    """

    def __init__(
        self, wrapper: KeyWrapper, origin: str, access_bytes: Callable[[AccessRecord], bytes], tally: Tally
    ) -> None:
        self._salts = Salts(wrapper)
        self._origin = origin
        self._access_bytes = access_bytes
        self._tally = tally

    def run(self, txn: Transaction) -> Iterator[Finding]:
        """All passes, one after the other."""
        yield from self._versions(txn)
        for stale in scans.stream_without_current_version(txn, chunk=CHUNK):
            for facts in stale:
                yield _of(facts, "version-missing", "the current version is not there", facts.version)
        yield from self._links(txn)
        yield from self._consents(txn)
        yield from self._accesses(txn)
        yield from self._leaves(txn)

    def _versions(self, txn: Transaction) -> Iterator[Finding]:
        before: VersionRow | None = None
        facts: Mapping[int, ResourceFacts] = {}
        for chunk in resources.stream_versions(txn, chunk=CHUNK):
            keys = {row.resource_key for row in chunk}
            if before is not None:
                keys.add(before.resource_key)
            facts = scans.resource_facts(txn, keys)
            patients = scans.resource_facts(
                txn, {row.patient_key for row in facts.values() if row.patient_key is not None}
            )
            wrong = self._codes(txn, [_version_leaf(row, facts.get(row.resource_key)) for row in chunk])
            for row in chunk:
                yield from _sequence(before, row, facts)
                for code in wrong.get(row.leaf_id, ()):
                    yield _of(facts.get(row.resource_key), code, _WORDS[code], row.version, "resource_version", row)
                if not wrong.get(row.leaf_id):
                    yield from _row_differs(row, facts.get(row.resource_key), patients, partial(_patient_key, txn))
                before = row
            self._tally.checked["versions"] += len(chunk)
        if before is not None:
            yield from _sequence(before, None, facts)

    def _links(self, txn: Transaction) -> Iterator[Finding]:
        for chunk in scans.stream_link_events(txn, chunk=CHUNK):
            wrong = self._codes(txn, [_link_leaf(row) for row in chunk])
            for row in chunk:
                for code in wrong.get(row.leaf_id, ()):
                    yield Finding("link_event", code, _WORDS[code], place=f"link event {row.event_key}")
            self._tally.checked["link events"] += len(chunk)

    def _consents(self, txn: Transaction) -> Iterator[Finding]:
        for chunk in scans.stream_consents(txn, chunk=CHUNK):
            keys = {item.state.consent_key for item in chunk}
            facts = scans.resource_facts(txn, keys)
            stored = resources.load(txn, keys)
            expected = [_consent_leaf(item, facts.get(item.state.consent_key)) for item in chunk]
            wrong = self._codes(txn, [each for each in expected if each is not None])
            for item in chunk:
                codes = wrong.get(item.leaf_id, ()) if item.leaf_id is not None else ("commitment-missing",)
                named = facts.get(item.state.consent_key)
                for code in codes:
                    yield _of(named, code, _WORDS[code], item.state.version, "consent_state")
                row = stored.get(item.state.consent_key)
                if row is not None and not _follows(item.state, row):
                    words = "the decision state is not what the stored Consent says"
                    yield _of(named, "rule-differs", words, item.state.version, "consent_state")
            self._tally.checked["consent states"] += len(chunk)
        # Of earlier states nothing is kept but their leaves: another leaf called one of theirs would hide what it was of.
        for shared in scans.stream_shared_consent_leaves(txn, chunk=CHUNK):
            about = scans.resource_facts(txn, {key for key, _ in shared if key is not None})
            for key, version in shared:
                words = "more than one leaf is said to be of this consent state"
                yield _of(about.get(key or 0), "leaf-twice", words, version, "commitment")

    def _accesses(self, txn: Transaction) -> Iterator[Finding]:
        for chunk in scans.stream_accesses(txn, chunk=CHUNK):
            leaves_of_chunk = {row.leaf_id: _access_leaf(row) for row in chunk}
            wrong = self._codes(txn, [*leaves_of_chunk.values()])
            digests = self._digest_codes(txn, [row for row in chunk if row.leaf_id not in wrong])
            for row in chunk:
                for code in wrong.get(row.leaf_id, ()) or digests.get(row.access_id, ()):
                    yield Finding("access_record", code, _WORDS[code], place=f"access {row.access_id.hex()}")
            self._tally.checked["access records"] += len(chunk)

    def _leaves(self, txn: Transaction) -> Iterator[Finding]:
        """From the leaves back to the rows: finds rows that were taken away, or set back to an older state."""
        for pending in scans.stream_pending(txn, chunk=CHUNK):
            yield from self._subjects(txn, {leaf.leaf_id: "waiting leaf" for leaf in pending}, "leaf_pending")
            self._tally.checked["waiting leaves"] += len(pending)
        end = 2**63 - 1
        for chunk in leaves.stream_leaves(txn, self._origin, 0, end, chunk=CHUNK):
            yield from self._subjects(txn, {leaf.leaf_id: f"leaf {leaf.leaf_index}" for leaf in chunk}, "log_leaf")

    def _subjects(self, txn: Transaction, places: Mapping[bytes, str], table: str) -> Iterator[Finding]:
        rows = leaves.commitments(txn, places.keys())
        for leaf_id in places.keys() - rows.keys():
            code = "commitment-missing"
            yield Finding(table, code, _WORDS[code], place=places[leaf_id])
        there = _Subjects(txn, rows.values())
        for leaf_id, row in rows.items():
            code, words = there.missing(row)
            if not code:
                continue
            facts = there.facts.get(row.subject_key or 0)
            if facts is not None and row.kind not in _LINK_KINDS:
                yield _of(facts, code, words, row.subject_version, there.table(row))
            else:
                yield Finding(there.table(row), code, words, place=f"the subject of {places[leaf_id]}")

    def _codes(self, txn: Transaction, expected: Sequence[_Expected]) -> dict[bytes, list[str]]:
        """What is wrong with each leaf, by leaf id; those that are in order are left out."""
        ids = [each.leaf_id for each in expected]
        rows = leaves.commitments(txn, ids)
        logged = leaves.leaves_by_id(txn, ids)
        waiting = scans.pending_by_id(txn, [leaf_id for leaf_id in ids if leaf_id not in logged])
        salts = self._salts.of(txn, rows.values())
        wrong: dict[bytes, list[str]] = {}
        for each in expected:
            row = rows.get(each.leaf_id)
            leaf = logged[each.leaf_id].leaf if each.leaf_id in logged else waiting.get(each.leaf_id)
            code = self._code(each, row, leaf, salts.get(each.leaf_id, Unopenable.KEY_MISSING))
            if code is not None:
                wrong.setdefault(each.leaf_id, []).append(code)
        return wrong

    def _code(
        self, expected: _Expected, row: CommitmentRow | None, leaf: bytes | None, salt: bytes | Unopenable
    ) -> str | None:
        if row is None:
            return "commitment-missing"
        if not self._fits(expected, row):
            return "commitment-differs"
        if leaf is None:
            return "leaf-missing"
        if salt is Unopenable.ERASED and expected.kind == LeafKind.DISCLOSURE:
            salt = Unopenable.KEY_MISSING  # that of an organisation, which is never erased
        if salt is Unopenable.ERASED:
            self._tally.checked["erased"] += 1
        if isinstance(salt, Unopenable):
            return None if salt is Unopenable.ERASED else str(salt)
        # What the stored context says is committed to as well, so a changed one shows here.
        return None if leaf_data(commit(salt, row.context, expected.content)) == leaf else "bytes-differ"

    def _fits(self, expected: _Expected, row: CommitmentRow) -> bool:
        if (row.kind, row.subject_key, row.subject_version) != (expected.kind, *expected.subject):
            return False
        try:
            record = context_of(row).record if expected.record is None else expected.record
            # The digests of access records are held against those, one by one.
            extra = context_of(row).extra if expected.kind == LeafKind.DISCLOSURE else {}
            wanted = Context(LeafKind(expected.kind), self._origin, record, expected.version, expected.form, extra)
            return wanted.encode() == row.context
        except (BridgeError, ValueError):
            return False

    def _digest_codes(self, txn: Transaction, rows: Sequence[AccessRecord]) -> dict[bytes, list[str]]:
        """What is wrong with each access record inside its leaf, by access id; those in order are left out."""
        patients = scans.resource_facts(txn, {row.patient_key for row in rows if row.patient_key is not None})
        kept = leaves.commitments(txn, {row.leaf_id for row in rows})
        contexts = {leaf_id: context_of(row) for leaf_id, row in kept.items()}
        salted = []
        for row in rows:
            facts = patients.get(row.patient_key or 0)
            owner = facts.record_uuid if facts is not None else kept[row.leaf_id].owner_uuid
            salted.append(CommitmentRow(row.access_id, LeafKind.DISCLOSURE, b"", owner, None, None))
        salts = self._salts.of(txn, salted)
        wrong: dict[bytes, list[str]] = {}
        for row in rows:
            salt = salts[row.access_id]
            code = None
            if _uuid(row.access_id) not in contexts[row.leaf_id].extra:
                code = "commitment-differs"
            elif salt is Unopenable.ERASED:
                self._tally.checked["erased"] += 1
            elif isinstance(salt, Unopenable):
                code = str(salt)
            elif not disclosure.holds(contexts[row.leaf_id], _uuid(row.access_id), self._access_bytes(row), salt):
                code = "bytes-differ"
            if code is not None:
                wrong[row.access_id] = [code]
        return wrong


class _Subjects:
    """The rows that a chunk of leaves is about."""

    def __init__(self, txn: Transaction, rows: Collection[CommitmentRow]) -> None:
        by_kind: dict[str, list[CommitmentRow]] = {}
        for row in rows:
            by_kind.setdefault(row.kind, []).append(row)
        versions = [row for kind in _VERSION_KINDS for row in by_kind.get(kind, ())]
        self._versions = scans.version_leaves(
            txn, {(row.subject_key or 0, row.subject_version or 0) for row in versions}
        )
        links = [row for kind in _LINK_KINDS for row in by_kind.get(kind, ())]
        self._links = scans.link_event_leaves(txn, {row.subject_key or 0 for row in links})
        given = by_kind.get(LeafKind.CONSENT, [])
        self._consents = consents.load(txn, {row.subject_key or 0 for row in given})
        self._access_ids = {row.leaf_id: _access_ids(row) for row in by_kind.get(LeafKind.DISCLOSURE, ())}
        self._accesses = scans.access_leaves(txn, {key for keys in self._access_ids.values() for key in keys})
        self.facts = scans.resource_facts(txn, {row.subject_key or 0 for row in (*versions, *given)})

    def missing(self, row: CommitmentRow) -> tuple[str, str]:
        """Code and words for a leaf whose row is gone or older than it; empty where it is there."""
        if row.kind in _VERSION_KINDS:
            there = self._versions.get((row.subject_key or 0, row.subject_version or 0)) == row.leaf_id
        elif row.kind in _LINK_KINDS:
            there = self._links.get(row.subject_key or 0) == row.leaf_id
        elif row.kind == LeafKind.DISCLOSURE:
            ids = self._access_ids[row.leaf_id]
            there = bool(ids) and all(self._accesses.get(key) == row.leaf_id for key in ids)
        elif row.kind == LeafKind.CONSENT:
            state = self._consents.get(row.subject_key or 0)
            if state is not None and state.version < (row.subject_version or 0):
                return "state-older-than-leaf", "the log knows a later state of this consent"
            there = state is not None and (row.subject_version or 0) >= 1
        else:
            return "kind-unknown", "a leaf of the log is called something that has no leaves here"
        return ("", "") if there else ("row-missing", "a leaf of the log is about a row that is not there")

    @staticmethod
    def table(row: CommitmentRow) -> str:
        """Where the subject of a leaf stands."""
        if row.kind in _VERSION_KINDS:
            return "resource_version"
        if row.kind in _LINK_KINDS:
            return "link_event"
        if row.kind == LeafKind.CONSENT:
            return "consent_state"
        return "access_record" if row.kind == LeafKind.DISCLOSURE else "commitment"


def _access_leaf(row: AccessRecord) -> _Expected:
    content = disclosure.CONTENT
    return _Expected(row.leaf_id, LeafKind.DISCLOSURE, None, 1, disclosure.FORM, (None, None), content)


def _version_leaf(row: VersionRow, facts: ResourceFacts | None) -> _Expected:
    kind = LeafKind.DELETION if row.deleted else LeafKind.RECORD_VERSION
    record = facts.record_uuid if facts is not None else None
    subject = (row.resource_key, row.version)
    return _Expected(row.leaf_id, kind, record, row.version, RESOURCE_FORM, subject, row.body)


def _link_leaf(row: LinkEventRow) -> _Expected:
    return _Expected(row.leaf_id, row.kind, None, 1, EVENT_FORM, (row.event_key, None), event_bytes(row))


def _consent_leaf(item: ConsentLeaf, facts: ResourceFacts | None) -> _Expected | None:
    if item.leaf_id is None:
        return None
    state = item.state
    record = facts.record_uuid if facts is not None else None
    subject = (state.consent_key, state.version)
    return _Expected(item.leaf_id, LeafKind.CONSENT, record, state.version, EVENT_FORM, subject, state_bytes(state))


def _follows(state: ConsentStateRow, row: ResourceRow) -> bool:
    """Whether a decision state is what its Consent compiles to; of a deleted one, that it permits nothing."""
    if row.deleted:
        return state.status == Status.REVOKED
    try:
        rule = compile_consent(loads_stored(row.body))
        said = (rule.status.value, encode(rule), rule.custodian, chain_word(rule).not_after_us)
    except UNREADABLE:
        return False
    kept = (state.status, state.rule, state.custodian, state.not_after_us)
    return said == kept and (row.patient_key is None or row.patient_key == state.patient_key)


def _sequence(
    before: VersionRow | None, row: VersionRow | None, facts: Mapping[int, ResourceFacts]
) -> Iterator[Finding]:
    """Whether ``row`` follows ``before``: versions 1, 2, 3… without holes, ended by the one that the resource stands at."""
    same = before is not None and row is not None and before.resource_key == row.resource_key
    if before is not None and not same:
        known = facts.get(before.resource_key)
        if known is None:
            yield _of(
                None, "resource-missing", "versions of a resource that is not there", before.version, "resource", before
            )
        elif known.version < before.version:
            yield _of(known, "version-beyond-current", "there is a later version than the current one", before.version)
    if row is None:
        return
    expected = before.version + 1 if same and before is not None else 1
    if row.version != expected:
        named = facts.get(row.resource_key)
        yield _of(named, "version-hole", f"version {expected} is not there", expected, "resource_version", row)


def _row_differs(
    row: VersionRow,
    facts: ResourceFacts | None,
    patients: Mapping[int, ResourceFacts],
    patient_key: Callable[[str], int | None],
) -> Iterator[Finding]:
    """Columns beside the bytes: what the committed bytes say of themselves, the rows must say too."""
    if facts is None:
        return
    try:
        said = None if row.deleted else _head(row.body)
        body = {} if row.deleted or row.version != facts.version else content_of(row.body)
    except UNREADABLE:  # of an erased record, whose bytes nothing vouches for
        yield _of(facts, "bytes-unreadable", "its bytes are none that the bridge writes", row.version)
        return
    if said is not None:
        yield from _names_differ(said, row, facts)
    if row.version != facts.version:
        return
    if (facts.deleted, facts.last_updated_us) != (row.deleted, row.last_updated_us):
        yield _of(facts, "current-differs", "the row is not that of its current version", row.version)
    content = b"" if row.deleted else content_bytes(body)
    if content_digest(content) != facts.content_digest:
        yield _of(facts, "content-digest-differs", "the digest is not that of the current bytes", row.version)
    if not row.deleted and not _in_compartment(body, facts, patients, patient_key):
        yield _of(facts, "patient-differs", "it is kept for another patient than its bytes name", row.version)


def _names_differ(said: _Head, row: VersionRow, facts: ResourceFacts) -> Iterator[Finding]:
    if (said.resourceType, said.id) != (facts.type, facts.fhir_id):
        yield _of(facts, "name-differs", "type or id is not that of the stored bytes", row.version)
    if (said.meta.versionId, said.meta.lastUpdated) != (str(row.version), _instant(row.last_updated_us)):
        words = "version or time is not that of the stored bytes"
        yield _of(facts, "meta-differs", words, row.version, "resource_version")


def _patient_key(txn: Transaction, fhir_id: str) -> int | None:
    row = resources.load_by_id(txn, [("Patient", fhir_id)]).get(("Patient", fhir_id))
    return row.resource_key if row else None


def _instant(time_us: int) -> str:
    try:
        return format_instant(time_us)
    except OverflowError:
        return ""


def _in_compartment(
    body: Mapping[str, Any],
    facts: ResourceFacts,
    patients: Mapping[int, ResourceFacts],
    patient_key: Callable[[str], int | None],
) -> bool:
    if facts.type == "Patient":
        return facts.patient_key == facts.resource_key
    reference = patient_of(body)
    target = parse_reference(reference) if reference else None
    if target is None or target.type != "Patient":
        return facts.patient_key is None
    patient = patients.get(facts.patient_key or 0)
    if patient is not None and target.id == patient.fhir_id:
        return True
    # Named before it was there: its key was reserved, and may have turned out to be another record's; or it never comes.
    return patient_key(target.id) is None


def _of(
    facts: ResourceFacts | None,
    code: str,
    words: str,
    version: int | None,
    table: str = "resource",
    row: VersionRow | None = None,
) -> Finding:
    name = f"{facts.type}/{facts.fhir_id}" if facts is not None else None
    place = f"resource key {row.resource_key} version {row.version}" if facts is None and row is not None else ""
    return Finding(table, code, words, name, version, place)


def _uuid(value: bytes) -> str:
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _access_ids(row: CommitmentRow) -> list[bytes]:
    """The access records that a leaf holds; none if its context was altered."""
    try:
        return [bytes.fromhex(name.replace("-", "")) for name in context_of(row).extra]
    except (BridgeError, ValueError):
        return []
