"""What leaves is valid FHIR, also through a real server."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
import uvicorn
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome

from tests.unit.api.exchange import Exchange, mint
from tests.unit.api.test_reading import observation, patient


@pytest.fixture
def exchange(tmp_path):
    with Exchange(tmp_path, "permit") as running:
        running.seed.put(patient("p1"), *(observation(number) for number in range(1, 6)))
        running.seed.put(observation(1, status="amended"))
        running.seed.put(observation(2), deleted=True)
        yield running


def test_what_the_api_makes_itself_is_valid(exchange):
    """Bundles, outcomes and the CapabilityStatement pass fhir.resources (R4B models, equal to R4 for these)."""
    for path in (
        "Observation?patient=p1&_count=2",
        "Patient?family=none",
        "Observation/o1/_history",
        "Observation/o2/_history",
    ):
        Bundle.model_validate_json(exchange.get(path).content)
    OperationOutcome.model_validate_json(exchange.get("Observation/none").content)
    OperationOutcome.model_validate_json(exchange.get("Observation?date=x", token="x").content)
    CapabilityStatement.model_validate_json(exchange.get("metadata").content)


def test_a_real_server_serves_it_and_logs_no_request(exchange, capfd):
    """uvicorn on loopback: reads, keeps the connection after errors, refuses floods, writes no line about any of it."""

    async def serving():
        config = uvicorn.Config(exchange.app, port=0, access_log=False, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - the server offers no event
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {mint()}"}
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/fhir", headers=headers) as client:
            answers = [
                await client.get("/Patient/p1"),
                await client.get("/Patient", params={"identifier": "urn:mrn|mrn-p1"}),
                await client.post("/Consent", content=b"x" * 200_000, headers={"Content-Type": "application/json"}),
                await client.get("/Patient/p1"),
            ]
        server.should_exit = True
        await task
        await exchange.journal.flush()
        return [answer.status_code for answer in answers]

    assert exchange.run(serving()) == [200, 200, 413, 200]
    assert "mrn-p1" not in "".join(capfd.readouterr())
    assert {row["outcome"] for row in exchange.access_records()} == {"answered"}
