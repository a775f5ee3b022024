"""FHIR JSON: digits survive, order survives, hostile texts are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Incorrect
from bridge.fhir.json import dumps, loads, loads_stored
from tests.reference import ROOT

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_what_is_written_is_read_again(value):
    """Any JSON object goes through unchanged, in its order, from compact and from loose text."""
    assert loads(dumps(value)) == value
    assert list(loads(dumps(value))) == list(value)
    assert loads(json.dumps(value, indent=2).encode()) == value


@pytest.mark.parametrize("text", ["0.010", "1.00", "-0.5", "100.0", "0.000001"])
def test_decimals_keep_their_digits(text):
    """A decimal is written with the digits it was read with (FHIR R4 datatypes.html#decimal)."""
    body = b'{"value":' + text.encode() + b"}"

    assert loads(body)["value"] == Decimal(text)
    assert dumps(loads(body)) == body
    assert dumps(loads_stored(body)) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[1]",
        b'{"a":1} {"b":2}',
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":"\\u0000"}',
        b'{"a\\u0000":1}',
        b'{"a":1e999999999}',
        b'{"a":1e-99999999999999999999}',
        b'{"a":1.' + b"1" * 200 + b"}",
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":1,"a":2}',
        b'{"x":[{"a":"\\":"},{"b":1,"\\u0062":2}]}',
    ],
)
def test_what_is_not_one_json_object_is_refused(body):
    """Every broken text gets the same code, and the error quotes none of it."""
    with pytest.raises(Incorrect) as caught:
        loads(body)

    assert caught.value.code == "json-invalid"


def test_quotes_and_colons_inside_texts_are_no_names():
    """The check for double names is not misled by texts that look like members."""
    body = b'{"a" : "b\\":", "c":["\\"d\\":", "e"], "f\\"":"\\\\"}'

    assert loads(body) == {"a": 'b":', "c": ['"d":', "e"], 'f"': "\\"}


@pytest.mark.parametrize("body", [b'{"a":' * 65 + b"1" + b"}" * 65, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_deep_nesting_is_refused(body):
    """Neither the limit nor the interpreter's stack is passed."""
    with pytest.raises(Incorrect) as caught:
        loads(body)

    assert caught.value.code == "json-too-deep"


def test_a_bomb_is_refused_whatever_recursion_limit_a_library_has_set():
    """Importing web3 raises the limit to 100,000, which the C stack does not hold: the process must not die of it."""
    script = """
import sys
from bridge.errors import Incorrect
from bridge.fhir.json import loads

sys.setrecursionlimit(100_000)
try:
    loads(b'{"text":"]}\\\\"]","a":' + b"[" * 400_000)
except Incorrect as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "json-too-deep\n"), done.stderr


@pytest.mark.parametrize("body", [b'{"a":"' + b"x" * 2000 + b'"}', b'{"a":[' + b"[]," * 400 + b"[]]}"])
def test_large_texts_are_refused(body):
    """Length is bounded before anything is parsed."""
    with pytest.raises(Incorrect) as caught:
        loads(body, max_bytes=1000)

    assert caught.value.code == "json-too-large"


def test_a_bomb_of_empty_lists_is_refused():
    """A short text that would become a million values is refused before it is parsed."""
    with pytest.raises(Incorrect) as caught:
        loads(b'{"a":[' + b"[]," * 600_000 + b"[]]}")

    assert caught.value.code == "json-too-large"
