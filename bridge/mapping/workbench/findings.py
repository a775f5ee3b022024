"""What a check of mapping files finds: typed, with its place; as text, JSON or SARIF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from bridge.errors import Where

Json = Any


class Severity(StrEnum):
    """How bad a finding is (the levels of SARIF 2.1.0, section 3.27.10)."""

    ERROR = "error"  # what is written can't be right
    WARNING = "warning"  # it does nothing, or not what it seems to


@dataclass(frozen=True, slots=True)
class Code:
    """A kind of finding.

    Attributes:
        severity: how bad it is.
        meaning: what it says.
    """

    severity: Severity
    meaning: str


CODES: Final[Mapping[str, Code]] = {
    "source-unknown": Code(Severity.ERROR, "a rule or condition reads a field or component that HL7 v2 does not have"),
    "target-unknown": Code(Severity.ERROR, "a rule writes an element that FHIR R4 does not have"),
    "target-cardinality": Code(
        Severity.ERROR, "a rule writes one value where R4 has a list, or a list where it has one"
    ),
    "target-type": Code(Severity.ERROR, "a rule writes a value of another type than R4 gives the element"),
    "code-not-in-value-set": Code(Severity.ERROR, "a code is not one that the element's required binding allows"),
    "condition-never-true": Code(Severity.WARNING, "no message can make the condition true"),
    "rule-unreachable": Code(Severity.WARNING, "an earlier rule always decides before this one"),
    "map-unused": Code(Severity.WARNING, "no message or other map uses the map"),
    "table-unused": Code(Severity.WARNING, "no rule uses the table"),
}
"""Every kind of finding but those of the compiler, whose codes begin with ``mapping-`` and are errors."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that is wrong, or of no use, in a mapping file.

    Attributes:
        file: where it stands.
        line: counted from 1.
        column: counted from 1.
        code: one of :data:`CODES`, or one of the compiler's.
        message: what is wrong.
    """

    file: str
    line: int
    column: int
    code: str
    message: str

    @classmethod
    def at(cls, where: Where, code: str, message: str) -> Finding:
        """A finding at a place."""
        return cls(where.file, where.line, where.column, code, message)

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        known = CODES.get(self.code)
        return known.severity if known else Severity.ERROR

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.message} [{self.code}]"


def as_json(findings: Iterable[Finding]) -> list[dict[str, Json]]:
    """Plain data, one object a finding."""
    return [
        {
            "file": finding.file,
            "line": finding.line,
            "column": finding.column,
            "severity": str(finding.severity),
            "code": finding.code,
            "message": finding.message,
        }
        for finding in findings
    ]


def as_sarif(findings: Sequence[Finding], version: str) -> dict[str, Json]:
    """A log of SARIF 2.1.0, as code hosts and editors read it.

    Args:
        findings: what was found.
        version: of this program.
    """
    names = sorted({*CODES, *(finding.code for finding in findings)})
    rules = [
        {
            "id": name,
            "shortDescription": {"text": CODES[name].meaning if name in CODES else "the mapping does not compile"},
            "defaultConfiguration": {"level": str(CODES[name].severity if name in CODES else Severity.ERROR)},
        }
        for name in names
    ]
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": names.index(finding.code),
            "level": str(finding.severity),
            "message": {"text": finding.message},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": finding.file},
                        "region": {"startLine": finding.line, "startColumn": finding.column},
                    }
                }
            ],
        }
        for finding in findings
    ]
    driver = {"name": "hiebridge mappings lint", "version": version, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
