"""Promise P7: no health data leaves by a side door.

Words are seeded into messages, good and bad, and into requests. Afterwards everything that operators, monitors, brokers,
database servers and the chain get to see is searched for them, and for whatever they become without a key: base64, hex,
URL-encoded, digests, UUIDs by name.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.sources.mllp_client import MllpSender
from bridge.cli.development import create_issuer, mint, open_issuer
from bridge.errors import BridgeError
from bridge.store import source_control
from bridge.store.database import Database
from tests.faults.deployments import (
    Bridge,
    Role,
    anchored,
    evm_chain,
    log_size,
    received,
    run_to_end,
    serving,
    signed,
    until,
    waiting,
)
from tests.faults.oracle import read
from tests.faults.tokens import Needles, digests, spellings
from tests.services import postgres as postgres_service
from tests.services.anvil import Anvil
from tests.services.kafka import Kafka
from tests.services.process import ServiceUnavailable, free_port

FAMILY, GIVEN, STREET, CITY = "Quixworthy", "Zebedine", "Obelisk Mews", "Wobblechester"
NUMBER, NATIONAL, PHONE, VISIT = "MRNQX7741309", "9998887776", "+447700900613", "VISQX551920"
RESULT, SECRET_EVENT, EMAIL = "tachyphrenia noted", "QUIXEVENT", "zebedine@obelisk.example"
TOKENS = (
    FAMILY,
    GIVEN,
    "19231119",
    "1923-11-19",
    STREET,
    CITY,
    NUMBER,
    NATIONAL,
    PHONE,
    VISIT,
    RESULT,
    SECRET_EVENT,
    EMAIL,
)
PID = f"PID|1||{NUMBER}^^^STO^MR~{NATIONAL}^^^NHR^NH||{FAMILY}^{GIVEN}||19231119|F|||1 {STREET}^^{CITY}||{PHONE}^^^{EMAIL}"
SITE = "st-olave"
ISSUER, AUDIENCE = "https://login.test.example", "https://fhir.test.example"


def hl7(event: str, *segments: str, control: str = "", charset: str = "") -> bytes:
    header = f"MSH|^~\\&|OLAVE-PAS|STO|HIE|HIE|20240301120000||{event}|{control or secrets.token_hex(6)}|P|2.3"
    header += f"||||||{charset}" if charset else ""
    return ("\r".join([header, *segments]) + "\r").encode()


def good_messages() -> list[bytes]:
    visit = f"PV1|1|I|{CITY}^1|||||||||||||||||{VISIT}"
    other = PID.replace(NUMBER, f"{NUMBER}2")
    return [
        hl7("ADT^A01", "EVN|A01|20240301120000", PID, visit),
        hl7("ADT^A08", "EVN|A08|20240301120100", other, visit),
        hl7("ADT^A40", "EVN|A40|20240301120200", PID, f"MRG|{NUMBER}2^^^STO^MR"),
        hl7(
            "ORU^R01",
            PID,
            f"OBR|1|P{VISIT}|F{VISIT}|K^Potassium^L|||20240301",
            f"OBX|1|TX|K^Potassium^L||{RESULT}||||||F",
        ),
        hl7("ADT^A08", "EVN|A08|20240301120300", PID, f"CON|1|{FAMILY}"),
    ]


def bad_messages() -> list[bytes]:
    """Each wrong in another way, with the words in the place that is wrong where that is possible."""
    evn = "EVN|A08|20240301120000"
    endless = f"{NUMBER}{secrets.token_hex(6000)}"
    return [
        f"{FAMILY} {GIVEN} {NUMBER} PRINTED\r".encode(),
        f"MSH|^~\\&|{FAMILY}|{GIVEN}".encode(),
        hl7(f"ADT^{SECRET_EVENT}", evn, PID),
        hl7(f"{FAMILY}^{GIVEN}", evn, PID),
        hl7("DFT^P03", evn, PID),
        hl7("ADT^A08", evn, PID.replace(FAMILY, f"{FAMILY}\0")),
        hl7("ADT^A08", evn, PID, control=f"{NUMBER}\0"),
        hl7("ADT^A08", evn, PID.replace(NUMBER, endless)),
        hl7("ADT^A08", evn, PID, charset="UNICODE UTF-8").replace(FAMILY.encode(), FAMILY.encode() + b"\xff"),
        hl7("ADT^A08", evn, PID, charset=FAMILY),
        hl7("ADT^A08", evn, f"PID|1||||{FAMILY}^{GIVEN}"),
        hl7("ADT^A40", evn, PID.replace("STO", FAMILY), f"MRG|{NUMBER}9^^^{FAMILY}^MR"),
        hl7("ADT^A08", evn, PID) + hl7("ADT^A08", evn, PID),
        hl7("ADT^A08", evn, PID.replace("19231119", FAMILY)),
        hl7("ADT^A08", f"EVN|A08|{FAMILY}", PID),
        PID.encode(),
    ]


def bad_documents() -> list[bytes]:
    name = [{"family": FAMILY, "given": [GIVEN]}]
    patient = {"resourceType": "Patient", "id": NUMBER, "name": name}
    return [
        json.dumps(patient | {"resourceType": FAMILY}).encode(),
        json.dumps(patient).encode()[:-4],
        json.dumps(patient | {FAMILY: NUMBER, "birthDate": FAMILY}).encode(),
        json.dumps(patient | {"id": f"{FAMILY} {GIVEN}"}).encode(),
        json.dumps(patient | {"name": [{"family": f"{FAMILY}\0"}]}).encode(),
        json.dumps(patient | {"identifier": [{"system": {"x": FAMILY}, "value": NUMBER}]}).encode(),
        json.dumps(
            {"resourceType": "Consent", "id": VISIT, "patient": {"reference": f"Patient/{NUMBER}"}, "status": FAMILY}
        ).encode(),
        b'{"resourceType":"Patient","id":"' + NUMBER.encode() + b'","id":"' + VISIT.encode() + b'"}',
    ]


def needles() -> Needles:
    contents = [*good_messages()[:1], *bad_documents()]
    names = [
        f"{NUMBER}^^^STO^MR",
        f"urn:oid:2.16.840.1.113883.19.7.1|{NUMBER}",
        f"st-olave|{NUMBER}",
        f"Patient/{NUMBER}",
    ]
    names += [f"{FAMILY}|{GIVEN}|19231119", f"{FAMILY} {GIVEN}", f"{GIVEN} {FAMILY}", "19231119", "1923-11-19"]
    return Needles(TOKENS, [*contents, *(name.encode() for name in names)])


def test_the_search_finds_what_it_looks_for() -> None:
    """Each spelling and digest of each token is found in the middle of something else; nothing is found in noise."""
    search = needles()
    for token in TOKENS:
        for needle in (*spellings(token), *digests(token.encode())):
            if len(needle) >= 6:
                assert search.found_in("x", secrets.token_bytes(30) + needle + secrets.token_bytes(30))
    assert search.found_in("x", json.dumps({"detail": f"no {FAMILY} here"}))
    assert not search.found_in("x", secrets.token_bytes(100_000))


# feeding and asking


def access(folder: Path) -> dict[str, Any]:
    """The section ``access`` with an issuer whose key the test has."""
    create_issuer(folder / "issuer.json", folder / "jwks.json")
    keys = {"adapter": "jwks-file", "path": str(folder / "jwks.json")}
    client = {"client_id": "emr", "issuer": ISSUER, "organization": "urn:oid:1.2.3|sto", "role": "clinician"}
    return {
        "access": {
            "issuers": [{"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"], "keys": keys}],
            "clients": [client | {"purposes": ["TREAT"]}],
        }
    }


def send(port: int, messages: Sequence[bytes]) -> None:
    """Each over a connection of its own, answered or not."""

    async def run() -> None:
        for message in messages:
            async with MllpSender("127.0.0.1", port, timeout_seconds=10) as sender:
                try:
                    await sender.send(message)
                except BridgeError:
                    continue

    asyncio.run(run())


def answers(bridge: Bridge, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Bodies and headers of refusals by the API, and its metrics and checkpoint."""
    token = mint(
        open_issuer(folder / "issuer.json"),
        {"sub": FAMILY, "client_id": "emr", "purpose": "TREAT", "fhirUser": "Practitioner/dr"},
        ISSUER,
        AUDIENCE,
        300,
    )
    bearer = {"Authorization": f"Bearer {token}"}
    strict = bearer | {"Prefer": "handling=strict"}
    paths = [
        f"/fhir/Patient/{NUMBER}",
        f"/fhir/Patient/{NUMBER}/_history/1",
        f"/fhir/{FAMILY}",
        f"/fhir/{FAMILY}/{GIVEN}",
        f"/fhir/Patient?birthdate={FAMILY}",
        f"/fhir/Patient?_count={FAMILY}",
        f"/fhir/Patient?_sort={FAMILY}",
        f"/fhir/Patient?{FAMILY}={NUMBER}",
        f"/fhir/Patient?family:{FAMILY}={GIVEN}",
        f"/fhir/Patient?_page={NUMBER}",
        f"/fhir/Observation?patient={'%00'}{NUMBER}",
        f"/{FAMILY}",
    ]
    for headers in ({}, bearer, strict, {"Authorization": f"Bearer {FAMILY}"}, {"Authorization": FAMILY}):
        for path in paths:
            status, body = bridge.get(path, headers)
            if status >= 400:
                yield f"{status} of GET {path}", body
    for path in ("/metrics", "/log/checkpoint", "/ready"):
        yield path, bridge.get(path)[1]
    assert bridge.get(f"/fhir/Patient?family={FAMILY}", bearer)[0] == 200
    for body in [json.dumps({"resourceType": "Consent", "status": FAMILY}).encode(), FAMILY.encode(), *bad_documents()]:
        status, answer = bridge.post("/fhir/Consent", body, bearer | {"Content-Type": "application/fhir+json"})
        assert status >= 400
        yield f"{status} of POST Consent", answer


