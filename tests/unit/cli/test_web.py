"""Clients that never finish what they begin do not stay."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
import uvicorn

from bridge.api import middleware
from bridge.cli import web
from tests.unit.api.exchange import Exchange, mint, permit
from tests.unit.api.test_reading import patient

BODY = b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"


async def _talk(exchange, sent, hang_up=False):
    """What the server says to these bytes until it ends the connection."""
    config = uvicorn.Config(
        exchange.app, port=0, http=web._Connection, access_log=False, log_config=None, lifespan="off"
    )
    server = web._Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - the server offers no event
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
    writer.write(sent)
    await writer.drain()
    if hang_up:
        await asyncio.sleep(0.2)
        writer.close()
    answer = b"" if hang_up else await asyncio.wait_for(reader.read(), 30)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    server.should_exit = True
    await task
    return answer


@pytest.fixture
def exchange(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "HEADER_SECONDS", 0.1)
    with Exchange(tmp_path, "permit") as running:
        running.seed.put(patient("p1"))
        yield running


@pytest.mark.parametrize(
    "sent", [b"", b"GET /live HTTP/1.1\r\nHost: x\r\n", b"GET /live HTTP/1.1\r\nHost: x\r\n\r\nGET /l"]
)
def test_a_request_that_never_comes_is_not_waited_for(exchange, sent):
    """Nothing at all, half a header, and half a second request: the connection ends, with only whole requests answered."""
    answer = exchange.run(_talk(exchange, sent))

    assert answer.count(b"HTTP/1.1 ") == sent.count(b"\r\n\r\n")


def test_a_body_that_never_comes_is_not_waited_for(exchange, monkeypatch):
    """With a valid token too: 408, nothing stored, and the connection is of no further use."""
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.1)
    head = (
        f"POST /fhir/Consent HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mint('portal', patient='p1')}\r\n".encode()
    )
    answer = exchange.run(_talk(exchange, head + BODY))

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request-too-slow" in answer
    assert exchange.seed.rows("consent_state") == []


def test_a_client_that_hangs_up_is_no_fault(exchange, capfd):
    """A broken connection is not logged as a mistake of the server."""
    head = (
        f"POST /fhir/Consent HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mint('portal', patient='p1')}\r\n".encode()
    )
    exchange.run(_talk(exchange, head + BODY, hang_up=True))

    assert "unexpected exception" not in "".join(capfd.readouterr())
    assert exchange.post_consent(permit("p1"), token=mint("portal", patient="p1")).status_code == 201
