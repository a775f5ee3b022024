"""The answers of test cases as JUnit XML, as build servers read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET


class Outcome(NamedTuple):
    """What came of one case.

    Attributes:
        suite: the file of the case.
        name: of the case.
        line: where it stands.
        failure: why it failed, in lines; empty where it did not.
        seconds: how long it took.
    """

    suite: str
    name: str
    line: int
    failure: str
    seconds: float


def as_junit(outcomes: Sequence[Outcome]) -> bytes:
    """A document with a suite for each file."""
    root = ET.Element("testsuites", tests=str(len(outcomes)), failures=str(sum(1 for one in outcomes if one.failure)))
    for suite in dict.fromkeys(one.suite for one in outcomes):
        members = [one for one in outcomes if one.suite == suite]
        failures = str(sum(1 for one in members if one.failure))
        seconds = f"{sum(one.seconds for one in members):.3f}"
        element = ET.SubElement(root, "testsuite", name=suite, tests=str(len(members)), failures=failures, time=seconds)
        for one in members:
            case = ET.SubElement(
                element,
                "testcase",
                classname=suite,
                name=one.name,
                file=suite,
                line=str(one.line),
                time=f"{one.seconds:.3f}",
            )
            if one.failure:
                failure = ET.SubElement(case, "failure", message=one.failure.splitlines()[0])
                failure.text = one.failure
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document
