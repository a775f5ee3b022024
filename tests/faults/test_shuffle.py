"""Promise P3: the same messages in any order, in any batches, some of them refused at first: the same resources."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.cli.deployment import Deployment
from bridge.errors import Incorrect
from bridge.pipeline.batch import Item, Place
from bridge.pipeline.ports import ContentKind, Partition, RawMessage
from bridge.pipeline.prepare import Prepared, Preparer, Stage
from bridge.pipeline.queue import opened
from bridge.store import dead_letters, positions, raw_messages
from bridge.store.database import Database
from bridge.store.rows import DeadState, Outcome
from bridge.synth.feed import SynthMessage
from bridge.telemetry.stop import Stop
from tests.faults.deployments import SITES, Bridge, Topics, feed, kafka_sources, received, run_to_end, until
from tests.faults.oracle import differences, read, violations
from tests.services.kafka import Kafka
from tests.services.postgres import Postgres

FOLDERS = {"listeners": [{"name": site, "adapter": "folder", "site": site, "path": "/nowhere"} for site in SITES]}
REFUSED = Incorrect("refused-at-first", "A test refuses this message until it is replayed.")


class Pipeline:
    """The worker's parts in this thread, fed by hand."""

    def __init__(self, deployment: Deployment, database: Database) -> None:
        self.database = database
        self.preparer: Preparer = deployment.preparer()
        self.batcher = deployment.batcher(database)
        self.keys = deployment.keys
        self.now_us = time.time_ns() // 1000  # the feed is of the past
        self._places: dict[tuple[str, int], Place] = {}

    def store(self, partition: tuple[str, int], messages: Sequence[tuple[SynthMessage, bool]]) -> None:
        """One batch of a partition (source and number); each message with whether it is refused."""
        place = self._places.get(partition) or self._claimed(partition)
        items = []
        for offset, (message, refused) in enumerate(messages, place.expected):
            raw = RawMessage(message.site, message.content, ContentKind.HL7V2, received_us=self.now_us + offset)
            prepared = self.preparer.prepare(raw)
            if refused:
                prepared = prepared.failed(REFUSED, Stage.MAP)
            items.append(Item(prepared, offset=offset))
        self.batcher.store(items, place, Stop())
        self._places[partition] = Place(place.partition, place.expected + len(items), place.epoch)

    def _claimed(self, partition: tuple[str, int]) -> Place:
        source, number = partition
        with self.database.transaction() as txn:
            position = positions.claim(txn, source, "topic", number)
        return Place(Partition(source, "topic", number), position.next_offset, position.epoch)

    def replay(self, rng: random.Random, codes: set[str]) -> int:
        """Replays the dead letters of these causes in random order; answers how many."""
        with self.database.transaction(read_only=True) as txn:
            letters = dead_letters.list_letters(txn, state=DeadState.OPEN, limit=100_000)
        chosen = [letter for letter in letters if letter.code in codes]
        rng.shuffle(chosen)
        for letter in chosen:
            with self.database.transaction(read_only=True) as txn:
                row = raw_messages.get(txn, letter.raw_key, letter.raw_received_us)
            assert row is not None
            prepared: Prepared = self.preparer.prepare(opened(row, self.keys))
            verdict = self.batcher.replay(prepared, letter, by="operator", reason="the map was mended")
            assert verdict.outcome in {Outcome.STORED, Outcome.SUPERSEDED}, verdict.error
        return len(chosen)


@contextmanager
def pipeline(folder: Path, keys: Path | None = None) -> Iterator[tuple[Bridge, Pipeline]]:
    folder.mkdir()
    bridge = Bridge(folder, f"sqlite:///{folder}/store.db", keys=keys, **FOLDERS)
    with bridge.database(read_only=False) as database:
        yield bridge, Pipeline(bridge.deployment(), database)


def in_order(work: Pipeline, messages: Sequence[SynthMessage]) -> None:
    for first in range(0, len(messages), 100):
        by_site: dict[str, list[tuple[SynthMessage, bool]]] = {}
        for message in messages[first : first + 100]:
            by_site.setdefault(message.site, []).append((message, False))
        for site, batch in by_site.items():
            work.store((site, 0), batch)


