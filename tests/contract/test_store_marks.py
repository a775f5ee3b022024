"""What a store is, is written in it."""

from __future__ import annotations

from bridge.store import marks
from bridge.store.marks import Mark


def test_a_store_is_a_demonstration_only_if_it_was_marked_so(database):
    """A new store carries no mark; a mark stays, and setting it again changes nothing."""
    with database.transaction(read_only=True) as txn:
        assert not marks.has(txn, Mark.DEMONSTRATION)
    with database.transaction() as txn:
        marks.put(txn, Mark.DEMONSTRATION)
    with database.transaction() as txn:
        marks.put(txn, Mark.DEMONSTRATION)

    with database.transaction(read_only=True) as txn:
        assert marks.has(txn, Mark.DEMONSTRATION)
