"""A real Apache Kafka broker (KRaft, one node), from jars that Maven fetches once.

``CLASSPATH`` goes through the environment, and a class-data archive made at installation halves the time to start.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.services.process import INSTALL, Server, cache, free_port, install_once, program, run, scratch

VERSION = "4.3.1"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_CLUSTER = "hiebridge0000000000000"
# Right for tests that run seconds; a benchmark gives () and gets the second compiler tier.
QUICK: Sequence[str] = ("-XX:TieredStopAtLevel=1",)
_READY = "Kafka Server started"


class Kafka(Server):
    """A running broker. ``bootstrap`` is its ``host:port`` (plain text, no authentication)."""

    def __init__(
        self,
        installed: Path,
        directory: Path,
        settings: Mapping[str, str],
        jvm_options: Sequence[str],
        heap_megabytes: int,
    ) -> None:
        self.port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        properties = directory / "server.properties"
        properties.write_text(_properties(self.port, free_port(), directory / "data", settings), encoding="ascii")
        super().__init__(
            [
                *_java(installed),
                f"-Xmx{heap_megabytes}m",
                "-XX:+UseSerialGC",
                *jvm_options,
                "kafka.Kafka",
                str(properties),
            ],
            directory,
            lambda said: _READY in said,
            environment=_classpath(installed),
        )

    def create_topic(self, name: str = "", *, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Creates a topic (with a name of its own if none is given), waits for its leaders, answers its name."""
        name = name or f"topic-{uuid.uuid4().hex[:12]}"
        with self._admin() as admin:
            admin.create_topics(
                {name: {"num_partitions": partitions, "replication_factor": 1, "configs": dict(config or {})}},
                wait_for_metadata=True,
            )
        return name

    def delete_topic(self, name: str) -> None:
        """Deletes a topic and what it holds; returns once the broker, which hears of it later, no longer names it."""
        with self._admin() as admin:
            admin.delete_topics([name])
            deadline = time.monotonic() + 30
            while name in admin.list_topics():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"still there: {name}")
                time.sleep(0.02)

    @contextlib.contextmanager
    def _admin(self) -> Iterator[object]:
        from kafka import KafkaAdminClient

        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            yield admin
        finally:
            admin.close()


def ensure() -> Path:
    """Installs the broker into the cache once and answers its folder.

    Raises:
        ServiceUnavailable: Java or Maven is missing, or the jars can't be fetched.
    """
    java = program("java", "a JDK of version 17 or later runs the broker")
    pom = (INSTALL / "pom.xml").read_bytes()
    what = hashlib.sha256(pom + run([java, "--version"]).encode()).hexdigest()[:12]
    jars = install_once(cache() / f"kafka-{VERSION}-{what}", _fetch)
    install_once(cache() / f"kafka-{VERSION}-{what}-started", lambda fresh: _prepare(jars, fresh))
    return jars


@contextlib.contextmanager
def start(
    *, settings: Mapping[str, str] | None = None, jvm_options: Sequence[str] = QUICK, heap_megabytes: int = 256
) -> Iterator[Kafka]:
    """A fresh broker for the length of the ``with``; its data goes with it.

    Args:
        settings: lines of ``server.properties`` that replace or join ours.
        jvm_options: of the Java machine.
        heap_megabytes: size of its heap.

    Raises:
        ServiceUnavailable: it can't be installed or does not start.
    """
    installed = ensure()
    with scratch("kafka") as directory:
        shutil.copytree(_prepared(installed) / "data", directory / "data")
        broker = Kafka(installed, directory, settings or {}, jvm_options, heap_megabytes)
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


def _prepared(installed: Path) -> Path:
    return installed.with_name(f"{installed.name}-started")


def _fetch(fresh: Path) -> None:
    maven = program("mvn", "Maven fetches the broker's jars")
    run(
        [
            maven,
            "-B",
            "-q",
            "-f",
            str(INSTALL / "pom.xml"),
            _COPY,
            "-DincludeScope=runtime",
            f"-DoutputDirectory={fresh}",
        ]
    )


def _prepare(jars: Path, fresh: Path) -> None:
    """Keeps a formatted data folder (any broker may begin as a copy of it) and the archive of loaded classes."""
    properties = fresh / "server.properties"
    properties.write_text(_properties(free_port(), free_port(), fresh / "data", {}), encoding="ascii")
    command = [*_java(jars), "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(properties)]
    run(command, env=_classpath(jars))
    shutil.copytree(fresh / "data", fresh / "formatted")
    archive = ["-XX:+UseSerialGC", *QUICK, f"-XX:ArchiveClassesAtExit={fresh / 'classes.jsa'}"]
    broker = Server(
        [*_java(jars), *archive, "kafka.Kafka", str(properties)],
        fresh,
        lambda said: _READY in said,
        environment=_classpath(jars),
    )
    broker.start()
    broker.stop(timeout_seconds=60)
    shutil.rmtree(fresh / "data")
    (fresh / "formatted").rename(fresh / "data")


def _java(installed: Path) -> list[str]:
    archive = _prepared(installed) / "classes.jsa"
    shared = [f"-XX:SharedArchiveFile={archive}", "-Xlog:disable"] if archive.exists() else []
    return ["java", *shared, f"-Dlog4j2.configurationFile={INSTALL / 'log4j2.properties'}"]


def _classpath(installed: Path) -> dict[str, str]:
    return {"CLASSPATH": f"{installed}/*"}


def _properties(port: int, controller_port: int, data: Path, settings: Mapping[str, str]) -> str:
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "broker.heartbeat.interval.ms": "200",
        "broker.session.timeout.ms": "2000",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        **settings,
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())
