"""Adapters by entry point: unknown names list the known ones, broken ones are told apart from them."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from bridge.config import adapters
from bridge.config.adapters import CHAINS, INTAKES, KEYS, LISTENERS, SOURCES, adapter_names, load_adapter, load_adapters
from bridge.errors import Fault, Incorrect, Where


def test_every_group_has_an_adapter():
    """The wheel's entry points are there; an editable install made before they were added would lack them."""
    assert all(adapter_names(group) for group in (KEYS, SOURCES, LISTENERS, INTAKES, CHAINS))
    assert {"file", "environment"} <= set(adapter_names(KEYS))
    assert "kafka" in adapter_names(SOURCES)
    assert {"mllp", "folder"} <= set(adapter_names(LISTENERS))


def test_adapters_load_under_their_own_name():
    """An entry point's name and its adapter's agree."""
    loaded = load_adapters(KEYS)

    assert {name: spec.name for name, spec in loaded.items()} == {name: name for name in adapter_names(KEYS)}


def test_an_unknown_adapter_lists_the_known_ones():
    """The error has the place, the nearest name and all names."""
    with pytest.raises(Incorrect, match=r"c\.yaml:3:5: .*Did you mean file\? Installed: environment, file") as caught:
        load_adapter(KEYS, "flie", Where("c.yaml", 3, 5))

    assert caught.value.code == "adapter-unknown"


@pytest.mark.parametrize("target", ["no_such_module:adapter", "bridge.errors:adapter", "bridge.errors:Incorrect"])
def test_a_broken_adapter_is_a_fault_of_its_package(monkeypatch, target):
    """What is installed and cannot be used is not blamed on the configuration."""
    entries = (EntryPoint("odd", target, KEYS),)
    monkeypatch.setattr(adapters, "entry_points", lambda **_: entries)

    with pytest.raises(Fault) as caught:
        load_adapter(KEYS, "odd")

    assert caught.value.code == "adapter-broken"
