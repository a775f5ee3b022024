"""Promise P6: the chain is away; care and intake go on, nothing is lost, the age of the anchor rises, one anchor repairs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.ledger.chain import LogId
from tests.faults.deployments import (
    ORIGIN,
    Bridge,
    anchored,
    evm_chain,
    feed,
    log_size,
    received,
    run_to_end,
    serving,
    signed,
    until,
    waiting,
)
from tests.faults.oracle import read, violations
from tests.faults.senders import Hospitals, free_ports, mllp_listeners
from tests.services import anvil as anvil_service
from tests.services.anvil import Anvil

pytestmark = [pytest.mark.ci, pytest.mark.timeout(300)]

AGE = "hiebridge_anchor_age_seconds"


@contextmanager
def stopped(node: Anvil) -> Iterator[None]:
    """The process is ended and begun again on the state that it wrote."""
    node.stop()
    yield
    node.start()


@contextmanager
def killed(node: Anvil) -> Iterator[None]:
    """The process is killed: its last blocks may be gone, as after a reorganization."""
    node.kill()
    yield
    node.start()


@contextmanager
def frozen(node: Anvil) -> Iterator[None]:
    """The process holds its connections and answers nothing."""
    with node.paused():
        yield


@pytest.fixture
def node() -> Iterator[Anvil]:
    with anvil_service.start() as running:
        yield running


@pytest.mark.parametrize("outage", [stopped, killed, frozen])
def test_a_chain_that_is_away_stops_nothing_and_one_anchor_repairs_it(tmp_path: Path, node: Anvil, outage) -> None:
    """A feed goes on over the outage: answered, stored, signed and served; afterwards one head covers all of it."""
    messages = feed(300, seed=6)
    ports = free_ports()
    chain = evm_chain(node, tmp_path / "chain") | {"timeout_seconds": 2}
    bridge = Bridge(tmp_path / "bridge", f"sqlite:///{tmp_path}/store.db", chain=chain, **mllp_listeners(ports))
    role = bridge.role("up")
    role.begin()
    serving(bridge, role)
    hospitals = Hospitals(messages, ports)
    hospitals.allow(100)
    with bridge.database() as database:

        def worked_off(count: int) -> bool:
            return hospitals.answered >= count and waiting(database) == 0 and signed(database)

        until(lambda: worked_off(100) and anchored(bridge), "the first part anchored")
        before = log_size(database)
        with outage(node):
            hospitals.allow(300)
            hospitals.join()
            until(lambda: worked_off(300), "the rest stored and signed without the chain")
            assert received(database) >= 250
            assert log_size(database) > before
            first = bridge.metric(AGE)
            assert first > 0
            until(lambda: bridge.metric(AGE) > first + 1, "the age to rise")
            assert bridge.get("/ready")[0] == 200
        until(lambda: anchored(bridge), "the log anchored again")
        until(lambda: bridge.metric(AGE) == 0, "the age to fall")
        held = bridge.deployment().chain().read_anchor(LogId.of_origin(ORIGIN))
        assert run_to_end(role) == 0
        other = read(database, bridge.deployment().keys)

    assert violations(other) == []
    assert held is not None
    assert held.size == len(other.tables["log_leaf"])
    # a first one may have been on its way when the node went
    assert 1 <= sum(row["size"] > before and row["state"] != "lost" for row in other.tables["anchor"]) <= 2


def test_a_bridge_stops_in_time_while_the_chain_does_not_answer(tmp_path: Path, node: Anvil) -> None:
    """SIGTERM drains although every question to the chain hangs."""
    ports = free_ports()
    chain = evm_chain(node, tmp_path / "chain")
    bridge = Bridge(tmp_path / "bridge", f"sqlite:///{tmp_path}/store.db", chain=chain, **mllp_listeners(ports))
    role = bridge.role("up")
    role.begin()
    serving(bridge, role)
    hospitals = Hospitals(feed(100, seed=6), ports)
    with node.paused():
        hospitals.allow(100)
        hospitals.join()
        assert run_to_end(role, 25) == 0
    with bridge.database() as database:
        assert violations(read(database, bridge.deployment().keys), drained=False) == []
