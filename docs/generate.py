"""Writes the reference pages that come from the code: ``python docs/generate.py``. Tests compare them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from bridge.cli.composition import reference_page
from bridge.cli.reference import commands_page
from bridge.telemetry.metrics import markdown as metrics_page

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/commands.md": commands_page,
    "reference/configuration.md": reference_page,
    "reference/metrics.md": metrics_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(__file__).parent / name).write_text(page(), encoding="utf-8")
