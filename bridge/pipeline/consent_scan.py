"""Finding whose consent a message may carry, even where the message cannot be read (*Consent never fails open*).

Tolerant on purpose: a patient named wrongly here is restricted needlessly until someone looks; one overlooked would be open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from bridge.config.site import Authority, AuthorityUse, Site
from bridge.mapping.operations import IdentityKey
from bridge.pipeline.ports import ContentKind, RawMessage

_CONSENT_SEGMENT = re.compile(rb"(?:^|[\r\n])[\x0b]?(?:CON|ARV)[^A-Za-z0-9\r\n][^\r\n]*[A-Za-z0-9]")
_CONSENT_RESOURCE = re.compile(rb'"resourceType"\s*:\s*"Consent"')
_PATIENT_SEGMENT = re.compile(rb"(?:^|[\r\n])[\x0b]?PID(.)([^\r\n]*)")
_REFERENCE = re.compile(rb'"reference"\s*:\s*"(?:[^"]*/)?Patient/([A-Za-z0-9\-.]{1,64})')
_IDENTIFIER = re.compile(rb'"system"\s*:\s*"([^"]{1,500})"\s*,\s*"value"\s*:\s*"([^"]{1,200})"')
_LIMIT = 1 << 22


def carries_consent(content: bytes, kind: ContentKind) -> bool:
    """Whether the bytes hold a valued CON or ARV segment, or a Consent resource."""
    if kind is ContentKind.HL7V2:
        return (b"CON" in content or b"ARV" in content) and _CONSENT_SEGMENT.search(content) is not None
    return b"Consent" in content and _CONSENT_RESOURCE.search(content) is not None


def patients_named(raw: RawMessage, kind: ContentKind, site: Site) -> tuple[IdentityKey, ...]:
    """Every name of a patient that the bytes or the partitioning key may hold, without repeats."""
    content = raw.content[:_LIMIT]
    found = list(_in_segments(content, site) if kind is ContentKind.HL7V2 else _in_json(content, site))
    if raw.key:
        value = raw.key.decode("utf-8", "replace").rpartition("|")[2]
        found += [name for authority in site.authorities for name in _names(site, authority, value, "")]
    return tuple(dict.fromkeys(found))


def _in_segments(content: bytes, site: Site) -> Iterator[IdentityKey]:
    for match in _PATIENT_SEGMENT.finditer(content):
        separator, text = match.group(1).decode("latin-1"), _text(match.group(2))
        fields = text.split(separator)
        for repetition in (fields[3] if len(fields) > 3 else "").split("~"):
            components = re.split(r"[\^]", repetition)
            named = components[3].split("&")[0] if len(components) > 3 else ""
            authority = site.by_authority.get(named)
            kind = components[4].strip() if len(components) > 4 else ""
            for one in [authority] if authority else site.authorities:
                yield from _names(site, one, components[0].strip(), kind)


def _in_json(content: bytes, site: Site) -> Iterator[IdentityKey]:
    for match in _REFERENCE.finditer(content):
        yield IdentityKey("Patient", f"urn:hie-bridge:site:{site.site}", "fhir-id", match.group(1).decode())
    systems = {authority.system: authority for authority in site.authorities}
    for match in _IDENTIFIER.finditer(content):
        system, value = (_json_text(part) for part in match.groups())
        if system in systems:
            yield from _names(site, systems[system], value, "")


def _names(site: Site, authority: Authority, value: str, kind: str) -> Iterator[IdentityKey]:
    """The names under which the patient may be known, as ``bridge.mapping.identity`` makes them, for any type."""
    if not value:
        return
    if authority.use is AuthorityUse.EVIDENCE:
        yield IdentityKey("Patient", f"urn:hie-bridge:site:{site.site}", authority.system, value)
        return
    for one in dict.fromkeys((kind, *authority.types, "")):
        yield IdentityKey("Patient", authority.system, one, value)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _json_text(raw: bytes) -> str:
    try:
        value: Any = json.loads(b'"' + raw + b'"')
    except ValueError:
        return _text(raw)
    return str(value)
