"""Typed values of fields: times, numbers, composites, and what does not fit its type."""

from __future__ import annotations

from decimal import Decimal
from importlib.resources import files

import pytest
from hl7apy import load_library
from hypothesis import given
from hypothesis import strategies as st

from bridge.hl7v2.delimiters import DEFAULT_DELIMITERS as USUAL
from bridge.hl7v2.message import NULL, parse
from bridge.hl7v2.times import Precision
from bridge.hl7v2.values import components_of, parse_number, typed, typed_field

MSH = rb"MSH|^~\&|LAB|NORTH|EHR|SOUTH|2026||ORU^R01|1|P|2.5.1"
PRIMITIVE = {"ST", "ID", "IS", "NM", "DT", "DTM", "TX", "FT", "SNM"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.50", "1.50"),
        (" +7 ", "7"),
        ("-.5", "-0.5"),
        ("5.", "5"),
        ("0.000", "0.000"),
        ("123456789012345678901", None),
    ],
)
def test_numbers_keep_their_digits(text, number):
    """As many digits as were sent, however many."""
    assert str(parse_number(text)) == (number or text)


@pytest.mark.parametrize("text", ["", "1e5", "1,5", "1_0", "NaN", "Infinity", "٣", "1.2.3", "<5", "--1", "."])
def test_what_is_no_number(text):
    """Exponents, commas, words and digits of other scripts are no NM."""
    assert parse_number(text) is None


def test_composites_by_name():
    """Components and subcomponents by their names, typed; null and absent kept apart; repetitions in their places."""
    pid = parse(
        MSH + rb'%sPID|||77^^^NORTH&1.2.3&ISO^MR^^20260101^""~~78||Doe&van^Jane^^^^^^^^20200101&2021' % b"\r"
    ).segments[1]
    first, second, third = typed_field(pid, 3, "CX")

    assert first["id"] == "77"
    assert first["assigning_authority"] == {"namespace": "NORTH", "universal_id": "1.2.3", "universal_id_type": "ISO"}
    assert (first["effective_date"].year, first["effective_date"].precision) == (2026, Precision.DAY)
    assert first["expiration_date"] is NULL
    assert "check_digit" not in first
    assert (second, third) == (None, {"id": "78"})
    name = typed_field(pid, 5, "XPN")[0]
    assert name["family"] == {"surname": "Doe", "own_prefix": "van"}
    assert name["validity"]["end"].year == 2021


def test_a_ce_with_nine_components_is_read_whole():
    """CE and CWE have one form here, so that no version's sender loses its last components."""
    value = typed("1^a^L^2^b^M^v1^v2^as written", "CE", USUAL)

    assert value["original_text"] == "as written"
    assert len(value) == 9
    assert typed("1^a", "CE", USUAL) == typed("1^a", "CWE", USUAL) == {"identifier": "1", "text": "a"}


def test_what_does_not_fit_its_type_stays_text():
    """A word for a number, a sentence for a time, components beyond the last, delimiters within a primitive."""
    assert typed("about 5^mg", "CQ", USUAL) == {"quantity": "about 5", "units": {"identifier": "mg"}}
    assert typed("yesterday", "DTM", USUAL) == "yesterday"
    assert typed("1^2^3^4", "MO", USUAL) == {
        "amount": Decimal(1),
        "currency": "2",
        "component_3": "3",
        "component_4": "4",
    }
    assert typed(r"a^b&c\T\d", "ST", USUAL) == "a^b&c&d"
    assert typed("A&B&C&D", "HD", USUAL) == {"namespace": "A&B&C&D"}
    assert typed('""', "XAD", USUAL) is NULL
    assert typed("^^", "XAD", USUAL) is None


def test_structured_numbers_and_times():
    """SN keeps its comparator; TS its offset, precision and degree."""
    assert typed(">^100.0", "SN", USUAL) == {"comparator": ">", "first": Decimal("100.0")}
    time = typed("20260228131415.50+0100^S", "TS", USUAL)
    assert (time["time"].fraction, time["time"].offset_minutes, time["degree"]) == (".50", 60, "S")


def names() -> list[str]:
    lines = files("bridge.hl7v2").joinpath("datatypes.tsv").read_text().splitlines()
    return [line.split("\t")[0] for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("name", names())
def test_every_type_is_well_formed(name):
    """Names are distinct within a type, and each component's type is primitive or defined here."""
    components = components_of(name)

    assert len({component.name for component in components}) == len(components) > 1
    assert all(component.type in PRIMITIVE or components_of(component.type) for component in components)


@pytest.mark.parametrize("version", ["2.3.1", "2.5", "2.5.1", "2.6", "2.7", "2.8", "2.8.2"])
def test_types_agree_with_hl7apy(version):
    """Position by position the same types as in hl7apy's tables of each version, or what a later one made of them."""
    structures = load_library(version).DATATYPES_STRUCTS
    compared = 0
    for name in sorted(set(names()) & structures.keys()):
        ours = components_of(name)
        for position, theirs, *_ in structures[name]:
            compared += 1
            assert reads(ours[int(position.partition("_")[2]) - 1].type, theirs[2].removesuffix("_SIMPLE")), position

    assert compared > 180


def reads(ours: str, theirs: str) -> bool:
    """Whether what was written as their type loses nothing when read as ours: a text, or the first of a composite."""
    if ours in ("NM", "DT", "DTM"):
        return theirs in (ours, "TS", "ST", "WD")
    return theirs in PRIMITIVE | OLD or components_of(ours) == components_of(theirs) != ()


OLD = {"WD", "GTS", "SI", "OSD", "TN"}


@given(st.text('ab^&~\\|"1.2 ', max_size=30), st.sampled_from(names()))
def test_nothing_valued_is_left_out(text, name):
    """Whatever the type, every letter and digit that was sent is somewhere in the value."""
    value = typed(text, name, USUAL)

    assert count(value) == sum(text.count(letter) for letter in "ab")


def count(value) -> int:
    if isinstance(value, dict):
        return sum(count(part) for part in value.values())
    return sum(value.count(letter) for letter in "ab") if isinstance(value, str) else 0
