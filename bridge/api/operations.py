"""What operators and monitors ask: is it alive, is it ready, what does it measure, what is the newest checkpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI, Response

from bridge.errors import BridgeError
from bridge.fhir.json import dumps
from bridge.telemetry.metrics import CONTENT_TYPE, exposition

Check = Callable[[], Awaitable[None]]
Checkpoint = Callable[[], Awaitable[str | None]]


def create_operations_app(checks: Mapping[str, Check], checkpoint: Checkpoint, *, metrics: bool) -> FastAPI:
    """``/live``, ``/ready``, ``/log/checkpoint``, and ``/metrics`` if asked for.

    Args:
        metrics: only where callers of the API cannot come: decisions are counted, so that whoever reads one resource
            and then the count would know whether it is hidden or absent.
        checks: by name, each raising a BridgeError while its part is not ready.
        checkpoint: the newest signed checkpoint (C2SP note), None before the first.
    """
    app = FastAPI(title="hie-bridge operations", openapi_url=None, docs_url=None, redoc_url=None)

    async def live() -> Response:
        return Response(b'{"status":"alive"}', media_type="application/json")

    async def ready() -> Response:
        states: dict[str, str] = {}
        for name, check in checks.items():
            try:
                await check()
            except BridgeError as error:
                states[name] = error.code
            else:
                states[name] = "ready"
        waiting = any(state != "ready" for state in states.values())
        return Response(dumps(states), 503 if waiting else 200, media_type="application/json")

    async def measures() -> Response:
        return Response(exposition(), media_type=CONTENT_TYPE)

    async def newest() -> Response:
        note = await checkpoint()
        if note is None:
            return Response(b"", 404, media_type="text/plain; charset=utf-8")
        return Response(note.encode(), media_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})

    routes = [("/live", live), ("/ready", ready), ("/log/checkpoint", newest)]
    for path, handler in [*routes, ("/metrics", measures)] if metrics else routes:
        app.add_api_route(path, handler, methods=["GET"], response_model=None)
    return app