def listings(bridge: Bridge) -> Iterator[tuple[str, str]]:
    """What the commands for dead letters show, and why commands fail."""
    code, said = bridge.command("deadletters", "list", "--json", level="debug")
    assert code == 0
    yield "deadletters list", said
    yield "deadletters list", bridge.command("deadletters", "list")[1]
    for letter in json.loads(said[said.index("{") :])["dead_letters"][:3]:
        yield "deadletters show", bridge.command("deadletters", "show", str(letter["id"]))[1]
    yield "deadletters replay", bridge.command("deadletters", "replay", "--all", "--reason", "x", level="debug")[1]
    yield "fsck", bridge.command("fsck", level="debug")[1]


def told_by_the_store(bridge: Bridge) -> Iterator[tuple[str, str]]:
    """What is in the store to be shown or sent: dead letters, alarms, checkpoints, leases, anchors."""
    import sqlalchemy as sa

    from bridge.store import schema
    from bridge.store.dialect import Statement

    with bridge.database() as database, database.transaction(read_only=True) as txn:
        for name in ("dead_letter", "alarm", "checkpoint", "lease", "anchor", "outbox", "source_control", "commitment"):
            for row in txn.execute(Statement(sa.select(schema.metadata.tables[name]))):
                yield (
                    f"table {name}",
                    " ".join(value.hex() if isinstance(value, bytes) else str(value) for value in row),
                )
        columns = schema.access_record.c
        for row in txn.execute(Statement(sa.select(columns.query_parameters, columns.rule))):
            yield "access record", " ".join(map(str, row))


