"""Promise P1: ``kill -9`` anywhere loses and doubles nothing.

Processes of the program are killed while they work a feed off: at random moments, and by failpoints at every boundary where
something becomes durable, is signed, sent or published. Afterwards the oracle compares the store with that of an undisturbed
run of the same feed, and checks it by itself. The short feeds take about two minutes each; ``long`` ones ten.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bridge.synth.feed import SynthMessage
from tests.faults.deployments import (
    Bridge,
    Role,
    Topics,
    anchored,
    evm_chain,
    feed,
    kafka_sources,
    received,
    run_to_end,
    signed,
    until,
    waiting,
)
from tests.faults.oracle import Snapshot, differences, outcome_differences, read, violations
from tests.faults.senders import Hospitals, free_ports, mllp_listeners
from tests.services.anvil import Anvil
from tests.services.kafka import Kafka
from tests.services.postgres import Postgres

pytestmark = pytest.mark.ci

BETWEEN = "worker.after-commit"  # the database has the batch, the broker does not know
SEQUENCING = (
    "sequencer.before-commit",
    "sequencer.after-commit",
    "sequencer.before-sign",
    "sequencer.after-sign",
    "sequencer.after-publish",
)
ANCHORING = ("anchor.before-persist", "anchor.after-persist", "anchor.after-send", "anchor.after-acknowledge")
RANDOM = ""
_PATIENCE_SECONDS = 12.0


@dataclass
class Slot:
    """A place for one process at a time, and how each of its lives is to end: at a failpoint, or at a random moment."""

    role: Role
    lives: list[str]
    moments: tuple[float, float]
    spare: int = 10
    deadline: float = 0.0
    planned: str | None = None
    kills: Counter[str] = field(default_factory=Counter)
    begun: int = 0

    @property
    def progress(self) -> float:
        """The share of its lives that have begun."""
        return self.begun / (self.begun + len(self.lives)) if self.planned is not None or self.lives else 1.0

    def turn(self, rng: random.Random) -> bool:
        """Notes an end, ends what is due, begins the next life; answers whether one began."""
        now = time.monotonic()
        if self.planned is not None:
            ended = self.role.ended()
            if ended is None and now < self.deadline:
                return False
            if ended is None:
                self.role.kill()
                self.kills[RANDOM] += 1
                if self.planned != RANDOM and self.spare > 0:  # it did not get there in time: again, later
                    self.spare -= 1
                    self.lives.append(self.planned)
            else:
                assert ended == -signal.SIGKILL, f"ended by itself with {ended}:\n{self.role.log_text()[-3000:]}"
                self.kills[self.planned.partition("=")[0]] += 1
        self.planned = self.lives.pop(0) if self.lives else None
        if self.planned is None:
            return False
        # The trace shows that no offset was committed after the last database commit of a life.
        points = f"{self.planned},worker.after-offset-commit=trace" if BETWEEN in self.planned else self.planned
        self.role.begin(points)
        self.begun += 1
        self.deadline = now + (rng.uniform(*self.moments) if self.planned == RANDOM else _PATIENCE_SECONDS)
        return True


def campaign(slots: Sequence[Slot], rng: random.Random, more: Callable[[float], None]) -> Counter[str]:
    """Lives all lives; ``more`` brings the next part of the feed, no further than the slot that is least far has come.

    Answers the kills by failpoint (RANDOM = by us).
    """
    asked = 0.0
    while sum(slot.turn(rng) for slot in slots) or any(slot.planned is not None for slot in slots):
        if time.monotonic() - asked > 0.7:
            more(min(slot.progress for slot in slots))
            asked = time.monotonic()
        time.sleep(0.02)
    return sum((slot.kills for slot in slots), Counter())


def killed_between(bridge: Bridge) -> int:
    """How many processes ended after a database commit and before its offset commit, as the trace file shows."""
    last = {pid: name for name, pid in bridge.passages()}
    return sum(name == BETWEEN for name in last.values())


class Portions:
    """A feed handed out in portions, in step with the campaign: so that on a slow machine it outlasts it too."""

    def __init__(self, messages: Sequence[SynthMessage], portions: int) -> None:
        self.messages = messages
        self._size = max(1, len(messages) // portions)
        self.given = 0

    def next(self, progress: float) -> Sequence[SynthMessage]:
        """The next portion, up to that share of the feed; the last tenth is kept for the end."""
        end = min(self.given + self._size, int(len(self.messages) * 0.9 * progress))
        part = self.messages[self.given : end]
        self.given = max(end, self.given)
        return part

    def rest(self) -> Sequence[SynthMessage]:
        """All that is left."""
        part = self.messages[self.given :]
        self.given = len(self.messages)
        return part


def assert_same(undisturbed: Snapshot, other: Snapshot, *, sent_again: bool = False) -> None:
    assert violations(undisturbed) == []
    assert violations(other) == []
    assert differences(undisturbed, other) == []
    assert outcome_differences(undisturbed, other, sent_again=sent_again) == []


# Kafka and PostgreSQL, separate roles


def worker_lives(rng: random.Random, times: int) -> list[str]:
    """At each boundary of the worker ``times`` times (between the commits more often), and at random as often."""
    lives = [f"{BETWEEN}=kill@{rng.randint(1, 4)}" for _ in range(times + 2)]
    lives += [f"worker.before-commit=kill@{rng.randint(1, 5)}" for _ in range(times)]
    lives += ["worker.after-offset-commit=kill@1" for _ in range(times)]
    lives += [RANDOM for _ in range(times + 2)]
    rng.shuffle(lives)
    return lives


def on_kafka(messages: int, times: int, tmp_path: Path, kafka: Kafka, postgres: Postgres, anvil: Anvil) -> None:
    rng = random.Random(messages)
    topics = Topics(kafka)
    limits = {"limits": {"batch_messages": 10}}
    chain = evm_chain(anvil, tmp_path / "chain")
    harassed = Bridge(
        tmp_path / "harassed",
        postgres.create_database(),
        chain=chain,
        **limits,
        **kafka_sources(kafka, topics.names, "harassed"),
    )
    lives = worker_lives(rng, times)
    anchor_lives = [f"{point}=kill@{rng.randint(1, 2)}" for point in (*SEQUENCING, *ANCHORING)]
    rng.shuffle(anchor_lives)
    slots = [
        Slot(harassed.role("work", "work-1"), lives[::2], (2.5, 6)),
        Slot(harassed.role("work", "work-2"), lives[1::2], (2.5, 6)),
        Slot(harassed.role("anchor"), anchor_lives, (3, 6)),
    ]
    portions = Portions(feed(messages), 10 + 5 * len(lives) // 2)
    kills = campaign(slots, rng, lambda progress: topics.send(portions.next(progress)))
    with harassed.database() as database:
        meanwhile = received(database)
    topics.send(portions.rest())
    told = f"{dict(kills)}; between the commits: {killed_between(harassed)}"
    print(f"kills: {sum(kills.values())} {told}; meanwhile {meanwhile} of {messages} messages")
    roles = [slot.role for slot in slots]
    for role in roles:
        role.begin()
    with harassed.database() as database:
        until(lambda: received(database) == messages, "all messages received")
        until(lambda: signed(database), "all leaves signed")
        until(lambda: anchored(harassed), "the log anchored")
        assert [run_to_end(role) for role in roles] == [0, 0, 0]
        other = read(database, harassed.deployment().keys)

    undisturbed = undisturbed_on_kafka(messages, tmp_path, kafka, postgres, topics, harassed)
    topics.close()
    worker_kills = kills - Counter({point: kills[point] for point in (*SEQUENCING, *ANCHORING)})
    assert_same(undisturbed, other)
    assert sum(worker_kills.values()) >= 25
    assert killed_between(harassed) >= 5
    assert {*SEQUENCING, *ANCHORING, BETWEEN, "worker.before-commit", "worker.after-offset-commit"} <= kills.keys()


def undisturbed_on_kafka(
    messages: int, tmp_path: Path, kafka: Kafka, postgres: Postgres, topics: Topics, like: Bridge
) -> Snapshot:
    bridge = Bridge(
        tmp_path / "undisturbed",
        postgres.create_database(),
        keys=like.key_file,
        **kafka_sources(kafka, topics.names, "undisturbed"),
    )
    roles = [bridge.role("work"), bridge.role("anchor")]
    for role in roles:
        role.begin()
    with bridge.database() as database:
        until(lambda: received(database) == messages, "all messages received")
        until(lambda: signed(database), "all leaves signed")
        assert [run_to_end(role) for role in roles] == [0, 0]
        return read(database, bridge.deployment().keys)


@pytest.mark.timeout(600)
def test_killed_workers_on_kafka_and_postgresql_lose_and_double_nothing(
    tmp_path: Path, kafka: Kafka, durable_postgres: Postgres, anvil: Anvil
) -> None:
    """Two workers and the anchoring role, killed over and over while a feed of 2,000 messages comes in."""
    on_kafka(2_000, 6, tmp_path, kafka, durable_postgres, anvil)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_killed_workers_on_kafka_and_postgresql(
    tmp_path: Path, kafka: Kafka, durable_postgres: Postgres, anvil: Anvil
) -> None:
    """As above, longer."""
    on_kafka(12_000, 30, tmp_path, kafka, durable_postgres, anvil)


# SQLite, the embedded queue, everything in one process


def embedded_lives(rng: random.Random, times: int) -> list[str]:
    """At each boundary of every role ``times`` times, and at random."""
    points = [
        "intake.before-durable",
        "intake.after-durable",
        "mllp.before-acknowledge",
        "worker.before-commit",
        "worker.after-commit",
        *SEQUENCING,
        *ANCHORING,
    ]
    lives = [f"{point}=kill@{rng.randint(1, 3)}" for point in points for _ in range(times)]
    lives += [RANDOM for _ in range(2 * times)]
    rng.shuffle(lives)
    return lives


def embedded(messages: int, times: int, tmp_path: Path) -> None:
    rng = random.Random(messages)
    ports = free_ports()
    limits = {"limits": {"batch_messages": 20}}
    harassed = Bridge(tmp_path / "harassed", f"sqlite:///{tmp_path}/harassed.db", **limits, **mllp_listeners(ports))
    portions = Portions(feed(messages), 110 * times)
    hospitals = Hospitals(portions.messages, ports)

    def more(progress: float) -> None:
        portions.next(progress)
        hospitals.allow(portions.given)

    slot = Slot(harassed.role("up"), embedded_lives(rng, times), (2.5, 5))
    kills = campaign([slot], rng, more)
    told = f"{dict(kills)}; meanwhile {hospitals.answered} of {messages} messages"
    print(f"kills: {sum(kills.values())} {told}, {hospitals.repeated} attempts in vain")
    other = finish_embedded(harassed, slot.role, hospitals, messages)
    quiet = Bridge(
        tmp_path / "quiet",
        f"sqlite:///{tmp_path}/quiet.db",
        keys=harassed.key_file,
        **mllp_listeners(ports),
    )
    role = quiet.role("up")
    undisturbed = finish_embedded(quiet, role, Hospitals(portions.messages, ports), messages)

    assert_same(undisturbed, other, sent_again=True)
    assert sum(kills.values()) >= 25
    assert {life.partition("=")[0] for life in embedded_lives(rng, 1)} - {RANDOM} <= kills.keys()


def finish_embedded(bridge: Bridge, role: Role, hospitals: Hospitals, messages: int) -> Snapshot:
    hospitals.allow(messages)
    role.begin()
    hospitals.join()
    with bridge.database() as database:
        until(lambda: waiting(database) == 0, "the queue worked off")
        until(lambda: signed(database), "all leaves signed")
        until(lambda: anchored(bridge), "the log anchored")
        assert run_to_end(role) == 0
        return read(database, bridge.deployment().keys)


@pytest.mark.timeout(600)
def test_a_killed_embedded_bridge_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """All roles in one process on SQLite, killed over and over while five hospitals send 2,000 messages over MLLP."""
    embedded(2_000, 2, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_an_embedded_bridge_killed_many_times(tmp_path: Path) -> None:
    """As above, longer."""
    embedded(10_000, 10, tmp_path)
