"""``hiebridge sinks`` and the configuration of sinks: what an operator sees of what waits, and what they can do about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.main import run
from bridge.pipeline.delivery import ASIDE_ALARM, Dispatcher
from bridge.store import alarms, outbox
from bridge.telemetry.stop import Stop
from tests.contract.fhir_receiver import Receiver
from tests.contract.sink_harness import SYSTEM
from tests.faults.deployments import Bridge

EHR: dict[str, Any] = {
    "name": "ehr",
    "adapter": "fhir-server",
    "consent": "unfiltered",
    "base_url": "https://ehr.test/fhir",
    "identifier_system": SYSTEM,
}
Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def bridge(tmp_path: Path) -> Bridge:
    """A deployment with one sink."""
    return Bridge(tmp_path, f"sqlite:///{tmp_path}/store.db", sinks=[EHR])


@pytest.fixture
def ask(bridge: Bridge, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command: its exit code and its answer."""

    def asked(*words: str) -> tuple[int, Any]:
        code = run(["--config", str(bridge.config), *words, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out or said.err)

    return asked


@pytest.fixture
def refused(bridge: Bridge) -> int:
    """Number of a delivery that was set aside, with another behind it."""
    due = '["event","resource","x/1",1,{},null]'
    with bridge.database(read_only=False) as database, database.transaction() as txn:
        outbox.put_dated(txn, [("sink.ehr", "Patient/p", due.encode(), 1), ("sink.ehr", "Patient/p", due.encode(), 2)])
        [first] = outbox.due(txn, "sink.ehr", 1).rows
        outbox.defer(txn, [(first.outbox_key, outbox.NEVER_US, 1)])
        alarms.raise_alarm(txn, ASIDE_ALARM, f"ehr:{first.outbox_key}", "http-422")
        return first.outbox_key


def test_the_list_tells_what_waits_and_why(ask, refused):
    """How many wait, and each that was set aside by number, with its code and nothing of its content."""
    code, said = ask("sinks", "list")

    [ehr] = said["sinks"]
    assert (code, ehr["sink"], ehr["waiting"]) == (0, "ehr", 1)
    [aside] = ehr["set_aside"]
    assert (aside["number"], aside["code"], aside["what"], aside["attempts"]) == (refused, "http-422", "x/1", 1)


def test_a_retry_makes_it_wait_again(ask, refused):
    """By number or all; afterwards nothing is set aside."""
    assert ask("sinks", "retry", "ehr", "--all") == (0, {"sink": "ehr", "retried": 1})

    [ehr] = ask("sinks", "list")[1]["sinks"]
    assert (ehr["waiting"], ehr["set_aside"]) == (2, [])


def test_a_discard_says_who_and_why(ask, refused, bridge):
    """The delivery is gone, what it held is due, and the reason is kept."""
    code, _ = ask("sinks", "discard", "ehr", str(refused), "--reason", "ticket 12", "--by", "ops")

    with bridge.database() as database, database.transaction(read_only=True) as txn:
        assert [row.created_us for row in outbox.due(txn, "sink.ehr", 9).rows] == [2]
        assert alarms.active(txn) == []
    assert code == 0
    assert ask("sinks", "discard", "ehr", str(refused), "--reason", "again")[0] == 4  # it is no longer there


@pytest.mark.parametrize("words", [("retry", "ehr"), ("retry", "ehr", "1", "--all"), ("retry", "other", "--all")])
def test_what_is_not_named_is_not_touched(ask, words):
    """Numbers or --all, of a sink that is configured."""
    assert ask("sinks", *words)[0] == 2


def test_a_refill_of_an_empty_store_is_empty(ask):
    """It says how many are queued."""
    assert ask("sinks", "refill", "ehr") == (0, {"sink": "ehr", "queued": 0})


@pytest.mark.parametrize(
    ("sinks", "code"),
    [
        ([{**EHR, "consent": "filtered"}], "setting-invalid"),
        ([{name: value for name, value in EHR.items() if name != "consent"}], "setting-missing"),
        ([EHR, EHR], "name-taken"),
        ([{**EHR, "resources": ["Patiant"]}], "resource-type-unknown"),
        ([{**EHR, "base_url": "http://ehr.test/fhir"}], "setting-invalid"),
        ([{**EHR, "adapter": "ftp"}], "adapter-unknown"),
    ],
)
def test_what_a_sink_s_settings_must_not_say(tmp_path, capsys, sinks, code):
    """No word on consent, a name twice, a type that is none, records in the clear, an adapter that nobody has."""
    wrong = Bridge(tmp_path, f"sqlite:///{tmp_path}/store.db", sinks=sinks)

    assert run(["--config", str(wrong.config), "config", "check", "--json"]) != 0
    assert code in capsys.readouterr().err


def test_an_event_that_an_adapter_cannot_take_stops_the_start(tmp_path):
    """A FHIR server has no place for link events: said at the start, not by silence."""
    wrong = Bridge(tmp_path, f"sqlite:///{tmp_path}/store.db", sinks=[{**EHR, "events": ["resource", "link"]}])

    code, said = wrong.command("deliver")

    assert code == 2
    assert "sink-event-unsupported" in said


def test_without_sinks_there_is_nothing_to_run(tmp_path):
    """The role says so instead of waiting for ever."""
    code, said = Bridge(tmp_path, f"sqlite:///{tmp_path}/store.db").command("deliver")

    assert code == 2
    assert "sinks-none" in said


def test_a_deployment_s_dispatcher_delivers_to_its_sink(tmp_path, served):
    """Built from the configuration: adapter, route and conduct."""
    receiver, settings = served
    bridge = Bridge(tmp_path, f"sqlite:///{tmp_path}/store.db", sinks=[settings])
    dispatchers: list[Dispatcher] = bridge.deployment().dispatchers()

    assert [dispatcher.dispatch(Stop()) for dispatcher in dispatchers] == [0]
    assert receiver.requests == 0
    for dispatcher in dispatchers:
        dispatcher._sink.close()
        dispatcher._database.close()


@pytest.fixture
def served() -> Any:
    """A server of the test's own, and settings of a sink to it."""
    receiver = Receiver()
    yield receiver, {**EHR, "base_url": receiver.base}
    receiver.stop()
