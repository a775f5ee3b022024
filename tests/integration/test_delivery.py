"""What is stored reaches the sinks: every commit, in each patient's order, at least once, whatever the sink says to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from bridge.errors import NotFound, Unavailable
from bridge.pipeline import delivery
from bridge.pipeline.batch import Batcher
from bridge.pipeline.delivery import ASIDE_ALARM, BEHIND_ALARM, Conduct, Dispatcher
from bridge.pipeline.ports import Answer, Delivery, DeliveryKind, DeliveryState
from bridge.record import restrictions
from bridge.record.deliveries import Route
from bridge.record.recorder import Recorder
from bridge.store import alarms, leases, outbox
from bridge.store import restrictions as restriction_rows
from bridge.store.database import open_database
from bridge.store.rows import Outcome
from bridge.telemetry import failpoints, metrics
from bridge.telemetry.stop import Stop
from tests.integration.hospital import KEYS, ORIGIN, Hospital, codes, hl7, model, obr, obx, outcomes, pid, pv1
from tests.stores import store_url

__all__ = ["store_url"]

ALL = frozenset({"resource", "link", "consent"})
DELIVERED, REFUSED, FAILED, HELD = (
    DeliveryState.DELIVERED,
    DeliveryState.REFUSED,
    DeliveryState.FAILED,
    DeliveryState.HELD,
)


class Memory:
    """A sink that keeps what it is given. ``says`` decides otherwise about a delivery; ``away`` makes it unreachable."""

    kinds = frozenset(DeliveryKind)
    request_seconds = 10.0

    def __init__(self, *, links: bool = False) -> None:
        self.name = "copy"
        self.links = links
        self.got: list[Delivery] = []
        self.says: Callable[[Delivery], DeliveryState] = lambda _: DELIVERED
        self.away = False

    def deliver(self, deliveries: Sequence[Delivery], go_on: Callable[[], bool]) -> Sequence[Answer]:
        answers: list[Answer] = []
        behind: set[str] = set()
        for each in deliveries:
            if self.away:
                if answers:
                    break
                raise Unavailable("sink-away", "It is away.")
            if not go_on():
                break
            state = HELD if each.key in behind else self.says(each)
            if state is DELIVERED:
                self.got.append(each)
            else:
                behind.add(each.key)
            answers.append(Answer(state, "because"))
        return answers

    def close(self) -> None:
        pass

    def told(self, kind: str) -> list[str]:
        """Names of what came of a resource type, in order."""
        return [each.id for each in self.got if each.resource_type == kind]


class Scene:
    """A hospital whose changes go to one sink."""

    def __init__(self, url: str, route: Route) -> None:
        self.url = url
        self.route = route
        self.hospital = Hospital(url)
        self.recorder = Recorder(KEYS, ORIGIN, model(), self.hospital.sites.values(), [route])
        self.hospital.batcher = Batcher(self.hospital.database, self.recorder, self.hospital.restriction_key)
        self.sink = Memory()
        self.made: list[Dispatcher] = []

    def dispatcher(self, sink: Memory | None = None, holder: str = "one", **conduct: Any) -> Dispatcher:
        """Another process that delivers."""
        made = Dispatcher(open_database(self.url), sink or self.sink, self.route, Conduct(**conduct), holder)
        self.made.append(made)
        return made

    def deliver(self, dispatcher: Dispatcher | None = None) -> None:
        """Delivers until nothing is due."""
        one = dispatcher or self.made[0] if self.made else dispatcher or self.dispatcher()
        while one.dispatch(Stop()):
            pass

    def waiting(self) -> int:
        """How many deliveries wait."""
        with self.hospital.database.transaction(read_only=True) as txn:
            return outbox.standing(txn, self.route.destination).number

    def alarms(self) -> list[tuple[str, str]]:
        """Alarms that are up, and what they say."""
        with self.hospital.database.transaction(read_only=True) as txn:
            return [(alarm.code, alarm.detail) for alarm in alarms.active(txn)]

    def set_aside(self) -> list[delivery.SetAside]:
        """What was set aside."""
        with self.hospital.database.transaction(read_only=True) as txn:
            return delivery.set_aside(txn, self.route, 100)

    def restrict(self, patient: Mapping[str, Any]) -> None:
        """Closes a patient."""
        key = self.hospital.key_of(patient)
        with self.hospital.database.transaction() as txn:
            restrictions.restrict_known(txn, [key], "consent-segment-unmapped")

    def ready_now(self) -> None:
        """As if all pauses were over."""
        with self.hospital.database.transaction() as txn:
            rows = [row for row in self.hospital.rows_in(txn, "outbox") if row["next_us"] != outbox.NEVER_US]
            outbox.defer(txn, [(row["outbox_key"], row["created_us"], 0) for row in rows])


@pytest.fixture
def make(store_url: str) -> Iterator[Callable[..., Scene]]:
    """Scenes over one store."""
    made: list[Scene] = []

    def build(route: Route | None = None) -> Scene:
        made.append(Scene(store_url, route or Route("copy", frozenset({"resource"}))))
        return made[-1]

    yield build
    for scene in made:
        scene.hospital.close()
        for dispatcher in scene.made:
            dispatcher._database.close()


@pytest.fixture
def scene(make: Callable[..., Scene]) -> Scene:
    """One that is given every resource."""
    return make()


def admitted(number: str = "1", name: str = "Ash^Ida", at: str = "20240301120000") -> bytes:
    return hl7("ADT^A01", pid(f"{number}^^^NORTH^MR", name=name), pv1(f"V{number}"), at=at)


def renamed(number: str, name: str, at: str) -> bytes:
    return hl7("ADT^A08", pid(f"{number}^^^NORTH^MR", name=name), pv1(f"V{number}"), at=at)


def result(number: str = "1") -> bytes:
    return hl7("ORU^R01", pid(f"{number}^^^NORTH^MR"), obr(f"P{number}", f"F{number}"), obx())


def name_of(each: Delivery) -> str:
    assert each.content is not None
    return str(json.loads(each.content)["name"][0]["given"][0])


def test_without_sinks_nothing_is_queued(store_url):
    """Who has none pays nothing."""
    hospital = Hospital(store_url)

    hospital.feed(admitted(), result())

    assert hospital.rows("outbox") == []
    hospital.close()


def test_every_version_arrives_as_it_is_served(scene):
    """All resources of a feed, with the bytes that the store has, and then nothing waits."""
    scene.hospital.feed(admitted(), result())
    scene.hospital.feed(renamed("1", "Ash^Iris", "20240302120000"))
    scene.deliver()

    stored = {bytes(row["body"]) for row in scene.hospital.rows("resource_version")}
    assert {each.content for each in scene.sink.got} == stored
    assert len(scene.sink.got) == len(stored)
    assert scene.waiting() == 0


def test_what_others_refer_to_comes_first(scene):
    """Of one transaction: a receiver that checks references finds the patient before the results."""
    scene.hospital.feed(result(), admitted())
    scene.deliver()

    types = [each.resource_type for each in scene.sink.got]
    assert types.index("Patient") < min(types.index(kind) for kind in ("Encounter", "Observation", "DiagnosticReport"))


def test_each_patient_s_changes_arrive_in_order(scene):
    """Interleaved changes of three patients, over many batches."""
    days = range(2, 9)
    scene.hospital.feed(*(admitted(number) for number in "123"))
    for day in days:
        scene.hospital.feed(*(renamed(number, f"Ash^D{day}", f"202403{day:02}120000") for number in "123"))
    scene.deliver()

    patients = [each for each in scene.sink.got if each.resource_type == "Patient"]
    for key in {each.key for each in patients}:
        mine = [each for each in patients if each.key == key]
        assert [each.version for each in mine] == list(range(1, len(days) + 2))
        assert [name_of(each) for each in mine] == ["Ida", *(f"D{day}" for day in days)]


def test_only_the_types_that_are_asked_for(make):
    """A sink of Patients hears of nothing else."""
    scene = make(Route("copy", frozenset({"resource"}), frozenset({"Patient"})))

    scene.hospital.feed(admitted(), result())
    scene.deliver()

    assert {each.resource_type for each in scene.sink.got} == {"Patient"}


def test_link_events_say_whose_records_are_one_person_s(make):
    """Under the patient's key, in FHIR ids, with the rule; no identifier and no name."""
    scene = make(Route("copy", ALL))
    scene.hospital.feed(hl7("ADT^A01", pid("1^^^NORTH^MR~9^^^NHR^NH"), pv1()))
    scene.hospital.feed(hl7("ADT^A01", pid("2^^^SOUTH^MR~9^^^NHR^NH"), pv1()), site="south")
    scene.deliver()

    [event] = [json.loads(each.content) for each in scene.sink.got if each.kind is DeliveryKind.LINK]
    north, south = (f"Patient/{scene.hospital.patient(number)['id']}" for number in "12")
    assert {event["patient"], event["other"]} == {north, south}
    assert event["event"] == "link"
    assert event["rule"]
    assert not {"Ash", "Ida"} & set(str(event).split("'"))


