"""The values that the repositories take and give: one type per row shape, fields in column order.

Times are µs since the epoch, UTC (``_us``). Rows that hold health data, identifiers or keys never print their fields.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class RawState(StrEnum):
    """Where a raw message stands in the embedded queue."""

    WAITING = "waiting"
    DONE = "done"
    DEAD = "dead"


class Outcome(StrEnum):
    """What became of a message."""

    STORED = "stored"
    SUPERSEDED = "superseded"  # counted as stored: it changed nothing that a newer message had not changed already
    FILTERED = "filtered"
    DUPLICATE = "duplicate"
    DEAD = "dead"


class DeadState(StrEnum):
    """Where a dead letter stands."""

    OPEN = "open"
    REPLAYED = "replayed"
    RESOLVED = "resolved"


class AnchorState(StrEnum):
    """Where an anchor stands on its chain."""

    PREPARED = "prepared"
    SENT = "sent"
    INCLUDED = "included"
    FINAL = "final"
    LOST = "lost"


class Counts(NamedTuple):
    """What became of the messages of one batch, to be added to a position's totals (promise P2)."""

    received: int = 0
    stored: int = 0
    filtered: int = 0
    duplicate: int = 0
    dead: int = 0


class Position(NamedTuple):
    """Where a partition stands: the next offset to read, and the epoch that a batch must still find in force."""

    next_offset: int
    epoch: int


class PositionRow(NamedTuple):
    """A partition's position with its totals."""

    source: str
    topic_id: str
    partition: int
    next_offset: int
    epoch: int
    received: int
    stored: int
    filtered: int
    duplicate: int
    dead: int
    updated_us: int


class RawMessageRow(NamedTuple):
    """A raw message, encrypted under a data key of its own that ``key_id`` wraps.

    Attributes:
        raw_key: surrogate key.
        received_us: when its bytes were complete here.
        source, topic_id, partition, offset: where it came from; the last three None outside Kafka.
        site: the site it was bound to.
        kind: ``hl7v2`` or ``fhir-json``.
        state, outcome: see :class:`RawState`, :class:`Outcome`.
        attempts: how often a worker claimed it.
        sender, control_id, digest: who sent it under which MSH-10, and a keyed digest of its content; None until parsed.
        owner_key: resource key of its patient; None if unknown.
        key_id, wrapped_key, nonce, ciphertext: AES-256-GCM envelope.
    """

    raw_key: int
    received_us: int
    source: str
    topic_id: str | None
    partition: int | None
    offset: int | None
    site: str
    kind: str
    state: str
    outcome: str | None
    attempts: int
    sender: str | None
    control_id: str | None
    digest: bytes | None
    owner_key: int | None
    key_id: str
    wrapped_key: bytes
    nonce: bytes
    ciphertext: bytes

    def __repr__(self) -> str:
        return f"RawMessageRow({self.raw_key}, <redacted>)"


class SeenKey(NamedTuple):
    """What makes a message the same message (law *Versions and bytes*)."""

    sender: str
    control_id: str
    digest: bytes

    def __repr__(self) -> str:
        return "SeenKey(<redacted>)"


class DeadLetterRow(NamedTuple):
    """A message that could not be stored, and why. ``structure`` is JSON text: names, counts, positions; never values."""

    dead_key: int
    raw_key: int
    raw_received_us: int
    source: str
    topic_id: str | None
    partition: int | None
    offset: int | None
    site: str
    event: str
    stage: str
    category: str
    code: str
    message: str
    structure: str
    state: str
    created_us: int
    closed_us: int | None = None
    closed_by: str | None = None
    reason: str | None = None


