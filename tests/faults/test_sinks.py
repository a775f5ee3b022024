"""Sinks under faults: processes of the program that deliver are killed, destinations go away; nothing is lost, order holds.

Kafka is a real broker, the FHIR server one written for tests (:mod:`tests.contract.fhir_receiver`).
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.fhir.json import loads_stored
from bridge.store import leases, outbox, resources
from bridge.store.database import Database
from tests.contract.fhir_receiver import Receiver
from tests.contract.sink_harness import SYSTEM, Topic
from tests.faults.deployments import Bridge, Role, feed, run_to_end, until, waiting
from tests.faults.senders import Hospitals, free_ports, mllp_listeners
from tests.services.kafka import Kafka

pytestmark = pytest.mark.ci

MESSAGES = 160
SINKS = ("ehr", "events")


class Scene:
    """A bridge with two sinks, fed over MLLP; what delivers is a process of its own."""

    def __init__(self, folder: Path, kafka: Kafka, receiver: Receiver) -> None:
        self.receiver = receiver
        self.topic = Topic(kafka)
        self.ports = free_ports()
        common = {"consent": "unfiltered", "restricted": "deliver"}
        # Small transactions: a kill in the middle of a batch is one between two requests.
        ehr = {
            "name": "ehr",
            "adapter": "fhir-server",
            "base_url": receiver.base,
            "identifier_system": SYSTEM,
            "timeout_seconds": 0.6,
            "bundle_entries": 7,
        }
        events = {"name": "events", "adapter": "kafka", "delivery_timeout_seconds": 1.5}
        broker = self.topic.settings(max_message_bytes=900_000, delivery_timeout_seconds=1.5)
        self.bridge = Bridge(
            folder,
            f"sqlite:///{folder}.db",
            sinks=[ehr | common, events | broker | common],
            **mllp_listeners(self.ports),
        )
        self.listening, self.working = self.bridge.role("listen"), self.bridge.role("work")
        self.delivering = self.bridge.role("deliver")
        self.database: Database = self.bridge.database()
        self.hospitals: Hospitals | None = None

    def begin(self) -> None:
        """Feeds."""
        self.listening.begin()
        self.working.begin()
        self.hospitals = Hospitals(feed(MESSAGES), self.ports)
        self.hospitals.allow(MESSAGES)

    def finish(self) -> None:
        """Waits until everything is stored and delivered, and ends the processes."""
        assert self.hospitals is not None
        self.hospitals.join()
        until(lambda: waiting(self.database) == 0, "the queue worked off")
        until(lambda: self.undelivered() == 0, "everything delivered", timeout_seconds=180)
        until(self.taken_over, "the process that runs to hold both leases")
        for role in (self.delivering, self.working, self.listening):
            assert run_to_end(role) == 0

    def close(self) -> None:
        self.database.close()
        for role in (self.delivering, self.working, self.listening):
            role.kill()

    def taken_over(self) -> bool:
        """Whether the process that runs is the one that delivers to both, so that it heeds a signal."""
        with self.database.transaction(read_only=True) as txn:
            held = [leases.get(txn, f"sink.{name}") for name in SINKS]
        return all(lease is not None and f":{self.delivering.pid}:" in lease.holder for lease in held)

    def undelivered(self) -> int:
        """Deliveries that wait."""
        with self.database.transaction(read_only=True) as txn:
            return sum(outbox.standing(txn, f"sink.{name}").number for name in SINKS)

    def stored(self) -> dict[str, tuple[int, Any]]:
        """The newest version of each resource, and its content; None where it is a deletion."""
        with self.database.transaction(read_only=True) as txn:
            rows = [row for chunk in resources.stream_current(txn) for row, _ in chunk]
        return {
            f"{row.type}/{row.fhir_id}": (row.version, None if row.deleted else loads_stored(row.body)) for row in rows
        }


@pytest.fixture
def scene(tmp_path: Path, kafka: Kafka) -> Iterator[Scene]:
    """A bridge with two sinks."""
    receiver = Receiver()
    made = Scene(tmp_path / "bridge", kafka, receiver)
    yield made
    made.close()
    receiver.stop()


def assert_all_there(scene: Scene) -> None:
    """Both destinations have every resource as it is stored, and heard of its versions in order, none left out."""
    stored = scene.stored()
    assert len(stored) > MESSAGES
    versions: dict[str, list[int]] = defaultdict(list)
    for message in scene.topic.messages():
        place, _, number = dict(message.headers)["id"].decode().partition("/_history/")
        versions[place].append(int(number))
    assert versions.keys() == stored.keys()
    for place, heard in versions.items():
        newest = stored[place][0]
        assert list(dict.fromkeys(heard)) == list(range(1, newest + 1))  # each for the first time in order
        assert heard[-1] == newest  # and what is repeated ends with the newest
    names = {f"{kind}/{number}": name_of(kind, held) for (kind, number), held in scene.receiver.current.items()}
    there = {name_of(kind, held): held for (kind, _), held in scene.receiver.current.items()}
    assert there.keys() == {place for place, (_, body) in stored.items() if body is not None}
    assert len(there) == len(scene.receiver.current)  # none twice
    for place, held in there.items():
        assert comparable(held, names) == comparable(stored[place][1], {}), place


def name_of(kind: str, resource: dict[str, Any]) -> str:
    """Our name of what the FHIR server holds."""
    tags = [tag["code"] for tag in resource.get("meta", {}).get("tag", ()) if tag["system"] == SYSTEM]
    named = [i["value"] for i in resource.get("identifier", ()) if i.get("system") == SYSTEM]
    [name] = [*tags, *named]
    return f"{kind}/{name}"


def comparable(resource: dict[str, Any], names: dict[str, str]) -> Any:
    """A resource without the names of its place; each reference as what it leads to, by our names."""

    def led(node: dict[str, Any]) -> dict[str, Any]:
        identifier = node.get("identifier")
        if "reference" in node:
            return {"to": names.get(node["reference"], node["reference"])}
        if isinstance(identifier, dict) and identifier.get("system") == SYSTEM:
            return {"to": f"{node['type']}/{identifier['value']}"}
        return node

    kept = {name: value for name, value in resource.items() if name not in {"id", "meta", "identifier"}}
    return json.loads(json.dumps(kept, default=float), object_hook=led)


def live(role: Role, failpoints: str, seconds: float) -> bool:
    """One life of a process: to its failpoint, or to a ``kill -9`` after some time; whether the failpoint killed it."""
    role.begin(failpoints)
    deadline = time.monotonic() + seconds
    while role.ended() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    reached = role.ended() is not None
    role.kill()
    return reached


def test_killed_dispatchers_lose_nothing_and_keep_the_order(scene):
    """Killed after a destination took something and before that was noted, after it was noted, and at random."""
    scene.begin()
    lives = [f"deliver.after-{what}=kill@{nth}" for what in ("send", "commit") for nth in (1, 2, 3)]
    reached = [live(scene.delivering, failpoints, 20) for failpoints in lives]
    for seconds in (2.5, 3.5):
        live(scene.delivering, "", seconds)
    scene.delivering.begin()
    scene.finish()

    assert sum(reached) >= 4
    assert_all_there(scene)


def test_destinations_that_are_down_for_half_a_minute_get_everything(scene, kafka):
    """Both go away while a feed goes on; intake and store don't wait for them, and afterwards nothing is missing."""
    scene.delivering.begin()
    with scene.receiver.away(), kafka.paused():
        scene.begin()
        time.sleep(30)
        assert scene.hospitals is not None
        scene.hospitals.join()
        until(lambda: waiting(scene.database) == 0, "the queue worked off")
        assert scene.undelivered() > MESSAGES
    scene.finish()

    assert_all_there(scene)
