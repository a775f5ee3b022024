"""What a store holds, as far as it may not depend on what happened on the way; and what must hold of every store.

:func:`read` takes everything out of a store. :func:`violations` lists what is wrong with one store by itself: totals that do
not add up, versions with holes, leaves that are missing, doubled or about nothing, commitments that do not open.
:func:`differences` lists how two stores of the same feed differ. Both name places, so that a failing test shows them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from bridge.keys.ports import KeyProvider, SignerPurpose, WrappedKey
from bridge.ledger.checkpoint import open_checkpoint
from bridge.ledger.commitment import LeafKind, commit, derive_salt, leaf_data
from bridge.ledger.merkle import CompactRange, hash_leaf
from bridge.ledger.note import VerifierKey
from bridge.pipeline.queue import opened
from bridge.store import schema
from bridge.store.database import Database, Transaction
from bridge.store.dialect import Statement
from bridge.store.rows import PositionRow, RawMessageRow
from tests.faults.deployments import ORIGIN

_SHOWN = 12
_DONE = frozenset({"stored", "superseded"})  # which of the two rests on the order of arrival
_RECORD_KINDS = {LeafKind.RECORD_VERSION: False, LeafKind.DELETION: True}
_EVENT_KINDS = frozenset({LeafKind.LINK, LeafKind.UNLINK, LeafKind.MERGE})

_NOWHERE = ("", "not there")

Rows = list[Mapping[str, Any]]
Name = tuple[str, str]
"""Type and FHIR id of a resource."""


@dataclass(frozen=True)
class Snapshot:
    """All that :func:`read` found.

    Attributes:
        tables: rows by table, each a mapping from column to value.
        messages: (source, content, outcome) of every raw message, decrypted.
        keys: the deployment's keys.
    """

    tables: Mapping[str, Rows]
    messages: list[tuple[str, bytes, str | None]]
    keys: KeyProvider

    def names(self) -> dict[int, Name]:
        """Type and id of each resource key."""
        return {row["resource_key"]: (row["type"], row["fhir_id"]) for row in self.tables["resource"]}

    def current(self) -> dict[Name, Any]:
        """The current content of each resource without version and time; None if it is deleted."""
        bodies = {(row["resource_key"], row["version"]): row for row in self.tables["resource_version"]}
        found: dict[Name, Any] = {}
        for row in self.tables["resource"]:
            version = bodies.get((row["resource_key"], row["version"]))
            name = (row["type"], row["fhir_id"])
            found[name] = None if version is None or version["deleted"] else _content(version["body"])
        return found

    def identities(self) -> dict[tuple[str, ...], Name]:
        """Which resource each name names."""
        names = self.names()
        return {
            (row["resource_type"], row["namespace"], row["identifier_type"], row["value"]): names.get(
                row["resource_key"], _NOWHERE
            )
            for row in self.tables["identity"]
        }

    def persons(self) -> frozenset[frozenset[Name]]:
        """The records, as the persons divide them."""
        names = self.names()
        members: dict[int, set[Name]] = defaultdict(set)
        for row in self.tables["person_link"]:
            members[row["person_key"]].add(names.get(row["record_key"], _NOWHERE))
        return frozenset(map(frozenset, members.values()))

    def outcomes(self) -> dict[tuple[str, bytes], Counter[str]]:
        """What became of each message, by source and content."""
        found: dict[tuple[str, bytes], Counter[str]] = defaultdict(Counter)
        for source, content, outcome in self.messages:
            found[source, content]["done" if outcome in _DONE else str(outcome)] += 1
        return found

    def totals(self) -> Counter[str]:
        """The totals of all positions."""
        total: Counter[str] = Counter()
        for row in self.tables["source_position"]:
            for name in ("received", "stored", "filtered", "duplicate", "dead"):
                total[name] += row[name]
        return total


_TABLES = (
    "source_position",
    "raw_message",
    "message_seen",
    "dead_letter",
    "identity",
    "resource",
    "resource_version",
    "person_link",
    "link_event",
    "consent_state",
    "access_record",
    "leaf_pending",
    "log_leaf",
    "log_state",
    "checkpoint",
    "commitment",
    "vault.nonce",
    "vault.record_key",
    "anchor",
)


def read(database: Database, keys: KeyProvider) -> Snapshot:
    """Everything that is compared or checked, in one transaction."""
    with database.transaction(read_only=True) as txn:
        tables = {name: _rows(txn, schema.metadata.tables[name]) for name in _TABLES}
    raw = [RawMessageRow(**row) for row in tables["raw_message"]]
    return Snapshot(tables, [(row.source, opened(row, keys).content, row.outcome) for row in raw], keys)


def _rows(txn: Transaction, table: sa.Table) -> Rows:
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in txn.execute(Statement(sa.select(table)))]


def _content(body: bytes) -> Any:
    content = json.loads(body)
    meta = content["meta"]
    meta.pop("versionId")
    meta.pop("lastUpdated")
    if not meta:
        del content["meta"]
    return content


# two stores


def differences(undisturbed: Snapshot, other: Snapshot) -> list[str]:
    """How the current content of ``other`` differs from that of ``undisturbed``: resources, names, persons.

    Args:
        undisturbed: a store that worked the feed off in peace and in order.
        other: a store of the same feed and the same keys, in whatever order it came.
    """
    found = _compare("resource", undisturbed.current(), other.current())
    found += _compare("identity", undisturbed.identities(), other.identities())
    ours, theirs = undisturbed.persons(), other.persons()
    found += [
        f"person only in the undisturbed store: {sorted(person)}" for person in sorted(map(sorted, ours - theirs))
    ]
    found += [f"person only in the other store: {sorted(person)}" for person in sorted(map(sorted, theirs - ours))]
    return found


def outcome_differences(undisturbed: Snapshot, other: Snapshot, *, sent_again: bool = False) -> list[str]:
    """How the outcomes of the messages differ.

    Args:
        undisturbed: as above.
        other: as above.
        sent_again: ``other``'s senders repeat what was not acknowledged, so that a message may have come more often:
            its repetitions are duplicates (or, of what cannot be stored or is left out, dead or filtered again).
    """
    if sent_again:
        return _compare("outcome", _once(undisturbed), _once(other))
    return _compare("outcome", undisturbed.outcomes(), other.outcomes()) + _compare(
        "total", undisturbed.totals(), other.totals()
    )


def _once(snapshot: Snapshot) -> dict[tuple[str, bytes], Any]:
    """What became of each message that must not depend on how often it was sent."""
    return {message: counts["done"] or sorted(counts) for message, counts in snapshot.outcomes().items()}


def _compare(what: str, left: Mapping[Any, Any], right: Mapping[Any, Any]) -> list[str]:
    lines = [f"{what} only in the undisturbed store: {key}" for key in left if key not in right]
    lines += [f"{what} only in the other store: {key}" for key in right if key not in left]
    lines += [
        f"{what} {key}: {_narrowed(left[key], right[key])}" for key in left if key in right and left[key] != right[key]
    ]
    return lines[:_SHOWN] + ([f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])


def _narrowed(left: Any, right: Any) -> str:
    if isinstance(left, dict) and isinstance(right, dict):
        keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
        return "; ".join(f"{key}: {left.get(key)!r} / {right.get(key)!r}" for key in keys)
    return f"{left!r} / {right!r}"


# one store


def violations(snapshot: Snapshot, *, drained: bool = True) -> list[str]:
    """What is wrong with a store by itself.

    Args:
        snapshot: the store.
        drained: everything is worked off, numbered and signed.
    """
    found = [*_totals(snapshot), *_versions(snapshot), *_leaves(snapshot), *_log(snapshot)]
    if drained:
        waiting = [row for row in snapshot.tables["raw_message"] if row["state"] == "waiting"]
        found += [f"{len(waiting)} raw messages still wait"] if waiting else []
        found += ["leaves still wait for their number"] if snapshot.tables["leaf_pending"] else []
        found += _signed_to_the_end(snapshot)
    return found


def _totals(snapshot: Snapshot) -> Iterable[str]:
    """Promise P2, for each source: received = stored + filtered + duplicates + dead letters, as the raw rows say."""
    of_source: dict[str, Counter[str]] = defaultdict(Counter)
    for row in map(_position, snapshot.tables["source_position"]):
        if row.received != row.stored + row.filtered + row.duplicate + row.dead:
            yield f"the totals of {row.source}/{row.partition} do not add up"
        if row.topic_id != "queue" and row.received != row.next_offset:
            yield f"{row.source}/{row.partition} stands at {row.next_offset} and has received {row.received}"
        of_source[row.source].update(done=row.stored, filtered=row.filtered, duplicate=row.duplicate, dead=row.dead)
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for source, _, outcome in snapshot.messages:
        if outcome is not None:
            rows[source]["done" if outcome in _DONE else outcome] += 1
    for source in {*of_source, *rows}:
        if +of_source[source] != +rows[source]:
            yield f"the totals of {source} say {dict(+of_source[source])}, its raw messages {dict(+rows[source])}"
    dead = sum(row["state"] == "open" for row in snapshot.tables["dead_letter"])
    if dead != snapshot.totals()["dead"]:
        yield f"{dead} dead letters are open, and {snapshot.totals()['dead']} counted"
    places = Counter(
        (row["source"], row["topic_id"], row["partition"], row["offset"])
        for row in snapshot.tables["raw_message"]
        if row["offset"] is not None
    )
    yield from (f"position {place} was taken {count} times" for place, count in places.items() if count > 1)


def _position(row: Mapping[str, Any]) -> PositionRow:
    return PositionRow(**row)


def _versions(snapshot: Snapshot) -> Iterable[str]:
    of: dict[int, list[int]] = defaultdict(list)
    for row in snapshot.tables["resource_version"]:
        of[row["resource_key"]].append(row["version"])
    names = snapshot.names()
    for row in snapshot.tables["resource"]:
        numbers = sorted(of.pop(row["resource_key"], []))
        if numbers != list(range(1, row["version"] + 1)):
            yield f"{names[row['resource_key']]} is at version {row['version']} and has {numbers}"
    yield from (f"versions of a resource that is not there: {key}" for key in of)
    for row in snapshot.tables["identity"]:
        if row["resource_key"] not in names:
            yield f"a {row['resource_type']} is named and not there"


def _leaves(snapshot: Snapshot) -> Iterable[str]:
    """Every version, link event, consent state and request has one leaf, whose commitment opens; and no leaf more."""
    leaves = {row["leaf_id"]: row for row in snapshot.tables["commitment"]}
    placed = Counter(row["leaf_id"] for row in [*snapshot.tables["log_leaf"], *snapshot.tables["leaf_pending"]])
    yield from (f"leaf {leaf.hex()} stands in the log {n} times" for leaf, n in placed.items() if n != 1)
    yield from (f"leaf {leaf.hex()} is committed to and in no log" for leaf in leaves.keys() - placed.keys())
    yield from (f"leaf {leaf.hex()} is in the log and about nothing" for leaf in placed.keys() - leaves.keys())
    owned = Counter(row["leaf_id"] for table in ("resource_version", "link_event") for row in snapshot.tables[table])
    # The access records of one request share a leaf.
    owned += Counter({row["leaf_id"] for row in snapshot.tables["access_record"]})
    yield from (f"leaf {leaf.hex()} belongs to {n} rows" for leaf, n in owned.items() if n != 1)
    yield from (f"leaf {leaf.hex()} is missing" for leaf in owned.keys() - leaves.keys())
    consents = {row["consent_key"]: row["version"] for row in snapshot.tables["consent_state"]}
    of_consents: dict[int, list[int]] = defaultdict(list)
    for leaf, row in leaves.items():
        if row["kind"] == LeafKind.CONSENT:
            of_consents[row["subject_key"]].append(row["subject_version"])
        elif leaf not in owned:
            yield f"a {row['kind']} leaf belongs to nothing"
    for key, version in consents.items():
        if sorted(of_consents.pop(key, [])) != list(range(1, version + 1)):
            yield f"consent {key} is at version {version} and has other leaves"
    yield from (f"leaves of a consent that is not there: {key}" for key in of_consents)
    yield from _openings(snapshot, leaves)


def _openings(snapshot: Snapshot, leaves: Mapping[bytes, Mapping[str, Any]]) -> Iterable[str]:
    nonces = {row["leaf_id"]: row["nonce"] for row in snapshot.tables["vault.nonce"]}
    salted = leaves.keys() | {row["access_id"] for row in snapshot.tables["access_record"]}
    if nonces.keys() != salted:
        yield f"{len(nonces)} nonces for {len(salted)} leaves and access records"
        return
    owners = {
        row["owner_uuid"]: snapshot.keys.unwrap(WrappedKey(row["key_id"], row["wrapped_key"]))
        for row in snapshot.tables["vault.record_key"]
    }
    data = {row["leaf_id"]: row["leaf"] for row in [*snapshot.tables["log_leaf"], *snapshot.tables["leaf_pending"]]}
    for row in snapshot.tables["resource_version"]:
        leaf = leaves.get(row["leaf_id"])
        if leaf is None:
            continue
        salt = derive_salt(owners[leaf["owner_uuid"]], nonces[row["leaf_id"]])
        subject = (leaf["subject_key"], leaf["subject_version"])
        if subject != (row["resource_key"], row["version"]):
            yield f"leaf {row['leaf_id'].hex()} is about {subject}"
        if _RECORD_KINDS.get(leaf["kind"]) is not bool(row["deleted"]):
            yield f"leaf {row['leaf_id'].hex()} is a {leaf['kind']}"
        if leaf_data(commit(salt, leaf["context"], row["body"])) != data.get(row["leaf_id"]):
            yield f"leaf {row['leaf_id'].hex()} does not commit to its version"
    for row in snapshot.tables["link_event"]:
        leaf = leaves.get(row["leaf_id"])
        if leaf is not None and (leaf["kind"] not in _EVENT_KINDS or leaf["subject_key"] != row["event_key"]):
            yield f"leaf {row['leaf_id'].hex()} is not about its link event"


def _log(snapshot: Snapshot) -> Iterable[str]:
    """The log is what its leaves make it, and every signed head is one that it had."""
    rows = sorted(snapshot.tables["log_leaf"], key=lambda row: row["leaf_index"])
    if [row["leaf_index"] for row in rows] != list(range(len(rows))):
        yield "the log has holes"
        return
    signed = {row["size"]: row for row in snapshot.tables["checkpoint"]}
    key = VerifierKey(ORIGIN, snapshot.keys.signer(SignerPurpose.LOG, ORIGIN).public_key())
    tree = CompactRange()
    for row in rows:
        if hash_leaf(row["leaf"]) != row["leaf_hash"]:
            yield f"leaf {row['leaf_index']} has another hash"
        tree.extend([row["leaf_hash"]])
        checkpoint = signed.pop(tree.size, None)
        if checkpoint is None:
            continue
        head = open_checkpoint(checkpoint["note"], key).head
        if (head.size, head.root) != (tree.size, tree.root()):
            yield f"the checkpoint of size {tree.size} has another root"
    yield from (f"a checkpoint of size {size} for a log of {len(rows)}" for size in signed)
    for state in snapshot.tables["log_state"]:
        if (state["size"], state["root"]) != (tree.size, tree.root()):
            yield "the state of the log is not that of its leaves"


def _signed_to_the_end(snapshot: Snapshot) -> Iterable[str]:
    newest = max((row["size"] for row in snapshot.tables["checkpoint"]), default=0)
    if newest != len(snapshot.tables["log_leaf"]):
        yield f"the newest checkpoint covers {newest} of {len(snapshot.tables['log_leaf'])} leaves"
