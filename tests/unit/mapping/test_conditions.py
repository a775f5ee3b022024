"""Conditions of mapping files say what they seem to say, and mistakes in them are named with their place."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bridge.errors import Incorrect, Where
from bridge.mapping.conditions import Scope, compile_condition, is_number, parse_reference

HERE = Where("segments/TST.yaml", 3, 7)
FIELDS = ["TST", "a^b&c^", "", '""', "1~2~~3", "5.40", "x y"]
SEGMENT = Scope("TST", 0)
RUN = SimpleNamespace(
    repetition="~",
    component="^",
    subcomponent="&",
    group=SimpleNamespace(find=lambda name: SimpleNamespace(fields=["OTH", "z^y"]) if name == "OTH" else None),
)


def holds(text, parts=FIELDS, scope=SEGMENT):
    return compile_condition(text, scope, HERE)(parts, RUN)


@pytest.mark.parametrize(
    "text",
    [
        "TST-1 valued",
        "TST-2 not valued",
        "TST-3 not valued",
        "TST-9 not valued",
        "TST-1.1 = a",
        "TST-1.2.2 = c",
        'TST-1.2 = "b&c"',
        "TST-1.3 not valued",
        "TST-1.1 in (a, b)",
        "TST-1.1 not in (b, c)",
        "TST-1.1 != b",
        'TST-6 = "x y"',
        "count(TST-4) = 3",
        "count(TST-2) = 0",
        "length(TST-5) > 3",
        "TST-5 is number",
        "not TST-6 is number",
        "OTH-1.2 = y",
        "OTH-2 not valued",
        "NON-1 not valued",
        "TST-2 valued or TST-1 valued and TST-5 valued",
        "not (TST-2 valued or TST-3 valued)",
        "(TST-2 valued or TST-1 valued) and TST-5 = 5.40",
    ],
)
def test_what_holds(text):
    """Each of these holds of the fields above, and its negation does not."""
    assert holds(text)
    assert not holds(f"not ({text})")


def test_within_a_data_type():
    """References to components count from the data type; what is beyond its parts is absent."""
    scope = Scope("CX", 1)

    assert holds("CX.1 = 1 and CX.4.2 = b and CX.9 not valued", ["1", "", "", "a&b"], scope)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "mapping-condition-invalid"),
        ("TST-1", "mapping-condition-invalid"),
        ("TST-1 valued and", "mapping-condition-invalid"),
        ("TST-1 valued)", "mapping-condition-invalid"),
        ("TST-1 in ()", "mapping-condition-invalid"),
        ("TST-1 ? 2", "mapping-condition-invalid"),
        ("count(TST-1) > many", "mapping-condition-invalid"),
        ("CX.1 valued", "mapping-reference-invalid"),
        ("TST.1 valued", "mapping-reference-invalid"),
    ],
)
def test_mistakes_have_a_place(text, code):
    """A condition that cannot be read is refused with the file, line and column of it."""
    with pytest.raises(Incorrect) as raised:
        holds(text)

    assert raised.value.code == code
    assert str(raised.value.where) == "segments/TST.yaml:3:7"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", True),
        ("-1.50", True),
        (" 2 ", True),
        ("+3", True),
        ("1e5", False),
        ("NaN", False),
        ("1_0", False),
        ("", False),
        ("<5", False),
    ],
)
def test_numbers_are_those_of_nm(text, expected):
    """Only plain decimals are numbers."""
    assert is_number(text) is expected


@pytest.mark.parametrize("text", ["PID", "PID-3", "PID-3.4", "PID-3.4.2", "CX.4", "CX.4.1", "OBX-33"])
def test_references_read_and_write(text):
    """A reference is written as it was read."""
    assert str(parse_reference(text, HERE)) == text


@pytest.mark.parametrize("text", ["pid-3", "PID-", "PID-3.", "P-3", "PID3"])
def test_what_is_no_reference(text):
    """Other texts name no place."""
    with pytest.raises(Incorrect):
        parse_reference(text, HERE)