def leaks(search: Needles, channels: Mapping[str, Sequence[bytes | str]]) -> list[str]:
    assert all(any(len(piece) for piece in pieces) for pieces in channels.values()), "a channel was not listened to"
    return [found for name, pieces in channels.items() for piece in pieces for found in search.found_in(name, piece)]


def logs(roles: Sequence[Role]) -> list[str]:
    return [role.log_text() for role in roles]


@contextmanager
def running(roles: Sequence[Role]) -> Iterator[None]:
    for role in roles:
        role.begin()
    try:
        yield
    finally:
        for role in roles:
            role.stop()


def test_an_embedded_bridge_shows_nothing(tmp_path: Path) -> None:
    """Log at debug level, metrics, refusals, dead letters, checkpoints, alarms, and the file of the local chain."""
    port, documents = free_port(), tmp_path / "documents"
    documents.mkdir()
    for number, document in enumerate(bad_documents()):
        (documents / f"{number}.json").write_bytes(document)
    listeners = [
        {"name": SITE, "adapter": "mllp", "site": SITE, "port": port, "max_message_bytes": 20_000},
        {"name": "documents", "adapter": "folder", "site": SITE, "path": str(documents), "interval_seconds": 0.2},
    ]
    bridge = Bridge(tmp_path / "b", f"sqlite:///{tmp_path}/s.db", listeners=listeners, **access(tmp_path))
    role = bridge.role("up", level="debug")
    with running([role]), bridge.database() as database:
        serving(bridge, role)
        send(port, [*good_messages(), *bad_messages(), FAMILY.encode() * 5000])
        until(lambda: received(database) > 20 and waiting(database) == 0 and signed(database), "the messages stored")
        until(lambda: anchored(bridge), "the log anchored")
        channels: dict[str, list[bytes | str]] = {"api": [body for _, body in answers(bridge, tmp_path)]}
        assert run_to_end(role) == 0
        totals = read(database, bridge.deployment().keys).totals()
        channels["commands"] = [said for _, said in listings(bridge)]
        channels["store"] = [text for _, text in told_by_the_store(bridge)]
        channels["log"] = logs([role])
        channels["chain"] = [file.read_bytes() for file in bridge.folder.glob("chain.sqlite*")]

    assert leaks(needles(), channels) == []
    assert totals["dead"] >= 12
    assert totals["stored"] >= 4


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_separate_roles_and_their_servers_show_nothing(tmp_path: Path, kafka: Kafka, anvil: Anvil) -> None:
    """Also: headers on Kafka, the log of PostgreSQL with its errors, calldata and events on an EVM chain."""
    topic = kafka.create_topic(partitions=1)
    port = free_port()
    kafka_settings = {"adapter": "kafka", "topic": topic, "bootstrap_servers": [kafka.bootstrap]}
    sections = {
        "intakes": [{"name": "bus", **kafka_settings}],
        "listeners": [{"name": SITE, "adapter": "mllp", "site": SITE, "port": port, "intake": "bus"}],
        "sources": [{"name": "bus", "site": SITE, "group_id": topic, **kafka_settings}],
        "chain": evm_chain(anvil, tmp_path / "chain"),
    }
    first_block = int(str(anvil.call("eth_blockNumber")), 16)
    try:
        server = postgres_service.start(settings={"log_min_messages": "info", "log_min_error_statement": "error"})
    except ServiceUnavailable as error:
        pytest.skip(str(error))
    with server as postgres:
        bridge = Bridge(tmp_path / "b", postgres.create_database(), **sections, **access(tmp_path))
        roles = [bridge.role(name, level="debug") for name in ("listen", "work", "anchor", "serve")]
        with running(roles), bridge.database() as database:
            serving(bridge, roles[-1])
            until(lambda: listens(port), "the listener to listen")
            produce(kafka, topic, bad_documents())
            send(port, [*good_messages(), *bad_messages()])
            until(lambda: worked(database, "bus") and signed(database), "the messages stored")
            until(lambda: anchored(bridge) and log_size(database) > 0, "the log anchored")
            channels: dict[str, list[bytes | str]] = {"api": [body for _, body in answers(bridge, tmp_path)]}
            assert [run_to_end(role) for role in roles] == [0, 0, 0, 0]
            totals = read(database, bridge.deployment().keys).totals()
            channels["commands"] = [said for _, said in listings(bridge)]
            channels["store"] = [text for _, text in told_by_the_store(bridge)]
            channels["logs"] = logs(roles)
        channels["headers"] = headers(kafka, topic)
        channels["chain"] = on_chain(anvil, first_block)
        channels["postgresql"] = [postgres.log_text()]

    assert leaks(needles(), channels) == []
    assert any(" ERROR: " in str(piece) for piece in channels["postgresql"])
    assert totals["dead"] >= 15
    assert totals["stored"] >= 4


