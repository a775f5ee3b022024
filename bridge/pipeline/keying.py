"""Keys for messages that listeners put into a partitioned intake (law *Order*).

Messages of one patient get one key, so that a partition mostly brings them in order; correctness never rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bridge.config.site import Site
from bridge.pipeline.consent_scan import patients_named
from bridge.pipeline.ports import Intake, RawMessage, Receipt
from bridge.pipeline.prepare import detect


class KeyedIntake:
    """An intake that gives each message without a key the one of its site and primary patient identifier."""

    def __init__(self, intake: Intake, sites: Mapping[str, Site]) -> None:
        self._intake = intake
        self._sites = sites

    async def accept(self, raw: RawMessage) -> Receipt:
        """As the intake behind it."""
        if raw.key is None:
            raw = replace(raw, key=partition_key(raw, self._sites[raw.source]))
        return await self._intake.accept(raw)

    def close(self) -> None:
        """Closes the intake behind it."""
        self._intake.close()


def partition_key(raw: RawMessage, site: Site) -> bytes | None:
    """``site|identifier`` by the site's foremost `record` authority that the message names; None if it names no patient."""
    ranks = site.record_rank
    names = [name for name in patients_named(raw, raw.kind or detect(raw.content), site) if name.namespace in ranks]
    if not names:
        return None
    primary = min(names, key=lambda name: (ranks[name.namespace], name))
    return f"{site.site}|{primary.value}".encode()