def test_consent_events_say_what_the_state_became(make):
    """Version by version, with what a subscriber needs to follow: which consent, whose, and whether it grants."""
    scene = make(Route("copy", frozenset({"consent"})))
    patient_sent = {
        "resourceType": "Patient",
        "id": "p1",
        "identifier": [{"system": "urn:test:north", "value": "1", "type": {"coding": [{"code": "MR"}]}}],
    }
    consent = {
        "resourceType": "Consent",
        "id": "c1",
        "meta": {"lastUpdated": "2024-03-01T12:00:00Z"},
        "status": "active",
        "scope": {"coding": [{"code": "patient-privacy"}]},
        "category": [{"coding": [{"code": "59284-0"}]}],
        "patient": {"reference": "Patient/p1"},
        "provision": {"type": "deny"},
    }
    assert outcomes(scene.hospital.feed(patient_sent, consent)) == [Outcome.STORED] * 2
    patient = f"Patient/{scene.hospital.one('Patient')['id']}"
    scene.deliver()

    [event] = [json.loads(each.content) for each in scene.sink.got]
    assert (event["event"], event["granted"]) == ("consent", False)
    assert (event["patient"], event["version"], event["status"]) == (patient, 1, "active")
    assert event["consent"] == f"Consent/{scene.hospital.one('Consent')['id']}"


