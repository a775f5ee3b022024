"""The reference messages, by feed, and the test sites that list the authorities found in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from bridge.config.load import mappings_root
from bridge.config.site import Site
from bridge.errors import Incorrect
from bridge.hl7v2.message import Message, parse
from bridge.mapping.rules import Rules, load_rules
from tests.reference import reference_data

FEEDS = {
    "simhospital": "google-simhospital",
    "reportstream": "CDCgov-prime-reportstream",
    "linuxforhealth": "LinuxForHealth-hl7v2-fhir-converter",
}


@cache
def rules() -> Rules:
    return load_rules(mappings_root())


def site(feed: str) -> Site:
    path = Path(__file__).parent / "sites" / f"{feed}.yaml"
    return Site(**yaml.safe_load(path.read_text(encoding="utf-8")))


def messages(feed: str) -> Iterator[tuple[str, Message]]:
    """Every message of the feed that the reader reads, with the name of its file."""
    base = reference_data("hl7v2", FEEDS[feed])
    for path in [*sorted(base.rglob("*.hl7")), *sorted(base.rglob("*.out"))]:
        for raw in re.split(rb"(?m)(?=^\x0b?MSH)", path.read_bytes()):
            if b"MSH" in raw[:6]:
                try:
                    yield path.name, parse(raw)
                except Incorrect:
                    continue
