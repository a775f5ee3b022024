"""How the contract suite reaches the log behind each registered source."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from bridge.config.adapters import SOURCES, load_adapter
from bridge.pipeline.ports import Fetched, Partition, PositionOutOfRange, Source
from tests.services.kafka import Kafka

NAME = "adt"
PATIENCE_SECONDS = 60.0


class Log(Protocol):
    """A durable log of the test's own, on a real server."""

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Of a member of one and the same group; a silent member loses its partitions after two seconds."""

    def unreachable(self) -> dict[str, Any]:
        """Well-formed settings of a server that is not there."""

    def write(self, number: int, *contents: bytes) -> None:
        """Appends to a partition, durably."""

    def expire(self, number: int, first: int) -> None:
        """Retention: the partition begins at ``first`` from now on."""

    def recreate(self) -> None:
        """Deletes the log and makes an empty one of the same name."""

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The server keeps its connections and answers nothing."""


class KafkaLog:
    """A topic."""

    def __init__(self, kafka: Kafka, partitions: int) -> None:
        self._kafka = kafka
        self._partitions = partitions
        self._topic = kafka.create_topic(partitions=partitions)
        self._group = uuid.uuid4().hex

    def settings(self, **changes: Any) -> dict[str, Any]:
        return {
            "bootstrap_servers": [self._kafka.bootstrap],
            "topic": self._topic,
            "group_id": self._group,
            "session_timeout_seconds": 2,
            "max_poll_interval_seconds": 2,
            **changes,
        }

    def unreachable(self) -> dict[str, Any]:
        return self.settings(bootstrap_servers=["127.0.0.1:1"], connect_timeout_seconds=2)

    def write(self, number: int, *contents: bytes) -> None:
        producer = KafkaProducer(bootstrap_servers=self._kafka.bootstrap, metrics_enabled=False)
        for sent in [producer.send(self._topic, content, partition=number) for content in contents]:
            sent.get(timeout=30)
        producer.close()

    def expire(self, number: int, first: int) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self._kafka.bootstrap)
        admin.delete_records({TopicPartition(self._topic, number): first})
        admin.close()

    def recreate(self) -> None:
        self._kafka.delete_topic(self._topic)
        time.sleep(1)  # the name is free a moment after the deletion was answered
        self._kafka.create_topic(self._topic, partitions=self._partitions)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        with self._kafka.paused():
            yield


# adapter → the fixture of its server, and its log
LOGS: dict[str, tuple[str, Callable[[Any, int], Log]]] = {"kafka": ("kafka", KafkaLog)}


class Store:
    """The worker's side: says where to read next, and remembers what it was told, in order."""

    def __init__(self) -> None:
        self.position: dict[int, int] = {}
        self.owned: dict[int, Partition] = {}
        self.told: list[tuple[str, frozenset[int]]] = []

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self.owned.update({partition.number: partition for partition in partitions})
        self._note("assigned", partitions)
        return {partition: self.position.get(partition.number, 0) for partition in partitions}

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self._note("revoked", partitions)
        for partition in partitions:
            del self.owned[partition.number]

    def lost(self, partitions: Sequence[Partition]) -> None:
        self._note("lost", partitions)
        for partition in partitions:
            del self.owned[partition.number]

    def _note(self, what: str, partitions: Sequence[Partition]) -> None:
        self.told.append((what, frozenset(partition.number for partition in partitions)))


class Member:
    """A source built from its entry point, with its store; polls until something is so."""

    def __init__(self, adapter: str, settings: dict[str, Any]) -> None:
        spec = load_adapter(SOURCES, adapter)
        self.source: Source = spec.build(NAME, spec.settings.model_validate(settings))
        self.store = Store()
        self.got: list[Fetched] = []
        self.gaps: dict[Partition, int] = {}

    def open(self) -> Member:
        self.source.open(self.store)
        return self

    def poll(self, most: int = 100) -> Sequence[Fetched]:
        """One poll; what is fetched or missing is kept."""
        try:
            fetched = self.source.poll(most, 0.2)
        except PositionOutOfRange as gap:
            self.gaps.update(gap.first)
            return ()
        self.got.extend(fetched)
        return fetched

    def until(self, so: Callable[[], object], *others: Member, most: int = 100) -> None:
        """Polls for ``most`` at a time, and lets ``others`` poll, until ``so()``; fails after a minute."""
        limit = time.monotonic() + PATIENCE_SECONDS
        while not so():
            assert time.monotonic() < limit, f"it never came about; told {self.store.told}"
            for one in (self, *others):
                one.poll(most)

    def read(self, count: int) -> list[Fetched]:
        """Polls until ``count`` messages have come in all."""
        self.until(lambda: len(self.got) >= count)
        return self.got

    def ready(self, partitions: int = 1) -> Member:
        """Polls until it owns that many."""
        self.until(lambda: len(self.store.owned) == partitions)
        return self

    def quiet(self, polls: int = 8) -> list[Fetched]:
        """What some polls bring."""
        return [fetched for _ in range(polls) for fetched in self.poll()]

    def offsets(self, number: int = 0) -> list[int]:
        """Of what came from a partition, in order of coming."""
        return [fetched.offset for fetched in self.got if fetched.partition.number == number]


def ends(work: Callable[[], object]) -> bool:
    """Whether a call comes back at all, on a thread that nobody waits for longer than a minute."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return not thread.is_alive()
