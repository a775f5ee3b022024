"""``mappings``: the tools of whoever writes mappings."""

from __future__ import annotations

import json

import pytest

from bridge.cli.main import run

OVERLAY = """\
table: AdministrativeSex
codes: {F: female, M: man}
"""


@pytest.fixture
def overlay(tmp_path, monkeypatch):
    """A folder that stands over one table of the built-in mappings, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine" / "hl7v2" / "guide" / "tables" / "AdministrativeSex.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(OVERLAY)
    return path


def test_lint_tells_what_is_wrong_in_an_overlay_and_there_alone(overlay, capsys):
    """One finding a line, with its place; the built-in files are not the caller's business."""
    assert run(["mappings", "lint", "mine"]) == 1

    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert all(line.startswith("mine/hl7v2/guide/tables/AdministrativeSex.yaml:2:20: error: ") for line in lines)
    assert any("'man'" in line and line.endswith("[code-not-in-value-set]") for line in lines)
    assert err.endswith("0 warnings\n")


def test_lint_is_read_by_programs(overlay, capsys):
    """As JSON, and as SARIF."""
    assert run(["mappings", "lint", "mine", "--format", "json"]) == 1
    first = json.loads(capsys.readouterr().out)["findings"][0]
    assert (first["file"], first["line"], first["column"], first["severity"]) == (
        "mine/hl7v2/guide/tables/AdministrativeSex.yaml",
        2,
        20,
        "error",
    )

    assert run(["mappings", "lint", "mine", "--format", "sarif"]) == 1
    assert json.loads(capsys.readouterr().out)["version"] == "2.1.0"


def test_lint_answers_0_1_and_2(overlay, capsys):
    """Nothing found, something found, nothing to be read."""
    assert run(["mappings", "lint", "mine", "--ignore", "code-not-in-value-set"]) == 0
    overlay.write_text(OVERLAY.replace("man", "male"))
    assert run(["mappings", "lint", "mine"]) == 0
    overlay.write_text("table: Mine\ncodes: {A: b}\n")
    assert run(["mappings", "lint", "mine"]) == 1  # its rules name a table that is gone
    assert "[mapping-table-unknown]" in capsys.readouterr().out
    assert run(["mappings", "lint", "absent"]) == 2
    assert "[mappings-absent]" in capsys.readouterr().err


def test_lint_of_the_built_in_mappings_finds_no_error(capsys):
    """What it finds are warnings, and a caller says whether they count."""
    assert run(["mappings", "lint", "--fail-on", "error"]) == 0
    assert capsys.readouterr().err.startswith("0 errors, ")
