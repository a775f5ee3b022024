"""Shows a conversion: as a Bundle of what it makes of nothing, or as the rules behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bridge.mapping.apply import apply, with_merges
from bridge.mapping.operations import Conversion, Fate, LedgerEntry, Merge, Stored, Target

Json = Any

_REFERENCE: Final = re.compile(r"[A-Za-z]+/(00000000-0000-8000-8000-[0-9]{12})")


def to_bundle(conversion: Conversion, ids: RunningIds | None = None) -> dict[str, Json]:
    """The operations applied to nothing, as a Bundle of type collection.

    Full URLs are ``urn:uuid:`` with a running number, so that the same message always gives the same Bundle; they are not
    the ids that the bridge would mint.

    Args:
        conversion: of one message.
        ids: for Bundles that are compared: in all that are made with it a resource of one name has one number.
    """
    ids = ids if ids is not None else RunningIds()
    stored: dict[str, Stored] = {}
    for operation in conversion.operations:
        if isinstance(operation, Merge):
            continue
        name = ids(operation.target)
        changed = apply(operation, stored.get(name), ids)
        if changed is not None:
            stored[name] = changed
    bodies = {name: dict(one.body) for name, one in stored.items() if one.body is not None}
    for operation in conversion.operations:
        if isinstance(operation, Merge):
            survivor, subsumed = ids(operation.survivor), ids(operation.subsumed)
            for name, links in ((survivor, {"replaces": [subsumed]}), (subsumed, {"replaced_by": [survivor]})):
                bodies[name] = with_merges(bodies.get(name, {"resourceType": "Patient"}), **links)
    entries = [
        {"fullUrl": f"urn:uuid:{name}", "resource": {**_linked(body, set(bodies)), "id": name}}
        for name, body in bodies.items()
    ]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


class RunningIds:
    """Running numbers for targets; a target that shares a name with a known one is that one."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], str] = {}
        self._count = 0

    def __call__(self, target: Target) -> str:
        """The id of what the target names."""
        name = next((self._known[key] for key in target.keys if key in self._known), None)
        if name is None:
            self._count += 1
            name = f"00000000-0000-8000-8000-{self._count:012}"
        for key in target.keys:
            self._known.setdefault(key, name)
        return name


def _linked(value: Json, names: set[str]) -> Json:
    """References to entries of the Bundle by their full URLs."""
    if isinstance(value, Mapping):
        made = {key: _linked(item, names) for key, item in value.items()}
        text = made.get("reference")
        if isinstance(text, str) and (match := _REFERENCE.fullmatch(text)):
            if match[1] in names:
                made["reference"] = f"urn:uuid:{match[1]}"
            else:
                del made["reference"]  # named, and not part of this message
        return made
    return [_linked(item, names) for item in value] if isinstance(value, list) else value


def ledger_line(entry: LedgerEntry) -> str:
    """What became of one input element, and by which rule."""
    rule = f"  ->  {entry.rule}" if entry.fate is not Fate.UNMAPPED else ""
    return f"{entry.place}  {entry.fate.value}{rule}"


def explain_lines(conversion: Conversion) -> Iterator[str]:
    """What became of each element, in lines: first each output element with its rule, then each input element's fate.

    The conversion must have been made with ``explain=True``. Lines hold places and names of rules, never values.
    """
    numbers: dict[Target, str] = {}
    counts: dict[str, int] = {}
    for target in [output.target for output in conversion.outputs]:
        if target not in numbers:
            counts[target.resource_type] = counts.get(target.resource_type, 0) + 1
            numbers[target] = f"{target.resource_type}[{counts[target.resource_type]}]"
    for output in dict.fromkeys(conversion.outputs):
        path = output.path.partition("#")[0]
        yield f"{numbers[output.target]}.{path}  <-  {output.rule}"
    for entry in conversion.ledger:
        yield ledger_line(entry)
    for report in conversion.reports:
        yield f"reported: {report.code} {report.place}".rstrip()
    yield f"elements: {conversion.mapped} mapped, {conversion.dropped} dropped by rule, {conversion.unmapped} unmapped"
