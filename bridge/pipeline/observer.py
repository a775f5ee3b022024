"""Brings the gauges that only the store knows up to date: totals that add up (P2), dead letters, pending leaves, alarms."""

from __future__ import annotations

import structlog

from bridge.errors import BridgeError
from bridge.store import alarms, dead_letters, leaves, positions, raw_messages
from bridge.store.database import Database
from bridge.store.rows import DeadState
from bridge.telemetry import metrics
from bridge.telemetry.stop import Stop

_log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 5.0


class Observer:
    """Reads the store now and then; one a process that serves metrics."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._alarms: set[str] = set()

    def run(self, stop: Stop) -> None:
        """Observes until ``stop`` is set."""
        while not stop.is_set:
            try:
                self.observe()
            except BridgeError as error:
                if not error.transient:
                    raise
                _log.info("not-observed", code=error.code)
            stop.wait(_INTERVAL_SECONDS)
        self._database.close()

    def observe(self) -> None:
        """Reads once."""
        with self._database.transaction(read_only=True) as txn:
            totals = positions.all_positions(txn)
            waiting = raw_messages.waiting_by_source(txn)
            dead = dead_letters.counts(txn)
            pending, _ = leaves.pending(txn)
            raised = {alarm.code for alarm in alarms.active(txn)}
        for source in {total.source for total in totals}:
            of_source = [total for total in totals if total.source == source]
            for outcome in ("received", "stored", "filtered", "duplicate", "dead"):
                number = sum(getattr(total, outcome) for total in of_source)
                metrics.POSITIONS.labels(source, outcome).set(number)
            metrics.IN_FLIGHT.labels(source).set(waiting.get(source, 0))
        metrics.DEAD_LETTERS_OPEN.set(sum(n for (_, state), n in dead.items() if state == DeadState.OPEN))
        metrics.LEAVES_PENDING.set(pending)
        for code in self._alarms | raised:
            metrics.ALARMS.labels(code).set(1 if code in raised else 0)
        self._alarms |= raised
