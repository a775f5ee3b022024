"""The store as commands open it: only with the schema of this program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bridge.cli.deployment import Deployment
from bridge.store.database import Database
from bridge.store.migrate import require_current


@contextmanager
def opened_store(deployment: Deployment, *, read_only: bool = False) -> Iterator[Database]:
    """A connection to the store, closed at the end.

    Raises:
        Unavailable: ``store-absent``, ``schema-outdated``, or the store does not answer.
    """
    with deployment.database(read_only=read_only) as database:
        require_current(database)
        yield database