def test_what_is_refused_is_set_aside_and_holds_its_own_patient(scene):
    """An alarm names it; other patients go on, now and later; nothing of its patient overtakes it."""
    scene.hospital.feed(admitted("1"), admitted("2"))
    [bad] = [f"Patient/{scene.hospital.patient('1')['id']}"]
    scene.sink.says = lambda each: REFUSED if each.key == bad else DELIVERED
    scene.deliver()
    scene.hospital.feed(renamed("1", "Ash^Iris", "20240302120000"), renamed("2", "Ash^Iris", "20240302120000"))
    scene.sink.says = lambda _: DELIVERED
    scene.deliver()

    assert not any(each.key == bad for each in scene.sink.got)
    assert "Iris" in [name_of(each) for each in scene.sink.got if each.resource_type == "Patient"]
    [aside] = scene.set_aside()
    assert (aside.what, aside.code) == (f"{bad}/_history/1", "because")
    assert (ASIDE_ALARM, "because") in scene.alarms()


def test_an_operator_has_it_tried_again(scene):
    """Mended and retried, it goes first, and what it held follows in order."""
    scene.hospital.feed(admitted())
    scene.sink.says = lambda each: REFUSED if each.resource_type == "Patient" else DELIVERED
    scene.deliver()
    scene.hospital.feed(renamed("1", "Ash^Iris", "20240302120000"))
    scene.sink.says = lambda _: DELIVERED

    assert delivery.retry(scene.hospital.database, scene.route) == 1
    scene.deliver()

    assert [name_of(each) for each in scene.sink.got if each.resource_type == "Patient"] == ["Ida", "Iris"]
    assert scene.waiting() == 0
    assert scene.alarms() == []


