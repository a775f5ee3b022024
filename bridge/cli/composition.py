"""Where the parts come together: which room checks which section, and the deployment's parts built from its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import BaseModel

from bridge.access.settings import AccessSettings
from bridge.config.adapters import GROUPS, KEYS, TOKEN_KEYS, AdapterSpec, load_adapter, load_adapters
from bridge.config.load import AdapterSection, adapter_problems, adapter_sections, load_sites
from bridge.config.problems import ConfigurationInvalid, Problem, invalid
from bridge.config.reference import markdown
from bridge.config.section import Section
from bridge.config.settings import Mode, Settings
from bridge.config.site import Site
from bridge.errors import Forbidden
from bridge.fhir.types import is_stored_type
from bridge.hl7v2.charset import is_known
from bridge.keys.ports import KeyProvider

ROOMS: Final[Mapping[str, type[BaseModel]]] = {"access": AccessSettings}
"""Models of the sections that belong to a room, by the section's name in :class:`Settings`."""


def check_everything(settings: Settings) -> int:
    """Checks what loading the settings leaves open: adapters' and rooms' own settings, and the site files.

    Returns:
        How many sites there are.

    Raises:
        ConfigurationInvalid: lists every problem.
        Forbidden: see :func:`access_settings`.
    """
    problems: list[Problem] = adapter_problems(adapter_sections(settings))
    for name, model in ROOMS.items():
        section: Section = getattr(settings, name)
        problems += section.problems(model, name)
    problems += _sink_problems(settings)
    sites: Mapping[str, Site] = {}
    try:
        sites = load_sites(settings)
    except ConfigurationInvalid as error:
        problems += error.problems
    problems += _charset_problems(sites)
    if not any(problem.path.startswith("access") for problem in problems):
        problems += adapter_problems(_token_keys(access_settings(settings)))
    if problems:
        raise invalid(problems)
    return len(sites)


def _charset_problems(sites: Mapping[str, Site]) -> Iterator[Problem]:
    for name, site in sites.items():
        if site.charset is not None and not is_known(site.charset):
            said = f"the file of site {name} names a character set that is not known"
            remedy = "Use a name of HL7 table 0211, or one of those that docs/reference/hl7v2.md lists."
            yield Problem("site-charset-unknown", said, remedy, path="charset")


def _sink_problems(settings: Settings) -> Iterator[Problem]:
    for index, sink in enumerate(settings.sinks):
        for number, name in enumerate(sink.resources):
            if not is_stored_type(name):
                where = sink.settings.place("resources", number)
                path = f"sinks[{index}].resources[{number}]"
                yield Problem("resource-type-unknown", f"the bridge stores no {name}", "", where, path)


def access_settings(settings: Settings) -> AccessSettings:
    """Token issuers and client profiles.

    Raises:
        ConfigurationInvalid: lists every problem of the section.
        Forbidden: ``development-issuer``, production mode names an issuer whose tokens prove nothing.
    """
    access = settings.access.check(AccessSettings, "access")
    for index, issuer in enumerate(access.issuers):
        if issuer.development and settings.mode is Mode.PRODUCTION:
            raise Forbidden(
                "development-issuer",
                f"access.issuers[{index}] is a development issuer, and the mode is production",
                remedy="Remove it; who asks is shown by an issuer of your own.",
                where=settings.access.place("issuers", index),
            )
    return access


def _token_keys(access: AccessSettings) -> Iterator[AdapterSection]:
    for index, issuer in enumerate(access.issuers):
        yield TOKEN_KEYS, issuer.keys.adapter, f"access.issuers[{index}].keys", issuer.keys.settings


def open_keys(settings: Settings) -> KeyProvider:
    """The deployment's keys. Raises as the adapter does."""
    section = settings.keys.settings
    spec = load_adapter(KEYS, settings.keys.adapter, section.place("adapter"))
    provider: KeyProvider = spec.build(section.check(spec.settings, "keys"))
    return provider


def installed_adapters() -> dict[str, dict[str, AdapterSpec]]:
    """Every installed adapter, by group and name; imports them all."""
    return {group: load_adapters(group) for group in GROUPS}


def reference_page() -> str:
    """``docs/reference/configuration.md`` for this installation."""
    return markdown(installed_adapters(), ROOMS)
