"""Holds what is derived from resources against them: search rows and columns, names, and the units' states.

None of it has leaves of its own; all of it follows from the committed bytes and the deployment's identity key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from bridge.fhir.search.index import EMPTY, extract
from bridge.mapping.apply import composed, newest_us
from bridge.mapping.operations import IdentityKey, Stored
from bridge.pipeline.findings import UNREADABLE, Finding, Tally
from bridge.record.ids import mint
from bridge.record.versions import content_bytes, content_digest
from bridge.record.work import stored_of
from bridge.store import resources, scans
from bridge.store.database import Transaction
from bridge.store.resources import index_digest
from bridge.store.rows import ResourceRow
from bridge.store.scans import IndexRows

CHUNK: Final = 1_000
_NO_ROWS: Final = IndexRows([], set(), set())
_MERGE_LINKS: Final = frozenset({"replaced-by", "replaces"})


class ProjectionCheck:
    """One pass over all resources, and two over what might belong to none. Memory does not grow with them.

    Args:
        identity_key: the deployment's, which mints ids.
        event_ahead_us: how far in the future an event may lie; None = not checked.
        tally: counts what was checked.
    """

    def __init__(self, identity_key: bytes, event_ahead_us: int | None, tally: Tally) -> None:
        self._identity_key = identity_key
        self._event_ahead_us = event_ahead_us
        self._tally = tally

    def run(self, txn: Transaction) -> Iterator[Finding]:
        """All passes, one after the other."""
        latest = None if self._event_ahead_us is None else txn.now_us() + self._event_ahead_us
        for chunk in resources.stream_current(txn, chunk=CHUNK):
            keys = {row.resource_key for row, _ in chunk}
            indexed, names = scans.index_rows(txn, keys), scans.names(txn, keys)
            for row, digest in chunk:
                yield from self._named(row, names.get(row.resource_key, ()))
                yield from _resource(row, digest, indexed.get(row.resource_key, _NO_ROWS), latest)
            self._tally.checked["resources"] += len(chunk)
            self._tally.checked["names"] += sum(map(len, names.values()))
        for orphans in scans.stream_index_orphans(txn, chunk=CHUNK):
            for key in orphans:
                yield _at(
                    key, "resource_index", "index-without-resource", "search rows of a resource that is not there"
                )
        for dangling in scans.stream_dangling_names(txn, chunk=CHUNK):
            for key, number in dangling:
                words = f"{number} names lead to a resource that is not there"
                yield _at(key, "identity", "name-without-resource", words)

    def _named(self, row: ResourceRow, names: Collection[IdentityKey]) -> Iterator[Finding]:
        if not any(mint(name, self._identity_key) == row.fhir_id for name in names):
            words = "no name leads to it from which its id was minted"
            yield _of(row, "identity", "name-missing", words)
        if any(name.resource_type != row.type for name in names):
            yield _of(row, "identity", "name-of-another-type", "a name of another type of resource leads to it")


def _resource(row: ResourceRow, digest: int, rows: IndexRows, latest_us: int | None) -> Iterator[Finding]:
    try:
        stored = stored_of(row)
        index = EMPTY if stored.body is None else extract(stored.body)
    except UNREADABLE:
        yield _of(row, "resource", "resource-unreadable", "its bytes or its state are none that the bridge writes")
        return
    content = b"" if stored.body is None else content_bytes(stored.body)
    if content_digest(content) != row.content_digest:
        return  # other bytes than those that were committed to: named once, by whoever holds them against their leaf
    wanted = (index.status, index.date_start_us, index.date_end_us)
    if (row.status, row.date_start_us, row.date_end_us) != wanted:
        yield _of(row, "resource", "search-columns-differ", "status or dates are not those of the stored bytes")
    terms = sorted(rows.terms)
    if terms != list(index.terms) or rows.strings != set(index.strings) or rows.types - {row.type}:
        yield _of(row, "resource_index", "search-rows-differ", "the search rows are not those of the stored bytes")
    if digest != index_digest(index.terms, index.strings):
        yield _of(row, "resource", "index-digest-differs", "the index digest is not that of the stored bytes")
    yield from _state(row, stored, latest_us)


def _state(row: ResourceRow, stored: Stored, latest_us: int | None) -> Iterator[Finding]:
    """Whether the units compose to the stored content, and no event lies further ahead than any could be taken."""
    try:
        shown, newest = composed(stored, row.type), newest_us(stored.state)
    except UNREADABLE:
        yield _of(row, "resource", "state-malformed", "its units' state is none that the bridge writes")
        return
    if _without_merges(shown) != _without_merges(stored.body):
        yield _of(row, "resource", "state-differs", "its units do not make up the stored content")
    if latest_us is not None and newest > latest_us:
        yield _of(row, "resource", "state-ahead", "a unit's event time lies in the future: nothing would replace it")


def _without_merges(body: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A body without what merges show in it beside the units; link events have leaves of their own."""
    if body is None or body.get("resourceType") != "Patient":
        return body
    kept = {name: value for name, value in body.items() if name not in {"active", "link"}}
    own = [link for link in body.get("link", ()) if link.get("type") not in _MERGE_LINKS]
    return {**kept, "link": own}


def _of(row: ResourceRow, table: str, code: str, words: str) -> Finding:
    return Finding(table, code, words, f"{row.type}/{row.fhir_id}", row.version)


def _at(key: int, table: str, code: str, words: str) -> Finding:
    return Finding(table, code, words, place=f"resource key {key}")