def test_an_operator_discards_it_with_a_reason(scene):
    """The sink never gets it, what it held goes on, and who and why are kept."""
    scene.hospital.feed(admitted())
    scene.sink.says = lambda each: REFUSED if each.resource_type == "Patient" else DELIVERED
    scene.deliver()
    [aside] = scene.set_aside()
    scene.sink.says = lambda _: DELIVERED

    delivery.discard(scene.hospital.database, scene.route, aside.number, by="ops", reason="ticket 12")
    scene.deliver()

    assert scene.sink.told("Patient") == []
    assert scene.sink.told("Encounter")
    assert scene.alarms() == []
    assert "discarded by ops: ticket 12" in [row["detail"] for row in scene.hospital.rows("alarm")]


def test_only_what_was_set_aside_can_be_dealt_with(scene):
    """A number that waits, or is another's, is unknown."""
    scene.hospital.feed(admitted())
    waiting = scene.hospital.rows("outbox")[0]["outbox_key"]

    for act in (
        lambda: delivery.retry(scene.hospital.database, scene.route, [waiting]),
        lambda: delivery.discard(scene.hospital.database, scene.route, waiting, by="ops", reason="r"),
    ):
        with pytest.raises(NotFound, match="delivery-unknown"):
            act()


def test_what_keeps_failing_while_others_go_through_is_set_aside(scene):
    """After as many attempts as configured, each after a pause; never sooner."""
    scene.hospital.feed(admitted("1"))
    bad = f"Patient/{scene.hospital.patient('1')['id']}"
    scene.sink.says = lambda each: FAILED if each.key == bad else DELIVERED
    dispatcher = scene.dispatcher(attempts=3)

    for attempt in range(3):
        assert scene.set_aside() == []
        scene.hospital.feed(admitted(f"2{attempt}"))
        scene.deliver(dispatcher)
        assert dispatcher.dispatch(Stop()) == 0  # its pause is not over
        scene.ready_now()

    [aside] = scene.set_aside()
    assert (aside.what, aside.attempts) == (f"{bad}/_history/1", 3)


def test_where_nothing_goes_through_no_delivery_is_blamed(scene):
    """A destination that fails with everything is at fault itself, however often."""
    scene.hospital.feed(admitted("1"), admitted("2"))
    scene.sink.says = lambda _: FAILED
    dispatcher = scene.dispatcher(attempts=2)

    for _ in range(5):
        scene.deliver(dispatcher)
        scene.ready_now()

    assert scene.set_aside() == []


def test_a_sink_that_is_away_loses_nothing(scene):
    """Everything waits, nothing is blamed, and afterwards it all arrives in order."""
    scene.sink.away = True
    scene.hospital.feed(admitted())
    with pytest.raises(Unavailable):
        scene.deliver()
    scene.hospital.feed(renamed("1", "Ash^Iris", "20240302120000"))
    with pytest.raises(Unavailable):
        scene.deliver()
    scene.sink.away = False
    scene.deliver()

    assert [name_of(each) for each in scene.sink.got if each.resource_type == "Patient"] == ["Ida", "Iris"]


def test_a_crash_after_the_sink_took_it_repeats_and_loses_nothing(scene, monkeypatch):
    """Between the sink's word and the commit: what it took comes again, under the same names, in the same order."""
    scene.hospital.feed(admitted(), renamed("1", "Ash^Iris", "20240302120000"))
    monkeypatch.setattr(failpoints, "_active", {"deliver.after-send": ("error", 1)})
    monkeypatch.setattr(failpoints, "_passages", {})
    with pytest.raises(Unavailable, match="failpoint"):
        scene.deliver(scene.dispatcher(holder="first"))
    first, scene.sink.got = scene.sink.got, []
    scene.made[0]._release()
    scene.deliver(scene.dispatcher(holder="second"))

    assert [each.id for each in scene.sink.got] == [each.id for each in first]
    assert len(first) > 2
    assert scene.waiting() == 0


def test_one_process_at_a_time_delivers(scene):
    """By lease: the other waits for its end, and then goes on where it stopped."""
    scene.hospital.feed(admitted())
    first, second = scene.dispatcher(holder="first"), scene.dispatcher(holder="second")
    scene.deliver(first)
    scene.hospital.feed(renamed("1", "Ash^Iris", "20240302120000"))

    assert second.dispatch(Stop()) == 0
    first._release()
    scene.deliver(second)

    assert scene.sink.told("Patient")[-1].endswith("/2")
    assert scene.waiting() == 0


