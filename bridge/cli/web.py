"""The role ``serve``: the web application made from a deployment, and the server that runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from bridge.access.consents import ConsentWriter
from bridge.access.continuation import ContinuationSealer
from bridge.access.enforcement import Enforcer
from bridge.access.journal import AccessJournal
from bridge.access.ports import TokenKeys
from bridge.access.recording import StoreConsentRecorder
from bridge.access.settings import AccessSettings
from bridge.access.tokens import TokenVerifier
from bridge.api.app import create_app
from bridge.api.fhir import FhirApi
from bridge.cli.composition import access_settings
from bridge.cli.deployment import Deployment
from bridge.config.adapters import TOKEN_KEYS, load_adapter
from bridge.config.load import is_loopback, mappings_root
from bridge.consent.policy import DefaultPolicy, load_policy
from bridge.errors import Unavailable
from bridge.keys.ports import KeyPurpose
from bridge.record.commitments import RecordKeys
from bridge.store import leaves
from bridge.store.async_database import AsyncDatabase, open_async_database
from bridge.store.database import Database
from bridge.telemetry.stop import Stop

HEADER_SECONDS: Final = 10.0  # a request whose headers take longer, up to twice as long, is not waited for


class WebServer:
    """Serves until told to stop. One a process."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._access: AccessSettings = access_settings(deployment.settings)

    async def serve(self, stop: Stop) -> None:
        """Opens the store, closes access records that a crash left open, then answers until ``stop``.

        Raises:
            Unavailable: ``api-port-unavailable``, or the store does not answer.
        """
        deployment, settings = self._deployment, self._deployment.settings
        token_keys = self._token_keys()
        store = open_async_database(settings.store.address().reveal())
        # The connection for the log's checkpoint is the event loop's own thread pool's, one request at a time.
        log = deployment.database(read_only=True)
        journal = self._journal(store)
        try:
            async with store, asyncio.TaskGroup() as group:
                group.create_task(journal.run(stop))
                await self._run(self._app(store, journal, token_keys, log), stop)
                await journal.flush()  # the last answers' outcomes, before the store closes
                stop.set()
        finally:
            await asyncio.to_thread(log.close)
            for keys in token_keys.values():
                await keys.close()

    def _app(
        self, store: AsyncDatabase, journal: AccessJournal, token_keys: dict[str, TokenKeys], log: Database
    ) -> object:
        deployment, settings = self._deployment, self._deployment.settings
        policy = load_policy(mappings_root(), DefaultPolicy(settings.consent.default_policy))
        enforcer = Enforcer(store, policy)
        reading = asyncio.Lock()

        def newest() -> str | None:
            with log.transaction(read_only=True) as txn:
                row = leaves.latest_checkpoint(txn, deployment.origin)
            return row.note if row else None

        async def checkpoint() -> str | None:
            async with reading:
                return await asyncio.to_thread(newest)

        async def store_answers() -> None:
            await checkpoint()

        api = FhirApi(
            base=settings.deployment.fhir_base_url,
            verifier=TokenVerifier(self._access, token_keys, base=settings.deployment.fhir_base_url),
            enforcer=enforcer,
            writer=ConsentWriter(
                enforcer, StoreConsentRecorder(store, deployment.recorder()), self._access.custodian_sites
            ),
            journal=journal,
            sealer=ContinuationSealer(deployment.keys.secret_key(KeyPurpose.CONTINUATION).reveal()),
            software_version=version("hie-bridge"),
            request_bytes=settings.api.request_bytes,
        )
        metrics = is_loopback(settings.api.host)
        return create_app(api, checks={"store": store_answers}, checkpoint=checkpoint, metrics=metrics)

    def _journal(self, store: AsyncDatabase) -> AccessJournal:
        deployment = self._deployment
        identity_key = deployment.keys.secret_key(KeyPurpose.IDENTITY).reveal()
        return AccessJournal(store, RecordKeys(deployment.keys), deployment.origin, identity_key)

    def _token_keys(self) -> dict[str, TokenKeys]:
        made: dict[str, TokenKeys] = {}
        for number, issuer in enumerate(self._access.issuers):
            section = issuer.keys
            spec = load_adapter(TOKEN_KEYS, section.adapter, section.settings.place("adapter"))
            made[issuer.issuer] = spec.build(section.settings.check(spec.settings, f"access.issuers.{number}.keys"))
        return made

    async def _run(self, app: object, stop: Stop) -> None:
        api = self._deployment.settings.api
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]  # uvicorn names its own protocol for what Starlette is
            http=_Connection,
            host=api.host,
            port=api.port,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            # the rest is for recording how those that were cut off ended
            timeout_graceful_shutdown=max(1, int(self._deployment.settings.limits.stop_seconds * 0.75)),
        )
        server = _Server(config)
        watching = asyncio.create_task(_watch(server, stop))
        try:
            await server.serve()
        except SystemExit:
            raise Unavailable(
                "api-port-unavailable", f"Port {api.port} of {api.host} is not to be had.", remedy="Choose another."
            ) from None
        finally:
            watching.cancel()


class _Connection(H11Protocol):
    """Closes connections on which no request comes to an end of its headers: uvicorn waits for those for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._watch, None)

    def _watch(self, last: object) -> None:
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        waiting = cycle is None or cycle.response_complete
        if waiting and cycle is last:
            self.transport.close()
        else:
            self.loop.call_later(HEADER_SECONDS, self._watch, cycle if waiting else self)


class _Server(uvicorn.Server):
    """Without signal handlers of its own: the roles of a process stop together."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


async def _watch(server: uvicorn.Server, stop: Stop) -> None:
    await stop.wait_async()
    server.should_exit = True
