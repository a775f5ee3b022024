"""What the FHIR server sink does beyond the contract of sinks: names, references, halving, credentials, a server's moods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.sinks.fhir_server import FhirServerSettings, FhirServerSink
from bridge.errors import Unavailable
from bridge.pipeline.ports import Delivery, DeliveryState
from tests.contract.fhir_receiver import Receiver
from tests.contract.sink_harness import SYSTEM, deletion, version

DELIVERED, REFUSED, FAILED, HELD = (
    DeliveryState.DELIVERED,
    DeliveryState.REFUSED,
    DeliveryState.FAILED,
    DeliveryState.HELD,
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An empty server."""
    with_server = Receiver()
    yield with_server
    with_server.stop()


@pytest.fixture
def make(receiver: Receiver) -> Iterator[Callable[..., FhirServerSink]]:
    """Sinks to it."""
    made: list[FhirServerSink] = []

    def build(**changes: Any) -> FhirServerSink:
        settings = {"base_url": receiver.base, "identifier_system": SYSTEM, "timeout_seconds": 5, **changes}
        made.append(FhirServerSink("ehr", FhirServerSettings.model_validate(settings)))
        return made[-1]

    yield build
    for sink in made:
        sink.close()


def always() -> bool:
    return True


def observation(name: str, *, of: str, linkable: tuple[str, ...] | None = None, key: str = "", **more: Any) -> Delivery:
    made = version("Observation", name, key=key or of, subject={"reference": of}, **more)
    return replace(made, linkable=frozenset((of,) if linkable is None else linkable))


def only(receiver: Receiver, kind: str) -> dict[str, Any]:
    [found] = [resource for (held, _), resource in receiver.current.items() if held == kind]
    return found


def test_a_resource_bears_our_id_as_an_identifier_beside_its_own(receiver, make):
    """It is created once and updated after; its id and version there are the server's; our version's marks stay behind."""
    mrn = {"system": "urn:test:north", "value": "1"}
    sink = make()

    sink.deliver([version("Patient", "p1", identifier=[mrn])], always)
    sink.deliver([version("Patient", "p1", 2, identifier=[mrn], active=True)], always)

    patient = only(receiver, "Patient")
    assert patient["identifier"] == [mrn, {"system": SYSTEM, "value": "p1"}]
    assert patient["active"] is True
    assert patient["meta"] == {"source": "#2"}


def test_a_resource_without_room_for_an_identifier_bears_a_tag(receiver, make):
    """Provenance has no element for it; it is found by its tag, and so stays one."""
    sink = make()

    for number in (1, 2):
        sink.deliver([version("Provenance", "v1", number)], always)

    assert only(receiver, "Provenance")["meta"]["tag"] == [{"system": SYSTEM, "code": "v1"}]


def test_references_lead_to_what_the_server_has(receiver, make):
    """Within one transaction, and to what an earlier one brought."""
    sink = make()

    together = sink.deliver([version("Patient", "p1"), observation("o1", of="Patient/p1")], always)
    later = sink.deliver([observation("o2", of="Patient/p1")], always)

    assert [a.state for a in (*together, *later)] == [DELIVERED] * 3
    [server_id] = [name for kind, name in receiver.current if kind == "Patient"]
    subjects = [r["subject"] for (kind, _), r in receiver.current.items() if kind == "Observation"]
    assert subjects == [{"reference": f"Patient/{server_id}"}] * 2


def test_a_reference_to_what_is_not_delivered_becomes_a_logical_one(receiver, make):
    """What the sink is not given is still named; what was said beside the reference stays; other references are left alone."""
    performer = [{"reference": "Practitioner/x", "display": "A"}, {"reference": "#inside"}]
    observed = observation("o1", of="Patient/gone", linkable=(), performer=performer, contained=[])

    receiver._resolve = lambda *_: None
    make().deliver([observed], always)

    found = only(receiver, "Observation")
    assert found["subject"] == {"type": "Patient", "identifier": {"system": SYSTEM, "value": "gone"}}
    assert found["performer"][0] == {
        "display": "A",
        "type": "Practitioner",
        "identifier": {"system": SYSTEM, "value": "x"},
    }
    assert found["performer"][1] == {"reference": "#inside"}


def test_a_reference_ahead_of_its_target_is_a_logical_one_until_the_next_version(receiver, make):
    """Its target may wait behind it, so it does not wait for its target; with both there the next version is linked."""
    sink = make()

    early = sink.deliver([observation("o1", of="Patient/p1"), version("Device", "d1")], always)
    subject = only(receiver, "Observation")["subject"]
    sink.deliver([version("Patient", "p1")], always)
    again = sink.deliver([observation("o1", of="Patient/p1")], always)

    assert [(a.state, a.code) for a in early] == [(DELIVERED, "unlinked"), (DELIVERED, "")]
    assert subject == {"type": "Patient", "identifier": {"system": SYSTEM, "value": "p1"}}
    assert [(a.state, a.code) for a in again] == [(DELIVERED, "")]
    assert only(receiver, "Observation")["subject"]["reference"].startswith("Patient/")


def test_two_that_refer_to_each_other_are_linked(receiver, make):
    """In transactions of their own, neither could be first; in the end each leads to the other."""
    others = {"p1": "Patient/p2", "p2": "Patient/p1"}
    given = [
        replace(
            version("Patient", name, link=[{"other": {"reference": other}, "type": "seealso"}]),
            linkable=frozenset({other}),
        )
        for name, other in others.items()
    ]

    answers = make(bundle_entries=1).deliver(given, always)

    ids = {resource["identifier"][0]["value"]: name for (_, name), resource in receiver.current.items()}
    leads = {r["identifier"][0]["value"]: r["link"][0]["other"]["reference"] for r in receiver.current.values()}
    assert [(a.state, a.code) for a in answers] == [(DELIVERED, "")] * 2
    assert leads == {"p1": f"Patient/{ids['p2']}", "p2": f"Patient/{ids['p1']}"}


