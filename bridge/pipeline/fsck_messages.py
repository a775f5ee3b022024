"""Whether what was kept of the messages can still be read: the wrapping key is known, and every envelope opens."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Final

from bridge.errors import Incorrect, Unavailable
from bridge.keys.ports import KeyWrapper
from bridge.pipeline.findings import Finding, Tally
from bridge.pipeline.queue import opened
from bridge.store import scans
from bridge.store.database import Transaction
from bridge.store.rows import RawMessageRow

CHUNK: Final = 200  # each may hold megabytes


class MessageCheck:
    """One pass over the raw messages. Decrypts in memory and keeps nothing.

    Args:
        wrapper: unwraps data keys.
        one_in: of so many messages one is opened, others at each run; 1 = all.
        tally: counts what was checked.
    """

    def __init__(self, wrapper: KeyWrapper, one_in: int, tally: Tally) -> None:
        self._wrapper = wrapper
        self._one_in = one_in
        self._tally = tally

    def run(self, txn: Transaction) -> Iterator[Finding]:
        """Findings in no order.

        Raises:
            Unavailable: a key service does not answer.
        """
        rest = secrets.randbelow(self._one_in)
        for chunk in scans.stream_raw_messages(txn, one_in=self._one_in, rest=rest, chunk=CHUNK):
            for row in chunk:
                yield from self._opens(row)
            self._tally.checked["messages"] += len(chunk)

    def _opens(self, row: RawMessageRow) -> Iterator[Finding]:
        place = f"message {row.raw_key} of {row.source}"
        try:
            opened(row, self._wrapper)
        except Incorrect:
            words = "it was altered, or moved to another source or time: it can't be decrypted"
            yield Finding("raw_message", "message-unreadable", words, place=place)
        except Unavailable as error:
            if error.code != "wrapping-key-unknown":
                raise
            words = "its wrapping key is not among the keys of this deployment"
            yield Finding("raw_message", "message-key-unknown", words, place=place)
