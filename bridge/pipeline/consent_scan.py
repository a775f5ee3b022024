"""Finding whose consent a message may carry, even where the message cannot be read (*Consent never fails open*).

Tolerant on purpose: a patient named wrongly here is restricted needlessly until someone looks; one overlooked would be open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from bridge.config.site import Authority, AuthorityUse, Site
from bridge.hl7v2.message import without_framing
from bridge.mapping.operations import IdentityKey
from bridge.pipeline.ports import ContentKind, RawMessage

_CONSENT_SEGMENT = re.compile(rb"(?:^|[\r\n])[\x0b]?(?:CON|ARV)[^A-Za-z0-9\r\n][^\r\n]*[A-Za-z0-9]")
_CONSENT_RESOURCE = re.compile(rb'"resourceType"\s*:\s*"Consent"')
_CONSENT_URL = re.compile(rb'"url"\s*:\s*"(?:[^"]*/)?Consent\b')
_DELETION = re.compile(rb'"method"\s*:\s*"DELETE"')
MOST_NAMES = 10_000
"""Where there are more names than this, nobody can be sure of having found the patient's."""
_PATIENT_SEGMENT = re.compile(rb"(?:^|[\r\n])[\x0b]?PID(.)([^\r\n]*)")
_ENCODING = re.compile(rb"MSH[^A-Za-z0-9\s]([^A-Za-z0-9\s])([^A-Za-z0-9\s]).([^A-Za-z0-9\s])")
_REFERENCE = re.compile(rb'"reference"\s*:\s*"(?:[^"]*/)?Patient/([A-Za-z0-9\-.]{1,64})')
_SYSTEM, _VALUE = rb'"system"\s*:\s*"([^"]{1,500})"', rb'"value"\s*:\s*"([^"]{1,200})"'
_IDENTIFIER = re.compile(rb"%s\s*,\s*%s" % (_SYSTEM, _VALUE))
_IDENTIFIER_REVERSED = re.compile(rb"%s\s*,\s*%s" % (_VALUE, _SYSTEM))


def carries_consent(content: bytes, kind: ContentKind) -> bool:
    """Whether the bytes hold a valued CON or ARV segment, or a Consent resource or its deletion."""
    content = _narrow(content, kind)
    if kind is ContentKind.HL7V2:
        return (b"CON" in content or b"ARV" in content) and _CONSENT_SEGMENT.search(content) is not None
    if b"Consent" not in content:
        return False
    return _CONSENT_RESOURCE.search(content) is not None or deletes_consent(content, kind)


def deletes_consent(content: bytes, kind: ContentKind) -> bool:
    """Whether the bytes ask for a Consent to be deleted: that names a consent, and not whose it is."""
    if kind is ContentKind.HL7V2:
        return False
    content = _narrow(content, kind)
    return _CONSENT_URL.search(content) is not None and _DELETION.search(content) is not None


def patients_named(raw: RawMessage, kind: ContentKind, site: Site) -> tuple[IdentityKey, ...]:
    """Every name of a patient that the bytes or the partitioning key may hold, without repeats.

    Names that no store can hold (U+0000, half a surrogate pair) are nobody's, and are left out. Of more than
    :data:`MOST_NAMES` so many and one.
    """
    content = _narrow(raw.content, kind)
    value = raw.key.decode("utf-8", "replace").rpartition("|")[2] if raw.key else ""
    by_key = (name for authority in site.authorities for name in _names(site, authority, value, ""))
    found: dict[IdentityKey, None] = {}
    for name in chain(by_key, _in_segments(content, site) if kind is ContentKind.HL7V2 else _in_json(content, site)):
        if _storable(name.value):
            found[name] = None
            if len(found) > MOST_NAMES:
                break
    return tuple(found)


def _narrow(content: bytes, kind: ContentKind) -> bytes:
    """UTF-16 and UTF-32 as what the patterns can be sought in."""
    if b"\0" not in content[:64]:
        return content
    return without_framing(content) if kind is ContentKind.HL7V2 else content.replace(b"\0", b"")


def _in_segments(content: bytes, site: Site) -> Iterator[IdentityKey]:
    encoding = _ENCODING.search(content)
    component, repetition, subcomponent = (
        (encoding.group(1), encoding.group(2), encoding.group(3)) if encoding else (b"^", b"~", b"&")
    )
    seen: set[bytes] = set()
    for match in _PATIENT_SEGMENT.finditer(content):
        fields = match.group(2).split(match.group(1), 4)
        for field in fields[1:4]:  # PID-2, PID-3, PID-4: wherever versions and senders put identifiers
            if field in seen:
                continue
            seen.add(field)
            for one in dict.fromkeys(field.split(repetition)):
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
    forward = (match.groups() for match in _IDENTIFIER.finditer(content))
    for pair in chain(forward, (match.groups()[::-1] for match in _IDENTIFIER_REVERSED.finditer(content))):
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
