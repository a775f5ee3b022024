"""Kafka as a source: a consumer group member whose place is the store's, not the group's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from pydantic import Field

from adapters.sources.kafka_client import KafkaConnection, closed_error, explained
from bridge.config.adapters import AdapterSpec
from bridge.errors import Fault
from bridge.pipeline.ports import Assignment, ContentKind, Fetched, Partition, PositionOutOfRange, RawMessage

# After these the group has taken the partitions away; the next poll rejoins and reports what was lost.
_LOST_MEMBERSHIP: Final = (
    kafka_errors.CommitFailedError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.IllegalStateError,
)

_FETCH_BYTES: Final = 2**20
_RANGE_MS: Final = 5000
_COMMIT_MS: Final = 5000  # only lag tools want it, and a stop waits for it
_KINDS: Final = {
    b"x-application/hl7-v2+er7": ContentKind.HL7V2,
    b"application/hl7-v2": ContentKind.HL7V2,
    b"application/fhir+json": ContentKind.FHIR_JSON,
    b"application/json": ContentKind.FHIR_JSON,
}


class KafkaSourceSettings(KafkaConnection):
    """A topic that brings HL7 v2 messages or FHIR JSON."""

    topic: str = Field(description="Topic to read.", examples=["adt"])
    group_id: str = Field(default="hie-bridge", description="Consumer group; one for all workers of a deployment.")
    max_poll_interval_seconds: float = Field(
        default=300, gt=1, description="A worker silent for longer loses its partitions."
    )
    session_timeout_seconds: float = Field(
        default=45, gt=0, description="A worker without heartbeat for longer loses its partitions."
    )
    max_message_bytes: int = Field(
        default=64 * 2**20, gt=0, description="Largest message that is read; a larger one stops the source."
    )


class KafkaSource:
    """See :class:`bridge.pipeline.ports.Source`.

    The store answers where to read next on every assignment; committed offsets are written for lag tools only. Rebalance
    callbacks come on the client's own loop and must not block, so they are noted there and told to the assignment at the
    next poll, on the caller's thread; records of a partition fetched before its seek are thrown away.

    A partition that does not hold the position to be read next is paused here and reported once, whether that is seen at
    its assignment or while it is read; :meth:`seek` lets it go on.
    """

    def __init__(self, name: str, settings: KafkaSourceSettings) -> None:
        self.name = name
        self._settings = settings
        self._consumer: Any = None
        self._assignment: Assignment | None = None
        self._owned: dict[TopicPartition, Partition] = {}
        self._gaps: dict[Partition, int] = {}
        self._rebalances: list[tuple[str, list[TopicPartition]]] = []
        self._member = ""  # of which membership the owned partitions are

    def open(self, assignment: Assignment) -> None:
        """Joins the group."""
        settings = self._settings
        self._assignment = assignment
        with explained(f"read topic {settings.topic}"):
            self._consumer = KafkaConsumer(
                group_id=settings.group_id,
                enable_auto_commit=False,
                auto_offset_reset="none",  # an offset that is out of range is said, never passed over
                isolation_level="read_committed",
                partition_assignment_strategy=(CooperativeStickyAssignor,),
                max_poll_interval_ms=int(settings.max_poll_interval_seconds * 1000),
                session_timeout_ms=int(settings.session_timeout_seconds * 1000),
                heartbeat_interval_ms=int(min(3.0, settings.session_timeout_seconds / 3) * 1000),
                # The client holds a response several times over (pieces, joined, framed, by partition) on top of the one
                # that is worked off, for each source; a larger message comes all the same, alone (KIP-74).
                max_partition_fetch_bytes=_FETCH_BYTES // 4,
                fetch_max_bytes=_FETCH_BYTES,
                receive_message_max_bytes=settings.max_message_bytes + 8 * _FETCH_BYTES,
                fetch_max_wait_ms=100,
                **settings.client_arguments(),
            )
            self._consumer.subscribe([settings.topic], listener=_Listener(self._rebalances))

    def poll(self, max_messages: int, timeout_seconds: float) -> Sequence[Fetched]:
        """Up to ``max_messages``, in partition order.

        Raises:
            Unavailable: the brokers are out of reach.
            PositionOutOfRange: retention overtook partitions, or their log was cut or restored.
        """
        consumer = self._opened()
        if self._gaps:
            gaps, self._gaps = self._gaps, {}
            raise PositionOutOfRange(gaps)
        try:
            records, moved = self._pulled(consumer, max_messages, int(timeout_seconds * 1000))
        except _LOST_MEMBERSHIP:
            self._lose(list(self._owned))
            self._member = ""  # the client may yet be a member, and says nothing of partitions that it has kept
            return ()
        except kafka_errors.KafkaError as error:
            raise closed_error(error, f"read topic {self._settings.topic}") from error
        received_us = time.time_ns() // 1000
        fetched: list[Fetched] = []
        for topic_partition, batch in records.items():
            partition = self._owned.get(topic_partition)
            if partition is None or topic_partition in moved:
                continue
            fetched.extend(
                Fetched(
                    partition,
                    record.offset,
                    RawMessage(self.name, record.value or b"", _kind(record.headers), record.key, received_us),
                )
                for record in batch
            )
        return fetched

    def _pulled(
        self, consumer: Any, max_messages: int, timeout_ms: int
    ) -> tuple[Mapping[TopicPartition, Sequence[Any]], set[TopicPartition]]:
        """Records by partition, and the partitions whose records are void; tells rebalances, notes gaps."""
        records: Mapping[TopicPartition, Sequence[Any]] = {}
        missing: dict[TopicPartition, int | None] = {}
        try:
            records = consumer.poll(timeout_ms=timeout_ms, max_records=max_messages)
        except kafka_errors.NoOffsetForPartitionError:
            pass  # newly assigned and never committed; the store says where to read
        except kafka_errors.OffsetOutOfRangeError as error:
            missing = dict.fromkeys(error.args[0])
        except kafka_errors.LogTruncationError as error:
            missing = {tp: place and place.offset for tp, place in error.divergent_offsets.items()}
        if missing:
            consumer.topics()  # asks the brokers: a topic created anew is another one, not this one with a gap
        moved = self._rebalance()
        self._miss({tp: go_on for tp, go_on in missing.items() if tp in self._owned and tp not in moved})
        return records, moved

    def commit(self, positions: Mapping[Partition, int]) -> None:
        """Commits the positions of partitions still owned; a lost membership is noticed at the next poll."""
        consumer = self._opened()
        owned = {partition: topic_partition for topic_partition, partition in self._owned.items()}
        offsets = {owned[p]: OffsetAndMetadata(offset, "", -1) for p, offset in positions.items() if p in owned}
        if not offsets:
            return
        try:
            consumer.commit(offsets, timeout_ms=_COMMIT_MS)
        except _LOST_MEMBERSHIP:
            return
        except kafka_errors.KafkaError as error:
            raise closed_error(error, "commit offsets") from error

    def seek(self, partition: Partition, offset: int) -> None:
        """Reads an owned partition from ``offset`` on."""
        for topic_partition in self._owned_among([partition]):
            self._opened().seek(topic_partition, offset)
            self._opened().resume(topic_partition)

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stops fetching the owned ones among ``partitions``."""
        self._opened().pause(*self._owned_among(partitions))

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetches them again."""
        self._opened().resume(*self._owned_among(partitions))

    def close(self) -> None:
        """Leaves the group, so that the partitions move at once."""
        consumer, self._consumer = self._consumer, None
        self._owned.clear()
        self._gaps.clear()
        self._rebalances = []
        self._member = ""
        if consumer is not None:
            with suppress(kafka_errors.KafkaError):  # then the group finds out by itself
                consumer.close(autocommit=False, timeout_ms=5000)

    def _opened(self) -> Any:
        if self._consumer is None:
            raise Fault("source-not-open", f"source {self.name} is used before it is opened")
        return self._consumer

    def _owned_among(self, partitions: Sequence[Partition]) -> list[TopicPartition]:
        wanted = set(partitions)
        return [topic_partition for topic_partition, partition in self._owned.items() if partition in wanted]

    def _topic_id(self) -> str:
        # The public client offers no topic id short of an admin request at every poll; its metadata holds it.
        return str(self._consumer._cluster.topic_id(self._settings.topic) or "")  # noqa: SLF001

    def _rebalance(self) -> set[TopicPartition]:
        """Tells the assignment what happened; answers the partitions whose fetched records are void."""
        moved: set[TopicPartition] = set()
        before = set(self._owned)
        while self._rebalances:
            kind, topic_partitions = self._rebalances.pop(0)
            moved.update(topic_partitions)
            if kind == "assigned":
                self._assign(topic_partitions)
            else:
                self._lose(topic_partitions, revoked=kind == "revoked")
        moved |= self._renew_membership(before - moved)
        recreated = [tp for tp, partition in self._owned.items() if partition.topic_id != self._topic_id()]
        if recreated:
            self._lose(recreated)
            self._assign(recreated)
            moved.update(recreated)
        return moved

    def _renew_membership(self, held: set[TopicPartition]) -> set[TopicPartition]:
        """Where the group has put this member out, what it ``held`` is lost; answers which partitions that concerns.

        The client keeps the assignment when it joins anew, and says nothing of partitions that it gets back, though others
        may have had them meanwhile.
        """
        metadata = self._consumer.group_metadata()
        member = metadata.member_id if metadata.generation_id >= 0 else ""
        if member == self._member:
            return set()
        self._member = member
        self._lose([tp for tp in held if tp in self._owned])
        returned = self._consumer.assignment() - self._owned.keys() if member else set()
        self._assign(list(returned))
        return held | returned

    def _assign(self, topic_partitions: list[TopicPartition]) -> None:
        assert self._assignment is not None
        gainable = self._consumer.assignment() - self._owned.keys()
        topic_id = self._topic_id()
        gained = {tp: Partition(self.name, topic_id, tp.partition) for tp in topic_partitions if tp in gainable}
        if not gained:
            return
        offsets = self._assignment.assigned(list(gained.values()))
        first, end = self._range(list(gained))
        for topic_partition, partition in gained.items():
            self._owned[topic_partition] = partition
            self._consumer.seek(topic_partition, offsets[partition])
            if not first[topic_partition] <= offsets[partition] <= end[topic_partition]:
                self._consumer.pause(topic_partition)
                self._gaps[partition] = first[topic_partition]

    def _miss(self, missing: Mapping[TopicPartition, int | None]) -> None:
        """Notes owned partitions that no longer hold their position, with the offset to go on from if that is known."""
        if not missing:
            return
        self._consumer.pause(*missing)
        first, _ = self._range(list(missing))
        for topic_partition, go_on in missing.items():
            partition = self._owned[topic_partition]
            self._gaps[partition] = first[topic_partition] if go_on is None else go_on

    def _range(
        self, topic_partitions: list[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """First and last offset of each; without a limit the client would ask for ever, and no stop would be seen."""
        return (
            self._consumer.beginning_offsets(topic_partitions, timeout_ms=_RANGE_MS),
            self._consumer.end_offsets(topic_partitions, timeout_ms=_RANGE_MS),
        )

    def _lose(self, topic_partitions: list[TopicPartition], *, revoked: bool = False) -> None:
        assert self._assignment is not None
        gone = [self._owned.pop(tp) for tp in topic_partitions if tp in self._owned]
        for partition in gone:
            self._gaps.pop(partition, None)
        if gone:
            (self._assignment.revoked if revoked else self._assignment.lost)(gone)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Only notes what happened: it runs on the client's event loop."""

    def __init__(self, rebalances: list[tuple[str, list[TopicPartition]]]) -> None:
        self._rebalances = rebalances

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._rebalances.append(("assigned", list(assigned)))

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._rebalances.append(("revoked", list(revoked)))

    def on_partitions_lost(self, lost: Any) -> None:
        self._rebalances.append(("lost", list(lost)))


def _kind(headers: Sequence[tuple[str, bytes]] | None) -> ContentKind | None:
    for name, value in headers or ():
        if name.lower() == "content-type":
            return _KINDS.get(bytes(value).split(b";")[0].strip().lower())
    return None


adapter = AdapterSpec(name="kafka", settings=KafkaSourceSettings, build=KafkaSource)