def listens(port: int) -> bool:
    """Whether someone takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def worked(database: Database, source: str) -> bool:
    """Whether all messages are received; lets the source go on where a consent of nobody has paused it."""
    with database.transaction() as txn:
        if source in source_control.paused(txn):
            source_control.resume(txn, source, "the test looks on")
    return received(database) >= 25


def produce(kafka: Kafka, topic: str, contents: Sequence[bytes]) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    for content in contents:
        producer.send(topic, content)
    producer.close()


def headers(kafka: Kafka, topic: str) -> list[bytes | str]:
    """Names and values of all headers of what listeners put into the topic."""
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=2000
    )
    found = [f"{name}={value!r}" for record in consumer for name, value in record.headers]
    consumer.close()
    return found


def on_chain(node: Anvil, first_block: int) -> list[bytes | str]:
    """Every transaction and event from that block on, with their data as bytes too."""
    found: list[bytes | str] = []
    for number in range(first_block, int(str(node.call("eth_blockNumber")), 16) + 1):
        block: Any = node.call("eth_getBlockByNumber", hex(number), True)
        for transaction in block["transactions"]:
            found += [json.dumps(transaction), bytes.fromhex(transaction["input"][2:])]
    for event in node.call("eth_getLogs", {"fromBlock": hex(first_block), "toBlock": "latest"}):  # type: ignore[attr-defined]
        found += [json.dumps(event), bytes.fromhex(event["data"][2:])]
    return found
