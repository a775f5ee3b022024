"""The whole road on one machine: Kafka → worker → PostgreSQL + leaves → signed checkpoints → anchors on an EVM node.

Starts the servers it needs (fsync on), feeds them the synthetic region, and measures three things: how fast a backlog is worked
off by one worker; how long a message takes to be recorded and to be under a signed checkpoint at half that rate; and how
memory develops. Everything shares the machine's cores.

    python benchmarks/road.py [--quick] [--messages N] [--json FILE]

The last line of output is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psycopg  # noqa: E402 - runs from a checkout
from kafka import KafkaProducer  # noqa: E402

from bridge.cli.deployment import open_deployment  # noqa: E402
from bridge.cli.roles import settle_memory  # noqa: E402
from bridge.config.load import load_settings  # noqa: E402
from bridge.pipeline.batch import Item, Place  # noqa: E402
from bridge.pipeline.ports import Partition, RawMessage  # noqa: E402
from bridge.store import positions  # noqa: E402
from bridge.store.migrate import migrate  # noqa: E402
from bridge.synth.region import Region  # noqa: E402
from bridge.telemetry.metrics import exposition  # noqa: E402
from bridge.telemetry.stop import Stop  # noqa: E402
from tests.contract import chain_harness  # noqa: E402
from tests.services import anvil, kafka, postgres  # noqa: E402

SITES = ("st-olave", "queensbridge", "hollin-cross", "rivermoor", "vale-laboratory")
BUDGET_US = {
    "read": 160,
    "convert": 500,
    "serialize and index": 200,
    "match": 250,
    "client SQL": 120,
    "server": 450,
    "log": 60,
    "broker and client": 120,
    "reserve": 140,
}
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children, those that ended included."""
    total = 0.0
    pids = [pid]
    while pids:
        one = pids.pop()
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        except OSError:
            continue
        total += sum(int(fields[index]) for index in (11, 12, 13, 14)) / TICKS
        pids += [int(child) for child in children]
    return total


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


