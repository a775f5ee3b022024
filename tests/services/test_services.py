"""The servers that other suites rely on keep what they promise: data outlives a kill, a frozen server answers nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import uuid
from pathlib import Path

import psycopg
import pytest
from kafka import KafkaConsumer, KafkaProducer

from tests.services import process
from tests.services.anvil import Anvil
from tests.services.kafka import Kafka
from tests.services.postgres import Postgres


def _produce(broker: Kafka, topic: str, *values: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    try:
        for sent in [producer.send(topic, value) for value in values]:
            sent.get(timeout=30)
    finally:
        producer.close()


def _consume(broker: Kafka, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    try:
        return [next(consumer).value for _ in range(count)]
    finally:
        consumer.close()


def test_acknowledged_messages_outlive_kill_9_of_the_broker(kafka: Kafka) -> None:
    """What a producer has an acknowledgement for is read from the same address after kill -9 and start."""
    topic = kafka.create_topic(partitions=1)
    before = kafka.pid
    _produce(kafka, topic, b"one", b"two")

    kafka.kill()
    kafka.start()

    assert kafka.pid != before
    assert _consume(kafka, topic, 2) == [b"one", b"two"]


def test_topics_are_made_with_their_settings_and_deleted(kafka: Kafka) -> None:
    """A topic has the partitions asked for while it exists, and is gone after its deletion."""
    topic = kafka.create_topic(partitions=3, config={"retention.ms": "60000"})
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap)

    assert consumer.partitions_for_topic(topic) == {0, 1, 2}
    kafka.delete_topic(topic)
    assert topic not in consumer.topics()
    consumer.close()


@pytest.mark.parametrize("fixture", ["postgres", "durable_postgres"])
def test_committed_rows_outlive_kill_9_of_postgresql(fixture: str, request: pytest.FixtureRequest) -> None:
    """A committed row is read at the same address after kill -9 of the server with all its children, and start."""
    server: Postgres = request.getfixturevalue(fixture)
    url = server.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (value int)")
        connection.execute("INSERT INTO kept VALUES (7)")

        server.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    server.start()

    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT value FROM kept").fetchall() == [(7,)]
    server.drop_database(url)


def test_only_the_durable_server_waits_for_the_disk(postgres: Postgres, durable_postgres: Postgres) -> None:
    """fsync is on where durability is what is tested; both have the lock table that batches need."""
    for server, fsync in ((postgres, "off"), (durable_postgres, "on")):
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == (fsync,)
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
            assert connection.execute("SHOW max_locks_per_transaction").fetchone() == ("256",)


def test_each_test_has_an_empty_database_of_its_own(postgres: Postgres, database_url: str) -> None:
    """A fresh database holds no table, and none of another database's."""
    other = postgres.create_database()
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("CREATE TABLE elsewhere ()")

    with psycopg.connect(database_url) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()

    assert tables == (0,)
    postgres.drop_database(other)


def test_a_paused_server_holds_its_connections_and_answers_after_resuming(postgres: Postgres) -> None:
    """SIGSTOP reaches every process of the server: an open session gets no answer until SIGCONT."""
    with psycopg.connect(postgres.url) as connection:
        connection.execute("SELECT 1")
        raw = socket.socket(fileno=os.dup(connection.fileno()))
        raw.settimeout(0.3)
        with postgres.paused():
            raw.send(b"Q" + (13).to_bytes(4, "big") + b"SELECT 1\0")
            with pytest.raises(TimeoutError):
                raw.recv(1, socket.MSG_PEEK)

        raw.settimeout(30)
        assert raw.recv(1, socket.MSG_PEEK)
        raw.close()


def test_the_chain_goes_on_from_its_state_after_a_stop(anvil: Anvil) -> None:
    """Stopped and started, the node holds the same chain: same block hash, balance, and number no lower."""
    account = "0x" + uuid.uuid4().hex + "00000000"
    anvil.call("anvil_setBalance", account, hex(12345))
    anvil.call("evm_mine")
    number = anvil.call("eth_blockNumber")
    block = anvil.call("eth_getBlockByNumber", number, False)

    anvil.stop()
    with pytest.raises(urllib.error.URLError):
        anvil.call("eth_blockNumber")
    anvil.start()

    assert anvil.call("eth_getBlockByNumber", number, False)["hash"] == block["hash"]
    assert int(anvil.call("eth_getBalance", account, "latest"), 16) == 12345
    assert int(anvil.call("eth_blockNumber"), 16) >= int(number, 16)


def test_the_chain_reorganizes_and_moves_finality(anvil: Anvil) -> None:
    """A reorganization of depth 3 changes the hash of the head's parent; finality advances with the blocks."""
    anvil.call("anvil_mine", "0x5")
    head = anvil.call("eth_getBlockByNumber", "latest", False)

    # blocks mined anew within the same second are the same blocks but for who mined them
    anvil.call("anvil_setCoinbase", "0x" + uuid.uuid4().hex + "00000000")
    anvil.call("anvil_reorg", 3, [])
    after = anvil.call("eth_getBlockByNumber", head["number"], False)

    assert after["hash"] != head["hash"]
    assert int(anvil.call("eth_getBlockByNumber", "finalized", False)["number"], 16) > 0


def test_funded_accounts_are_those_of_the_published_phrase(anvil: Anvil) -> None:
    """The keys that tests sign with belong to the accounts that the node has funded."""
    from eth_account import Account

    ours = [Account.from_key(anvil.private_key(index)).address.lower() for index in range(2)]

    assert [account.lower() for account in anvil.call("eth_accounts")[:2]] == ours


def test_a_server_does_not_outlive_a_killed_run(tmp_path: Path) -> None:
    """kill -9 of the process that started a server ends the server too (the kernel's parent-death signal)."""
    process.program("setpriv", "it passes the parent-death signal")
    script = f"""
import os, pathlib, signal
from tests.services.process import Server

server = Server(["sh", "-c", "echo up; exec sleep 600"], pathlib.Path({str(tmp_path)!r}), lambda said: "up" in said)
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=process.ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == -signal.SIGKILL, done.stderr
    process.wait_gone(int(done.stdout))


def test_a_server_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """The reason for which a server can't be had reaches the reader."""
    server = process.Server(["sh", "-c", "echo no disk left; exit 3"], tmp_path, lambda _: False)

    with pytest.raises(process.ServiceUnavailable, match=r"ended with 3: no disk left"):
        server.start()


def test_an_installation_is_whole_or_absent(tmp_path: Path) -> None:
    """An interrupted installation leaves no folder behind that the next run would take for a whole one."""

    def interrupted(fresh: Path) -> None:
        (fresh / "half").touch()
        raise process.ServiceUnavailable("cut off")

    with pytest.raises(process.ServiceUnavailable, match="cut off"):
        process.install_once(tmp_path / "tool", interrupted)
    assert not (tmp_path / "tool").exists()

    process.install_once(tmp_path / "tool", lambda fresh: (fresh / "whole").touch())
    process.install_once(tmp_path / "tool", interrupted)
    assert [entry.name for entry in (tmp_path / "tool").iterdir()] == ["whole"]


def test_tests_reach_loopback_only() -> None:
    """A test that would leave the machine is refused before a packet goes out."""
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError, match="loopback only"):
        probe.connect(("192.0.2.1", 80))
    with pytest.raises(ConnectionRefusedError, match="loopback only"):
        socket.getaddrinfo("example.org", 80)
