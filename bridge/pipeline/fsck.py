"""Checks the whole store: from the stored bytes to the head on the chain, everything is derived again and compared.

Whoever can write to the store can't hide a change from this as long as the head of the log is held somewhere else: every
version's bytes, every link event, consent state and access record against its leaf; every leaf against its row; the leaves
against subtrees, roots, signed checkpoints, anchors, the signer's watermark and the chain; every block of a chain that can
be audited; search rows, names and units' states against the bytes that they follow from; links of persons against their
events; whether kept messages can still be decrypted; and the totals (promise P2). It reads in one transaction and in bounded
memory; it changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from bridge.keys.ports import KeyWrapper
from bridge.ledger.chain import Auditable, ChainBackend, LogId, Sight
from bridge.ledger.merkle import TreeHead
from bridge.ledger.note import VerifierKey
from bridge.pipeline.findings import Finding, Tally
from bridge.pipeline.fsck_links import LinkCheck
from bridge.pipeline.fsck_log import HeldHead, LogCheck
from bridge.pipeline.fsck_messages import MessageCheck
from bridge.pipeline.fsck_projections import ProjectionCheck
from bridge.pipeline.fsck_rows import RowCheck
from bridge.store import anchors, dead_letters, positions, raw_messages
from bridge.store.database import Database, Transaction
from bridge.store.rows import AccessRecord, AnchorState, Outcome


class Fsck:
    """One check of a store.

    Args:
        database: the store, opened for reading.
        wrapper: unwraps record keys.
        log_key: the log's key, named by its origin.
        access_bytes: the bytes that an access record's leaf commits to.
        identity_key: the deployment's, which mints ids.
        event_ahead_us: how far in the future an event may lie; None = not checked.
        messages_one_in: of so many kept messages one is decrypted; 1 = all.
        chain: whose head is compared, and whose blocks are audited where it can be; None leaves it out.
        watermark: the head that the signer remembers, if it remembers one.
    """

    def __init__(
        self,
        database: Database,
        wrapper: KeyWrapper,
        log_key: VerifierKey,
        access_bytes: Callable[[AccessRecord], bytes],
        *,
        identity_key: bytes,
        event_ahead_us: int | None = None,
        messages_one_in: int = 1,
        chain: ChainBackend | None = None,
        watermark: TreeHead | None = None,
    ) -> None:
        self._database = database
        self._wrapper = wrapper
        self._key = log_key
        self._access_bytes = access_bytes
        self._identity_key = identity_key
        self._event_ahead_us = event_ahead_us
        self._one_in = messages_one_in
        self._chain = chain
        self._watermark = watermark
        self.tally = Tally()

    def run(self) -> Iterator[Finding]:
        """Findings as they are found; :attr:`tally` is complete at the end.

        Raises:
            Unavailable: store, chain or key service does not answer; what was found until then stands.
        """
        held = self._held()  # before the store is looked at: the log only grows
        with self._database.transaction(read_only=True) as txn:
            yield from LogCheck(self._key, held, self.tally).run(txn)
            yield from RowCheck(self._wrapper, self._key.name, self._access_bytes, self.tally).run(txn)
            yield from ProjectionCheck(self._identity_key, self._event_ahead_us, self.tally).run(txn)
            yield from LinkCheck(self.tally).run(txn)
            yield from MessageCheck(self._wrapper, self._one_in, self.tally).run(txn)
            yield from _totals(txn, self.tally)
            anchored = self._greatest_anchor(txn)
        yield from self._on_chain(anchored)

    def _held(self) -> Sequence[HeldHead]:
        held: list[HeldHead] = []
        if self._watermark is not None:
            held.append(HeldHead("the head that the signer remembers", self._watermark))
        if self._chain is not None:
            head = self._chain.read_anchor(LogId.of_origin(self._key.name), sight=Sight.FINAL)
            if head is not None:
                name = self._chain.capabilities().chain
                held.append(HeldHead(f"the head on chain {name}", TreeHead(head.size, head.root.value)))
        return held

    def _audited(self) -> None:
        self.tally.checked["blocks"] += 1

    def _greatest_anchor(self, txn: Transaction) -> int:
        if self._chain is None:
            return 0
        log_id = LogId.of_origin(self._key.name).value
        row = anchors.latest(txn, self._chain.capabilities().kind, log_id)
        return row.size if row is not None and row.state == AnchorState.FINAL else 0

    def _on_chain(self, anchored: int) -> Iterator[Finding]:
        holds_all: object = self._chain
        if isinstance(holds_all, Auditable):
            for fault in holds_all.audit(self._audited):
                yield Finding("chain", fault.code, fault.message, place=fault.place)
        if self._chain is None or not anchored:
            return
        head = self._chain.read_anchor(LogId.of_origin(self._key.name), sight=Sight.FINAL)
        if head is None or head.size < anchored:
            place = f"anchor of {anchored} leaves"
            yield Finding("anchor", "anchor-not-on-chain", "the chain does not hold this anchor", place=place)


def _totals(txn: Transaction, tally: Tally) -> Iterator[Finding]:
    """Promise P2: each position's totals add up, and agree with the messages and dead letters that are kept."""
    by_source: dict[str, Counter[str]] = {}
    for row in positions.all_positions(txn):
        tally.checked["positions"] += 1
        place = f"{row.source} {row.topic_id} {row.partition}"
        if row.received != row.stored + row.filtered + row.duplicate + row.dead:
            yield Finding("source_position", "totals-differ", "received is not the sum of the outcomes", place=place)
        totals = by_source.setdefault(row.source, Counter())
        totals.update(stored=row.stored, filtered=row.filtered, duplicate=row.duplicate, dead=row.dead)
    kept: dict[str, Counter[str]] = {}
    for source, _state, outcome, number in raw_messages.counts(txn):
        if outcome is not None:
            stored = Outcome.STORED if outcome == Outcome.SUPERSEDED else outcome
            kept.setdefault(source, Counter())[str(stored)] += number
    open_or_resolved: Counter[str] = Counter()
    for (source, state), number in dead_letters.counts(txn).items():
        open_or_resolved[source] += number if state != "replayed" else 0
    for source in sorted(by_source.keys() | kept.keys() | set(open_or_resolved)):
        counted = by_source.get(source, Counter())
        for outcome in ("stored", "filtered", "duplicate", "dead"):
            if counted[outcome] != kept.get(source, Counter())[outcome]:
                words = (
                    f"the totals say {counted[outcome]} {outcome}, the messages {kept.get(source, Counter())[outcome]}"
                )
                yield Finding("raw_message", "messages-differ", words, place=source)
        if counted["dead"] != open_or_resolved[source]:
            words = f"the totals say {counted['dead']} dead, the dead letters {open_or_resolved[source]}"
            yield Finding("dead_letter", "dead-letters-differ", words, place=source)
