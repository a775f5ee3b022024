"""Bundles put together from stored bytes: what was stored is what is sent, unparsed (bundle.html)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

from bridge.access.enforcement import Answer
from bridge.fhir.types import format_instant
from bridge.store.reader import Found

_SAFE: Final = ":|,.-_~$/"


def address(base: str, kind: str, parameters: Iterable[tuple[str, str]]) -> str:
    """``BASE/Type?name=value&…``."""
    query = "&".join(f"{quote(name, safe=_SAFE)}={quote(value, safe=_SAFE)}" for name, value in parameters)
    return f"{base}/{kind}?{query}" if query else f"{base}/{kind}"


def search_bundle(
    base: str, kind: str, found: Sequence[Found], *, self_link: str, next_link: str | None, total: int | None
) -> bytes:
    """A searchset; ``total`` is left out where it is not known."""
    entries = [
        b'{"fullUrl":%b,"resource":%b,"search":{"mode":"match"}}' % (_text(f"{base}/{kind}/{row.fhir_id}"), row.body)
        for row in found
    ]
    return _bundle("searchset", total, self_link, next_link, entries)


def history_bundle(
    base: str, kind: str, fhir_id: str, answers: Sequence[Answer], *, self_link: str, next_link: str | None
) -> bytes:
    """A history: each version with what made it; a deletion has no resource."""
    entries = []
    for answer in answers:
        method = "DELETE" if answer.deleted else "POST" if answer.version == 1 else "PUT"
        resource = b"" if answer.deleted else b',"resource":' + answer.body
        entries.append(
            b'{"fullUrl":%b%b,"request":{"method":"%b","url":%b},'
            b'"response":{"status":"%b","etag":%b,"lastModified":"%b"}}'
            % (
                _text(f"{base}/{kind}/{fhir_id}"),
                resource,
                method.encode(),
                _text(kind if method == "POST" else f"{kind}/{fhir_id}"),
                {"DELETE": b"204", "POST": b"201", "PUT": b"200"}[method],
                _text(f'W/"{answer.version}"'),
                format_instant(answer.last_updated_us).encode(),
            )
        )
    return _bundle("history", None, self_link, next_link, entries)


def _bundle(kind: str, total: int | None, self_link: str, next_link: str | None, entries: Sequence[bytes]) -> bytes:
    links = [b'{"relation":"self","url":%b}' % _text(self_link)]
    if next_link is not None:
        links.append(b'{"relation":"next","url":%b}' % _text(next_link))
    parts = [b'{"resourceType":"Bundle","type":"%b"' % kind.encode()]
    if total is not None:
        parts.append(b',"total":%d' % total)
    parts.append(b',"link":[' + b",".join(links) + b"]")
    if entries:
        parts.append(b',"entry":[' + b",".join(entries) + b"]")
    parts.append(b"}")
    return b"".join(parts)


def _text(value: str) -> bytes:
    return json.dumps(value).encode()
