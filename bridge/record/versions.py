"""Stored bytes of resource versions: serialized once, served unchanged (law *Versions and bytes*)."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from bridge.fhir.json import dumps, loads_stored
from bridge.fhir.types import format_instant

Json = Any


def content_bytes(body: Mapping[str, Json]) -> bytes:
    """The content alone: a resource without ``id``, ``meta.versionId`` and ``meta.lastUpdated``, resourceType first."""
    return dumps(body)


def content_of(stored: bytes) -> dict[str, Json]:
    """The content of stored bytes of a version that is no deletion: what :func:`stored_bytes` added is taken away."""
    resource = loads_stored(stored)
    resource.pop("id", None)
    meta = resource.get("meta")
    if meta is not None:
        meta.pop("versionId", None)
        meta.pop("lastUpdated", None)
        if not meta:
            del resource["meta"]
    return resource


def content_digest(content: bytes) -> bytes:
    """16 bytes that decide whether a resource has changed; for comparing within one store, not for proofs."""
    return blake2b(content, digest_size=16).digest()


def stored_bytes(body: Mapping[str, Json], content: bytes, fhir_id: str, version: int, last_updated_us: int) -> bytes:
    """The bytes of one version, as stored and served.

    Args:
        body: content with ``resourceType`` first, without id.
        content: its :func:`content_bytes`.
        fhir_id: logical id.
        version: from 1.
        last_updated_us: µs; all six digits are served, so that polls miss nothing.
    """
    instant = format_instant(last_updated_us)
    head = f'{{"resourceType":"{body["resourceType"]}"'
    meta = body.get("meta")
    if meta is None and content.startswith(head.encode()):
        # The common case needs no second serialization: id and meta go in behind the type.
        identity = f'{head},"id":"{fhir_id}","meta":{{"versionId":"{version}","lastUpdated":"{instant}"}}'
        return identity.encode() + content[len(head) :]
    rest = {name: value for name, value in body.items() if name not in {"resourceType", "id", "meta"}}
    stamped = {**(meta or {}), "versionId": str(version), "lastUpdated": instant}
    return dumps({"resourceType": body["resourceType"], "id": fhir_id, "meta": stamped, **rest})
