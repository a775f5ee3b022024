"""Loading a configuration and the files it names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import bridge
from bridge.config.adapters import CHAINS, INTAKES, KEYS, LISTENERS, SINKS, SOURCES, load_adapter
from bridge.config.checking import dotted, try_check
from bridge.config.document import Loc, MarkedDict, overlay_environment, place_of, read_document
from bridge.config.problems import ConfigurationInvalid, Problem, invalid
from bridge.config.section import Section
from bridge.config.settings import QUEUE, Listener, Mode, Settings, Source
from bridge.config.site import Site
from bridge.errors import BridgeError, Forbidden, Where

_POLICY: Final = (
    "consent-policy-missing",
    "Name the policy for patients without a consent on file under consent.default_policy; there is no built-in one.",
)
_MISSING: Final[Mapping[Loc, tuple[str, str]]] = {("consent",): _POLICY, ("consent", "default_policy"): _POLICY}


def load_settings(path: Path, environ: Mapping[str, str]) -> Settings:
    """Reads the configuration file and lays the environment over it.

    Args:
        path: the YAML file; relative paths in it start from its folder.
        environ: ``os.environ``; variables ``HIEBRIDGE__…`` override.

    Raises:
        ConfigurationInvalid: lists every problem with its place; ``consent-policy-missing`` if that is the only one.
        Incorrect: ``configuration-missing``.
    """
    tree = read_document(path.absolute())
    problems = overlay_environment(tree, environ)
    settings, found = try_check(Settings, tree, missing=_MISSING)
    problems += found
    problems += _references(tree)
    if settings is None or problems:
        raise invalid(problems)
    return settings.model_copy(update={"store": settings.store.anchored(tree.base)})


def _references(tree: MarkedDict) -> Iterator[Problem]:
    """Names given twice, and intakes that are not there: on the raw tree, so that other problems do not hide them."""
    intakes = {name for name, _ in _items(tree, "intakes", "name")}
    seen: dict[str, Where | None] = {}
    for group in ("sources", "listeners"):
        for name, loc in _items(tree, group, "name"):
            where = place_of(tree, loc)
            if name in seen:
                yield Problem(
                    "name-taken", "another source or listener has this name", f"See {seen[name]}.", where, dotted(loc)
                )
            seen.setdefault(name, where)
    for group, taken in (("intakes", {QUEUE}), ("sinks", set[str]())):
        for name, loc in _items(tree, group, "name"):
            if name in taken:
                yield Problem("name-taken", "this name is taken", "Choose another.", place_of(tree, loc), dotted(loc))
            taken.add(name)
    for intake, loc in _items(tree, "listeners", "intake"):
        if intake != QUEUE and intake not in intakes:
            known = ", ".join(sorted({QUEUE} | intakes))
            yield Problem(
                "intake-unknown", "there is no such intake", f"Known: {known}.", place_of(tree, loc), dotted(loc)
            )


def _items(tree: MarkedDict, group: str, field: str) -> Iterator[tuple[str, Loc]]:
    items: Any = tree.get(group)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and isinstance(item.get(field), str):
            yield item[field], (group, index, field)


def load_sites(settings: Settings) -> dict[str, Site]:
    """Reads the site files, by the site's name, and checks that every source and listener names one.

    Raises:
        ConfigurationInvalid: lists every problem of all files.
    """
    problems: list[Problem] = []
    sites: dict[str, Site] = {}
    places: dict[str, Path] = {}
    for path in _site_files(settings, problems):
        try:
            tree = read_document(path)
        except ConfigurationInvalid as error:
            problems += error.problems
            continue
        site, found = try_check(Site, tree)
        problems += found
        if site is None:
            continue
        if site.site in sites:
            where = place_of(tree, ("site",))
            problems.append(
                Problem("name-taken", "another file describes this site", f"See {places[site.site]}.", where, "site")
            )
        sites[site.site], places[site.site] = site, path
    if problems:
        raise invalid(problems)
    known = f"Known: {', '.join(sorted(sites)) or 'none'}."
    bindings: tuple[Source | Listener, ...] = (*settings.sources, *settings.listeners)
    for binding in bindings:
        if binding.site not in sites:
            where = binding.settings.place("site")
            problems.append(
                Problem("site-unknown", f"no site file describes {binding.site}", known, where, binding.name)
            )
    if problems:
        raise invalid(problems)
    return sites


def _site_files(settings: Settings, problems: list[Problem]) -> Iterator[Path]:
    for path in settings.sites:
        if path.is_dir():
            yield from sorted(path.glob("*.yaml"))
        elif path.is_file():
            yield path
        else:
            problems.append(Problem("site-file-missing", f"{path} is neither a file nor a folder", path="sites"))


AdapterSection = tuple[str, str, str, Section]
"""Group, adapter, dotted path and raw settings of an adapter that the configuration names."""


def adapter_sections(settings: Settings) -> Iterator[AdapterSection]:
    """Every adapter that the configuration names outside the sections of rooms."""
    yield KEYS, settings.keys.adapter, "keys", settings.keys.settings
    yield CHAINS, settings.chain.adapter, "chain", settings.chain.settings
    for group, name, bindings in (
        (SOURCES, "sources", settings.sources),
        (LISTENERS, "listeners", settings.listeners),
        (INTAKES, "intakes", settings.intakes),
        (SINKS, "sinks", settings.sinks),
    ):
        for index, binding in enumerate(bindings):
            yield group, binding.adapter, f"{name}[{index}]", binding.settings


def adapter_problems(sections: Iterable[AdapterSection]) -> list[Problem]:
    """What is wrong with the adapters' own settings; imports every adapter named."""
    problems: list[Problem] = []
    for group, name, path, section in sections:
        try:
            spec = load_adapter(group, name, section.place("adapter"))
        except BridgeError as error:
            problems.append(Problem(error.code, error.message, error.remedy, error.where, f"{path}.adapter"))
        else:
            problems += section.problems(spec.settings, path)
    return problems