class Bridge:
    """The roles `work` and `anchor` as processes, on one configuration."""

    def __init__(self, folder: Path, broker: kafka.Kafka, database: str, node: anvil.Anvil) -> None:
        self.folder = folder
        self.database = database
        self.topics = {site: broker.create_topic(f"{site}-{os.getpid()}", partitions=2) for site in SITES}
        contract = chain_harness.deploy(node, folder / "deploy")
        chain_harness.evm_settings(node, folder)  # writes the keys of two funded senders
        config = {
            "deployment": {
                "name": "bench",
                "origin": "log.bench.example/hie",
                "fhir_base_url": "http://127.0.0.1:1/fhir",
            },
            "store": {"url": database},
            "keys": {"adapter": "file", "path": "keys.json"},
            "sites": [str(ROOT / "mappings" / "sites")],
            "sources": [
                {
                    "name": site,
                    "adapter": "kafka",
                    "site": site,
                    "bootstrap_servers": [broker.bootstrap],
                    "topic": topic,
                    "group_id": topic,
                }
                for site, topic in self.topics.items()
            ],
            "chain": {
                "adapter": "evm",
                "url": node.url,
                "chain_id": node.chain_id,
                "contract": contract,
                "anchor_key": {"file": str(folder / "anchor.key")},
                "consent_key": {"file": str(folder / "consent.key")},
                "anchor_interval_seconds": 5,
            },
            "log": {"watermark": str(folder / "watermark.json")},
            "consent": {"default_policy": "permit"},
            "telemetry": {"log_level": "warning"},
        }
        self.config = folder / "bridge.json"
        self.config.write_text(json.dumps(config))  # JSON is YAML
        self.run("keys", "init", str(folder / "keys.json"))
        migrate(database)

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable,
            "-c",
            "from bridge.cli.main import main; main()",
            "--config",
            str(self.config),
            *arguments,
        ]

    def run(self, *arguments: str) -> None:
        subprocess.run(self.command(*arguments), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)

    @contextmanager
    def role(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(self.command(name), cwd=ROOT, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def stage_microseconds(bridge: Bridge, server: postgres.Postgres, feed: list[Any]) -> dict[str, float]:
    """Mean time of a message in each stage, on one thread that has the interpreter to itself, into a database of its own.

    In the worker of the whole road a thread for each source waits for the interpreter in the middle of a stage.
    """
    url = server.create_database()
    migrate(url)
    settings = load_settings(bridge.config, {"HIEBRIDGE__STORE__URL": url})
    deployment = open_deployment(settings)
    preparer, stop = deployment.preparer(), Stop()
    settle_memory()
    with deployment.database() as database:
        with database.transaction() as txn:
            epoch = positions.claim(txn, "all", "one", 0).epoch
        batcher, place = deployment.batcher(database), Place(Partition("all", "one", 0), 0, epoch)
        for start in range(0, len(feed), 100):
            raws = [
                RawMessage(m.site, m.content, None, m.key, time.time_ns() // 1000) for m in feed[start : start + 100]
            ]
            items = [Item(preparer.prepare(raw), offset=start + number) for number, raw in enumerate(raws)]
            batcher.store(items, place, stop)
            place = Place(place.partition, start + len(items), epoch)
    text = exposition().decode()
    sums = dict(re.findall(r'hiebridge_stage_seconds_sum\{stage="([^"]+)"\} (\S+)', text))
    counts = dict(re.findall(r'hiebridge_stage_seconds_count\{stage="([^"]+)"\} (\S+)', text))
    return {stage: round(float(sums[stage]) / float(counts[stage]) * 1e6) for stage in sums if float(counts[stage])}


def produce(bridge: Bridge, broker: kafka.Kafka, feed: list[Any], rate: float | None = None) -> dict[str, int]:
    """Sends the feed (at ``rate`` a second, if given) and answers when each message was sent, by control id (µs)."""
    producer = KafkaProducer(
        bootstrap_servers=[broker.bootstrap], linger_ms=2, batch_size=131_072, metrics_enabled=False
    )
    sent: dict[str, int] = {}
    started = time.monotonic()
    for number, message in enumerate(feed):
        if rate is not None:
            ahead = started + number / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
        control_id = message.content.split(message.content[3:4], 10)[9].decode("latin-1")
        sent[control_id] = time.time_ns() // 1000
        producer.send(bridge.topics[message.site], message.content, key=message.key)
    producer.flush()
    producer.close()
    return sent


def done(connection: psycopg.Connection[Any]) -> int:
    return int(connection.execute("SELECT coalesce(sum(received), 0) FROM source_position").fetchone()[0])


def wait_for(connection: psycopg.Connection[Any], count: int, seconds: float) -> float:
    """When ``count`` messages were committed (time.monotonic)."""
    until = time.monotonic() + seconds
    while done(connection) < count:
        if time.monotonic() > until:
            raise SystemExit(f"only {done(connection)} of {count} messages were recorded in {seconds} s")
        time.sleep(0.02)
    return time.monotonic()


def delays(connection: psycopg.Connection[Any], sent: dict[str, int]) -> dict[str, float]:
    """From sent to recorded and to signed checkpoint, ms, as percentiles."""
    recorded = connection.execute(
        "SELECT control_id, max(v.last_updated_us), max(l.leaf_index) FROM raw_message m"
        " JOIN resource_version v ON v.raw_key = m.raw_key JOIN log_leaf l ON l.leaf_id = v.leaf_id"
        " WHERE control_id = ANY(%s) GROUP BY control_id",
        (list(sent),),
    ).fetchall()
    checkpoints = connection.execute("SELECT size, signed_us FROM checkpoint ORDER BY size").fetchall()
    to_recorded, to_signed = [], []
    for control_id, recorded_us, index in recorded:
        to_recorded.append((recorded_us - sent[control_id]) / 1000)
        signed_us = next((signed for size, signed in checkpoints if size > index), None)
        if signed_us is not None:
            to_signed.append((signed_us - sent[control_id]) / 1000)
    return {
        f"{name}_p{percent}_ms": round(sorted(values)[min(len(values) - 1, len(values) * percent // 100)], 1)
        for name, values in (("recorded", to_recorded), ("signed", to_signed))
        for percent in (50, 99)
        if values
    }


def measure(messages: int, rated_seconds: float) -> dict[str, Any]:
    people = max(200, messages // 12)
    with (
        kafka.start() as broker,
        postgres.start(durable=True) as server,
        anvil.start() as node,
        tempfile.TemporaryDirectory(prefix="road-") as temporary,
    ):
        bridge = Bridge(Path(temporary), broker, server.create_database(), node)
        feed = list(Region(seed=1, patients=people, messages=messages + int(rated_seconds * 600)))
        backlog, rest = feed[:messages], feed[messages:]
        produce(bridge, broker, backlog)
        stages = stage_microseconds(bridge, server, backlog[:2000])
        pids = {"broker": broker.pid, "database": server.pid, "chain node": node.pid}
        with psycopg.connect(bridge.database, autocommit=True) as connection, bridge.role("anchor") as anchor:
            pids["anchor"] = anchor.pid
            with bridge.role("work") as worker:
                pids["worker"] = worker.pid
                wait_for(connection, 1, 60)
                before, at, memory = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic(), []
                begun = done(connection)
                sampling = threading.Event()

                def sample() -> None:
                    while not sampling.wait(1):
                        memory.append(round(resident_mib(worker.pid), 1))

                sampler = threading.Thread(target=sample, daemon=True)
                sampler.start()
                ended = wait_for(connection, messages, 60 + messages / 50)
                after = {name: cpu_seconds(pid) for name, pid in pids.items()}
                worked = messages - begun
                rate = worked / (ended - at)
                rated = rest[: int(rated_seconds * rate / 2)]
                sent = produce(bridge, broker, rated, rate / 2)
                wait_for(connection, messages + len(rated), 60)
                time.sleep(2.5)
                sampling.set()
                latency = delays(connection, sent)
            time.sleep(6)
            anchored = connection.execute(
                "SELECT count(*), max(size) FROM anchor WHERE state = 'final' OR state = 'included'"
            ).fetchone()
            totals = connection.execute(
                "SELECT sum(received), sum(stored), sum(filtered), sum(duplicate), sum(dead) FROM source_position"
            ).fetchone()
            leaves = connection.execute("SELECT size FROM log_state").fetchone()[0]
    cpu = {name: round((after[name] - before[name]) / worked * 1e6) for name in pids}
    return {
        "benchmark": "road",
        "messages": messages,
        "messages_per_second": round(rate, 1),
        "cpu_us_per_message": cpu,
        "stage_us_per_message": stages,
        "budget_us": BUDGET_US,
        "half_rate": {"messages": len(rated), "rate": round(rate / 2, 1), **latency},
        "worker_memory_mib": {
            "by_tenth_of_the_run": [memory[len(memory) * n // 10] for n in range(10)],
            "max": max(memory),
        },
        "leaves": leaves,
        "anchors": {"number": anchored[0], "size": anchored[1]},
        "totals": dict(zip(("received", "stored", "filtered", "duplicate", "dead"), map(int, totals), strict=True)),
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="within a minute")
    parser.add_argument("--messages", type=int, help="size of the backlog")
    parser.add_argument("--json", type=Path, help="write the result to a file too")
    given = parser.parse_args()
    result = measure(given.messages or (2_000 if given.quick else 20_000), 5 if given.quick else 20)
    for name, value in result.items():
        print(f"{name}: {value}")
    line = json.dumps(result)
    if given.json:
        given.json.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
