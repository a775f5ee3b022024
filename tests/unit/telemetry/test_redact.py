"""Redacted values travel and never print themselves."""

from __future__ import annotations

import json
import pickle

import pytest

from bridge.telemetry.redact import REDACTED, Redacted


def test_no_way_of_printing_shows_the_value():
    """str, repr, format, and inside containers."""
    value = Redacted("Zaphod")

    for shown in (str(value), repr(value), f"{value}", f"{value:>20}", repr([{"k": value}])):
        assert "Zaphod" not in shown
        assert REDACTED in shown


def test_it_leaves_the_process_by_no_serializer():
    """Pickling and JSON refuse."""
    for dump in (pickle.dumps, json.dumps):
        with pytest.raises(TypeError):
            dump(Redacted("Zaphod"))


def test_equal_values_are_equal():
    """It may stand in sets and as a key, and differs from the bare value."""
    assert len({Redacted("a"), Redacted("a"), Redacted("b")}) == 2
    assert Redacted("a") != "a"
    assert Redacted("a").reveal() == "a"
