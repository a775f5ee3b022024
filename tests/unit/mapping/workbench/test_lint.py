"""What a check of mapping files finds, and that it finds nothing where nothing is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config.load import mappings_root
from bridge.errors import Where
from bridge.mapping.conditions import Scope
from bridge.mapping.workbench.findings import CODES, Finding, Severity, as_sarif
from bridge.mapping.workbench.lint import lint
from bridge.mapping.workbench.reading import never_true
from tests.reference import ROOT

MESSAGE = """\
message: ADT_A01
structure: MSH EVN PATIENT=[ PID ]
events:
  ADT^A01: {kind: person}
resources:
  patient:
    type: Patient
    per: PATIENT
    with: PID
    identity: {rule: patient, identifiers: [PID-3]}
segments:
  PATIENT.PID: [{map: Patient, to: patient}]
"""
TYPES = """\
datatype: CX
maps:
  Identifier:
    rules:
      id: {from: CX.1, to: value}
"""
TABLE = """\
table: Sex
codes: {F: female, M: male}
"""
HEAD = "segment: PID\nmaps:\n  Patient:\n    rules:\n"
SOUND = """\
      identifier: {from: PID-3, to: "identifier[]", as: CX.Identifier}
      sex: {from: PID-8, to: gender, as: code, table: Sex}
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Lints mappings with the given rules of PID; answers codes and lines."""
    monkeypatch.chdir(tmp_path)

    def check(rules="", *, types=TYPES, table=TABLE, message=MESSAGE):
        files = {
            "messages/ADT_A01": message,
            "segments/PID": HEAD + SOUND + rules,
            "datatypes/CX": types,
            "tables/Sex": table,
        }
        for name, text in files.items():
            path = tmp_path / "hl7v2" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return lint(Path())

    return check


def test_sound_mappings_have_no_finding(check):
    """Nothing is said about what is right."""
    assert check() == []


@pytest.mark.parametrize(
    ("rule", "code", "key"),
    [
        ("{from: PID-99, to: birthDate, as: date}", "source-unknown", "from"),
        ("{from: PID-7, to: birthDate, as: date, when: PID-77 valued}", "source-unknown", "when"),
        ("{from: PID-7, to: birthDay, as: date}", "target-unknown", "to"),
        ('{from: PID-5, to: "name[x1].givenName"}', "target-unknown", "to"),
        ('{from: PID-7, to: "birthDate[]", as: date}', "target-cardinality", "to"),
        ("{from: PID-5, to: name.text}", "target-cardinality", "to"),
        ("{from: PID-16, to: maritalStatus}", "target-type", "to"),
        ("{from: PID-3, to: birthDate, as: CX.Identifier}", "target-type", "as"),
        ("{value: {coding: {code: M}}, to: maritalStatus}", "target-cardinality", "value"),
        ("{value: {code: M}, to: maritalStatus}", "target-unknown", "value"),
        ("{value: maybe, to: active}", "target-type", "value"),
        ("{value: boy, to: gender, when: PID-8 = B}", "code-not-in-value-set", "value"),
        ('{from: PID-7, to: "extension[]", as: date, within: {url: u, valueDay: $}}', "target-unknown", "within"),
        ("{from: PID-7, to: birthDate, as: date, when: PID-8 = F and PID-8 = M}", "condition-never-true", "when"),
        ("{from: PID-7, to: birthDate, when: PID-7 valued and PID-7 not valued}", "condition-never-true", "when"),
        ("{from: PID-7, to: birthDate, when: count(PID-7) > 3 and count(PID-7) < 2}", "condition-never-true", "when"),
    ],
)
def test_a_rule_that_is_wrong_is_found_at_its_place(check, rule, code, key):
    """File, line and column of the key that is wrong, and nothing else."""
    line = f"      bad: {rule}\n"

    found = [(one.file, one.line, one.column, one.code) for one in check(line)]

    assert found == [("hl7v2/segments/PID.yaml", 7, line.index(f"{key}:") + 1, code)]


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        ("      a: {value: true, to: active}\n      b: {from: PID-30, to: active, as: boolean}\n", 8),
        ("      a: {from: PID-7, to: birthDate, as: date}\n      b: {from: PID-7, to: birthDate, as: date}\n", 8),
        (
            """\
      a:
        from: PID-5
        to: multipleBirth[x]
        by: PID-8
        choose:
          F: [{to: multipleBirthInteger, as: whole}, {to: multipleBirthBoolean, as: boolean}]