def shuffled(work: Pipeline, messages: Sequence[SynthMessage], rng: random.Random, partitions: int = 4) -> set[int]:
    """Stores the messages in random order and batches; answers which were refused: one in twenty of the covered ones."""
    order = list(range(len(messages)))
    rng.shuffle(order)
    covered = [number for number in order if messages[number].outcome.value == "stored"]
    refused = set(covered[: len(messages) // 20])
    waiting: dict[tuple[str, int], list[tuple[SynthMessage, bool]]] = {}
    for number in order:
        partition = (messages[number].site, rng.randrange(partitions))
        batch = waiting.setdefault(partition, [])
        batch.append((messages[number], number in refused))
        if len(batch) >= rng.choice((1, 3, 10, 40)):
            work.store(partition, waiting.pop(partition))
    for partition, batch in waiting.items():
        work.store(partition, batch)
    return refused


@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_any_batches_and_late_replays_give_the_same_content(tmp_path: Path, seed: int) -> None:
    """Resources, names and persons of a shuffled feed are those of the ordered one; every leaf is there once."""
    messages = feed(600, seed)
    rng = random.Random(seed)
    with pipeline(tmp_path / "ordered") as (ordered, work):
        in_order(work, messages)
        undisturbed = read(work.database, work.keys)
    with pipeline(tmp_path / "shuffled", ordered.key_file) as (_, work):
        refused = shuffled(work, messages, rng)
        replayed = work.replay(rng, {REFUSED.code})
        other = read(work.database, work.keys)

    assert replayed == len(refused) >= 25
    assert violations(other, drained=False) == []
    assert differences(undisturbed, other) == []


def refusing_at_first(messages: Sequence[SynthMessage]) -> dict[str, int]:
    """Limits under which one in twenty of the covered messages is too long to be taken."""
    lengths = sorted(len(message.content) for message in messages if message.outcome.value == "stored")
    return {"message_bytes": lengths[len(lengths) * 19 // 20]}


@pytest.mark.ci
@pytest.mark.timeout(600)
def test_a_feed_spread_over_partitions_at_random_gives_the_content_of_the_ordered_one(
    tmp_path: Path, kafka: Kafka, postgres: Postgres
) -> None:
    """2,000 messages in random order over 20 partitions and two workers; 5 % are dead letters first and replayed last."""
    messages = list(feed(2_000))
    rng = random.Random(7)
    with pipeline(tmp_path / "ordered") as (ordered, work):
        in_order(work, messages)
        undisturbed = read(work.database, work.keys)
    topics = Topics(kafka, partitions=4)
    rng.shuffle(messages)
    topics.send(messages, partition=lambda: rng.randrange(topics.partitions))
    topics.close()
    sources = kafka_sources(kafka, topics.names, "shuffled")
    store, keys, limits = postgres.create_database(), ordered.key_file, refusing_at_first(messages)
    bridge = Bridge(tmp_path / "shuffled", store, keys=keys, limits=limits, **sources)
    roles = [bridge.role("work", "work-1"), bridge.role("work", "work-2")]
    for role in roles:
        role.begin()
    with bridge.database() as database:
        until(lambda: received(database) == len(messages), "all messages received")
        assert [run_to_end(role) for role in roles] == [0, 0]
        refused = sum(
            row["code"] == "message-too-large" for row in read(database, bridge.deployment().keys).tables["dead_letter"]
        )
        mended = Bridge(tmp_path / "mended", store, keys=keys, **sources)
        code, said = mended.command("deadletters", "replay", "--all", "--reason", "the limit was raised", "--json")
        other = read(database, bridge.deployment().keys)

    assert refused >= 90
    assert code == 1, said  # those that no limit made dead stay so
    assert other.totals()["dead"] == undisturbed.totals()["dead"]
    assert violations(other, drained=False) == []
    assert differences(undisturbed, other) == []