def test_who_lost_its_lease_forgets_nothing(scene):
    """It may have sent, and another one has taken over: what it heard does not count."""
    scene.hospital.feed(admitted())
    slow = scene.dispatcher(holder="slow")
    assert slow._hold_lease()
    with scene.hospital.database.transaction() as txn:
        held = leases.get(txn, scene.route.destination)
        assert held is not None
        leases.release(txn, held)
        leases.acquire(txn, scene.route.destination, "other", 10**9)
    before = scene.waiting()

    with pytest.raises(Exception, match="lease-lost"):
        slow.dispatch(Stop())

    assert scene.waiting() == before


def test_a_restricted_patient_s_deliveries_wait(scene):
    """Until the restriction is lifted; others go on, and afterwards all of it arrives in order."""
    scene.hospital.feed(admitted("1"), admitted("2"))
    patient = scene.hospital.patient("1")
    scene.restrict(patient)
    scene.deliver()
    assert {each.key for each in scene.sink.got if each.key.startswith("Patient/")} == {
        f"Patient/{scene.hospital.patient('2')['id']}"
    }

    with scene.hospital.database.transaction() as txn:
        [(row, _)] = restriction_rows.list_open(txn)
        restriction_rows.lift(txn, [row.restriction_key], lifted_by="ops", reason="seen")
    scene.ready_now()
    scene.deliver()

    assert f"Patient/{patient['id']}/_history/1" in scene.sink.told("Patient")
    assert scene.waiting() == 0


def test_a_restriction_of_another_record_of_the_person_counts(scene):
    """Consents hold for every record linked to the person; so does what could not be understood."""
    scene.hospital.feed(hl7("ADT^A01", pid("1^^^NORTH^MR~9^^^NHR^NH"), pv1()))
    scene.hospital.feed(hl7("ADT^A01", pid("2^^^SOUTH^MR~9^^^NHR^NH"), pv1()), site="south")
    scene.restrict(scene.hospital.patient("1"))
    scene.deliver()

    assert scene.sink.told("Patient") == []


def test_what_is_of_two_patients_waits_for_either(scene):
    """A child's coverage names the parent who holds it; it is in both compartments."""
    patients = [
        {
            "resourceType": "Patient",
            "id": name,
            "identifier": [{"system": "http://north.example/mrn", "value": name}],
        }
        for name in ("child", "parent")
    ]
    coverage = {
        "resourceType": "Coverage",
        "id": "cover",
        "identifier": [{"system": "http://north.example/coverage", "value": "7"}],
        "status": "active",
        "beneficiary": {"reference": "Patient/child"},
        "policyHolder": {"reference": "Patient/parent"},
        "payor": [{"display": "Fund"}],
    }
    entries = [{"resource": resource} for resource in (*patients, coverage)]
    assert codes(scene.hospital.feed({"resourceType": "Bundle", "type": "collection", "entry": entries})) == []
    scene.restrict(scene.hospital.patient("parent"))
    scene.deliver()

    assert scene.sink.told("Coverage") == []


def test_a_sink_may_be_given_restricted_patients(scene):
    """Where the operator says so."""
    scene.hospital.feed(admitted())
    scene.restrict(scene.hospital.one("Patient"))
    scene.deliver(scene.dispatcher(withhold_restricted=False))

    assert len(scene.sink.told("Patient")) == 1


def test_a_sink_that_breaks_on_one_delivery_gets_the_others(scene):
    """An error of the adapter's own code costs the delivery that it breaks on, not the road."""
    scene.hospital.feed(admitted("1"), admitted("2"))
    bad = f"Patient/{scene.hospital.patient('1')['id']}"

    def says(each: Delivery) -> DeliveryState:
        if each.key == bad:
            raise KeyError("meta")
        return DELIVERED

    scene.sink.says = says
    scene.deliver()

    [aside] = scene.set_aside()
    assert aside.code == "sink-broken"
    assert f"Patient/{scene.hospital.patient('2')['id']}" in {each.key for each in scene.sink.got}


