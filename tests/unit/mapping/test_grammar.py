"""Segments go to the groups where the message structure has them; what has no place is kept and told."""

from __future__ import annotations

import pytest

from bridge.errors import Incorrect, Where
from bridge.hl7v2.delimiters import DEFAULT_DELIMITERS
from bridge.hl7v2.message import Segment
from bridge.mapping.grammar import Grammar

HERE = Where("messages/TST.yaml", 2, 1)
ORU = """
  MSH RESULT={
    PATIENT=[ PID [PD1] [{NTE}] VISIT=[ PV1 [PV2] ] ]
    ORDER={ COMMON=[ ORC ] OBR [{NTE}] OBSERVATION=[{ OBX [{NTE}] }] SPECIMEN=[{ SPM CHECK=[{ OBX }] }] }
  } [DSC]
"""


def sort(names, syntax=ORU):
    segments = [Segment(f"{name}|1", position, DEFAULT_DELIMITERS) for position, name in enumerate(names.split(), 1)]
    return Grammar(syntax, HERE).sort(segments)


def places(names, syntax=ORU):
    """Each segment as ``NAME:GROUP``, with the instance's number within its parent."""
    _, placed, _ = sort(names, syntax)
    return " ".join(f"{segment.name}:{group.name}{group.ordinal if group.name else ''}" for segment, group in placed)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("MSH PID OBR OBX", "MSH: PID:PATIENT1 OBR:ORDER1 OBX:OBSERVATION1"),
        ("MSH PID NTE PV1 ORC OBR NTE", "MSH: PID:PATIENT1 NTE:PATIENT1 PV1:VISIT1 ORC:COMMON1 OBR:ORDER1 NTE:ORDER1"),
        (
            "MSH OBR OBX NTE NTE OBX NTE",
            "MSH: OBR:ORDER1 OBX:OBSERVATION1 NTE:OBSERVATION1 NTE:OBSERVATION1 OBX:OBSERVATION2 NTE:OBSERVATION2",
        ),
        ("MSH OBR OBX OBR OBX", "MSH: OBR:ORDER1 OBX:OBSERVATION1 OBR:ORDER2 OBX:OBSERVATION1"),
        ("MSH ORC OBR ORC OBR", "MSH: ORC:COMMON1 OBR:ORDER1 ORC:COMMON1 OBR:ORDER2"),
        ("MSH OBR OBX SPM OBX SPM", "MSH: OBR:ORDER1 OBX:OBSERVATION1 SPM:SPECIMEN1 OBX:CHECK1 SPM:SPECIMEN2"),
        ("MSH PID OBR PID OBR", "MSH: PID:PATIENT1 OBR:ORDER1 PID:PATIENT1 OBR:ORDER1"),
        ("MSH PID OBR DSC", "MSH: PID:PATIENT1 OBR:ORDER1 DSC:"),
    ],
)
def test_segments_find_their_groups(names, expected):
    """Groups open, repeat and close as the structure says."""
    assert places(names) == expected
    assert sort(names)[2] == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("MSH PID OBR PV1 OBX", "PV1:VISIT1 OBX:OBSERVATION1"),  # a visit after the order belongs to the patient
        ("MSH PID OBR ZZZ OBX", "ZZZ:ORDER1 OBX:OBSERVATION1"),  # nobody knows it: it stays where it stands
        ("MSH OBR OBX SPM NTE OBX", "NTE:ORDER1 OBX:CHECK1"),
        ("MSH OBR OBX PD1", "PD1:PATIENT1"),  # of a patient that no segment named
    ],
)
def test_segments_out_of_place_are_kept_and_told(names, expected):
    """They are put into the nearest open group that knows them, and what follows goes on undisturbed."""
    assert places(names).endswith(expected)
    assert len(sort(names)[2]) == 1


def test_a_second_segment_where_there_can_be_one_is_told():
    """It is not taken for the first one's."""
    root, placed, strays = sort("MSH PID PD1 PD1 OBR")

    assert strays == [placed[3][0]]
    assert placed[3][1].near["PD1"] is placed[2][0]
    assert root.definition.name == ""


def test_segments_are_found_from_within():
    """A group sees its own segments and those of the groups that hold it, never those of a sibling that repeats."""
    _, placed, _ = sort("MSH PID PV1 ORC OBR OBX OBR OBX")
    first, second = placed[5][1], placed[7][1]

    assert first.find("ORC") is placed[3][0]
    assert first.find("OBR") is placed[4][0]
    assert second.find("OBR") is placed[6][0]
    assert second.find("ORC") is None
    assert second.find("PV1") is placed[2][0]


@pytest.mark.parametrize("syntax", ["A=[PID", "PID]", "A= PID", "[PID}", "A=[PID] A=[PV1]", "A=[PID] B=", "pid"])
def test_a_broken_structure_is_refused(syntax):
    """With its place."""
    with pytest.raises(Incorrect) as raised:
        Grammar(syntax, HERE)

    assert raised.value.code == "mapping-structure-invalid"
    assert raised.value.where == HERE
