"""Errors as exit codes and as text: the one place that turns a category into either."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from bridge.config.problems import ConfigurationInvalid, Problem
from bridge.errors import BridgeError, Category, Fault

CHECK_FAILED: Final = 1
"""Exit code of a command that did its work and found something wrong (``verify``, ``fsck``)."""

INTERRUPTED: Final = 130

EXIT_CODES: Final[Mapping[Category, int]] = {
    Category.INCORRECT: 2,
    Category.FORBIDDEN: 3,
    Category.NOT_FOUND: 4,
    Category.CONFLICT: 5,
    Category.BUSY: 6,
    Category.UNAVAILABLE: 7,
    Category.UNSUPPORTED: 8,
    Category.FAULT: 9,
}


def unexpected(error: Exception) -> Fault:
    """A foreign exception as our own mistake; says its type and never its text, which may hold values."""
    return Fault(
        "unexpected",
        f"something that was not foreseen went wrong ({type(error).__name__})",
        remedy="Report it with the log line that says where.",
    )


def render(error: BridgeError, *, as_json: bool) -> str:
    """What is printed on standard error: a text, or one JSON object."""
    if not as_json:
        return f"Error: {error}" if not isinstance(error, ConfigurationInvalid) else str(error)
    return json.dumps({"error": described(error)}, ensure_ascii=False)


def described(error: BridgeError) -> dict[str, Any]:
    """The error as plain data: category, code, message, remedy, where, and the problems of a configuration."""
    if isinstance(error, ConfigurationInvalid):
        problems = {"problems": [_problem(problem) for problem in error.problems]}
        return {
            "category": error.category.value,
            "code": error.code,
            "message": "the configuration is wrong",
        } | problems
    said = {"category": error.category.value, "code": error.code, "message": error.message, "remedy": error.remedy}
    return said | ({"where": str(error.where)} if error.where else {})


def _problem(problem: Problem) -> dict[str, Any]:
    where = problem.where
    place = {"file": where.file, "line": where.line, "column": where.column} if where else None
    said = {"code": problem.code, "setting": problem.path, "message": problem.message, "remedy": problem.remedy}
    return said | ({"where": place} if place else {})
