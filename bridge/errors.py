"""The closed categories of everything that can go wrong.

Every error that crosses a room's wall is one of these. The category decides, in one place each, the HTTP status, the
OperationOutcome issue type (``bridge/api``), the exit code (``bridge/cli``) and whether a worker retries or dead-letters
(``bridge/pipeline``). Texts say what happened and what to do; they never contain health data: codes, positions, names of
files, settings and structures only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Category(StrEnum):
    """What kind of thing went wrong, and so who can mend it."""

    INCORRECT = "incorrect"  # the input is wrong; the same input will fail again
    FORBIDDEN = "forbidden"  # the caller may not
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"  # the state moved; read again, then retry
    BUSY = "busy"  # too much at once; retry later
    UNAVAILABLE = "unavailable"  # something we depend on is not there; retry
    UNSUPPORTED = "unsupported"  # understood, and not done here
    FAULT = "fault"  # our own mistake


TRANSIENT = frozenset({Category.CONFLICT, Category.BUSY, Category.UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a text file, for ``file:line:column`` (both counted from 1)."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class BridgeError(Exception):
    """Base of the closed set; raise one of the subclasses.

    Args:
        code: stable kebab-case name of the cause, e.g. ``patient-without-identifier``; listed in the error reference.
        message: what happened, without health data.
        remedy: what to do about it.
        where: place in a configuration or mapping file.
    """

    category: ClassVar[Category] = Category.FAULT

    def __init__(self, code: str, message: str, *, remedy: str = "", where: Where | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.where = where

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed later without anyone changing the input."""
        return self.category in TRANSIENT

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" {self.remedy}" if self.remedy else ""
        return f"{place}{self.message} [{self.code}]{advice}"


class Incorrect(BridgeError):  # noqa: N818 - the categories are the field's words for anomalies
    """The input breaks a rule; the same input will fail again."""

    category = Category.INCORRECT


class Forbidden(BridgeError):  # noqa: N818
    """The caller is known (or not) and may not do this."""

    category = Category.FORBIDDEN


class NotFound(BridgeError):  # noqa: N818
    """What was asked for is not here, or must look as if it were not."""

    category = Category.NOT_FOUND


class Conflict(BridgeError):  # noqa: N818
    """The state has moved under the caller: read again, then retry."""

    category = Category.CONFLICT


class Busy(BridgeError):  # noqa: N818
    """A limit on what is done at once was reached: retry later."""

    category = Category.BUSY


class Unavailable(BridgeError):  # noqa: N818
    """A part we depend on does not answer: retry when it does."""

    category = Category.UNAVAILABLE


class Unsupported(BridgeError):  # noqa: N818
    """Understood, and not done here."""

    category = Category.UNSUPPORTED


class Fault(BridgeError):  # noqa: N818
    """Our own mistake; the operator should report it."""

    category = Category.FAULT
