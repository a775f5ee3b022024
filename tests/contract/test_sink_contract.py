"""The port ``Sink``, against every registered one: at least once, in order within a key, and one bad delivery harms no other.

Kafka is a real broker (``ci``), the FHIR server one written for tests, stricter than R4; ``test_hapi_sink.py`` has a real one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.config.adapters import SINKS, adapter_names, load_adapter
from bridge.errors import BridgeError
from bridge.pipeline.ports import DeliveryKind, DeliveryState, Sink
from tests.contract.fhir_receiver import Receiver
from tests.contract.sink_harness import SECRET, Destination, StrictServer, Topic, deletion, unique, version

# A client that never reached its server leaves sockets to the garbage collector; that is kafka-python's to mend.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ADAPTERS = adapter_names(SINKS)
NEED_A_SERVICE = {"kafka"}
DELIVERED, REFUSED, HELD = DeliveryState.DELIVERED, DeliveryState.REFUSED, DeliveryState.HELD


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collects those sockets here, where that is forgiven, and not in the middle of someone else's test."""
    yield
    gc.collect()


@pytest.fixture(params=[pytest.param(a, marks=[pytest.mark.ci] if a in NEED_A_SERVICE else []) for a in ADAPTERS])
def adapter(request: pytest.FixtureRequest) -> str:
    """Each registered sink."""
    return str(request.param)


@pytest.fixture
def destination(adapter: str, request: pytest.FixtureRequest) -> Iterator[Destination]:
    """An empty destination."""
    if adapter == "kafka":
        yield Topic(request.getfixturevalue("kafka"))
    else:
        receiver = Receiver()
        yield StrictServer(receiver)
        receiver.stop()


@pytest.fixture
def make(adapter: str) -> Iterator[Callable[[dict[str, Any]], Sink]]:
    """Builds the sink from its entry point; closes it twice."""
    made: list[Sink] = []

    def build(settings: dict[str, Any]) -> Sink:
        spec = load_adapter(SINKS, adapter)
        made.append(spec.build("copy", spec.settings.model_validate(settings)))
        return made[-1]

    yield build
    for sink in made:
        sink.close()
        sink.close()


@pytest.fixture
def sink(make: Callable[[dict[str, Any]], Sink], destination: Destination) -> Sink:
    """A sink that delivers to the destination."""
    return make(destination.settings())


def always() -> bool:
    return True


def states(answers: Any) -> list[DeliveryState]:
    return [answer.state for answer in answers]


def test_every_registered_sink_is_tested(adapter):
    """A sink that somebody registers comes with a destination for this suite."""
    assert adapter in {"kafka", "fhir-server"}


def test_building_connects_to_nothing(make, destination):
    """The configuration can be checked without the destination; what a sink can be given is known beforehand."""
    sink = make(destination.unreachable())

    assert sink.name == "copy"
    assert DeliveryKind.RESOURCE in sink.kinds


def test_everything_arrives_in_order_within_each_key(sink, destination):
    """Versions of several patients' resources, several of one resource among them, in one call."""
    one, two = unique("one"), unique("two")
    given = [version("Patient", name, number) for number in (1, 2, 3) for name in (one, two)]

    answers = sink.deliver(given, always)

    assert states(answers) == [DELIVERED] * 6
    for name in (one, two):
        assert [told for told in destination.got() if told[0] == f"Patient/{name}"] == [
            (f"Patient/{name}", number) for number in (1, 2, 3)
        ]


def test_a_deletion_arrives_behind_what_it_deletes(sink, destination):
    """Of what was delivered in an earlier call, and of what comes in the same one."""
    one, two = unique("one"), unique("two")
    sink.deliver([version("Patient", one)], always)

    answers = sink.deliver([deletion("Patient", one, 2), version("Patient", two), deletion("Patient", two, 2)], always)

    assert states(answers) == [DELIVERED] * 3
    assert destination.got()[-1] == (f"Patient/{two}", 0)
    assert (f"Patient/{one}", 0) in destination.got()


def test_the_same_again_ends_the_same(sink, make, destination):
    """A crash before the answer was noted repeats deliveries, through another process: the newest version stays the last."""
    name = unique("one")
    given = [version("Patient", name, number) for number in (1, 2)]
    sink.deliver(given, always)

    assert states(make(destination.settings()).deliver(given, always)) == [DELIVERED] * 2
    assert destination.got()[-1] == (f"Patient/{name}", 2)


def test_what_is_refused_holds_its_own_key_and_nothing_else(sink, destination):
    """The culprit alone is refused, with a code; what follows it under its key is held, all others are delivered."""
    others = [unique(f"other{number}") for number in range(5)]
    bad, key = unique("bad"), unique("Patient/key")
    before = version("Patient", unique("before"), key=key)
    given = [
        version("Patient", others[0]),
        before,
        version("Patient", others[1]),
        destination.poison(bad, key),
        version("Patient", others[2]),
        version("Patient", unique("after"), key=key),
        version("Patient", others[3]),
        version("Patient", others[4]),
    ]

    answers = sink.deliver(given, always)

    expected = [DELIVERED, DELIVERED, DELIVERED, REFUSED, DELIVERED, HELD, DELIVERED, DELIVERED]
    assert states(answers) == expected
    assert answers[3].code
    delivered = [f"Patient/{d.resource_id}" for d, state in zip(given, expected, strict=True) if state is DELIVERED]
    assert sorted(place for place, _ in destination.got()) == sorted(delivered)


def test_a_destination_that_is_away_gets_everything_when_it_is_back(sink, destination):
    """Away it is Unavailable, or answers fewer than were given; nothing is said to be delivered that is not."""
    first, second = version("Patient", unique("one")), version("Patient", unique("two"))
    sink.deliver([first], always)

    with destination.away(), pytest.raises(BridgeError) as caught:
        sink.deliver([second], always)
    answers = sink.deliver([second], always)

    assert caught.value.transient
    assert states(answers) == [DELIVERED]
    assert (f"Patient/{second.resource_id}", 1) in destination.got()


def test_what_was_never_there_is_unavailable(make, destination):
    """With a code and a remedy, and nothing of what was to be delivered."""
    with pytest.raises(BridgeError) as caught:
        make(destination.unreachable()).deliver([version("Patient", unique("one"))], always)

    assert caught.value.transient
    assert SECRET not in str(caught.value)


def test_nothing_is_sent_once_another_may_send(sink, destination):
    """``go_on`` is asked before anything is sent; what it stops is not answered."""
    assert list(sink.deliver([version("Patient", unique("one"))], lambda: False)) == []
    assert destination.got() == []


def test_no_answer_shows_what_was_delivered(sink, destination):
    """Codes of refusals are of the sink's own making."""
    answers = sink.deliver([destination.poison(unique("bad"), "")], always)

    assert states(answers) == [REFUSED]
    assert SECRET not in answers[0].code
    assert len(answers[0].code) < 40


def test_nothing_due_is_nothing_said(sink):
    """An empty call is answered empty."""
    assert list(sink.deliver([], always)) == []
