"""Which room checks which section of the configuration, and what the adapters of this installation are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel

from bridge.config.adapters import GROUPS, AdapterSpec, load_adapters
from bridge.config.load import adapter_problems, load_sites
from bridge.config.problems import ConfigurationInvalid, Problem, invalid
from bridge.config.reference import markdown
from bridge.config.section import Section
from bridge.config.settings import Settings

ROOMS: Final[Mapping[str, type[BaseModel]]] = {}
"""Models of the sections that belong to a room, by the section's name in :class:`Settings`."""


def check_everything(settings: Settings) -> int:
    """Checks what loading the settings leaves open: adapters' and rooms' own settings, and the site files.

    Returns:
        How many sites there are.

    Raises:
        ConfigurationInvalid: lists every problem.
    """
    problems: list[Problem] = adapter_problems(settings)
    for name, model in ROOMS.items():
        section: Section = getattr(settings, name)
        problems += section.problems(model, name)
    sites = 0
    try:
        sites = len(load_sites(settings))
    except ConfigurationInvalid as error:
        problems += error.problems
    if problems:
        raise invalid(problems)
    return sites


def installed_adapters() -> dict[str, dict[str, AdapterSpec]]:
    """Every installed adapter, by group and name; imports them all."""
    return {group: load_adapters(group) for group in GROUPS}


def reference_page() -> str:
    """``docs/reference/configuration.md`` for this installation."""
    return markdown(installed_adapters(), ROOMS)