def listening_hosts(settings: Settings) -> dict[str, str]:
    """Addresses that this configuration listens on, by dotted path: API, metrics, and each listener's ``host``."""
    hosts = {"api.host": settings.api.host}
    if settings.telemetry.metrics_port is not None:
        hosts["telemetry.metrics_host"] = settings.telemetry.metrics_host
    for group, name, path, section in adapter_sections(settings):
        if group == LISTENERS:
            host = getattr(
                section.check(load_adapter(group, name, section.place("adapter")).settings, path), "host", None
            )
            if host is not None:
                hosts[f"{path}.host"] = str(host)
    return hosts


def check_mode(settings: Settings, *, demo_store: bool) -> None:
    """Refuses development mode anywhere but on a demonstration.

    Args:
        settings: the configuration.
        demo_store: whether the store carries the mark that ``hiebridge demo`` sets.

    Raises:
        Forbidden: ``development-store``, ``development-exposed``.
    """
    if settings.mode is not Mode.DEVELOPMENT:
        return
    if not demo_store:
        raise Forbidden(
            "development-store",
            "development mode works only on a store that `hiebridge demo` made",
            remedy="Remove `mode: development`; production is the default.",
        )
    exposed = sorted(path for path, host in listening_hosts(settings).items() if not is_loopback(host))
    if exposed:
        raise Forbidden(
            "development-exposed",
            f"development mode listens on loopback only; {', '.join(exposed)} does not",
            remedy="Set 127.0.0.1 there, or remove `mode: development`.",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``: a loopback address, or the name ``localhost``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def mappings_root() -> Path:
    """The built-in mappings: the copy inside an installed package, else the checkout's ``mappings/``."""
    package = Path(bridge.__file__).resolve().parent
    packaged = package / "_mappings"
    return packaged if packaged.is_dir() else package.parent / "mappings"


def mappings_path(settings: Settings) -> tuple[Path, ...]:
    """Folders in which mappings are looked for, the first one first: overlays, then the built-in ones."""
    return (*settings.mappings.overlays, mappings_root())
