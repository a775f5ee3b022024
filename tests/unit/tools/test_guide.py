"""The import of the official guide: conditions, paths, and that what it makes is what stands in the repository."""

from __future__ import annotations

import csv
from functools import cache

import pytest

from bridge.config.load import mappings_root
from bridge.errors import Where
from bridge.mapping.compiler import Compiler
from bridge.mapping.conditions import Scope, compile_condition
from bridge.mapping.rules import load_rules
from tests.reference import reference_data
from tools.guide import coverage, importer, sheets
from tools.guide.__main__ import PAGE
from tools.guide.conditions import UnreadableError, translate
from tools.guide.paths import UndecidedError, render, steps

WHERE = Where("x", 1, 1)


def folder():
    return reference_data("hl7v2", "v2-to-fhir-ig")


@cache
def imported():
    return importer.make(folder())


@pytest.mark.parametrize(
    ("theirs", "place", "ours"),
    [
        ("IF ORC-2 NOT VALUED", "", "ORC-2 not valued"),
        ("IF CWE.1 IS VALUED AND CWE.3 IS VALUED", "", "CWE.1 valued and CWE.3 valued"),
        ("IF PID-33 AND PID-34 VALUED", "", "(PID-33 valued and PID-34 valued)"),
        ('IF PRT-4 IS IN ("AD", "AP")', "", "PRT-4.1 in (AD, AP)"),
        ('IF XAD.7 EQUALS "HV"', "", "XAD.7 = HV"),
        ('IF RXA-21 NOT EQUALS "D"', "", "RXA-21.1 != D"),
        ('IF NOT VALUED AND RXA-21 EQUALS "A"', "RXA-20", "RXA-20 not valued and RXA-21.1 = A"),
        ('IF OBX-5.3 NOT IN (":", "/")', "", 'OBX-5.3 not in (":", "/")'),
        ("IF EVN-5 NOT VALUED AND (MSH-22 IS VALUED OR MSH-4 IS VALUED)", "", "EVN-5 not valued and (MSH-22 valued or MSH-4 valued)"),
        ("IF XCN.19 DOES NOT EXIST", "", "XCN.19 not valued"),
        ("", "PID-3", ""),
    ],
)  # fmt: skip
def test_conditions_of_the_guide_become_ours(theirs, place, ours):
    """What follows the guide's language is translated word by word."""
    assert translate(theirs, place) == ours


@pytest.mark.parametrize(
    "text", ["IF PID VALUED", "If the severity was criticality", "IF ORC-2", "IF PID-7 LENGTH > 8", "VALUED"]
)
def test_what_only_a_person_can_read_is_refused(text):
    """Prose is no condition: it needs a decision."""
    with pytest.raises(UnreadableError):
        translate(text)


@pytest.mark.parametrize(
    ("target", "owner", "path"),
    [
        ("name", "Patient", "name[]"),
        ("period.start", "Encounter", "period.start"),
        ("participant.actor[1](Practitioner)", "Appointment", "participant[SCH.1].actor"),
        ("identifier[2].type.coding.code", "Immunization", "identifier[SCH.2].type.coding[1].code"),
        ("status.extension[1].url", "Observation", "_status.extension[SCH.1].url"),
        ("$value", "string", "$"),
    ],
)
def test_paths_say_where_lists_are(target, owner, path):
    """R4 says which elements repeat; the guide often does not."""
    assert render(steps(target, owner), "SCH") == path


@pytest.mark.parametrize("target", ["payer", "name.first", "organization(Organization.name)", "suffix[2}"])
def test_paths_that_r4_does_not_have_are_refused(target):
    """A misspelt element, or one of another resource, needs a decision."""
    with pytest.raises(UndecidedError):
        steps(target, "Patient")


def test_the_files_are_what_the_guide_and_our_decisions_make():
    """Making them again changes nothing, and no other file stands among them."""
    base = mappings_root() / "hl7v2" / "guide"
    there = {f"{path.parent.name}/{path.name}": path.read_text(encoding="utf-8") for path in base.glob("*/*.yaml")}

    assert imported().files.keys() == there.keys()
    assert [name for name, text in imported().files.items() if text != there[name]] == []


def test_the_reference_page_counts_what_is_there():
    """The page is what the guide, the decisions and the mapping files say now."""
    assert PAGE.read_text(encoding="utf-8") == coverage.page(folder())


def test_every_row_that_became_no_rule_has_a_decision():
    """Nothing is left out because the tool could not read it."""
    reasons = {
        text
        for kind in ("datatypes", "segments")
        for decision in importer.decisions(kind).values()
        for row in decision.get("rows", {}).values()
        if (text := row.get("skip"))
    }
    left = [(name, row.number, why) for name, made in imported().maps.items() for row, why in made.left]

    assert [one for one in left if one[2] not in reasons] == []


def test_decisions_are_about_rows_that_there_are():
    """A decision whose row has moved would silently say nothing."""
    for kind in ("datatypes", "segments"):
        there = sheets.names(folder() / kind)
        for name, decision in importer.decisions(kind).items():
            assert name in there, name
            numbers = {str(row.number) for row in sheets.rows(there[name])}
            assert set(decision.get("rows", {})) <= numbers, name
    assert set(importer.decisions("tables")) <= set(sheets.names(folder() / "codesystems"))


def test_all_maps_of_the_guide_are_imported_replaced_or_refused_with_a_reason():
    """13 messages, 75 segments, 105 data types, 99 tables: each is accounted for, and most of their rows are followed."""
    found = coverage.tallies(folder())

    assert {kind: len(group) for kind, group in found.items()} == {
        "tables": 99,
        "datatypes": 105,
        "segments": 75,
        "messages": 13,
    }
    for group in found.values():
        assert [one.name for one in group if one.rows > one.followed and not one.left] == []
    shares = {
        kind: sum(one.followed for one in group) / sum(one.rows for one in group) for kind, group in found.items()
    }
    assert shares["tables"] > 0.99
    assert min(shares.values()) > 0.7
    assert [text for one in found["messages"] for text in one.left if text.endswith("not mapped")] == []


def test_no_sentence_of_the_guide_is_copied():
    """Facts only: comments and narratives of its tables stand in none of our files."""
    texts = " ".join(" ".join(text.split()) for text in imported().files.values())
    copied = []
    for kind, columns in (("segments", (8, 17, 18)), ("datatypes", (8, 17, 18)), ("codesystems", (5, 11))):
        for path in sheets.names(folder() / kind).values():
            with path.open(encoding="utf-8-sig", newline="") as file:
                for row in [*csv.reader(file)][2:]:
                    cells = (" ".join(row[at].split()) for at in columns if at < len(row))
                    copied += [cell for cell in cells if len(cell.split()) > 5 and cell in texts]

    assert copied == []


def test_every_data_type_map_compiles(monkeypatch):
    """Also those that no segment uses yet."""
    made = []
    first = Compiler.__init__
    monkeypatch.setattr(Compiler, "__init__", lambda self, *rest: (made.append(self), first(self, *rest))[1])
    load_rules(mappings_root())

    assert len(made[0].types) > 80
    for name in made[0].types:
        made[0].converter(name, 0, WHERE)


def test_translated_conditions_compile():
    """Our language reads what the translation writes."""
    compile_condition(translate('IF RXA-20 NOT VALUED AND RXA-21 NOT EQUALS "D"'), Scope("RXA", 0), WHERE)
