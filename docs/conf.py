"""How the documentation is built (``make docs``): Markdown pages, a warning is an error."""

from __future__ import annotations

import tomllib
from pathlib import Path

from bridge.mapping.workbench.pages import page
from bridge.mapping.workbench.sources import read_sources

_PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = _PROJECT["name"]
author = "the hie-bridge contributors"
project_copyright = author
release = version = _PROJECT["version"]

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"{project} {release}"

_HERE = Path(__file__).parent
(_HERE / "reference" / "mappings.md").write_text(page(read_sources(_HERE.parent / "mappings")), encoding="utf-8")