""",
            12,
        ),
    ],
)
def test_a_rule_that_never_decides_is_found(check, rules, line):
    """Because one before it always does."""
    assert [(one.line, one.code) for one in check(rules)] == [(line, "rule-unreachable")]


def test_codes_of_a_table_are_held_against_the_element_that_takes_them(check):
    """At the code's own place in the table's file; what it does not know, too."""
    [first, second] = check(table="table: Sex\ndefault: none\ncodes:\n  F: female\n  M: man\n")

    assert (first.file, first.line, first.column, first.code) == (
        "hl7v2/tables/Sex.yaml",
        2,
        1,
        "code-not-in-value-set",
    )
    assert (second.line, second.column) == (5, 3)
    assert "'man'" in second.message
    assert "male" in second.message


def test_a_data_type_is_checked_as_what_its_users_make_of_it(check):
    """Whatever its name: here it makes an Identifier."""
    types = TYPES.replace("to: value", "to: valu") + "  Spare:\n    rules:\n      id: {from: CX.99, to: any}\n"

    found = [(one.line, one.code) for one in check(types=types)]

    assert found == [(5, "target-unknown"), (6, "map-unused"), (8, "source-unknown")]


def test_what_nothing_uses_is_found(check):
    """Segment maps and tables that no message or rule names."""
    found = check("  Spare:\n    rules:\n      sex: {from: PID-8, to: gender, as: code}\n", table=TABLE)
    assert [(one.code, one.line) for one in found] == [("map-unused", 7)]

    (Path("hl7v2/tables") / "More.yaml").write_text("table: More\ncodes: {A: b}\n")
    assert [one.code for one in check()] == ["table-unused"]


def test_what_messages_set_and_refer_to_is_checked(check):
    """As what segments write."""
    more = "    references: {active: patient}\n    set: [{to: gender, value: boy}, {to: colour, value: red}]\n"
    message = MESSAGE.replace("segments:\n", f"{more}segments:\n")

    assert [one.code for one in check(message=message)] == ["target-type", "code-not-in-value-set", "target-unknown"]


def test_what_does_not_compile_is_a_finding_with_its_file(check):
    """And what needs no compiled rules is found beside it."""
    found = check("      a: {from: PID-7, to: birthDate, as: day}\n      b: {from: PID-99, to: active, as: boolean}\n")

    assert [(one.file, one.line, one.code) for one in found] == [
        ("hl7v2/segments/PID.yaml", 7, "mapping-type-unknown"),
        ("hl7v2/segments/PID.yaml", 8, "source-unknown"),
    ]
    assert [one.code for one in check(table="table: [")] == ["mapping-unreadable"]


@pytest.mark.parametrize(
    ("condition", "never"),
    [
        ("PID-8 valued", False),
        ("PID-8 = F or PID-8 = M", False),
        ("PID-8 not in (F, M) and PID-8 in (F)", True),
        ("PID-5.1 valued and PID-5 not valued", True),
        ("PV1-2 = I and PID-8 = F", False),
        ("PV1-2 = I and PV1-2 = O", True),
        ('PID-8 = ""', False),
        ("length(PID-7) > 8 and PID-7 valued", False),
        ("PID-7 is number and PID-7 = F", True),
    ],
)
def test_conditions_that_nothing_makes_true(condition, never):
    """Decided by trying the values that could matter."""
    assert never_true(condition, Scope("PID", 0), Where("x", 1, 1)) is never


def test_the_built_in_mappings_have_no_error():
    """Unused maps and tables of the official guide are all that there is to say."""
    found = lint(mappings_root())

    assert [str(one) for one in found if one.code not in ("map-unused", "table-unused")] == []


def test_a_log_of_sarif_points_to_its_rules():
    """Every result names its rule by number and by id, at the place of the finding."""
    found = [Finding("a.yaml", 3, 5, "map-unused", "m"), Finding("b.yaml", 1, 1, "mapping-key-unknown", "n")]

    [run] = as_sarif(found, "1.0")["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert {rule["id"] for rule in rules} == {*CODES, "mapping-key-unknown"}
    for result, finding in zip(run["results"], found, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == finding.code
        [location] = result["locations"]
        region = location["physicalLocation"]["region"]
        assert (region["startLine"], region["startColumn"]) == (finding.line, finding.column)
    assert [result["level"] for result in run["results"]] == [Severity.WARNING, Severity.ERROR]


def test_every_kind_of_finding_is_documented():
    """With the meaning that programs are told."""
    page = (ROOT / "docs" / "how-to" / "mappings.md").read_text(encoding="utf-8")

    assert [name for name, code in CODES.items() if f"| `{name}` | {code.meaning} |" not in page] == []