def test_what_is_refused_with_its_links_and_without_is_refused(receiver, make):
    """An unresolvable reference is no cover for a resource that the server breaks on."""
    receiver.broken_type = "Observation"
    given = [observation("o1", of="Patient/p1"), version("Patient", "p1", key="Patient/p1")]

    answers = make().deliver(given, always)

    assert [a.state for a in answers] == [FAILED, HELD]


def test_what_is_of_one_key_stays_together(receiver, make):
    """A transaction is closed early rather than in the midst of a patient's resources, which may refer to each other."""
    report = replace(version("DiagnosticReport", "r1", key="Patient/p2"), linkable=frozenset())
    given = [version("Patient", "p1"), observation("o1", of="Patient/p2", linkable=()), report]

    make(bundle_entries=2).deliver(given, always)

    assert receiver.requests == 2


def test_decimals_keep_their_digits(receiver, make):
    """What goes over the wire is what is stored: 4.10 is not 4.1."""
    seen: list[bytes] = []
    sink = make()
    sink._post = lambda content: seen.append(content) or (200, {"resourceType": "Bundle", "entry": [{}]})
    made = version("Observation", "o1")

    sink.deliver([replace(made, content=made.content[:-1] + b',"valueQuantity":{"value":4.10}}')], always)

    assert b'"value":4.10}' in seen[0]


def test_no_transaction_has_a_resource_twice(receiver, make):
    """Several versions of one resource, and its deletion, go in transactions of their own, in order."""
    given = [
        version("Patient", "p1"),
        version("Patient", "p2"),
        version("Patient", "p1", 2),
        deletion("Patient", "p1", 3),
    ]

    answers = make().deliver(given, always)

    assert [a.state for a in answers] == [DELIVERED] * 4
    assert receiver.requests == 3


def test_transactions_are_no_larger_than_configured(receiver, make):
    """Seven resources in transactions of three are three requests; each waits for leave to go on."""
    leave: list[None] = []

    make(bundle_entries=3).deliver(
        [version("Patient", f"p{number}") for number in range(7)], lambda: leave.append(None) is None
    )

    assert receiver.requests == len(leave) == 3


def test_a_culprit_is_found_by_halving(receiver, make):
    """One in sixteen that the server breaks on costs a few requests, and the other fifteen are delivered."""
    receiver.broken_type = "Device"
    given = [version("Device" if number == 5 else "Location", f"r{number}") for number in range(16)]

    answers = make().deliver(given, always)

    assert [a.state for a in answers] == [FAILED if number == 5 else DELIVERED for number in range(16)]
    assert receiver.requests <= 9


@pytest.mark.parametrize("status", [401, 404, 405, 408, 429, 301, 502, 503, 504])
def test_what_the_server_says_to_everything_is_no_delivery_s_fault(receiver, make, status):
    """Wrong credentials or address, too busy, not there: nothing is set aside for it."""
    receiver.failing = status

    with pytest.raises(Unavailable) as caught:
        make().deliver([version("Patient", "p1")], always)

    assert str(status) in str(caught.value)


def test_what_was_settled_before_the_server_went_away_is_answered(receiver, make):
    """The first transaction counts; what follows was not answered, and is due again."""
    sink = make(bundle_entries=1)
    turns = iter([True, True, True])

    def go_on() -> bool:
        if len(receiver.log) == 2:
            receiver.failing = 503
        return next(turns)

    answers = sink.deliver([version("Patient", f"p{number}") for number in range(3)], go_on)

    assert [a.state for a in answers] == [DELIVERED, DELIVERED]


def test_an_answer_that_got_lost_makes_no_second_resource(receiver, make):
    """The transaction was committed, nobody heard of it: the same again updates what the first created."""
    sink = make()
    receiver.lose_answers = 1

    with pytest.raises(Unavailable):
        sink.deliver([version("Patient", "p1")], always)
    sink.deliver([version("Patient", "p1")], always)

    assert len(receiver.current) == 1


@pytest.mark.parametrize(
    ("given", "header"),
    [
        ({"bearer_token": {"env": "SINK_SECRET"}}, "Bearer s3cret"),
        ({"basic": {"username": "bridge", "password": {"env": "SINK_SECRET"}}}, "Basic YnJpZGdlOnMzY3JldA=="),
    ],
)
def test_credentials_go_with_each_request(receiver, make, monkeypatch, given, header):
    """A token or a user; the server takes no other."""
    monkeypatch.setenv("SINK_SECRET", "s3cret")
    receiver.authorization = header

    assert make(**given).deliver([version("Patient", "p1")], always)[0].state is DELIVERED


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "http://ehr.internal/fhir"},
        {"base_url": "ftp://ehr.internal/fhir"},
        {"identifier_system": "a|b"},
        {"timeout_seconds": 0},
        {"bearer_token": {"env": "A"}, "basic": {"username": "u", "password": {"env": "B"}}},
    ],
)
def test_settings_that_would_harm_are_refused(wrong):
    """Records in the clear, a system that can't be searched, no time at all, two kinds of credentials."""
    with pytest.raises(ValidationError):
        FhirServerSettings.model_validate({"base_url": "https://ehr/fhir", "identifier_system": SYSTEM, **wrong})


def test_plain_http_elsewhere_is_called_what_it_is():
    """It has to be asked for by its name."""
    plain = {"base_url": "http://ehr.internal/fhir", "identifier_system": SYSTEM, "unsafe_plain_http": True}

    assert FhirServerSettings.model_validate(plain).unsafe_plain_http
