"""Deployments of the program itself, for suites that kill, stop and starve it: configuration, processes, feed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bridge.cli.deployment import Deployment, open_deployment
from bridge.config.load import load_settings
from bridge.keys.files import create_key_file
from bridge.ledger.chain import LogId
from bridge.store import leaves, positions, raw_messages
from bridge.store.database import Database, open_database
from bridge.store.migrate import migrate
from bridge.synth.feed import SynthMessage
from bridge.synth.region import Region
from tests.contract.chain_harness import deploy, evm_settings
from tests.reference import ROOT
from tests.services.anvil import Anvil
from tests.services.kafka import Kafka
from tests.services.process import Server, free_port

ORIGIN = "log.test.example/hie"
SITES = ("st-olave", "queensbridge", "hollin-cross", "rivermoor", "vale-laboratory")
PROGRAM = str(Path(sys.executable).with_name("hiebridge"))


@cache
def feed(messages: int, seed: int = 3) -> tuple[SynthMessage, ...]:
    """A region's feed with its share of repeated, excluded, unmapped and malformed messages."""
    shares = {"uncovered_percent": 4, "malformed_percent": 3, "duplicate_percent": 3}
    return tuple(Region(seed, max(1, messages // 8), messages, **shares))


class Role(Server):
    """A process of the program. Named failpoints act in it from the next start on."""

    def __init__(self, folder: Path, config: Path, name: str, trace: Path, level: str = "info") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [PROGRAM, "--config", str(config), "--log-level", level, name]
        super().__init__(command, folder, lambda _: True)
        self._trace = trace
        self.killed_pid = 0

    def begin(self, failpoints: str = "") -> None:
        """Starts it, with these failpoints in force."""
        self._environment = {"HIEBRIDGE_FAILPOINTS": failpoints, "HIEBRIDGE_FAILPOINT_TRACE": str(self._trace)}
        self.start()

    def ended(self) -> int | None:
        """How the process ended (minus the signal's number), None while it runs."""
        assert self._child is not None
        return self._child.poll()

    def wait(self, timeout_seconds: float) -> int:
        """Waits for its end; answers the exit code."""
        assert self._child is not None
        return self._child.wait(timeout_seconds)

    def terminate(self) -> None:
        """SIGTERM."""
        assert self._child is not None
        self._child.terminate()


class Bridge:
    """A configured deployment in a folder of its own.

    Args:
        folder: for configuration, keys, watermark, logs.
        store: address of an empty database.
        keys: key file to share with another deployment, so that both mint the same ids; None makes one.
        settings: sections that replace or join ours.
    """

    def __init__(self, folder: Path, store: str, *, keys: Path | None = None, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.store_url = store
        self.key_file = folder / "keys.json"
        if keys is None:
            create_key_file(self.key_file)
        else:
            shutil.copy(keys, self.key_file)
        self.api_port = free_port()
        sections: dict[str, Any] = {
            "deployment": {
                "name": "test",
                "origin": ORIGIN,
                "fhir_base_url": f"http://127.0.0.1:{self.api_port}/fhir",
            },
            "store": {"url": store},
            "keys": {"adapter": "file", "path": str(self.key_file)},
            "sites": [str(ROOT / "mappings" / "sites")],
            "chain": {
                "adapter": "local",
                "path": str(folder / "chain.sqlite"),
                "name": "test.example/chain",
                "anchor_interval_seconds": 0.3,
            },
            "log": {
                "watermark": str(folder / "watermark.json"),
                "sequence_interval_seconds": 0.1,
                "checkpoint_interval_seconds": 0.2,
                "lease_seconds": 1.5,
            },
            "api": {"port": self.api_port},
            "consent": {"default_policy": "permit"},
        }
        self.config = folder / "bridge.yaml"
        self.config.write_text(yaml.safe_dump(sections | settings), encoding="utf-8")
        self.trace = folder / "trace"
        self.trace.touch()
        migrate(store)

    def role(self, name: str, place: str = "", level: str = "info") -> Role:
        """A process of the deployment, not yet started."""
        return Role(self.folder / (place or name), self.config, name, self.trace, level)

    def command(self, *words: str, level: str = "info") -> tuple[int, str]:
        """Runs a command to its end; answers its exit code and all that it said."""
        command = [PROGRAM, "--config", str(self.config), "--log-level", level, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    def deployment(self) -> Deployment:
        """Its parts, for use in this process."""
        return open_deployment(load_settings(self.config, os.environ))

    def database(self, *, read_only: bool = True) -> Database:
        """A connection to its store."""
        return open_database(self.store_url, read_only=read_only)

    def passages(self) -> list[tuple[str, int]]:
        """Every passage of a failpoint that was listed: name and process id, in order."""
        lines = self.trace.read_text(encoding="ascii").splitlines()
        return [(name, int(pid)) for name, pid, _ in (line.split() for line in lines)]

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of a GET to the web server."""
        return self._ask(urllib.request.Request(self._url(path), headers=dict(headers or {})))

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of a POST to the web server."""
        return self._ask(urllib.request.Request(self._url(path), body, headers=dict(headers)))

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.api_port}{path}"

    @staticmethod
    def _ask(request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    def metric(self, name: str) -> float:
        """The value of a metric without labels, as served."""
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"{name} is not served")

    def serves(self) -> bool:
        """Whether the web server answers."""
        try:
            return self.get("/live")[0] == 200
        except OSError:
            return False


def kafka_sources(kafka: Kafka, topics: Mapping[str, str], group: str) -> dict[str, Any]:
    """The section ``sources`` for a topic of each site."""
    return {
        "sources": [
            {
                "name": site,
                "adapter": "kafka",
                "site": site,
                "topic": topic,
                "group_id": f"{group}-{site}",
                "bootstrap_servers": [kafka.bootstrap],
                "session_timeout_seconds": 1.5,
            }
            for site, topic in topics.items()
        ]
    }


class Topics:
    """A topic for each site, and a producer that keys as listeners do."""

    def __init__(self, kafka: Kafka, partitions: int = 2) -> None:
        from kafka import KafkaProducer

        self.names = {site: kafka.create_topic(partitions=partitions) for site in SITES}
        self.partitions = partitions
        self._producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=5)

    def send(self, messages: Iterable[SynthMessage], partition: Callable[[], int] | None = None) -> None:
        """Puts messages in; by their key, or where ``partition`` says."""
        for message in messages:
            self._producer.send(
                self.names[message.site],
                message.content,
                key=message.key,
                partition=partition() if partition else None,
            )
        self._producer.flush()

    def close(self) -> None:
        """Closes the producer."""
        self._producer.close()


def until(done: Callable[[], bool], what: str, timeout_seconds: float = 90, pause_seconds: float = 0.1) -> None:
    """Waits until ``done``; fails with ``what`` it waited for."""
    deadline = time.monotonic() + timeout_seconds
    while not done():
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s in vain for: {what}"
        time.sleep(pause_seconds)


def serving(bridge: Bridge, role: Role) -> None:
    """Waits until the web server answers; fails at once, with its last words, if the process that should has ended."""
    until(lambda: role.ended() is not None or bridge.serves(), "the API to serve")
    assert role.ended() is None, "the role ended: " + "\n".join(role.log_text().splitlines()[-12:])


def received(database: Database) -> int:
    """Distinct positions that the store has taken."""
    with database.transaction(read_only=True) as txn:
        return sum(row.received for row in positions.all_positions(txn))


def waiting(database: Database) -> int:
    """Messages in the embedded queue."""
    with database.transaction(read_only=True) as txn:
        return sum(count.number for count in raw_messages.counts(txn) if count.state == "waiting")


def signed(database: Database) -> bool:
    """Whether every leaf is numbered and under the newest checkpoint."""
    with database.transaction(read_only=True) as txn:
        pending, _ = leaves.pending(txn)
        state, newest = leaves.state(txn, ORIGIN), leaves.latest_checkpoint(txn, ORIGIN)
    return pending == 0 and state is not None and newest is not None and newest.size == state.size


def log_size(database: Database) -> int:
    """Leaves of the log."""
    with database.transaction(read_only=True) as txn:
        state = leaves.state(txn, ORIGIN)
    return state.size if state else 0


def run_to_end(role: Role, timeout_seconds: float = 30) -> int:
    """SIGTERM, and the exit code."""
    role.terminate()
    return role.wait(timeout_seconds)


def evm_chain(anvil: Anvil, folder: Path) -> dict[str, Any]:
    """The section ``chain`` for a contract of the test's own."""
    folder.mkdir()
    contract = deploy(anvil, folder / "deployer")
    evm_settings(anvil, folder)
    return {
        "adapter": "evm",
        "url": anvil.url,
        "chain_id": anvil.chain_id,
        "contract": contract,
        "anchor_key": {"file": str(folder / "anchor.key")},
        "consent_key": {"file": str(folder / "consent.key")},
        "anchor_interval_seconds": 1,
    }


def anchored(bridge: Bridge) -> bool:
    """Whether the chain holds the newest head of the log."""
    with bridge.database() as database:
        size = log_size(database)
    held = bridge.deployment().chain().read_anchor(LogId.of_origin(ORIGIN))
    return held is not None and held.size == size
