"""What surrounds every request: limits, the end of the access trail, and no exception that gets out."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.api.errors import error_response
from bridge.errors import BridgeError, Fault, Incorrect
from bridge.telemetry.logs import reduced
from bridge.telemetry.metrics import REQUEST_SECONDS, Interaction

_log: Final = structlog.get_logger("bridge.api")
BODY_SECONDS: Final = 30.0  # for the whole body of a request
TRAIL: Final = "trail"
INTERACTION: Final = "interaction"
UNEXPECTED: Final = "unexpected"


class Surround:
    """Pure ASGI middleware of the FHIR API.

    A request body over the limit, or slower than ``BODY_SECONDS``, is cut off as it arrives. An exception that no handler
    knows becomes a bare fault, recorded as a denial; what is logged of it is its type and the way it came. When the answer
    has left, or has failed to, the access records are closed.
    """

    def __init__(self, app: ASGIApp, *, request_bytes: int) -> None:
        self._app = app
        self._request_bytes = request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        began, status, finished = time.perf_counter(), 0, False

        async def sending(message: Message) -> None:
            nonlocal status, finished
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                finished = True

        try:
            with suppress(ClientDisconnect):  # nobody is left to answer
                await self._app(scope, self._limited(receive), sending)
        except BridgeError as error:
            if not status:
                await error_response(error)(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold health data and must not get out
            if not status:
                await (await _failed(state))(scope, receive, sending)
            # Not under the name that structlog gives exceptions: its renderers would take it for a text.
            _log.error("unexpected exception", cause=reduced(error))
        finally:
            if TRAIL in state:
                state[TRAIL].close("answered" if finished else "broken-off", status)
            interaction = state.get(INTERACTION, Interaction.OTHER)
            REQUEST_SECONDS.labels(interaction.value, str(status // 100)).observe(time.perf_counter() - began)

    def _limited(self, receive: Receive) -> Receive:
        received, complete, deadline = 0, False, time.monotonic() + BODY_SECONDS

        async def limited() -> Message:
            nonlocal received, complete
            try:
                async with asyncio.timeout(None if complete else max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise Incorrect(
                    "request-too-slow", "the request body did not arrive in time", remedy="Send it without pauses."
                ) from None
            if message["type"] == "http.request":
                complete = not message.get("more_body", False)
                received += len(message.get("body", b""))
                if received > self._request_bytes:
                    raise Incorrect(
                        "request-too-large", "the request body is larger than the limit", remedy="Send less at once."
                    )
            return message

        return limited


async def _failed(state: dict[str, Any]) -> Response:
    """A bare fault; what was asked for counts as denied, and that is recorded first."""
    if TRAIL in state:
        await state[TRAIL].fail(UNEXPECTED)
    return error_response(Fault(UNEXPECTED, "the server made a mistake", remedy="Please report it."))
