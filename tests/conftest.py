"""Fixtures that every suite may use: real servers, started when the first test asks for them.

Where a server can't be had, its tests are skipped with the reason; with ``CI=1`` (or ``HIEBRIDGE_CI=1``) they fail.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.services import anvil as anvil_service
from tests.services import kafka as kafka_service
from tests.services import postgres as postgres_service
from tests.services.anvil import Anvil
from tests.services.kafka import Kafka
from tests.services.postgres import Postgres
from tests.services.process import ServiceUnavailable
from tests.stores import store, store_url

__all__ = ["store", "store_url"]

Service = TypeVar("Service")
_LOOPBACK = ("127.", "::1", "localhost", "::ffff:127.")
_MUST = any(os.environ.get(name, "") not in ("", "0", "false") for name in ("CI", "HIEBRIDGE_CI"))

# no test measures time: a busy machine makes an example slow, not wrong
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("house")


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A broker for the whole run; make topics by ``kafka.create_topic()``. Whoever stops it starts it again."""
    yield from _had(kafka_service.start)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for the whole run, without fsync. Whoever stops it starts it again."""
    yield from _had(postgres_service.start)


@pytest.fixture(scope="session")
def durable_postgres() -> Iterator[Postgres]:
    """A server for the whole run whose every commit reaches the disk."""
    yield from _had(lambda: postgres_service.start(durable=True))


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """The address of an empty PostgreSQL database of the test's own."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def anvil() -> Iterator[Anvil]:
    """An EVM node for the whole run, a block every second. Whoever stops it starts it again."""
    yield from _had(anvil_service.start)


def _had(start: Callable[[], AbstractContextManager[Service]]) -> Iterator[Service]:
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(start())
        except ServiceUnavailable as error:
            if _MUST:
                raise
            pytest.skip(str(error))
        yield server


def _only_loopback(event: str, arguments: tuple[object, ...]) -> None:
    """Refuses what leaves the machine: a test that needs the internet would pass or fail with the weather."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else host
    if name and not str(name).startswith(_LOOPBACK) and name != "0.0.0.0":
        raise ConnectionRefusedError(f"tests reach loopback only, not {name}")


sys.addaudithook(_only_loopback)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Ends the run with the time of each suite, so that a suite that grows is seen."""
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                suite = "/".join(report.nodeid.split("::")[0].split("/")[:2])
                seconds[suite] = seconds.get(suite, 0) + report.duration
    if seconds:
        terminalreporter.section("time of each suite, all workers together")
        for suite, spent in sorted(seconds.items(), key=lambda item: -item[1]):
            terminalreporter.line(f"{spent / 60:6.2f} min  {suite}")
