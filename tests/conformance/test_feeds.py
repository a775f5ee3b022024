"""Messages of three public sources become valid FHIR, and no element of them goes missing without a word."""

from __future__ import annotations

from collections import Counter

import pytest
from fhir.resources.R4B import get_fhir_model_class

from bridge.errors import Incorrect
from bridge.fhir.json import dumps
from bridge.hl7v2.message import valued_elements
from bridge.mapping.bundle import to_bundle
from bridge.mapping.convert import convert, event_of
from tests.conformance.feeds import FEEDS, messages, rules, site


def covered(feed):
    return ((name, message) for name, message in messages(feed) if event_of(message) in rules().events)


def names_patient(message):
    """Whether any patient identifier field has a value."""
    return any(
        pid.get(field, 1, 1, repetition)
        for pid in message.all("PID")
        for field in (3, 2, 4)
        for repetition in range(1, len(pid.repetitions(field)) + 1)
    )


@pytest.mark.parametrize("feed", FEEDS)
def test_every_covered_message_that_names_a_patient_converts(feed):
    """What names a patient identifier converts; what names none is refused for just that."""
    at = site(feed)
    counts = Counter()
    for name, message in covered(feed):
        try:
            convert(message, at, rules())
            outcome = "converted"
        except Incorrect as error:
            outcome = error.code
        counts[outcome] += 1
        assert outcome == ("converted" if names_patient(message) else "patient-without-identifier"), name

    assert counts["converted"] > 100
    if feed == "reportstream":
        assert counts["patient-without-identifier"] == 243
    if feed == "simhospital":
        assert set(counts) == {"converted"}


@pytest.mark.parametrize("feed", FEEDS)
def test_every_valued_element_is_accounted_for(feed):
    """Mapped, dropped by a named rule and unmapped make all valued elements; quick counts agree with the listed ones."""
    at = site(feed)
    for name, message in covered(feed):
        if not names_patient(message):
            continue
        quick = convert(message, at, rules())
        listed = convert(message, at, rules(), explain=True)
        valued = sum(1 for segment in message.segments for _ in valued_elements(segment))

        assert (quick.mapped, quick.dropped, quick.unmapped) == (listed.mapped, listed.dropped, listed.unmapped), name
        assert len(listed.ledger) == valued == quick.mapped + quick.dropped + quick.unmapped, name
        assert quick.operations == listed.operations


def problems(message, at):
    for entry in to_bundle(convert(message, at, rules()))["entry"]:
        resource = entry["resource"]
        try:
            get_fhir_model_class(resource["resourceType"]).model_validate_json(dumps(resource))
        except ValueError as error:
            yield resource["resourceType"], str(error)


@pytest.mark.parametrize("feed", FEEDS)
def test_every_resource_is_valid(feed):
    """All resources of all messages pass the R4B models; R4B changed none of these types."""
    at = site(feed)
    named = [(name, message) for name, message in covered(feed) if names_patient(message)]

    assert [(name, problem) for name, message in named for problem in problems(message, at)] == []
