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


CASES = """\
site: ../north.yaml
cases:
  named:
    message: |
      MSH|^~\\&|N|N|HIE|HIE|20240110185142+0000||ADT^A04^ADT_A01|C1|P|2.5.1
      EVN|A04|20240110185141+0000
      PID|1||Q1^^^NORTH^MR||Ash^Ida||19700102|F
      PV1|1|O
    expect:
      Patient.gender: female  # by table 0001
      Patient.identifier.system: urn:test:north
  unnamed:
    site: queensbridge
    message: MSH|^~\\&|QB-EPR|QBH|HIE|HIE|20240110185142+0000||ADT^A99^ADT_A01|C1|P|2.5.1
    refused: unknown-event
"""
SITE = """\
site: north
organization: {name: North, identifier: {system: "urn:test:organizations", value: north}}
authorities: [{name: NORTH, system: "urn:test:north", use: record}]
events: {allow: [ADT^A04]}
"""


@pytest.fixture
def cases(overlay):
    """Two cases that pass, beside an overlay that changes nothing."""
    overlay.unlink()
    folder = overlay.parents[2]
    (folder / "north.yaml").write_text(SITE)
    path = folder / "cases" / "c.yaml"
    path.parent.mkdir()
    path.write_text(CASES)
    return path


def test_cases_pass_or_tell_the_difference(cases, capsys):
    """At their sites, by name or by a file beside them."""
    assert run(["mappings", "test", "mine"]) == 0
    assert capsys.readouterr().err == "2 cases: 2 as expected, 0 not\n"

    cases.write_text(CASES.replace(": female", ": male").replace("unknown-event", "other"))
    assert run(["mappings", "test", "mine", "--junit", "out.xml"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "mine/hl7v2/cases/c.yaml:3:3: named",
        "  mine/hl7v2/cases/c.yaml:10:7: Patient.gender",
        '    - "male"',
        '    + "female"',
        "mine/hl7v2/cases/c.yaml:12:3: unnamed",
        "  mine/hl7v2/cases/c.yaml:15:5: refused",
        '    - "other"',
        '    + "unknown-event"',
    ]
    assert err == "2 cases: 0 as expected, 2 not\n"
    assert b'failures="2"' in (cases.parents[3] / "out.xml").read_bytes()


def test_an_update_makes_cases_pass(cases, capsys):
    """It still says that they failed: somebody has to look."""
    cases.write_text(CASES.replace(": female", ": male").replace("unknown-event", "other"))

    assert run(["mappings", "test", "mine", "--update"]) == 1
    assert run(["mappings", "test", "mine"]) == 0
    assert cases.read_text() == CASES.replace(": female", ': "female"').replace("unknown-event", '"unknown-event"')


def test_a_folder_without_cases_says_so(overlay, capsys):
    """Nothing tested is no success."""
    assert run(["mappings", "test", "mine", "--update"]) == 2


def test_the_built_in_cases_pass(capsys):
    """Those that stand beside the built-in mappings."""
    assert run(["mappings", "test"]) == 0
    assert not capsys.readouterr().out


ADT = b"MSH|^~\\&|N|N|H|H|20240110185142||%s|C1|P|2.5.1\rEVN|A04\rPID|1||Q1^^^N^MR||Ash^Ida||19700102|%s\rPV1|1|O\r"


@pytest.fixture
def feed(overlay):
    """Two messages of which one is female, and one that is refused."""
    folder = overlay.parents[4] / "feed"
    folder.mkdir()
    adt = b"ADT^A04^ADT_A01"
    (folder / "a.hl7").write_bytes(ADT % (adt, b"F") + ADT % (adt, b"M") + ADT % (b"ADT^A99", b"F"))
    overlay.write_text("table: AdministrativeSex\ncodes: {F: other, M: male}\n")
    return folder


def test_a_change_of_mappings_is_told_by_message_and_in_sum(feed, capsys):
    """Elements and numbers; values only if asked for."""
    assert run(["mappings", "diff", "built-in", "mine", "feed"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "a.hl7#1:",
        "  Patient[1].gender changed",
        "3 messages: 1 changed",
        "  Patient.gender changed in 1",
    ]

    assert run(["mappings", "diff", "built-in", "mine", "feed", "--values"]) == 1
    assert capsys.readouterr().out.splitlines()[2:4] == ['    - "female"', '    + "other"']


def test_a_change_of_mappings_is_read_by_programs(feed, capsys):
    """A line a message that differs, and the sums."""
    assert run(["mappings", "diff", "mine", "built-in", "feed", "--json", "--values"]) == 1

    message, summary = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert message == {
        "message": "a.hl7#1",
        "refused": {"old": None, "new": None},
        "changes": [
            {"resource": "Patient[1]", "path": "gender", "change": "changed", "old": ["other"], "new": ["female"]}
        ],
    }
    assert summary["summary"]["messages"] == 3


def test_mappings_do_not_differ_from_themselves(feed, capsys):
    """Exit code 0, and a line that says so."""
    assert run(["mappings", "diff", "mine", "mine", "feed"]) == 0
    assert capsys.readouterr().out == "3 messages: 0 changed\n"


def test_a_map_is_shown_with_its_overlay(overlay, capsys):
    """What is in force, not what is installed."""
    assert run(["mappings", "show", "AdministrativeSex", "--mappings", "mine"]) == 0
    assert "| `M` | `man` |" in capsys.readouterr().out
    assert run(["mappings", "show", "Nothing"]) == 4
