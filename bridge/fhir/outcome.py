"""OperationOutcome (operationoutcome.html): how FHIR says what went wrong."""

from __future__ import annotations

from typing import Any


def operation_outcome(issue_type: str, diagnostics: str, *, code: str = "", severity: str = "error") -> dict[str, Any]:
    """One issue as an OperationOutcome.

    Args:
        issue_type: code of http://hl7.org/fhir/issue-type.
        diagnostics: text for people, without health data.
        code: the bridge's own stable name of the cause.
        severity: fatal, error, warning or information.
    """
    issue: dict[str, Any] = {"severity": severity, "code": issue_type}
    if code:
        issue["details"] = {"coding": [{"system": "urn:hie-bridge:error", "code": code}]}
    issue["diagnostics"] = diagnostics
    return {"resourceType": "OperationOutcome", "issue": [issue]}
