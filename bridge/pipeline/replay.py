"""Dead letters done again: by a person, with the mapping in force now."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.errors import Conflict, NotFound, Unavailable
from bridge.keys.ports import KeyWrapper
from bridge.pipeline.batch import CONSENT_ALARM, Batcher, Verdict, lift_restrictions
from bridge.pipeline.prepare import Preparer
from bridge.pipeline.queue import envelope_of, opened
from bridge.store import alarms, dead_letters, raw_messages, source_control
from bridge.store.database import Database, Transaction
from bridge.store.rows import DeadLetterRow, DeadState

_ATTEMPTS = 5
_PAGE = 1000


def letter(txn: Transaction, dead_key: int) -> DeadLetterRow:
    """One dead letter. Raises NotFound ``dead-letter-absent``."""
    row = dead_letters.get(txn, dead_key)
    if row is None:
        raise NotFound("dead-letter-absent", f"there is no dead letter {dead_key}", remedy="List them.")
    return row


def open_letters(database: Database, source: str | None) -> list[int]:
    """Keys of the open dead letters, of one source or of all, oldest first: the order in which to replay them."""
    keys: list[int] = []
    with database.transaction(read_only=True) as txn:
        page = dead_letters.list_letters(txn, state=DeadState.OPEN, source=source, limit=_PAGE)
        while page:
            keys += [row.dead_key for row in page]
            page = dead_letters.list_letters(txn, state=DeadState.OPEN, source=source, before_key=keys[-1], limit=_PAGE)
    return keys[::-1]


class Replayer:
    """Does dead letters again, one transaction each.

    Args:
        database: the store; the batcher works on it too.
        wrapper: opens the raw messages.
        preparer: the mapping in force.
        batcher: stores what it makes of them.
    """

    def __init__(self, database: Database, wrapper: KeyWrapper, preparer: Preparer, batcher: Batcher) -> None:
        self._database = database
        self._wrapper = wrapper
        self._preparer = preparer
        self._batcher = batcher

    def replay(self, dead_key: int, *, by: str, reason: str) -> Verdict:
        """Does one dead letter again; only a verdict of *stored* or *superseded* has closed it.

        Raises:
            NotFound: ``dead-letter-absent``, ``raw-message-absent``.
            Conflict: ``dead-letter-closed``; others are transient.
            Incorrect: ``source-unknown``; the raw message was altered.
        """
        with self._database.transaction(read_only=True) as txn:
            dead = letter(txn, dead_key)
            row = raw_messages.get(txn, dead.raw_key, dead.raw_received_us)
        if dead.state != DeadState.OPEN:
            raise Conflict("dead-letter-closed", f"dead letter {dead_key} is {dead.state} already")
        if row is None:
            raise NotFound("raw-message-absent", f"the message of dead letter {dead_key} is not kept any more")
        prepared = self._preparer.prepare(opened(row, self._wrapper), envelope_of(row))
        for attempt in range(_ATTEMPTS):
            try:
                return self._batcher.replay(prepared, dead, by=by, reason=reason)
            except (Conflict, Unavailable) as error:
                if error.code == "dead-letter-closed" or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError


def resolve(database: Database, dead_key: int, *, by: str, reason: str) -> int:
    """Closes a dead letter without doing it; lifts the restrictions that came with it and answers how many.

    Raises:
        NotFound: ``dead-letter-absent``.
        Conflict: ``dead-letter-closed``.
    """
    with database.transaction() as txn:
        dead = letter(txn, dead_key)
        if not dead_letters.close(txn, dead_key, state=DeadState.RESOLVED, closed_by=by, reason=reason):
            raise Conflict("dead-letter-closed", f"dead letter {dead_key} is {dead.state} already")
        return lift_restrictions(txn, dead_key, by, reason)


def paused_sources(database: Database) -> Iterator[str]:
    """Sources whose intake waits because a consent named no patient."""
    with database.transaction(read_only=True) as txn:
        paused = source_control.paused(txn)
    return (name for name, row in sorted(paused.items()) if row.reason == CONSENT_ALARM)


def resume(database: Database, source: str, reason: str) -> None:
    """Lets a source go on that waits because of a consent without patient.

    Raises:
        Conflict: ``source-not-paused``.
    """
    with database.transaction() as txn:
        row = source_control.paused(txn).get(source)
        if row is None or row.reason != CONSENT_ALARM:
            raise Conflict("source-not-paused", f"intake from {source} does not wait for a consent to be looked at")
        source_control.resume(txn, source, reason)
        alarms.clear(txn, CONSENT_ALARM, source)
