"""Promise P8: a hostile or malformed message harms no other message, and SIGTERM drains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bridge.pipeline.batch import Item, Verdict
from bridge.pipeline.ports import RawMessage
from bridge.store import dead_letters
from bridge.store.rows import Outcome
from bridge.synth.feed import SynthMessage
from bridge.telemetry.stop import Stop
from tests.faults.deployments import (
    SITES,
    Bridge,
    Topics,
    feed,
    kafka_sources,
    received,
    run_to_end,
    signed,
    until,
    waiting,
)
from tests.faults.oracle import read, violations
from tests.faults.senders import Hospitals, free_ports, mllp_listeners
from tests.faults.test_shuffle import FOLDERS, Pipeline
from tests.services.kafka import Kafka
from tests.services.postgres import Postgres

SITE = "st-olave"
PID = "PID|1||H1^^^STO^MR||Ash^Ida||19700102|F"


def hl7(event: str = "ADT^A08", pid: str = PID, charset: str = "", more: str = "") -> bytes:
    header = f"MSH|^~\\&|OLAVE-PAS|STO|HIE|HIE|20240301120000||{event}|H{event}{len(pid)}{charset}|P|2.3"
    header += f"||||||{charset}" if charset else ""
    return "\r".join([header, f"EVN|{event[4:]}|20240301120000", pid, "PV1|1|O", more]).encode()


def fhir(**content: object) -> bytes:
    return json.dumps({"resourceType": "Patient", "id": "h1", "name": [{"family": "Ash"}], **content}).encode()


def nested(levels: int) -> bytes:
    return b'{"resourceType":"Patient","id":"h1","contained":' + b"[" * levels + b"]" * levels + b"}"


def huge_segment() -> bytes:
    return hl7(more="NTE|1||" + "A" * (50 * 2**20))


# What comes in, and the causes of which one must be told.
HOSTILE = {
    "not HL7 at all": (lambda: b"PRINT JOB 7 CANCELLED\r\n", {"not-hl7"}),
    "nothing": (lambda: b"", {"not-hl7", "message-empty"}),
    "bytes of all kinds": (lambda: bytes(range(256)) * 40, {"not-hl7"}),
    "MSH cut short": (lambda: hl7()[:30], {"msh-truncated"}),
    "half a message in UTF-16": (lambda: hl7().decode().encode("utf-16")[:-3], {"charset-invalid"}),
    "a segment of 50 MB": (huge_segment, {"message-too-large"}),
    "wrong charset": (lambda: hl7(charset="UNICODE UTF-8").replace(b"Ash", b"\xc4sh"), {"charset-invalid"}),
    "unknown charset": (lambda: hl7(charset="VENDOR 7"), {"charset-unsupported"}),
    "unknown event": (lambda: hl7("DFT^P03"), {"unknown-event"}),
    "patient without identifiers": (lambda: hl7(pid="PID|1||||Ash^Ida"), {"patient-without-identifier"}),
    "U+0000 in a name": (lambda: hl7(pid=PID.replace("Ash", "A\0sh")), {"zero-character"}),
    "FHIR that is no JSON": (lambda: fhir()[:-9], {"json-invalid"}),
    "FHIR with a name twice": (lambda: b'{"resourceType":"Patient","id":"h1","id":"h2"}', {"json-invalid"}),
    "FHIR with U+0000": (lambda: fhir(id="h\0"), {"json-invalid"}),
    "a FHIR type that is none": (lambda: fhir(resourceType="Ash Ida"), {"fhir-invalid"}),
    "FHIR that nothing names": (lambda: b'{"resourceType":"Patient","name":[{"family":"Ash"}]}', {"fhir-without-id"}),
    "FHIR of wrong types": (lambda: fhir(identifier=[{"system": {"a": 1}, "value": 1}]), None),
    "a Bundle of nothing": (lambda: b'{"resourceType":"Bundle","type":"batch"}', {"bundle-empty"}),
    "JSON bomb, deep": (lambda: nested(200_000), {"json-too-deep"}),
    "JSON bomb, wide": (lambda: b'{"resourceType":"Patient","a":[' + b"0," * 1_100_000 + b"0]}", {"json-too-large"}),
    "JSON bomb, a number": (lambda: b'{"resourceType":"Patient","id":"h","a":1e999999999}', {"json-invalid"}),
}


@pytest.fixture(scope="module")
def good() -> Sequence[SynthMessage]:
    messages = [m for m in feed(600) if m.site == SITE and m.outcome.value == "stored"]
    assert len(messages) >= 99
    return messages[:99]


@pytest.fixture
def bridge(store_url: str, tmp_path: Path) -> Bridge:
    return Bridge(tmp_path / "bridge", store_url, **FOLDERS)


def stored(bridge: Bridge, contents: Sequence[bytes]) -> list[Verdict]:
    """The contents as one batch of a partition."""
    with bridge.database(read_only=False) as database:
        work = Pipeline(bridge.deployment(), database)
        place = work._claimed((SITE, 0))
        items = [
            Item(work.preparer.prepare(RawMessage(SITE, content, None, received_us=work.now_us + n)), offset=n)
            for n, content in enumerate(contents)
        ]
        return work.batcher.store(items, place, Stop())


@pytest.mark.parametrize("name", HOSTILE)
def test_one_hostile_message_in_a_full_batch_becomes_one_dead_letter(bridge: Bridge, good, name: str) -> None:
    """The other 99 are stored; the cause is one of the closed categories, and told without what the message says."""
    make, causes = HOSTILE[name]
    hostile = make()
    contents = [message.content for message in good]
    contents.insert(40, hostile)
    verdicts = stored(bridge, contents)
    with bridge.database() as database:
        with database.transaction(read_only=True) as txn:
            [letter] = dead_letters.list_letters(txn)
        found = read(database, bridge.deployment().keys)

    assert [number for number, verdict in enumerate(verdicts) if verdict.outcome is Outcome.DEAD] == [40]
    assert causes is None or letter.code in causes
    assert not any(word in f"{letter}" for word in ("Ash", "Ida", "H1", "19700102"))
    assert found.totals() == {"received": 100, "stored": 99, "filtered": 0, "duplicate": 0, "dead": 1}
    assert hostile in {content for _, content, _ in found.messages}
    assert violations(found, drained=False) == []


def test_all_hostile_messages_together_harm_no_other(bridge: Bridge, good) -> None:
    """Every second message of the batch is hostile."""
    kinds = [make() for name, (make, _) in HOSTILE.items() if "50 MB" not in name]
    contents = [content for pair in zip([m.content for m in good], kinds, strict=False) for content in pair]
    verdicts = stored(bridge, contents)

    assert [v.outcome is Outcome.DEAD for v in verdicts] == [False, True] * len(kinds)


# stopping


def test_sigterm_during_a_feed_drains_and_loses_nothing(tmp_path: Path) -> None:
    """Exit code 0 within the time for stopping; what was answered is there after the next start, and nothing twice."""
    messages = feed(240, seed=5)
    ports = free_ports()
    bridge = Bridge(tmp_path / "bridge", f"sqlite:///{tmp_path}/store.db", **mllp_listeners(ports))
    hospitals = Hospitals(messages, ports)
    role = bridge.role("up")
    for allowed in (80, 160):
        role.begin()
        hospitals.allow(allowed)
        until(lambda allowed=allowed: hospitals.answered > allowed - 60, "some of the feed to be answered")
        assert run_to_end(role, 25) == 0
        with bridge.database() as database:
            assert violations(read(database, bridge.deployment().keys), drained=False) == []
    hospitals.allow(len(messages))
    role.begin()
    hospitals.join()
    with bridge.database() as database:
        until(lambda: waiting(database) == 0 and signed(database), "the queue worked off")
        assert run_to_end(role, 25) == 0
        found = read(database, bridge.deployment().keys)

    assert violations(found) == []
    done = {content for (_, content), counts in found.outcomes().items() if counts["done"]}
    assert {m.content for m in messages if m.outcome.value == "stored"} == done


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_workers_on_kafka_drain_on_sigterm(tmp_path: Path, kafka: Kafka, postgres: Postgres) -> None:
    """Stopped over and over in the middle of a feed: exit code 0 each time, and the broker knows how far the store is."""
    messages = feed(900, seed=5)
    topics = Topics(kafka, partitions=1)
    topics.send(messages)
    topics.close()
    limits = {"limits": {"batch_messages": 10}}
    sources = kafka_sources(kafka, topics.names, "stopped")
    bridge = Bridge(tmp_path / "bridge", postgres.create_database(), **limits, **sources)
    role = bridge.role("work")
    with bridge.database() as database:
        for step in (100, 300, 500):
            role.begin()
            until(lambda step=step: received(database) >= step, "some of the feed to be received", pause_seconds=0.01)
            assert run_to_end(role, 25) == 0
            assert committed(kafka, topics) == positions_of(bridge)
        role.begin()
        until(lambda: received(database) == len(messages), "all messages received")
        assert run_to_end(role, 25) == 0
        found = read(database, bridge.deployment().keys)
        assert committed(kafka, topics) == positions_of(bridge)

    assert violations(found, drained=False) == []


def committed(kafka: Kafka, topics: Topics) -> dict[str, int]:
    """The offsets that the broker knows of the group of each site."""
    from kafka import KafkaConsumer, TopicPartition

    found = {}
    for site, topic in topics.names.items():
        consumer = KafkaConsumer(
            bootstrap_servers=kafka.bootstrap, group_id=f"stopped-{site}", enable_auto_commit=False
        )
        found[site] = consumer.committed(TopicPartition(topic, 0)) or 0
        consumer.close()
    return found


def positions_of(bridge: Bridge) -> dict[str, int]:
    """The positions of the store."""
    with bridge.database() as database:
        rows = read(database, bridge.deployment().keys).tables["source_position"]
    return dict.fromkeys(SITES, 0) | {row["source"]: row["next_offset"] for row in rows}
