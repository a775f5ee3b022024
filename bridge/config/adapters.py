"""Adapters, found by entry points, so that a third party adds one without touching this project.

Each entry point of a group names a module-level :class:`AdapterSpec`. What ``build`` is called with depends on the group:

==========================  ===========================================================================
``hiebridge.keys``          ``build(settings) -> KeyProvider``
``hiebridge.sources``       ``build(name, settings) -> Source``
``hiebridge.listeners``     ``build(name, settings) -> Listener``
``hiebridge.intakes``       ``build(name, settings) -> Intake``
``hiebridge.sinks``         ``build(name, settings) -> Sink``
``hiebridge.chains``        ``build(settings, keys) -> ChainBackend`` (``keys``: the deployment's KeyProvider)
``hiebridge.token-keys``    ``build(settings) -> TokenKeys``
==========================  ===========================================================================

``name`` is the one the configuration gives; ``settings`` is an instance of the adapter's own settings model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from pydantic import BaseModel

from bridge.errors import Fault, Incorrect, Where

KEYS: Final = "hiebridge.keys"
SOURCES: Final = "hiebridge.sources"
LISTENERS: Final = "hiebridge.listeners"
INTAKES: Final = "hiebridge.intakes"
SINKS: Final = "hiebridge.sinks"
CHAINS: Final = "hiebridge.chains"
TOKEN_KEYS: Final = "hiebridge.token-keys"  # noqa: S105 - the name of a group
GROUPS: Final = (KEYS, SOURCES, LISTENERS, INTAKES, SINKS, CHAINS, TOKEN_KEYS)


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """How the composition root checks an adapter's settings and builds it.

    Attributes:
        name: as configurations call it; the same as the entry point's.
        settings: model of the adapter's own settings; unknown ones are refused.
        build: makes the adapter; connects to nothing yet. Its arguments are fixed by the group, see the module.
    """

    name: str
    settings: type[BaseModel]
    build: Callable[..., Any]


def adapter_names(group: str) -> tuple[str, ...]:
    """Names of the installed adapters of ``group``, sorted; imports none of them."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def load_adapter(group: str, name: str, where: Where | None = None) -> AdapterSpec:
    """Imports one adapter.

    Args:
        group: one of :data:`GROUPS`.
        name: as the configuration calls it.
        where: place in the configuration that asks for it.

    Raises:
        Incorrect: ``adapter-unknown``; names those that are installed.
        Fault: ``adapter-broken``, it is installed and cannot be imported, or is no AdapterSpec.
    """
    entries = tuple(entry_points(group=group, name=name))
    if not entries:
        known = adapter_names(group)
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise Incorrect(
            "adapter-unknown",
            f"no adapter called {name!r} is installed in {group}",
            remedy=f"{hint}Installed: {', '.join(known) or 'none'}.",
            where=where,
        )
    return _load(entries[0], where)


def load_adapters(group: str) -> dict[str, AdapterSpec]:
    """Imports every adapter of ``group``, by name. Raises as :func:`load_adapter`."""
    return {name: load_adapter(group, name) for name in adapter_names(group)}


def _load(entry: EntryPoint, where: Where | None) -> AdapterSpec:
    try:
        spec = entry.load()
    except (ImportError, AttributeError) as error:
        raise Fault(
            "adapter-broken",
            f"adapter {entry.name} ({entry.value}) cannot be imported: {type(error).__name__}",
            remedy="Install its requirements, or remove it from the configuration.",
            where=where,
        ) from error
    if not isinstance(spec, AdapterSpec) or spec.name != entry.name:
        raise Fault("adapter-broken", f"{entry.value} is not an AdapterSpec called {entry.name}", where=where)
    return spec
