"""Where the tests find the reference data that public projects publish, and how they skip without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def reference_data(*parts: str) -> Path:
    """The path of a reference file or folder; skips the calling test, with the reason, where it is absent."""
    base = Path(os.environ.get("HIEBRIDGE_REFERENCE_DATA", ROOT.parent / "shared" / "data"))
    path = base.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference data {'/'.join(parts)} is absent: set HIEBRIDGE_REFERENCE_DATA to its folder")
    return path
