"""What the Kafka source makes of a membership that fails without a word from the client about its partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors

from adapters.sources.kafka import KafkaSource, KafkaSourceSettings
from bridge.pipeline.ports import Partition

PLACE = TopicPartition("adt", 0)


class Consumer:
    """A member that keeps its id and its only partition, whatever happens."""

    def __init__(self) -> None:
        self._cluster = SimpleNamespace(topic_id=lambda _topic: "t")
        self.fails: list[Exception] = []
        self.next = 0

    def poll(self, **_: int) -> Mapping[TopicPartition, Sequence[Any]]:
        if self.fails:
            raise self.fails.pop()
        self.next += 1
        return {PLACE: [SimpleNamespace(offset=self.next - 1, value=b"MSH", key=None, headers=[])]}

    def group_metadata(self) -> SimpleNamespace:
        return SimpleNamespace(member_id="m", generation_id=1)

    def assignment(self) -> set[TopicPartition]:
        return {PLACE}

    def beginning_offsets(self, places: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    def end_offsets(self, places: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 100)

    def seek(self, _place: TopicPartition, offset: int) -> None:
        self.next = offset


class Places:
    """Counts what it is told; everything is to be read from 5 on."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self.told.append("assigned")
        return dict.fromkeys(partitions, 5)

    def revoked(self, _partitions: Sequence[Partition]) -> None:
        self.told.append("revoked")

    def lost(self, _partitions: Sequence[Partition]) -> None:
        self.told.append("lost")


@pytest.mark.parametrize("error", [kafka_errors.RebalanceInProgressError, kafka_errors.IllegalStateError])
def test_partitions_that_a_member_keeps_through_a_failure_are_read_on(error: type[Exception]) -> None:
    """They were given up here, and the client says nothing of what it never gave up: they would wait for ever."""
    source, consumer, places = (
        KafkaSource("adt", KafkaSourceSettings(bootstrap_servers=("127.0.0.1:1",), topic="adt")),
        Consumer(),
        Places(),
    )
    source._consumer, source._assignment = consumer, places
    source.poll(10, 0)
    assert [fetched.offset for fetched in source.poll(10, 0)] == [5]

    consumer.fails.append(error())
    brought = [fetched.offset for _ in range(3) for fetched in source.poll(10, 0)]

    assert places.told == ["assigned", "lost", "assigned"]
    assert brought == [5]
