"""The composition root: from settings to the parts that roles are made of."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bridge.cli.composition import open_keys
from bridge.config import settings as configured
from bridge.config.adapters import CHAINS, INTAKES, LISTENERS, SINKS, SOURCES, load_adapter
from bridge.config.load import load_sites, mappings_root
from bridge.config.settings import QUEUE, Settings, WithAdapter
from bridge.config.site import Site
from bridge.errors import Incorrect
from bridge.keys.ports import KeyProvider, KeyPurpose, Signer, SignerPurpose
from bridge.ledger.chain import ChainBackend
from bridge.ledger.note import VerifierKey
from bridge.ledger.watermark import FileWatermark
from bridge.mapping.rules import Rules, load_rules
from bridge.matching.model import Model, load_model
from bridge.pipeline.anchoring import Anchorer
from bridge.pipeline.batch import Batcher
from bridge.pipeline.delivery import Conduct, Dispatcher
from bridge.pipeline.keying import KeyedIntake
from bridge.pipeline.ports import Intake, Listener, Sink, Source
from bridge.pipeline.prepare import Preparer
from bridge.pipeline.queue import QueueIntake, QueueWorker
from bridge.pipeline.sequencer import Sequencer
from bridge.pipeline.worker import SourceWorker
from bridge.record.deliveries import Route
from bridge.record.recorder import Recorder
from bridge.store.database import Database, open_database


@dataclass(frozen=True)
class Deployment:
    """Everything that the roles of one configuration share. Parts are made when they are first asked for."""

    settings: Settings

    @property
    def origin(self) -> str:
        """Origin of the transparency log."""
        return self.settings.deployment.origin

    @cached_property
    def holder(self) -> str:
        """Name of this process in leases."""
        return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    @cached_property
    def keys(self) -> KeyProvider:
        """The deployment's keys."""
        return open_keys(self.settings)

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        """The site files, by name."""
        return load_sites(self.settings)

    @cached_property
    def bindings(self) -> Mapping[str, Site]:
        """The site of every source and listener, by its name."""
        bound: tuple[configured.Source | configured.Listener, ...] = (*self.settings.sources, *self.settings.listeners)
        return {binding.name: self.sites[binding.site] for binding in bound}

    @cached_property
    def rules(self) -> Rules:
        """The compiled mappings, overlays before the built-in ones."""
        return load_rules(mappings_root(), self.settings.mappings.overlays)

    @cached_property
    def model(self) -> Model:
        """The matching rules."""
        return load_model(mappings_root() / "matching" / "certain.yaml")

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """What goes to which sink."""
        return tuple(
            Route(sink.name, frozenset(map(str, sink.events)), frozenset(sink.resources))
            for sink in self.settings.sinks
        )

    def route(self, name: str) -> Route:
        """What goes to one sink. Raises Incorrect ``sink-unknown``."""
        for route in self.routes:
            if route.sink == name:
                return route
        known = ", ".join(route.sink for route in self.routes) or "none"
        raise Incorrect("sink-unknown", f"There is no sink called {name}.", remedy=f"Configured: {known}.")

    def database(self, *, read_only: bool = False) -> Database:
        """A connection of one's own to the store; the caller closes it."""
        return open_database(self.settings.store.address().reveal(), read_only=read_only)

    @property
    def event_ahead_us(self) -> int:
        """How far an event may lie after its receipt, µs."""
        return int(self.settings.limits.event_ahead_hours * 3_600_000_000)

    def preparer(self) -> Preparer:
        """The pure stage."""
        digest_key = self.keys.secret_key(KeyPurpose.IDENTITY).reveal()
        limits = self.settings.limits
        return Preparer(
            self.rules,
            self.bindings,
            self.keys,
            digest_key,
            limits.message_bytes,
            event_ahead_us=self.event_ahead_us,
        )

    def recorder(self) -> Recorder:
        """What changes stored state; one a thread."""
        return Recorder(self.keys, self.origin, self.model, self.sites.values(), self.routes)

    def batcher(self, database: Database) -> Batcher:
        """What brings batches into ``database``; one a thread."""
        restriction_key = self.keys.secret_key(KeyPurpose.RESTRICTION).reveal()
        return Batcher(database, self.recorder(), restriction_key, batch_lock_keys=self.settings.limits.batch_lock_keys)

    def chain(self) -> ChainBackend:
        """The chain; connects when first used."""
        section = self.settings.chain
        spec = load_adapter(CHAINS, section.adapter, section.settings.place("adapter"))
        backend: ChainBackend = spec.build(section.settings.check(spec.settings, "chain"), self.keys)
        return backend

    def log_signer(self) -> Signer:
        """The key that signs checkpoints."""
        return self.keys.signer(SignerPurpose.LOG, self.origin)

    def log_key(self) -> VerifierKey:
        """The public key of the log, named by its origin."""
        return VerifierKey(self.origin, self.log_signer().public_key())

    def source_worker(self, name: str) -> SourceWorker:
        """The worker of a configured source, with a connection of its own."""
        [section] = [source for source in self.settings.sources if source.name == name]
        source: Source = self._named(SOURCES, section, name, "sources")
        database = self.database()
        return SourceWorker(
            source, self.preparer(), self.batcher(database), database, self.settings.limits.batch_messages
        )

    def queue_worker(self) -> QueueWorker:
        """The worker of the embedded queue, with a connection of its own."""
        database = self.database()
        sources = [listener.name for listener in self.settings.listeners if listener.intake == QUEUE]
        return QueueWorker(
            self.preparer(),
            self.batcher(database),
            self.keys,
            database,
            sources,
            batch_messages=self.settings.limits.batch_messages,
        )

    def sequencer(self) -> Sequencer:
        """The sequencer, with a connection of its own."""
        log = self.settings.log
        return Sequencer(
            self.database(),
            self.log_signer(),
            FileWatermark(log.watermark, self.origin),
            self.holder,
            sequence_interval_seconds=log.sequence_interval_seconds,
            checkpoint_interval_seconds=log.checkpoint_interval_seconds,
            lease_seconds=log.lease_seconds,
        )

    def anchorer(self) -> Anchorer:
        """The anchor service, with a connection of its own."""
        chain = self.settings.chain
        return Anchorer(
            self.database(),
            self.chain(),
            self.origin,
            self.holder,
            anchor_interval_seconds=chain.anchor_interval_seconds,
            consent_interval_seconds=chain.consent_interval_seconds,
            consent_batch_words=chain.consent_batch_words,
            lease_seconds=self.settings.log.lease_seconds,
        )

    def dispatchers(self) -> list[Dispatcher]:
        """What delivers to each configured sink, each with a connection of its own.

        Raises:
            Incorrect: ``sink-event-unsupported``, an adapter takes no such event.
        """
        made = []
        for section, route in zip(self.settings.sinks, self.routes, strict=True):
            sink: Sink = self._named(SINKS, section, section.name, "sinks")
            untold = sorted(route.kinds - set(map(str, sink.kinds)))
            if untold:
                raise Incorrect(
                    "sink-event-unsupported",
                    f"The sink {section.name} ({section.adapter}) takes no {', '.join(untold)} events.",
                    remedy=f"It takes: {', '.join(sorted(map(str, sink.kinds)))}.",
                    where=section.settings.place("events"),
                )
            conduct = Conduct(section.restricted == "withhold", section.attempts, section.behind_seconds)
            made.append(Dispatcher(self.database(), sink, route, conduct, self.holder))
        return made

    def listeners(self) -> list[tuple[Listener, str]]:
        """The configured listeners, each with the name of its intake."""
        return [
            (self._named(LISTENERS, listener, listener.name, "listeners"), listener.intake)
            for listener in self.settings.listeners
        ]

    def intake(self, name: str) -> Intake:
        """An intake by name; the embedded queue has a connection of its own. The caller closes it."""
        if name == QUEUE:
            return QueueIntake(self.database(), self.preparer(), self.keys, self.settings.limits.waiting_messages)
        for section in self.settings.intakes:
            if section.name == name:
                return KeyedIntake(self._named(INTAKES, section, name, "intakes"), self.bindings)
        raise Incorrect("intake-unknown", f"There is no intake called {name}.", remedy="Configure it under intakes.")

    @staticmethod
    def _named(group: str, section: WithAdapter, name: str, path: str) -> Any:
        spec = load_adapter(group, section.adapter, section.settings.place("adapter"))
        return spec.build(name, section.settings.check(spec.settings, path))


def open_deployment(settings: Settings) -> Deployment:
    """The deployment that ``settings`` describe; opens nothing yet."""
    return Deployment(settings)
