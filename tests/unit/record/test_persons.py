"""Persons are the connected components of links and merges, after any history of changes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.ledger.commitment import LeafKind
from bridge.matching.decide import Candidate, components, decide
from bridge.matching.features import Features, keys_of
from bridge.matching.model import Model, load_model
from bridge.record.commitments import Commitments, RecordKeys
from bridge.record.persons import AssertedMerge, ChangedRecord, decode_features, encode_features, event_bytes, relink
from bridge.store import persons
from bridge.store.database import Database, Transaction, open_database
from bridge.store.migrate import migrate
from bridge.store.rows import LinkEventRow
from tests.integration.hospital import KEYS
from tests.reference import ROOT

MODEL: Model = load_model(ROOT / "mappings" / "matching" / "certain.yaml")
RECORDS = tuple(range(1, 6))
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
anything = st.builds(
    Features,
    st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
    texts,
    texts,
    texts,
    st.lists(texts, max_size=2).map(tuple),
    st.lists(texts, max_size=2).map(tuple),
)
# few values, so that records meet
few = st.builds(
    Features,
    st.sampled_from([(), (("n", "1"),), (("n", "2"),), (("m", "1"),), (("m", "1"), ("n", "2"))]),
    st.sampled_from(["ash ida", "ash eve"]),
    st.just("1970-01-02"),
    st.just("female"),
    st.sampled_from([(), ("1",), ("2",), ("1", "2")]),
    st.just(()),
)
changes = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(RECORDS), few),
        st.tuples(st.sampled_from(RECORDS), st.none()),
        st.tuples(st.sampled_from(RECORDS), st.sampled_from(RECORDS)).filter(lambda pair: pair[0] != pair[1]),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        migrate(f"sqlite:///{folder}/template.db")
        yield Path(folder)


class Registry:
    """Records without resources, and the persons that the module under test makes of them."""

    def __init__(self, url: str) -> None:
        self.database: Database = open_database(url)
        self.keys = RecordKeys(KEYS)
        self.owner = {record: str(uuid4()) for record in RECORDS}
        self.features: dict[int, Features] = {}
        self.merged: list[tuple[int, int]] = []

    def change(self, record: int, features: Features | None) -> None:
        before = frozenset(keys_of(self.features.get(record, Features()), MODEL))
        self.features[record] = features or Features()
        with self.database.transaction() as txn:
            changed = ChangedRecord(record, self.owner[record], features, before, "north", txn.now_us(), "")
            self._relink(txn, [changed], [])

    def merge(self, survivor: int, subsumed: int) -> None:
        for record in (survivor, subsumed):
            if record not in self.features:
                self.change(record, Features())
        self.merged.append((survivor, subsumed))
        with self.database.transaction() as txn:
            asserted = AssertedMerge(survivor, subsumed, self.owner[survivor], "north", txn.now_us(), str(uuid4()))
            self._relink(txn, [], [asserted])

    def _relink(self, txn: Transaction, changed: list[ChangedRecord], merges: list[AssertedMerge]) -> None:
        commitments = Commitments("log.test.example/hie", txn.now_us())
        relink(txn, changed, merges, MODEL, commitments)
        commitments.write(txn, self.keys)

    def groups(self) -> set[frozenset[int]]:
        with self.database.transaction(read_only=True) as txn:
            links = persons.links(txn, RECORDS)
        found: dict[int, set[int]] = {}
        for record, link in links.items():
            found.setdefault(link.person_key, set()).add(record)
        return {frozenset(group) for group in found.values()}

    def expected(self) -> set[frozenset[int]]:
        """From scratch, every record against every other."""
        edges: dict[int, list[int]] = {}
        for record, features in self.features.items():
            others = [Candidate(other, theirs) for other, theirs in self.features.items() if other != record]
            edges[record] = [link.record for link in decide(features, others, MODEL).links]
        for survivor, subsumed in self.merged:
            edges.setdefault(survivor, []).append(subsumed)
        return set(components(self.features, edges))


@settings(max_examples=40)
@given(changes)
def test_persons_are_the_components_after_every_change(
    template: Path, history: list[tuple[int, Features | int | None]]
) -> None:
    """Linking, splitting, merging, deleting in any order: the rows are what deciding everything anew would give."""
    with tempfile.TemporaryDirectory() as folder:
        for file in template.iterdir():
            shutil.copy(file, folder)
        registry = Registry(f"sqlite:///{folder}/template.db")
        for record, what in history:
            if isinstance(what, int):
                registry.merge(record, what)
            else:
                registry.change(record, what)
            assert registry.groups() == registry.expected()
        registry.database.close()


@given(anything)
def test_features_survive_storing(features: Features) -> None:
    """Every text, as it was."""
    assert decode_features(encode_features(features)) == features


def test_the_bytes_of_an_event_do_not_depend_on_who_writes_them() -> None:
    """``fsck`` makes them anew from the row: sorted names, no blanks."""
    row = LinkEventRow(9, str(LeafKind.LINK), 1, 2, None, 4, 5, "t", "north", "own", "certain", 7, b"")

    assert event_bytes(row) == (
        b'{"certainty":"certain","decided":7,"from":null,"kind":"link","other":2,"record":1,"rule":"own","source":"north",'
        b'"tie":"t","time":5,"to":4}'
    )


def test_the_bytes_of_an_event_hold_every_column_that_decides() -> None:
    """Order, certainty and the time of the decision too; only its key and its leaf stand elsewhere."""
    row = LinkEventRow(9, str(LeafKind.LINK), 1, 2, None, 4, 5, "t", "north", "own", "certain", 7, b"")

    for name in set(row._fields) - {"event_key", "leaf_id"}:
        assert event_bytes(row._replace(**{name: 77})) != event_bytes(row)
    assert event_bytes(row._replace(event_key=77, leaf_id=b"x")) == event_bytes(row)
