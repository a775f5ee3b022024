"""Vocabulary maps: from the guide's concept maps to ``tables/*.yaml``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tools.guide import writing
from tools.guide.sheets import Code

_FHIR = "http://hl7.org/fhir/"
_PATTERN = re.compile(r"<\w")


def file_name(name: str) -> str:
    """``AddressType[Use]`` as a name of ours: ``AddressType-Use``."""
    return name.replace("[", "-").replace("]", "")


def table(name: str, codes: list[Code], decisions: Mapping[str, Any]) -> str:
    """The text of one table's file.

    Args:
        name: of the guide's map.
        codes: its rows.
        decisions: ``codes`` (code of the sender → code of FHIR, or a mapping with ``to``, ``display``, ``system``, ``why``),
            ``default``, ``unmapped``, ``system`` and ``why``, each where it differs from the guide.
    """
    # a code with a place for a number (Q<integer>H) is a pattern, which no lookup finds
    mapped = [code for code in codes if code.source and code.code and not _PATTERN.search(code.source)]
    own: Mapping[str, Any] = decisions.get("codes", {})
    systems = Counter(code.system for code in mapped if code.source not in own)
    system = decisions.get("system") or (systems.most_common(1)[0][0] if systems else "")
    lines = []
    if "why" in decisions:
        lines += writing.comment(str(decisions["why"]), 0)
    lines.append(f"table: {writing.scalar(file_name(name))}")
    sources = Counter(code.table for code in codes if code.source)
    if sources:
        lines.append(f"from: {sources.most_common(1)[0][0].replace('HL7-', 'HL7')}")
    if system:
        lines.append(f"system: {writing.scalar(system)}")
    if "default" in decisions:
        lines.append(f"default: {writing.scalar(decisions['default'])}")
    unmapped = decisions.get("unmapped") or ("drop" if system.startswith(_FHIR) else "keep")
    if unmapped == "keep":
        lines.append("unmapped: keep")
    entries: dict[str, str] = {}
    for code in mapped:
        if code.source not in own:
            entries.setdefault(code.source, _entry(code.source, code.code, code.display, code.system, system))
    for source, value in own.items():
        decision = value if isinstance(value, Mapping) else {"to": value}
        entry = _entry(
            str(source), str(decision["to"]), decision.get("display", ""), decision.get("system", system), system
        )
        entries[str(source)] = f"{entry}  # ours: {decision.get('why', 'not in the official table')}"
    lines.append("codes:" if entries else "codes: {}")
    lines += [f"  {writing.scalar(source, key=True)}: {entry}" for source, entry in entries.items()]
    return "\n".join(lines) + "\n"


def _entry(source: str, code: str, display: str, system: str, common: str) -> str:
    if common.startswith(_FHIR) and system == common:
        return writing.scalar(code)
    entry = {}
    if code != source:
        entry["code"] = code
    if display:
        entry["display"] = display
    if system != common:
        entry["system"] = system
    return writing.flow(entry) if entry else writing.scalar(code)
