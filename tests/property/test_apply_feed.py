"""A hospital's messages in any order make the same record (promise P3, as far as conversion and application go)."""

from __future__ import annotations

import random

import pytest

from bridge.mapping.apply import apply
from bridge.mapping.convert import convert, event_of
from bridge.mapping.operations import Merge
from tests.conformance.feeds import messages, rules, site
from tests.unit.mapping.messages import Region


@pytest.fixture(scope="module")
def conversions():
    at = site("simhospital")
    covered = [message for _, message in messages("simhospital") if event_of(message) in rules().events]
    return [convert(message, at, rules()) for message in covered[:300]]


def recorded(conversions):
    region = Region()
    for conversion in conversions:
        for operation in conversion.operations:
            if isinstance(operation, Merge):
                continue
            name = region.id(operation.target)
            region.stored[name] = apply(operation, region.stored.get(name), region.id) or region.stored[name]
    return {name: stored.body for name, stored in region.stored.items()}


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_a_morning_gives_the_same_record(conversions, seed):
    """Three hundred messages shuffled, some of them twice: every resource is as in the order of the hospital."""
    expected = recorded(conversions)
    shuffled = [*conversions, *conversions[::7]]
    random.Random(seed).shuffle(shuffled)

    assert recorded(shuffled) == expected
    assert len(expected) > 500
