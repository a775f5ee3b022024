"""Test cases of mappings: what they compare, how they tell it, and how they are written anew."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from bridge.errors import Incorrect, Where
from bridge.mapping.workbench.cases import Mismatch, evaluate, read_cases, updated
from bridge.mapping.workbench.junit import Outcome, as_junit

HERE = Where("c.yaml", 1, 1)
BUNDLE = {
    "resourceType": "Bundle",
    "entry": [
        {"resource": {"resourceType": "Patient", "active": True, "name": [{"family": "Ash", "given": ["Ida", "Kay"]}]}},
        {"resource": {"resourceType": "Observation", "valueInteger": 7}},
        {"resource": {"resourceType": "Observation", "valueQuantity": {"value": 2, "unit": "g"}}},
    ],
}


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("Patient.name.given", ["Ida", "Kay"]),
        ("Patient.active", [True]),
        ("Observation.count()", ["2"]),
        ("Observation", [{"resourceType": "Observation", "valueInteger": "7"}, {"resourceType": "Observation", "valueQuantity": {"value": "2", "unit": "g"}}]),
        ("Observation[1].value.unit", ["g"]),
        ("Observation.value.ofType(integer)", ["7"]),
        ("Encounter.status", []),
        ("entry.count()", ["3"]),
        ("Bundle.entry.resource.ofType(Patient).name.exists(family = 'Ash')", [True]),
    ],
)  # fmt: skip
def test_an_expression_that_begins_with_a_type_speaks_of_all_its_resources(expression, values):
    """Any other begins at the Bundle; numbers are compared by their digits."""
    assert evaluate(expression, BUNDLE, HERE) == values


@pytest.mark.parametrize("expression", ["1 +", "nothing(", "Patient.name.madeUp()"])
def test_what_is_no_fhirpath_is_said_with_its_place(expression):
    """Whatever the library raises."""
    with pytest.raises(Incorrect, match=r"c\.yaml:1:1: .*case-expression-invalid"):
        evaluate(expression, BUNDLE, HERE)


def read(tmp_path, text):
    folder = tmp_path / "hl7v2" / "cases"
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text(text)
    return read_cases(tmp_path, lambda path: path.name)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("cases: {a: {message: MSH}}", "case-without-expectation"),
        ("cases: {a: {expect: {Patient.id: x}}}", "case-without-message"),
        ("cases: {a: {file: absent.hl7, refused: x}}", "case-file-unreadable"),
        ("cases: {a: {message: MSH, refused: x, expects: {}}}", "mapping-key-unknown"),
    ],
)
def test_a_case_that_says_too_little_is_refused(tmp_path, text, code):
    """With its place in the file."""
    with pytest.raises(Incorrect, match=rf"a\.yaml:1:\d+: .*{code}"):
        read(tmp_path, text)


def test_a_message_of_a_case_has_carriage_returns(tmp_path):
    """However it is written in the file."""
    [case] = read(tmp_path, "cases:\n  a:\n    refused: x\n    message: |\n      MSH|1\n      PID|2\n")

    assert case.content == b"MSH|1\rPID|2\r"


def test_a_difference_is_told_by_what_is_missing_and_what_is_new():
    """What agrees is left out, and another order is called that."""
    assert list(Mismatch("Patient.name", HERE, ["a", "b"], ["b", "c", "c"]).lines()) == [
        "c.yaml:1:1: Patient.name",
        '  - "a"',
        '  + "c"',
        '  + "c"',
    ]
    assert list(Mismatch("x", HERE, ["a", "b"], ["b", "a"]).lines())[1:] == ['    in another order: ["b", "a"]']


FILE = """\
cases:
  one:  # stays
    message: MSH
    expect:
      Patient.gender: male   # stays too
      Patient.name.given:
        - Ida
        - Kay

      Patient.active: [true]
    refused: some-code
  two:
    message: MSH
    expect: {Patient.gender: male}
"""


def test_an_update_changes_the_values_that_differ_and_nothing_else():
    """Comments, order and the other cases stay as they are written."""
    changes = [
        Mismatch("Patient.name.given", HERE, ["Ida", "Kay"], ["Ida"]),
        Mismatch("Patient.gender", HERE, ["male"], ["a: b"]),
        Mismatch("Patient.active", HERE, [True], []),
        Mismatch("refused", HERE, ["some-code"], []),
    ]

    expected = (
        FILE.replace("male   #", '"a: b"   #').replace("- Ida\n        - Kay\n", '"Ida"\n').replace("[true]", "[]")
    )
    assert updated(FILE, "one", changes) == expected


def test_answers_for_build_servers_count_and_name_what_failed():
    """JUnit XML: a suite a file, a test a case."""
    outcomes = [
        Outcome("a.yaml", "x", 3, "", 0.5),
        Outcome("a.yaml", "y", 9, "line\nmore <&", 0.25),
        Outcome("b.yaml", "z", 1, "", 0),
    ]

    root = ET.fromstring(as_junit(outcomes))

    assert (root.get("tests"), root.get("failures")) == ("3", "1")
    assert [(suite.get("name"), suite.get("tests"), suite.get("time")) for suite in root] == [
        ("a.yaml", "2", "0.750"),
        ("b.yaml", "1", "0.000"),
    ]
    [failure] = root.iter("failure")
    assert (failure.get("message"), failure.text) == ("line", "line\nmore <&")
