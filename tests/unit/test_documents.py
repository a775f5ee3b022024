"""What a page tells people to write, the program takes."""

from __future__ import annotations

import re
from functools import cache

import pytest
import yaml

from bridge.cli.cases import run_cases
from bridge.cli.composition import check_everything
from bridge.config.checking import try_check
from bridge.config.document import read_document
from bridge.config.load import load_settings, mappings_root
from bridge.config.site import Site
from bridge.mapping.rules import load_rules
from bridge.mapping.workbench.cases import CASES
from tests.reference import ROOT

PAGES = sorted([*(ROOT / "docs" / "tutorial").glob("*.md"), *(ROOT / "docs" / "how-to").glob("*.md")])
_BLOCK = re.compile(r"^```yaml\n# (\S+?)(, to be added)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(name, bool(added), text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (name, added, text) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8")))
]


@cache
def _first_configuration() -> dict:
    page = (ROOT / "docs" / "tutorial" / "first-feed.md").read_text(encoding="utf-8")
    [text] = [text for name, added, text in _BLOCK.findall(page) if name == "bridge.yaml" and not added]
    return yaml.safe_load(text)


@pytest.mark.parametrize(("name", "added", "text"), BLOCKS)
def test_a_shown_file_is_accepted(name, added, text, tmp_path):
    """Configurations (added to the tutorial's where the page says so) and site files have no unknown or wrong setting; cases pass."""
    if name.startswith("cases/"):
        path = tmp_path.joinpath(*CASES, "shown.yaml")
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
        assert run_cases(tmp_path, load_rules(mappings_root()), update=False, junit=None) == 0
        return
    if name.startswith("sites/"):
        (tmp_path / "site.yaml").write_text(text, encoding="utf-8")
        assert try_check(Site, read_document(tmp_path / "site.yaml"))[1] == []
        return
    content = {**_first_configuration(), **yaml.safe_load(text)} if added else yaml.safe_load(text)
    wanted = {item["site"] for item in [*content.get("listeners", []), *content.get("sources", [])]}
    (tmp_path / "sites").mkdir()
    for site in wanted:
        shown = {"site": site, "organization": {"name": site, "identifier": {"system": "urn:x", "value": site}},
                 "authorities": [{"name": "X", "system": "urn:x", "use": "record"}], "events": {"allow": ["ADT^A01"]}}  # fmt: skip
        (tmp_path / "sites" / f"{site}.yaml").write_text(yaml.safe_dump(shown), encoding="utf-8")
    (tmp_path / "bridge.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    assert check_everything(load_settings(tmp_path / "bridge.yaml", {})) == len(wanted)


def test_every_yaml_block_is_one_of_these():
    """No configuration on these pages escapes the check above."""
    shown = sum(page.read_text(encoding="utf-8").count("```yaml") for page in PAGES)

    assert len(BLOCKS) == shown > 5


def test_links_between_pages_lead_somewhere():
    """Each relative link of the README and of the pages names a file or folder of the project."""
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]

    assert broken == []
