"""Everything that is wrong with a configuration, at once, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.errors import Incorrect, Where


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        code: kebab-case name of the cause.
        message: what is wrong; never the value, which may be a secret.
        remedy: what to do about it.
        where: place in the file, or the environment variable.
        path: the setting, dotted, e.g. ``sources[0].topic``.
    """

    code: str
    message: str
    remedy: str = ""
    where: Where | None = None
    path: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        path = f"{self.path}: " if self.path else ""
        advice = f" {self.remedy}" if self.remedy else ""
        return f"{place}{path}{self.message} [{self.code}]{advice}"


class ConfigurationInvalid(Incorrect):
    """A configuration with one or more problems; its text has one line for each.

    ``code`` is the problems' own if they share one, else ``configuration-invalid``.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        codes = {problem.code for problem in problems}
        super().__init__(
            codes.pop() if len(codes) == 1 else "configuration-invalid",
            "\n".join(map(str, problems)),
            where=problems[0].where,
        )
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return self.message


def invalid(problems: Sequence[Problem]) -> ConfigurationInvalid:
    """The error for ``problems`` (at least one), in the order of the text."""
    return ConfigurationInvalid(sorted(problems, key=_order))


def _order(problem: Problem) -> tuple[str, int, int]:
    where = problem.where
    return (where.file, where.line, where.column) if where else ("", 0, 0)
