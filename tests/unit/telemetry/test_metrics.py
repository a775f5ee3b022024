"""Metrics: frozen, documented, unit-suffixed, with closed labels."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request

import pytest

from bridge.telemetry import metrics
from bridge.telemetry.metrics import METRICS, REGISTRY, label_names
from tests.reference import ROOT

FROZEN = {
    "hiebridge_alarms": ("code",),
    "hiebridge_anchor_age_seconds": (),
    "hiebridge_batch_messages": (),
    "hiebridge_chain_head_age_seconds": (),
    "hiebridge_checkpoint_age_seconds": (),
    "hiebridge_dead_letters_open": (),
    "hiebridge_decisions": ("decision",),
    "hiebridge_leaves_pending": (),
    "hiebridge_listener_acknowledgements": ("source", "acknowledgement"),
    "hiebridge_listener_connections_accepted": ("source",),
    "hiebridge_listener_connections_open": ("source",),
    "hiebridge_listener_connections_refused": ("source",),
    "hiebridge_listener_messages_over_limit": ("source", "limit"),
    "hiebridge_listener_messages_received": ("source",),
    "hiebridge_listener_received_bytes": ("source",),
    "hiebridge_log_leaves": (),
    "hiebridge_message_recorded_seconds": (),
    "hiebridge_messages_dead": ("source", "category"),
    "hiebridge_messages_duplicate": ("source",),
    "hiebridge_messages_filtered": ("source",),
    "hiebridge_messages_in_flight": ("source",),
    "hiebridge_messages_received": ("source",),
    "hiebridge_messages_stored": ("source",),
    "hiebridge_outbox_oldest_age_seconds": ("destination",),
    "hiebridge_outbox_waiting": ("destination",),
    "hiebridge_positions": ("source", "outcome"),
    "hiebridge_request_seconds": ("interaction", "status"),
    "hiebridge_sink_delivered": ("sink", "kind"),
    "hiebridge_sink_set_aside": ("sink",),
    "hiebridge_stage_seconds": ("stage",),
}


def family(metric):
    return next(iter(metric.describe()))


def test_names_and_labels_are_frozen():
    """Dashboards of others stand on these: a name goes or changes only with a decision record."""
    assert {family(metric).name: label_names(metric) for metric in METRICS} == FROZEN


def test_every_registered_metric_is_listed():
    """Nothing is exported that the list, and so the reference page, does not have."""
    assert {family.name for family in REGISTRY.collect()} == set(FROZEN)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: family(metric).name)
def test_every_metric_says_what_it_counts(metric):
    """Documented; histograms and ages carry their unit; every label's values are told."""
    described = family(metric)

    assert described.documentation.endswith(".")
    assert not re.search(r"_(ms|us|millis|kb|mb)(_|$)", described.name)
    assert described.type != "histogram" or described.name.endswith(("_seconds", "_messages"))
    assert all(label in metrics.LABEL_VALUES for label in label_names(metric))


def test_the_reference_page_is_generated():
    """``docs/reference/metrics.md`` is what the module says; write it anew with ``python docs/generate.py``."""
    assert (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8") == metrics.markdown()


def test_an_unknown_age_is_not_zero_and_a_known_one_grows():
    """A process that does not know an age exports NaN; after a mark the age is told at each reading."""
    program = "from bridge.telemetry.metrics import REGISTRY; print(REGISTRY.get_sample_value('hiebridge_anchor_age_seconds'))"
    unknown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    metrics.mark(metrics.CHECKPOINT_AGE, time.time_ns() // 1000 - 60_000_000)
    known = REGISTRY.get_sample_value("hiebridge_checkpoint_age_seconds")

    assert unknown == "nan"
    assert known >= 60
    assert REGISTRY.get_sample_value("hiebridge_checkpoint_age_seconds") >= known


def test_metrics_are_served_over_http():
    """What a scraper gets is the exposition of our registry and nothing of the interpreter's."""
    server = metrics.serve_metrics("127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()

    assert "# HELP hiebridge_checkpoint_age_seconds" in text
    assert "python_info" not in text
