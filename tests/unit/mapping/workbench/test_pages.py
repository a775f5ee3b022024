"""Mapping files as pages for readers."""

from __future__ import annotations

import pytest

from bridge.config.load import mappings_root
from bridge.mapping.workbench.coverage import rule_names
from bridge.mapping.workbench.pages import described, name_of, page
from bridge.mapping.workbench.sources import read_sources


@pytest.fixture(scope="module")
def sources():
    return read_sources(mappings_root())


def test_every_file_and_every_rule_of_segments_is_on_the_page(sources):
    """Nothing that is mapped stands in the files alone."""
    text = page(sources)
    for source in sources.files:
        assert f"### {name_of(source)} ({source.label})\n" in text

    shown = {
        f"{source.label}#{line.split(' | ')[0].removeprefix('| ')}"
        for source in sources.of("segments")
        for line in described(source)
        if line.startswith("| ")
    }
    assert len(rule_names(sources)) > 300
    assert [name for name in rule_names(sources) if name not in shown] == []


def test_a_row_says_what_a_rule_reads_and_writes(sources):
    """With its type, its table and its condition."""
    [pid] = [source for source in sources.of("segments") if source.label == "segments/PID.yaml"]

    lines = list(described(pid))
    assert "| sex | `PID-8` | `gender` | CWE.code by table AdministrativeSex |  |" in lines
    assert any(line.startswith("| set-id | `PID-1` | ") for line in lines)


def test_every_row_has_the_cells_of_its_table(sources):
    """Whatever stands in a condition or a code."""
    width = 0
    for line in page(sources).splitlines():
        if line.startswith("|---"):
            width = line.count("|")
        elif line.startswith("| ") and width:
            assert line.count("|") == width, line
        elif not line.startswith("|"):
            width = 0