class ResourceRow(NamedTuple):
    """A resource as it stands: the search columns, the current version's bytes, and the units' stamps.

    Attributes:
        resource_key: surrogate key.
        type, fhir_id: ``Patient``, and the id in its URL.
        record_uuid: random UUIDv4 (text) that names it in commitments.
        patient_key: resource key of the patient in whose compartment it is; a Patient's own key; None without one.
        version, last_updated_us: of the current version.
        deleted: the current version is a deletion.
        status, date_start_us, date_end_us: search columns; dates as an interval [start, end].
        site: who asserts it.
        label_bits: sensitivity labels as bits.
        content_digest: digest over the content without versionId and lastUpdated.
        state: JSON of ``bridge.mapping.apply``.
        body: bytes served for the current version; b"" when deleted.
        leaf_id: of the current version.
    """

    resource_key: int
    type: str
    fhir_id: str
    record_uuid: str
    patient_key: int | None
    version: int
    last_updated_us: int
    deleted: bool
    status: str | None
    date_start_us: int | None
    date_end_us: int | None
    site: str
    label_bits: int
    content_digest: bytes
    state: bytes
    body: bytes = b""
    leaf_id: bytes = b""

    def __repr__(self) -> str:
        return f"ResourceRow({self.resource_key}, {self.type}, version {self.version}, <redacted>)"


class VersionRow(NamedTuple):
    """One version of a resource: the bytes served, its leaf, and the message it came from."""

    resource_key: int
    version: int
    last_updated_us: int
    deleted: bool
    body: bytes
    leaf_id: bytes
    raw_key: int | None
    raw_received_us: int | None

    def __repr__(self) -> str:
        return f"VersionRow({self.resource_key}, version {self.version}, <redacted>)"


class ResourceWrite(NamedTuple):
    """A resource after a batch.

    Attributes:
        row: as it stands after the batch; ``body`` and ``leaf_id`` are ignored (they stand in the last of ``versions``).
        versions: the new versions, ascending, the last one ``row.version``; a batch may make several.
        previous_version: the version that was loaded, 0 for a new resource; another one in the database is a conflict.
        terms: all signed 64-bit index terms, ascending, without repeats; empty when deleted.
        strings: all (parameter, normalized text) pairs for prefix search, without repeats.
    """

    row: ResourceRow
    versions: tuple[VersionRow, ...]
    previous_version: int
    terms: tuple[int, ...]
    strings: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"ResourceWrite({self.row!r})"


class PersonRow(NamedTuple):
    """Whom linked records belong to. ``consent_version`` grows with every change of links or consents."""

    person_key: int
    person_uuid: str
    consent_version: int
    created_us: int


class LinkRow(NamedTuple):
    """The person of a record: ``certainty`` is asserted, certain or possible; ``rule`` names what linked them."""

    record_key: int
    person_key: int
    certainty: str
    rule: str
    since_us: int


class LinkEventRow(NamedTuple):
    """One append-only assertion or decision about records; ``kind`` is link, unlink or merge. (time_us, tie) orders them."""

    event_key: int
    kind: str
    record_key: int
    other_key: int | None
    person_from: int | None
    person_to: int | None
    time_us: int
    tie: str
    source: str
    rule: str
    certainty: str
    decided_us: int
    leaf_id: bytes


class MatchKeyRow(NamedTuple):
    """A blocking key of a record: signed 64-bit hash, and which kind of key it is."""

    hash: int
    record_key: int
    kind: str


class ConsentStateRow(NamedTuple):
    """A consent as the decision needs it. ``status`` is active, inactive, revoked or error; ``rule`` is JSON bytes."""

    consent_key: int
    patient_key: int
    handle: bytes
    status: str
    version: int
    rule: bytes
    custodian: str
    not_after_us: int | None
    policy_tag: str
    updated_us: int

    def __repr__(self) -> str:
        return f"ConsentStateRow({self.consent_key}, {self.status}, <redacted>)"


