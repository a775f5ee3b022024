"""Vocabulary maps (``tables/*.yaml``) and the names of coding systems.

A table translates the codes of one HL7 table to codes of FHIR. What it does not know is, as the table says, kept as the
sender wrote it (``unmapped: keep``, for elements that take any code), left out and reported (``drop``), or replaced by a
default code.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bridge.mapping.source import Map, mistake

if TYPE_CHECKING:
    from bridge.mapping.run import Run

Json = Any

_KEYS: Final = ("table", "from", "system", "unmapped", "default", "codes")
_CODE_KEYS: Final = ("code", "display", "system")
_HL7_TABLE: Final = re.compile(r"(?:HL7|hl7|v2-|HL7-)(\d{4})")
_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9]\d*))+")


class Code(NamedTuple):
    """A code of FHIR."""

    code: str
    display: str
    system: str

    def coding(self) -> dict[str, Json]:
        """As a Coding."""
        coding = {"system": self.system, "code": self.code}
        if self.display:
            coding["display"] = self.display
        return coding


class Table(NamedTuple):
    """A vocabulary map; see the module."""

    name: str
    codes: dict[str, Code]
    default: Code | None
    keep: bool

    def code(self, text: str, run: Run, place: str) -> str | None:
        """The code for an element of type code; None where there is none, which is reported."""
        found = self.codes.get(text)
        if found is not None:
            return found.code
        run.report("code-unmapped", place)
        return self.default.code if self.default else None

    def concept(self, concept: dict[str, Json], run: Run, place: str) -> dict[str, Json] | None:
        """A CodeableConcept with the translated coding first; the sender's own stays behind it if it says more."""
        codings = concept.get("coding")
        if not codings or "code" not in codings[0]:
            return concept
        found = self.codes.get(codings[0]["code"])
        if found is None:
            if not self.keep:
                run.report("code-unmapped", place)
            return concept
        own = codings[0]
        translated = found.coding()
        says_more = (
            own.get("system", found.system) != found.system or own.get("display", found.display) != found.display
        )
        rest = codings if says_more and own["code"] else codings[1:]
        return {**concept, "coding": [translated, *rest]}

    def coding(self, coding: dict[str, Json], run: Run, place: str) -> dict[str, Json]:
        """A Coding translated; the sender's own where the table does not know it."""
        found = self.codes.get(coding.get("code", ""))
        if found is not None:
            return found.coding()
        run.report("code-unmapped", place)
        return self.default.coding() if self.default else coding


def read_table(source: Map) -> Table:
    """A table from its file."""
    source.only(_KEYS, "a table")
    system = source.text("system", "")
    codes = {key: _code(source.map("codes"), key, system) for key in source.map("codes")}
    default = _code(source, "default", system) if "default" in source else None
    unmapped = source.text("unmapped", "drop")
    if unmapped not in ("keep", "drop"):
        raise mistake("mapping-value-invalid", "unmapped is keep or drop", source.at("unmapped"))
    return Table(source.text("table"), codes, default, unmapped == "keep")


def _code(source: Map, key: str, system: str) -> Code:
    value = source[key]
    if isinstance(value, Map):
        value.only(_CODE_KEYS, "a code")
        code = str(value.get("code", key))
        return Code(code, str(value.get("display", "")), value.text("system", system))
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise mistake("mapping-value-invalid", f"'{key}' must be a code", source.at(key))
    return Code(str(value), "", system)


class CodingSystems:
    """URIs of coding systems by their names in HL7 table 0396 (``tables/coding-systems.yaml``)."""

    def __init__(self, uris: dict[str, str]) -> None:
        self._uris = uris

    def uri(self, name: str, run: Run) -> str | None:
        """The URI of a coding system that a message names; None for a local one without URI, which is reported."""
        found = run.site.code_systems.get(name) or self._uris.get(name)
        if found:
            return found
        if match := _HL7_TABLE.fullmatch(name):
            return f"http://terminology.hl7.org/CodeSystem/v2-{match[1]}"
        if _OID.fullmatch(name):
            return f"urn:oid:{name}"
        if "://" in name or name.startswith("urn:"):
            return name if " " not in name else None
        run.report("coding-system-unknown")
        return None


def read_systems(source: Map) -> CodingSystems:
    """The names of coding systems from their file."""
    source.only(("coding-systems",), "coding-systems")
    systems = source.map("coding-systems")
    return CodingSystems({key: systems.text(key) for key in systems})
