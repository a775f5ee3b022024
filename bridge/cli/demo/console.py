"""What the viewer of a demonstration sees: calm text, commands that could be typed, answers cut to the point."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

WIDTH: Final = 100
_INDENT: Final = "   "


class StepFailed(Exception):  # noqa: N818 - an outcome of a step, told to the viewer, and never one of the bridge's own errors
    """A step did not show what it should; the text says what was expected and what was found."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found


def expect(holds: bool, expected: str, found: object) -> None:
    """Raises StepFailed unless ``holds``."""
    if not holds:
        raise StepFailed(expected, str(found))


@dataclass(frozen=True, slots=True)
class Console:
    """Writes to standard output.

    Attributes:
        color: None = where standard output is a terminal; False = never.
    """

    color: bool | None = None

    def title(self, number: int, text: str) -> None:
        """The head of a step."""
        self._line("")
        self._line(click.style(f"{number}  {text}", bold=True))

    def say(self, text: str, *, after: bool = False) -> None:
        """A paragraph, wrapped; ``after`` an answer it stands apart."""
        if after:
            self._line("")
        for line in textwrap.wrap(text, WIDTH - len(_INDENT), break_long_words=False, break_on_hyphens=False):
            self._line(_INDENT + line)

    def command(self, line: str) -> None:
        """A command as a person could type it."""
        self._line("")
        self._line(_INDENT + click.style(f"$ {line}", fg="cyan"))

    def answer(self, lines: Iterable[str]) -> None:
        """What came back."""
        for line in lines:
            self._line(f"{_INDENT}  {line}")

    def table(self, rows: Sequence[Sequence[Any]]) -> None:
        """An answer in columns; numbers to the right."""
        texts = [[str(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
        self.answer(
            "  ".join(
                text.rjust(width) if isinstance(cell, int) else text.ljust(width)
                for cell, text, width in zip(row, line, widths, strict=True)
            ).rstrip()
            for row, line in zip(rows, texts, strict=True)
        )

    def held(self, text: str) -> None:
        """The step's fact, checked."""
        self._line("")
        self._line(_INDENT + click.style("✓ ", fg="green") + text)

    def failed(self, failure: StepFailed) -> None:
        """The step's fact, not found."""
        self._line("")
        self._line(_INDENT + click.style("✗ ", fg="red") + f"expected: {failure.expected}")
        self._line(f"{_INDENT}  found:    {failure.found}")

    def summary(self, rows: Sequence[tuple[str, bool | None]]) -> None:
        """Every step with what became of it; None = not reached."""
        self._line("")
        self._line(click.style("Summary", bold=True))
        marks = {True: click.style("✓", fg="green"), False: click.style("✗", fg="red"), None: "-"}
        words = {True: "", False: ": failed", None: ": not reached"}
        for number, (text, held) in enumerate(rows, 1):
            self._line(f"{_INDENT}{marks[held]} {number}  {text}{words[held]}")

    def _line(self, text: str) -> None:
        click.echo(text, color=self.color)
