"""Mapping files as pages for readers: what each map reads and writes, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from bridge.mapping.objects import plain
from bridge.mapping.source import Map
from bridge.mapping.workbench.sources import Source, Sources

Json = Any

_KINDS: Final = (("messages", "Messages"), ("segments", "Segments"), ("datatypes", "Data types"), ("tables", "Tables"))
_NAMES: Final = {"messages": "message", "segments": "segment", "datatypes": "datatype", "tables": "table"}
_HEAD: Final = """\
# The mappings

Made from the mapping files when the documentation is built: what each map reads, what it writes, and when. `hiebridge mappings show NAME`
prints the part of one message, segment, data type or table, with the overlays of a site.
"""


def name_of(source: Source) -> str:
    """What the file is about: ``ADT_A01``, ``PID``, ``CX``, ``AdministrativeSex``."""
    name = source.content.get(_NAMES[source.kind])
    return name if isinstance(name, str) else source.path.stem


def page(sources: Sources) -> str:
    """All mappings on one page."""
    lines = [_HEAD]
    for kind, title in _KINDS:
        lines.append(f"## {title}\n")
        for source in sorted(sources.of(kind), key=lambda one: (name_of(one), one.label)):
            lines += described(source)
    return "\n".join(lines)


def described(source: Source) -> Iterator[str]:
    """One file, in lines."""
    yield f"### {name_of(source)} ({source.label})\n"
    if source.kind == "messages":
        yield from _message(source.content)
    elif source.kind == "tables":
        yield from _codes(source.content)
    else:
        for name, entry in source.content.map("maps").maps():
            element = f", one of `{entry['element']}`" if "element" in entry else ""
            yield f"**{name_of(source)}.{name}**{element}\n"
            yield from _table(("rule", "reads", "writes", "as", "when"), _rules(entry.map("rules")))
        drops = source.content.map("drop")
        if drops:
            yield "**Dropped**\n"
            rows = ((name, _code(", ".join(entry.texts("fields"))), entry.text("why")) for name, entry in drops.maps())
            yield from _table(("rule", "reads", "why"), rows)


def _message(content: Map) -> Iterator[str]:
    like = content.texts("like")
    if like:
        yield f"Like {', '.join(like)}, but for what stands here.\n"
    events = [f"{name} ({event.text('kind')})" for name, event in content.map("events").maps()]
    yield f"Events: {', '.join(events)}.\n"
    resources = [
        (name, entry.text("type"), entry.text("with"), entry.map("identity").text("rule", ""), _code(entry.get("when")))
        for name, entry in content.map("resources").maps()
    ]
    if resources:
        yield from _table(("resource", "type", "made for each", "named by", "when"), resources)
    uses = [
        (_code(place), use.text("map"), use.text("to"), _code(use.get("when")))
        for place, entries in content.map("segments").items()
        for use in entries
    ]
    if uses:
        yield from _table(("segment", "map", "changes", "when"), uses)


def _rules(rules: Map) -> Iterator[tuple[str, ...]]:
    for name, rule in rules.maps():
        target = rule.text("to")
        if "choose" not in rule:
            yield name, _reads(rule), _code(target), _as(rule), _code(rule.get("when"))
            continue
        yield name, _reads(rule), _code(target), f"by `{rule.text('by')}`:", _code(rule.get("when"))
        for key, choices in rule.map("choose").items():
            for choice in choices if isinstance(choices, list) else [choices]:
                yield f"… {key}", "", _code(choice.text("to")), _as(choice), _code(choice.get("when"))


def _reads(rule: Map) -> str:
    if "from" in rule:
        return _code(", else ".join(rule.texts("from")))
    if "text" in rule:
        return _code(rule.text("text"))
    return f"always {_code(json.dumps(plain(rule['value']), ensure_ascii=False))}" if "value" in rule else ""


def _as(rule: Map) -> str:
    table = f" by table {rule['table']}" if "table" in rule else ""
    return f"{rule.get('as', 'string') if 'value' not in rule else ''}{table}"


def _codes(content: Map) -> Iterator[str]:
    if "coding-systems" in content:
        yield from _table(("name", "system"), ((key, str(uri)) for key, uri in content.map("coding-systems").items()))
        return
    what = "kept as it is" if content.get("unmapped") == "keep" else "left out and reported"
    if "default" in content:
        what = f"`{_coded(content['default'])}`"
    yield f"From {content.get('from', 'the sender')} to `{content.get('system', '')}`; any other code: {what}.\n"
    yield from _table(
        ("code", "becomes"), ((_code(key), _code(_coded(code))) for key, code in content.map("codes").items())
    )


def _coded(code: Json) -> str:
    return " ".join(str(code[key]) for key in ("code", "system") if key in code) if isinstance(code, Map) else str(code)


def _code(text: Json) -> str:
    """In a table a bar would end the cell."""
    return f"`{str(text).replace('|', chr(0x2502))}`" if text else ""


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row in rows:
        yield f"| {' | '.join(' '.join(cell.split()) for cell in row)} |"
    yield ""
