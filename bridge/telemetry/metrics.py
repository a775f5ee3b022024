"""Prometheus metrics. Names, units and labels are frozen: dashboards and alarms of others stand on them.

Labels are closed: names from the configuration (``source``) or members of the enumerations here, never anything from a
message. ``docs/reference/metrics.md`` is generated from this module. Callers on a hot path keep the labelled child
(``RECEIVED.labels(source)``) instead of asking for it each time.
"""

from __future__ import annotations

import math
import time
from enum import StrEnum
from http.server import HTTPServer
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import start_http_server as _start_http_server
from prometheus_client.metrics import MetricWrapperBase

from bridge.errors import Category

REGISTRY: Final = CollectorRegistry(auto_describe=True)
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class Stage(StrEnum):
    """Stages of the road, as the budget per message counts them."""

    READ = "read"
    CONVERT = "convert"
    SEAL = "seal"
    APPLY = "apply"  # load what the batch touches, apply the operations
    SERIALIZE = "serialize"
    MATCH = "match"
    COMMIT = "commit"  # commitments and leaves
    WRITE = "write"  # everything else in the transaction
    SEQUENCE = "sequence"


class Decision(StrEnum):
    """Outcomes of a consent decision on a request."""

    PERMIT = "permit"
    PARTIAL = "partial"
    DENY = "deny"
    NONE = "none"


class Interaction(StrEnum):
    """FHIR interactions that the API counts; all else is ``other``."""

    READ = "read"
    VREAD = "vread"
    HISTORY = "history"
    SEARCH = "search"
    CREATE = "create"
    UPDATE = "update"
    CAPABILITIES = "capabilities"
    OTHER = "other"


class Acknowledgement(StrEnum):
    """What a sender was told of a message."""

    ACCEPTED = "AA"
    APPLICATION_ERROR = "AE"
    REJECTED = "AR"
    COMMIT_ACCEPTED = "CA"
    COMMIT_REJECTED = "CR"
    NOT_ASKED = "not-asked"  # durable or refused, and the sender wants no answer
    NONE = "none"  # not stored: the connection was closed without a word


class Limit(StrEnum):
    """Limits that keep a message out."""

    SIZE = "size"
    TIME = "time"


STAGE_BUCKETS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
DELAY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

RECEIVED: Final = Counter(
    "hiebridge_messages_received",
    "Distinct positions received and committed, by this process.",
    ["source"],
    registry=REGISTRY,
)
STORED: Final = Counter(
    "hiebridge_messages_stored",
    "Messages whose effects are stored, superseded ones included.",
    ["source"],
    registry=REGISTRY,
)
FILTERED: Final = Counter(
    "hiebridge_messages_filtered", "Messages that the site's file leaves out.", ["source"], registry=REGISTRY
)
DUPLICATES: Final = Counter(
    "hiebridge_messages_duplicate", "Messages that were recorded before.", ["source"], registry=REGISTRY
)
DEAD_LETTERS: Final = Counter(
    "hiebridge_messages_dead", "Messages that became dead letters.", ["source", "category"], registry=REGISTRY
)
IN_FLIGHT: Final = Gauge(
    "hiebridge_messages_in_flight",
    "Fetched and not committed, or waiting in the embedded queue.",
    ["source"],
    registry=REGISTRY,
)
DEAD_LETTERS_OPEN: Final = Gauge(
    "hiebridge_dead_letters_open", "Dead letters that wait for someone.", registry=REGISTRY
)
POSITIONS: Final = Gauge(
    "hiebridge_positions",
    "Positions of a source as the store counts them: received = stored + filtered + duplicate + dead.",
    ["source", "outcome"],
    registry=REGISTRY,
)
STAGE_SECONDS: Final = Histogram(
    "hiebridge_stage_seconds", "Time per message and stage.", ["stage"], buckets=STAGE_BUCKETS, registry=REGISTRY
)
BATCH_MESSAGES: Final = Histogram(
    "hiebridge_batch_messages",
    "Messages in a transaction.",
    buckets=(1, 2, 5, 10, 25, 50, 100, 1000),
    registry=REGISTRY,
)
RECORDED_SECONDS: Final = Histogram(
    "hiebridge_message_recorded_seconds",
    "From complete at our side to committed.",
    buckets=DELAY_BUCKETS,
    registry=REGISTRY,
)
REQUEST_SECONDS: Final = Histogram(
    "hiebridge_request_seconds",
    "Time to answer an API request; status is the first digit.",
    ["interaction", "status"],
    buckets=DELAY_BUCKETS,
    registry=REGISTRY,
)
DECISIONS: Final = Counter("hiebridge_decisions", "Consent decisions on requests.", ["decision"], registry=REGISTRY)
LOG_LEAVES: Final = Gauge("hiebridge_log_leaves", "Leaves in the transparency log.", registry=REGISTRY)
LEAVES_PENDING: Final = Gauge("hiebridge_leaves_pending", "Leaves that have no index yet.", registry=REGISTRY)
OUTBOX_WAITING: Final = Gauge(
    "hiebridge_outbox_waiting", "Entries not yet acknowledged.", ["destination"], registry=REGISTRY
)
OUTBOX_AGE: Final = Gauge(
    "hiebridge_outbox_oldest_age_seconds",
    "Since the oldest entry that could go to a sink now was made; 0 where there is none, or another process delivers.",
    ["destination"],
    registry=REGISTRY,
)
DELIVERED: Final = Counter(
    "hiebridge_sink_delivered", "Deliveries that a sink acknowledged.", ["sink", "kind"], registry=REGISTRY
)
SET_ASIDE: Final = Gauge(
    "hiebridge_sink_set_aside",
    "Deliveries that a sink refused, and that wait for an operator; 0 where another process delivers.",
    ["sink"],
    registry=REGISTRY,
)
CONNECTIONS_OPEN: Final = Gauge(
    "hiebridge_listener_connections_open", "Connections of a listener that are open now.", ["source"], registry=REGISTRY
)
CONNECTIONS_ACCEPTED: Final = Counter(
    "hiebridge_listener_connections_accepted", "Connections that a listener has let in.", ["source"], registry=REGISTRY
)
CONNECTIONS_REFUSED: Final = Counter(
    "hiebridge_listener_connections_refused",
    "Connections closed at once: too many, or the listener was stopping.",
    ["source"],
    registry=REGISTRY,
)
LISTENER_MESSAGES: Final = Counter(
    "hiebridge_listener_messages_received",
    "Whole messages that reached a listener, refused ones included; those sent again count again.",
    ["source"],
    registry=REGISTRY,
)
LISTENER_BYTES: Final = Counter(
    "hiebridge_listener_received_bytes", "Bytes of those messages, without framing.", ["source"], registry=REGISTRY
)
ACKNOWLEDGEMENTS: Final = Counter(
    "hiebridge_listener_acknowledgements",
    "What senders were told of their messages.",
    ["source", "acknowledgement"],
    registry=REGISTRY,
)
OVER_LIMIT: Final = Counter(
    "hiebridge_listener_messages_over_limit",
    "Messages or files that were larger, or messages that took longer to come in, than the listener allows.",
    ["source", "limit"],
    registry=REGISTRY,
)
CHECKPOINT_AGE: Final = Gauge(
    "hiebridge_checkpoint_age_seconds",
    "Since the newest signed checkpoint; NaN where the process does not know, as for the next two.",
    registry=REGISTRY,
)
ANCHOR_AGE: Final = Gauge(
    "hiebridge_anchor_age_seconds", "Since the newest head that the chain holds.", registry=REGISTRY
)
CHAIN_HEAD_AGE: Final = Gauge("hiebridge_chain_head_age_seconds", "Since the newest block seen.", registry=REGISTRY)
ALARMS: Final = Gauge("hiebridge_alarms", "Alarms that are raised now.", ["code"], registry=REGISTRY)

