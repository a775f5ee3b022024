"""Resources, their versions and their index."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Final

import sqlalchemy as sa

from bridge.errors import Conflict
from bridge.store.arrays import int8_array_data
from bridge.store.database import Transaction
from bridge.store.dialect import Row, Statement, rows_parameter
from bridge.store.rows import ResourceRow, ResourceWrite, VersionRow
from bridge.store.schema import BIGINT, TEXT, resource, resource_string, resource_version

_COLUMNS: Final = tuple(column.name for column in resource.c if column.name in ResourceRow._fields)
_FIRST_CHANGEABLE: Final = 4  # what stands before names the resource
_CHANGEABLE: Final = (*_COLUMNS[_FIRST_CHANGEABLE:], "index_digest")
_DELETED_AT: Final = _COLUMNS.index("deleted")
_WIDTH: Final = len(_COLUMNS)

_version = resource_version.c
_current = sa.and_(
    _version.resource_key == resource.c.resource_key,
    _version.version == resource.c.version,
    _version.last_updated_us == resource.c.last_updated_us,  # names the partition
)
_keys = rows_parameter("keys", resource_key=BIGINT)
_ids = rows_parameter("ids", type=TEXT, fhir_id=TEXT)
_whole = sa.select(*[resource.c[name] for name in _COLUMNS], _version.body, _version.leaf_id)

_LOAD: Final = Statement(
    _whole.select_from(_keys)
    .join(resource, resource.c.resource_key == _keys.c.resource_key)
    .join(resource_version, _current)
)
_LOAD_BY_ID: Final = Statement(
    _whole.select_from(_ids)
    .join(resource, sa.and_(resource.c.type == _ids.c.type, resource.c.fhir_id == _ids.c.fhir_id))
    .join(resource_version, _current)
)
_STANDING: Final = Statement(
    sa.select(resource.c.resource_key, resource.c.version, resource.c.state).join_from(
        _keys, resource, resource.c.resource_key == _keys.c.resource_key
    )
)
_LOCK: Final = Statement(
    sa.select(resource.c.resource_key, resource.c.version, resource.c.index_digest)
    .where(resource.c.resource_key.in_(sa.select(_keys.c.resource_key)))
    .order_by(resource.c.resource_key)
    .with_for_update(of=resource)
)
_NAMES: Final = Statement(
    sa.select(resource.c.resource_key, resource.c.type, resource.c.fhir_id).join_from(
        _keys, resource, resource.c.resource_key == _keys.c.resource_key
    )
)
_LIVING: Final = Statement(
    sa.select(resource.c.type, resource.c.fhir_id)
    .join_from(_ids, resource, sa.and_(resource.c.type == _ids.c.type, resource.c.fhir_id == _ids.c.fhir_id))
    .where(resource.c.version > sa.literal_column("0"), ~resource.c.deleted.cast(sa.Boolean()))
)
_HISTORY: Final = Statement(
    sa.select(resource_version)
    .where(_version.resource_key == sa.bindparam("key"), _version.version < sa.bindparam("before"))
    .order_by(_version.version.desc())
    .limit(sa.bindparam("count"))
)
_VERSION: Final = Statement(
    sa.select(resource_version).where(
        _version.resource_key == sa.bindparam("key"), _version.version == sa.bindparam("wanted")
    )
)
_places = rows_parameter("places", resource_key=BIGINT, version=BIGINT, last_updated_us=BIGINT)
_VERSIONS: Final = Statement(
    sa.select(resource_version).join_from(
        _places,
        resource_version,
        sa.and_(
            _version.resource_key == _places.c.resource_key,
            _version.version == _places.c.version,
            _version.last_updated_us == _places.c.last_updated_us,  # names the partition
        ),
    )
)
_ALL_VERSIONS: Final = Statement(
    sa.select(resource_version).order_by(_version.resource_key, _version.version),
)
_STRINGS: Final = Statement(
    sa.select(resource_string).join_from(_keys, resource_string, resource_string.c.resource_key == _keys.c.resource_key)
)
_strings = rows_parameter("strings", type=TEXT, parameter=TEXT, value=TEXT, resource_key=BIGINT)
_DELETE_STRINGS: Final = Statement(
    sa.delete(resource_string).where(
        sa.tuple_(*resource_string.c).in_(sa.select(*_strings.c)),
    )
)
_ALL_CURRENT: Final = Statement(
    sa.select(*[resource.c[name] for name in _COLUMNS], _version.body, _version.leaf_id, resource.c.index_digest)
    .join_from(resource, resource_version, _current)
    .order_by(resource.c.resource_key)
)
_MOVE_PATIENT: Final = Statement(
    sa.update(resource)
    .values(patient_key=sa.bindparam("after"))
    .where(resource.c.patient_key == sa.bindparam("before"), resource.c.type != "Patient")
)
_LATEST: Final = 2**63 - 1


def load(txn: Transaction, keys: Collection[int]) -> dict[int, ResourceRow]:
    """Resources with their current bytes, by key."""
    if not keys:
        return {}
    return {row[0]: _resource(row) for row in txn.execute(_LOAD, {"keys": set(keys)})}


def standing(txn: Transaction, keys: Collection[int]) -> dict[int, tuple[int, bytes]]:
    """Current version number and state by key: whether what was loaded still stands."""
    return {row[0]: (row[1], bytes(row[2])) for row in txn.execute(_STANDING, {"keys": set(keys)})} if keys else {}


def move_patient(txn: Transaction, moved: Mapping[int, int]) -> None:
    """Moves what lies in one patient's compartment to another's, by their resource keys."""
    for before, after in moved.items():
        txn.change(_MOVE_PATIENT, {"before": before, "after": after})


def write_states(txn: Transaction, rows: Sequence[tuple[int, int, bytes]]) -> None:
    """Stores (resource_key, version, state) of resources whose content did not change.

    Raises:
        Conflict: ``resource-moved``: one is not at that version.
    """
    ordered = [(state, key, version_) for key, version_, state in sorted(rows)]
    if rows and txn.update_rows(resource, ("resource_key", "version"), ("state",), ordered) != len(rows):
        raise Conflict(
            "resource-moved", "a resource has changed since it was loaded", remedy="Load it again, then retry."
        )


def load_by_id(txn: Transaction, ids: Collection[tuple[str, str]]) -> dict[tuple[str, str], ResourceRow]:
    """Resources with their current bytes, by (type, FHIR id)."""
    if not ids:
        return {}
    return {(row[1], row[2]): _resource(row) for row in txn.execute(_LOAD_BY_ID, {"ids": set(ids)})}


def write(txn: Transaction, writes: Sequence[ResourceWrite]) -> None:
    """Stores resources as they stand after a batch: rows, new versions, index terms and strings.

    Args:
        txn: the transaction; existing rows are locked in key order.
        writes: at most one for each resource.

    Raises:
        Conflict: ``resource-moved``: a resource is not at the version it was loaded at.
        Incorrect: ``data-error``.
    """
    created = [write for write in writes if not write.previous_version]
    changed = sorted((write for write in writes if write.previous_version), key=lambda write: write.row.resource_key)
    reindexed = []
    if changed:
        rows = []
        for write, digest in zip(changed, _lock_unmoved(txn, changed), strict=True):
            new_digest = index_digest(write.terms, write.strings)
            if new_digest != digest:
                reindexed.append(write)
            rows.append((*write.row[_FIRST_CHANGEABLE:_WIDTH], new_digest, write.row.resource_key))
        txn.update_rows(resource, ("resource_key",), _CHANGEABLE, rows)
    txn.insert_rows(resource, [(*write.row[:_WIDTH], index_digest(write.terms, write.strings)) for write in created])
    txn.insert_rows(resource_version, [version for write in writes for version in write.versions])
    txn.insert_terms([(write.row.resource_key, write.row.type, write.terms) for write in created])
    txn.replace_terms([(write.row.resource_key, write.row.type, write.terms) for write in reindexed])
    _write_strings(txn, created, reindexed)


def _lock_unmoved(txn: Transaction, changed: Sequence[ResourceWrite]) -> list[int]:
    """Locks the rows in key order; the digests of their index. Conflict if one is not at the version it was loaded at."""
    found = txn.execute(_LOCK, {"keys": [write.row.resource_key for write in changed]})
    if [row[:2] for row in found] != [(write.row.resource_key, write.previous_version) for write in changed]:
        raise Conflict(
            "resource-moved", "a resource has changed since it was loaded", remedy="Load it again, then retry."
        )
    return [row[2] for row in found]


def index_digest(terms: Sequence[int], strings: Iterable[tuple[str, str]]) -> int:
    """Equal for equal terms and strings: most changes leave the index as it is, and so need not touch it."""
    data = int8_array_data(terms)
    for pair in strings:
        data += "\0".join(pair).encode() + b"\0\0"
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True)


def _write_strings(txn: Transaction, created: Sequence[ResourceWrite], changed: Sequence[ResourceWrite]) -> None:
    added = set(_string_rows(created))
    if changed:
        stored = set(txn.execute(_STRINGS, {"keys": [write.row.resource_key for write in changed]}))
        wanted = set(_string_rows(changed))
        gone = stored - wanted
        if gone:
            txn.change(_DELETE_STRINGS, {"strings": gone})
        added |= wanted - stored
    txn.insert_rows(resource_string, sorted(added))


def _string_rows(writes: Iterable[ResourceWrite]) -> Iterator[Row]:
    for write in writes:
        row = write.row
        for parameter, value in write.strings:
            yield row.type, parameter, value, row.resource_key


def history(
    txn: Transaction, resource_key: int, *, before_version: int = _LATEST, limit: int = 1000
) -> list[VersionRow]:
    """Versions below ``before_version``, newest first."""
    given = {"key": resource_key, "before": before_version, "count": limit}
    return [version_row(row) for row in txn.execute(_HISTORY, given)]


def version(txn: Transaction, resource_key: int, wanted: int) -> VersionRow | None:
    """One version of a resource."""
    rows = txn.execute(_VERSION, {"key": resource_key, "wanted": wanted})
    return version_row(rows[0]) if rows else None


def versions(txn: Transaction, places: Collection[tuple[int, int, int]]) -> dict[tuple[int, int], VersionRow]:
    """Versions by (resource key, version), each sought by those and its time (µs); what is not there is left out."""
    if not places:
        return {}
    return {(row[0], row[1]): version_row(row) for row in txn.execute(_VERSIONS, {"places": set(places)})}


def hold(txn: Transaction, keys: Collection[int]) -> None:
    """Holds resources, in key order, so that none gets another version before this transaction ends."""
    if keys:
        txn.execute(_LOCK, {"keys": set(keys)})


def names(txn: Transaction, keys: Collection[int]) -> dict[int, tuple[str, str]]:
    """Type and FHIR id by key."""
    return {row[0]: (row[1], row[2]) for row in txn.execute(_NAMES, {"keys": set(keys)})} if keys else {}


def living(txn: Transaction, ids: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of these (type, FHIR id) that are stored and not deleted."""
    return {(row[0], row[1]) for row in txn.execute(_LIVING, {"ids": set(ids)})} if ids else set()


def stream_versions(txn: Transaction, *, chunk: int = 1000) -> Iterator[list[VersionRow]]:
    """All versions of all resources by (resource_key, version), for ``fsck``."""
    for rows in txn.stream(_ALL_VERSIONS, {}, chunk):
        yield [version_row(row) for row in rows]


def stream_current(txn: Transaction, *, chunk: int = 1000) -> Iterator[list[tuple[ResourceRow, int]]]:
    """All resources with their current bytes, each with its index digest, by key, for ``fsck``."""
    for rows in txn.stream(_ALL_CURRENT, {}, chunk):
        yield [(_resource(row[:-1]), row[-1]) for row in rows]


def _resource(row: Row) -> ResourceRow:
    return ResourceRow._make((*row[:_DELETED_AT], bool(row[_DELETED_AT]), *row[_DELETED_AT + 1 :]))


def version_row(row: Row) -> VersionRow:
    """A row of ``resource_version`` as its value."""
    return VersionRow._make((*row[:3], bool(row[3]), *row[4:]))