class RestrictionRow(NamedTuple):
    """A patient closed to all but emergency access until someone resolves the consent that could not be understood."""

    restriction_key: int
    patient_key: int | None
    identity_mac: bytes | None
    dead_key: int | None
    code: str
    state: str
    created_us: int
    lifted_us: int | None = None
    lifted_by: str | None = None
    reason: str | None = None

    def __repr__(self) -> str:
        return f"RestrictionRow({self.restriction_key}, {self.code}, {self.state}, <redacted>)"


class OutboxRow(NamedTuple):
    """Something to be sent. ``sending`` is the prepared raw transaction, stored before it is sent."""

    outbox_key: int
    destination: str
    key: str
    payload: bytes
    created_us: int
    attempts: int
    next_us: int
    sending: bytes | None

    def __repr__(self) -> str:
        return f"OutboxRow({self.outbox_key}, {self.destination}, <redacted>)"


class PendingLeaf(NamedTuple):
    """A leaf that waits for its index: 16-byte id, 33-byte leaf data."""

    leaf_id: bytes
    leaf: bytes
    kind: str
    created_us: int


class LogLeaf(NamedTuple):
    """A leaf with its index in the log of ``origin``, and its RFC 6962 leaf hash."""

    origin: str
    leaf_index: int
    leaf_id: bytes
    leaf: bytes
    leaf_hash: bytes


class LogState(NamedTuple):
    """The head of a log: ``compact_range`` as ``bridge.ledger`` encodes it, ``epoch`` of the lease that wrote it."""

    origin: str
    size: int
    root: bytes
    compact_range: bytes
    epoch: int


class CheckpointRow(NamedTuple):
    """A signed checkpoint: the C2SP note text."""

    origin: str
    size: int
    root: bytes
    note: str
    signed_us: int


class CommitmentRow(NamedTuple):
    """What a leaf commits to: the context (JCS bytes), whose key salts it, and the version it is about."""

    leaf_id: bytes
    kind: str
    context: bytes
    owner_uuid: str
    subject_key: int | None
    subject_version: int | None


class RecordKeyRow(NamedTuple):
    """The wrapped key K_p of a record; ``destroyed_us`` and an empty ``wrapped_key`` once erased."""

    owner_uuid: str
    wrapped_key: bytes
    key_id: str
    created_us: int
    destroyed_us: int | None = None

    def __repr__(self) -> str:
        return "RecordKeyRow(<redacted>)"


class AnchorRow(NamedTuple):
    """A log head on its way to, or on, a chain."""

    anchor_key: int
    backend: str
    log_id: bytes
    size: int
    root: bytes
    state: str
    prepared: bytes
    transaction_id: bytes | None
    block_number: int | None
    block_hash: bytes | None
    created_us: int
    updated_us: int


class AccessRecord(NamedTuple):
    """One request on one patient's data: who, why, what, and what was decided (law *Access records are write-ahead*).

    ``query_parameters`` holds names only; ``consent_keys`` the consents that decided, as JSON text; ``outcome``,
    ``finished_us`` and ``status`` (HTTP) are None until the answer has left.
    """

    access_id: bytes
    started_us: int
    actor: str
    client_id: str
    organization: str
    role: str
    purpose: str
    interaction: str
    resource_type: str | None
    resource_id: str | None
    patient_key: int | None
    query_parameters: str
    decision: str
    rule: str
    consent_keys: str
    outcome: str | None
    finished_us: int | None
    status: int | None
    leaf_id: bytes

    def __repr__(self) -> str:
        return f"AccessRecord({self.interaction}, {self.decision}, <redacted>)"


class Lease(NamedTuple):
    """Who does what only one may do, until when, and the epoch that fences everyone before."""

    name: str
    holder: str
    epoch: int
    expires_us: int


class AlarmRow(NamedTuple):
    """A condition that an operator must see; ``detail`` names structures and codes only."""

    code: str
    subject: str
    raised_us: int
    cleared_us: int | None
    detail: str


class SourceControlRow(NamedTuple):
    """Whether intake from a source waits for an operator, and why."""

    source: str
    paused: bool
    reason: str
    since_us: int