METRICS: Final[tuple[MetricWrapperBase, ...]] = (
    RECEIVED,
    STORED,
    FILTERED,
    DUPLICATES,
    DEAD_LETTERS,
    IN_FLIGHT,
    DEAD_LETTERS_OPEN,
    POSITIONS,
    STAGE_SECONDS,
    BATCH_MESSAGES,
    RECORDED_SECONDS,
    REQUEST_SECONDS,
    DECISIONS,
    LOG_LEAVES,
    LEAVES_PENDING,
    OUTBOX_WAITING,
    OUTBOX_AGE,
    DELIVERED,
    SET_ASIDE,
    CONNECTIONS_OPEN,
    CONNECTIONS_ACCEPTED,
    CONNECTIONS_REFUSED,
    LISTENER_MESSAGES,
    LISTENER_BYTES,
    ACKNOWLEDGEMENTS,
    OVER_LIMIT,
    CHECKPOINT_AGE,
    ANCHOR_AGE,
    CHAIN_HEAD_AGE,
    ALARMS,
)

LABEL_VALUES: Final = {
    "source": "names of configured sources and listeners",
    "category": ", ".join(Category),
    "outcome": "received, stored, filtered, duplicate, dead",
    "stage": ", ".join(Stage),
    "interaction": ", ".join(Interaction),
    "status": "1, 2, 3, 4, 5",
    "decision": ", ".join(Decision),
    "destination": "chain.consent, and sink.NAME for each configured sink",
    "sink": "names of configured sinks",
    "kind": "resource, link, consent",
    "code": "codes of alarms",
    "acknowledgement": ", ".join(Acknowledgement),
    "limit": ", ".join(Limit),
}


for _age in (CHECKPOINT_AGE, ANCHOR_AGE, CHAIN_HEAD_AGE):
    _age.set(math.nan)  # a process that does not know must not seem to say "just now"


def mark(age: Gauge, time_us: int) -> None:
    """Lets an age tell, whenever it is read, how long ago ``time_us`` was (µs since the epoch, UTC); NaN before."""
    age.set_function(lambda: max(0.0, time.time() - time_us / 1e6))


def exposition() -> bytes:
    """All metrics in Prometheus's text format (:data:`CONTENT_TYPE`)."""
    return generate_latest(REGISTRY)


def serve_metrics(host: str, port: int) -> HTTPServer:
    """Serves :func:`exposition` on a daemon thread; ``shutdown()`` on the answer ends it. Port 0 takes any free one."""
    server, _ = _start_http_server(port, addr=host, registry=REGISTRY)
    return server


def markdown() -> str:
    """The reference page of the metrics."""
    rows = ["| metric | kind | labels | what it says |", "|---|---|---|---|"]
    for metric in METRICS:
        family = next(iter(metric.describe()))
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in label_names(metric))
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    values = [f"- `{label}`: {text}" for label, text in LABEL_VALUES.items()]
    return "\n".join([_HEAD, *rows, "", "Values of the labels:", "", *values, ""])


def label_names(metric: MetricWrapperBase) -> tuple[str, ...]:
    """The metric's labels, in order."""
    return tuple(metric._labelnames)  # noqa: SLF001 - the client shows them nowhere else


_HEAD: Final = """\
# Metrics reference

Generated from `bridge/telemetry/metrics.py`; do not edit. Names, units and labels are frozen. No label ever holds anything
from a message.
"""
