"""Restrictions of patients, lifted by hand: above all those of stored messages, which no dead letter ever lifts."""

from __future__ import annotations

from bridge.errors import Conflict, NotFound
from bridge.record import restrictions
from bridge.store import dead_letters
from bridge.store import restrictions as repository
from bridge.store.database import Database
from bridge.store.rows import DeadState


def lift(database: Database, restriction_key: int, *, by: str, reason: str) -> None:
    """Lifts one restriction, and says of its patient's person that what consents permit may have changed.

    Raises:
        NotFound: ``restriction-absent``.
        Conflict: ``restriction-lifted`` already; ``restriction-of-dead-letter``: its dead letter is still open.
    """
    with database.transaction() as txn:
        row = repository.get(txn, restriction_key)
        if row is None:
            raise NotFound(
                "restriction-absent",
                f"there is no restriction {restriction_key}",
                remedy="See hiebridge restrictions list.",
            )
        letter = None if row.dead_key is None else dead_letters.get(txn, row.dead_key)
        if row.state == "open" and letter is not None and letter.state == DeadState.OPEN:
            raise Conflict(
                "restriction-of-dead-letter",
                f"restriction {restriction_key} came with dead letter {row.dead_key}, which is open",
                remedy="Replay or resolve that one, which lifts it.",
            )
        if not restrictions.lift(txn, [row], by=by, reason=reason):
            raise Conflict("restriction-lifted", f"restriction {restriction_key} is lifted already")