def test_a_sink_that_links_is_told_what_it_may_link_to(make):
    """References whose targets it is given, and no others."""
    scene = make(Route("copy", frozenset({"resource"}), frozenset({"Patient", "Observation"})))
    scene.sink = Memory(links=True)
    scene.hospital.feed(admitted(), result())
    scene.deliver()

    patient = f"Patient/{scene.hospital.one('Patient')['id']}"
    [observed] = [each for each in scene.sink.got if each.resource_type == "Observation"]
    assert observed.linkable == {patient}


def test_what_was_stored_before_is_delivered_on_request(make, store_url):
    """A sink that comes later: refill queues the current versions, and newer ones follow them."""
    hospital = Hospital(store_url)
    hospital.feed(admitted(), renamed("1", "Ash^Iris", "20240302120000"), result())
    hospital.close()
    scene = make(Route("copy", frozenset({"resource"}), frozenset({"Patient", "Observation"})))

    assert delivery.refill(scene.hospital.database, scene.route, chunk=2) == 2
    scene.hospital.feed(renamed("1", "Ash^Ivy", "20240303120000"))
    scene.deliver()

    assert [name_of(each) for each in scene.sink.got if each.resource_type == "Patient"] == ["Iris", "Ivy"]
    assert len(scene.sink.told("Observation")) == 1


def test_who_waits_too_long_raises_an_alarm(scene):
    """Until it has been delivered; metrics tell how much waits, how long, and what was set aside."""
    dispatcher = scene.dispatcher(behind_seconds=0)
    scene.hospital.feed(admitted())
    dispatcher.measure()
    waiting = metrics.OUTBOX_WAITING.labels("sink.copy")._value.get()
    raised = [code for code, _ in scene.alarms()]
    scene.deliver(dispatcher)
    dispatcher.measure()

    assert raised == [BEHIND_ALARM]
    assert waiting > 2
    assert scene.alarms() == []
    assert metrics.OUTBOX_WAITING.labels("sink.copy")._value.get() == 0


def test_order_is_by_time_and_not_by_key(store_url):
    """Processes take keys in blocks: a later change may bear a smaller one. A row put back keeps its place."""
    with open_database(store_url) as database, database.transaction() as txn:
        now = txn.now_us()
        outbox.put_dated(txn, [("sink.x", "a", b"2", now - 5), ("sink.x", "b", b"1", now - 9)])
        outbox.put_dated(txn, [("sink.x", "a", b"1", now - 7), ("sink.x", "c", b"later", now + 10**9)])
        due = outbox.due(txn, "sink.x", 9)
        assert [(row.key, row.payload) for row in due.rows] == [("b", b"1"), ("a", b"1"), ("a", b"2")]
        assert due.behind == []

        [first] = [row for row in due.rows if (row.key, row.payload) == ("a", b"1")]
        outbox.defer(txn, [(first.outbox_key, now + 10**9, 1)])
        then = outbox.due(txn, "sink.x", 9)
        assert [row.key for row in then.rows] == ["b"]
        assert [until for _, until, _ in then.behind] == [now + 10**9]

        outbox.defer(txn, then.behind)
        outbox.defer(txn, [(first.outbox_key, now - 1, 1)])
        assert [(row.key, row.payload, row.attempts) for row in outbox.due(txn, "sink.x", 9).rows] == [
            ("b", b"1", 0),
            ("a", b"1", 2),
        ]


def test_what_is_cut_off_is_not_overtaken(store_url):
    """An earlier change that is due later than those behind it lets none of them pass, wherever a turn ends."""
    with open_database(store_url) as database, database.transaction() as txn:
        now = txn.now_us()
        outbox.put_dated(txn, [("sink.x", "a", str(number).encode(), now - 100 + number) for number in range(6)])
        first = outbox.due(txn, "sink.x", 1).rows[0]
        outbox.defer(txn, [(first.outbox_key, now - 1, 1)])

        sent: list[bytes] = []
        for _ in range(20):
            turn = outbox.due(txn, "sink.x", 2)
            sent += [row.payload for row in turn.rows]
            outbox.delete(txn, [row.outbox_key for row in turn.rows])
            outbox.defer(txn, turn.behind)

        assert sent == [str(number).encode() for number in range(6)]
