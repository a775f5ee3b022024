"""The FHIR server sink before a server that others wrote: HAPI FHIR (``long``: it takes up to a minute to start)."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from adapters.sinks.fhir_server import FhirServerSettings, FhirServerSink
from bridge.errors import Unavailable
from bridge.pipeline.delivery import Conduct, Dispatcher
from bridge.pipeline.ports import DeliveryState
from bridge.record.deliveries import Route
from bridge.record.recorder import Recorder
from bridge.store import outbox
from bridge.store.database import open_database
from bridge.store.migrate import migrate
from bridge.telemetry.stop import Stop
from tests.contract.sink_harness import SYSTEM, deletion, unique, version
from tests.integration.hospital import KEYS, ORIGIN, Hospital, hl7, model, obr, obx, pid, pv1
from tests.services import hapi
from tests.services.hapi import Hapi
from tests.services.process import ServiceUnavailable

pytestmark = pytest.mark.long

DELIVERED, REFUSED, HELD = DeliveryState.DELIVERED, DeliveryState.REFUSED, DeliveryState.HELD


@pytest.fixture(scope="module")
def server() -> Iterator[Hapi]:
    """A running server."""
    try:
        with hapi.start() as running:
            yield running
    except ServiceUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def sink(server: Hapi) -> Iterator[FhirServerSink]:
    """A sink to it."""
    made = FhirServerSink("ehr", FhirServerSettings(base_url=server.base, identifier_system=SYSTEM))
    yield made
    made.close()


def always() -> bool:
    return True


def search(server: Hapi, query: str) -> list[dict[str, Any]]:
    """What a search finds now."""
    request = urllib.request.Request(f"{server.base}/{query}", headers={"Cache-Control": "no-cache"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [entry["resource"] for entry in json.load(answer).get("entry", ())]


def named(server: Hapi, kind: str, name: str) -> list[dict[str, Any]]:
    """Resources that bear one of our ids."""
    return search(server, f"{kind}?identifier={SYSTEM}%7C{name}")


def test_versions_update_one_resource(server, sink):
    """Created, updated twice, deleted: in one call, in order."""
    name = unique("p")
    given = [version("Patient", name, number, active=number == 3, birthDate=f"197{number}") for number in (1, 2, 3)]

    assert [a.state for a in sink.deliver(given, always)] == [DELIVERED] * 3
    [patient] = named(server, "Patient", name)
    assert patient["active"] is True
    assert patient["meta"]["versionId"] == "3"

    assert sink.deliver([deletion("Patient", name, 4)], always)[0].state is DELIVERED
    assert named(server, "Patient", name) == []


def test_the_culprit_alone_is_refused(server, sink):
    """A date that is none: this server refuses the whole transaction, and halving finds which resource it was."""
    names = [unique(f"p{number}") for number in range(4)]
    given = [version("Patient", name, birthDate="yesterday" if name is names[2] else "1970-01-02") for name in names]

    answers = sink.deliver(given, always)

    assert [a.state for a in answers] == [DELIVERED, DELIVERED, REFUSED, DELIVERED]


def test_a_feed_s_resources_arrive_with_their_references(server, sink, tmp_path):
    """The whole way: messages, store, outbox, dispatcher, server; result and visit lead to the patient, twice over the same."""
    url = f"sqlite:///{tmp_path}/store.db"
    migrate(url)
    hospital = Hospital(url)
    route = Route("ehr", frozenset({"resource"}))
    recorder = Recorder(KEYS, ORIGIN, model(), hospital.sites.values(), [route])
    hospital.batcher._recorder = recorder
    hospital.feed(
        hl7("ADT^A01", pid("1^^^NORTH^MR"), pv1("V1")),
        hl7("ORU^R01", pid("1^^^NORTH^MR"), obr(), obx()),
        hl7("ADT^A08", pid("1^^^NORTH^MR", name="Ash^Iris"), pv1("V1"), at="20240302120000"),
    )
    dispatcher = Dispatcher(open_database(url), sink, route, Conduct(), "one")
    deadline = time.monotonic() + 60
    while dispatcher.dispatch(Stop()):
        assert time.monotonic() < deadline
    with hospital.database.transaction(read_only=True) as txn:
        assert outbox.standing(txn, route.destination).number == 0

    stored = hospital.one("Patient")
    [patient] = named(server, "Patient", stored["id"])
    assert patient["name"][0]["given"] == ["Iris"]
    for kind in ("Encounter", "Observation", "DiagnosticReport"):
        [there] = named(server, kind, hospital.one(kind)["id"])
        assert there["subject"]["reference"] == f"Patient/{patient['id']}"
    provenances = search(server, f"Provenance?_tag={SYSTEM}%7C{hospital.resources('Provenance')[0]['id']}")
    assert len(provenances) == 1
    hospital.close()
    dispatcher._database.close()


def test_a_wrong_address_blames_no_delivery(server):
    """This server answers 404 to a base that is not its own: that is the configuration's fault."""
    wrong = FhirServerSink("ehr", FhirServerSettings(base_url=f"{server.base}x", identifier_system=SYSTEM))

    with pytest.raises(Unavailable):
        wrong.deliver([version("Patient", unique("p"))], always)
    wrong.close()
