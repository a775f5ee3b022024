"""Finding whose consent a message may carry, even where the message cannot be read (*Consent never fails open*).

Tolerant on purpose: a patient named wrongly here is restricted needlessly until someone looks; one overlooked would be open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from bridge.config.site import Authority, AuthorityUse, Site
from bridge.hl7v2.message import without_framing
from bridge.mapping.operations import IdentityKey
from bridge.pipeline.ports import ContentKind, RawMessage

_CONSENT_SEGMENT = re.compile(rb"(?:^|[\r\n])[\x0b]?(?:CON|ARV)[^A-Za-z0-9\r\n][^\r\n]*[A-Za-z0-9]")
_CONSENT_RESOURCE = re.compile(rb'"resourceType"\s*:\s*"Consent"')
_PATIENT_SEGMENT = re.compile(rb"(?:^|[\r\n])[\x0b]?PID(.)([^\r\n]*)")
_ENCODING = re.compile(rb"MSH[^A-Za-z0-9\s]([^A-Za-z0-9\s])([^A-Za-z0-9\s]).([^A-Za-z0-9\s])")
_REFERENCE = re.compile(rb'"reference"\s*:\s*"(?:[^"]*/)?Patient/([A-Za-z0-9\-.]{1,64})')
_SYSTEM, _VALUE = rb'"system"\s*:\s*"([^"]{1,500})"', rb'"value"\s*:\s*"([^"]{1,200})"'
_IDENTIFIER = re.compile(rb"%s\s*,\s*%s" % (_SYSTEM, _VALUE))
_IDENTIFIER_REVERSED = re.compile(rb"%s\s*,\s*%s" % (_VALUE, _SYSTEM))
_LIMIT = 1 << 22


def carries_consent(content: bytes, kind: ContentKind) -> bool:
    """Whether the bytes hold a valued CON or ARV segment, or a Consent resource."""
    if kind is ContentKind.HL7V2:
        content = _narrow(content)
        return (b"CON" in content or b"ARV" in content) and _CONSENT_SEGMENT.search(content) is not None
    return b"Consent" in content and _CONSENT_RESOURCE.search(content) is not None


def patients_named(raw: RawMessage, kind: ContentKind, site: Site) -> tuple[IdentityKey, ...]:
    """Every name of a patient that the bytes or the partitioning key may hold, without repeats.

    Names that no store can hold (U+0000, half a surrogate pair) are nobody's, and are left out.
    """
    content = raw.content[:_LIMIT]
    found = list(_in_segments(_narrow(content), site) if kind is ContentKind.HL7V2 else _in_json(content, site))
    if raw.key:
        value = raw.key.decode("utf-8", "replace").rpartition("|")[2]
        found += [name for authority in site.authorities for name in _names(site, authority, value, "")]
    return tuple(name for name in dict.fromkeys(found) if _storable(name.value))


def _narrow(content: bytes) -> bytes:
    """UTF-16 and UTF-32 as UTF-8, which the patterns can be sought in."""
    return without_framing(content) if b"\0" in content[:64] else content


def _in_segments(content: bytes, site: Site) -> Iterator[IdentityKey]:
    encoding = _ENCODING.search(content)
    component, repetition, subcomponent = (
        (encoding.group(1), encoding.group(2), encoding.group(3)) if encoding else (b"^", b"~", b"&")
    )
    for match in _PATIENT_SEGMENT.finditer(content):
        fields = match.group(2).split(match.group(1))
        for field in fields[1:4]:  # PID-2, PID-3, PID-4: wherever versions and senders put identifiers
            for one in field.split(repetition):
                components = [_text(piece).strip() for piece in one.split(component)]
                named = components[3].split(_text(subcomponent)) if len(components) > 3 else []
                authority = site.by_authority.get(next((name for name in named[:2] if name), ""))
                kind = components[4] if len(components) > 4 else ""
                for candidate in [authority] if authority else site.authorities:
                    yield from _names(site, candidate, components[0], kind)


def _in_json(content: bytes, site: Site) -> Iterator[IdentityKey]:
    for match in _REFERENCE.finditer(content):
        yield IdentityKey("Patient", f"urn:hie-bridge:site:{site.site}", "fhir-id", match.group(1).decode())
    systems = {authority.system: authority for authority in site.authorities}
    pairs = [match.groups() for match in _IDENTIFIER.finditer(content)]
    pairs += [match.groups()[::-1] for match in _IDENTIFIER_REVERSED.finditer(content)]
    for pair in pairs:
        system, value = (_json_text(part) for part in pair)
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


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


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
