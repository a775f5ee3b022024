"""Mapping files are read strictly: a mistake is named with its file, line and column, and overlays take a file's place."""

from __future__ import annotations

import shutil

import pytest

from bridge.config.load import mappings_root
from bridge.errors import Incorrect
from bridge.hl7v2.message import parse
from bridge.mapping.convert import convert
from bridge.mapping.rules import load_rules
from tests.unit.mapping.messages import adt, only, pid, pv1, rules, site


@pytest.fixture
def root(tmp_path):
    shutil.copytree(mappings_root() / "hl7v2", tmp_path / "hl7v2")
    return tmp_path


def edit(root, name, old, new):
    path = root / "hl7v2" / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_covered_events():
    """The events of the official guide's thirteen messages, and ADT A02, A03 and A40 beside them."""
    assert set(rules().events) == {
        *(f"ADT^A{event:02}" for event in (*range(1, 12), 13, 14, 17, 28, 31, 40)),
        *(f"MDM^T{event:02}" for event in (2, 4, 6, 8, 10)),
        *(f"SIU^S{event}" for event in (*range(12, 25), 26)),
        "OML^O21",
        "ORM^O01",
        "ORU^R01",
        "VXU^V04",
    }


@pytest.mark.parametrize(
    ("file", "old", "new", "code", "place"),
    [
        ("segments/PID.yaml", "from: PID-7,", "form: PID-7,", "mapping-key-unknown", "segments/PID.yaml:"),
        ("segments/PID.yaml", "from: PID-7,", "from: PIDX-7,", "mapping-reference-invalid", "segments/PID.yaml:"),
        ("segments/PID.yaml", "to: birthDate,", "to: birth Date,", "mapping-path-invalid", "segments/PID.yaml:"),
        ("segments/PID.yaml", "as: date}", "as: day}", "mapping-type-unknown", "segments/PID.yaml:"),
        ("segments/PID.yaml", "AdministrativeSex", "Sex", "mapping-table-unknown", "segments/PID.yaml:"),
        (
            "segments/PID.yaml",
            "length(PID-7) > 8",
            "length(PID-7) >> 8",
            "mapping-condition-invalid",
            "segments/PID.yaml:",
        ),
        (
            "segments/PID.yaml",
            "segment: PID",
            "segment: PID\nsegment: PID",
            "mapping-key-twice",
            "segments/PID.yaml:2:1",
        ),
        ("segments/PID.yaml", "valueString: $", "valueString: x", "mapping-template-invalid", "segments/PID.yaml:"),
        ("datatypes/CX.yaml", "as: authority}", "as: CX.Identifier}", "mapping-type-circular", "datatypes/CX.yaml:"),
        (
            "datatypes/PL.yaml",
            "bed: {from: PL.3, type: bd}",
            "bed: {from: PL.3, type: ro}",
            "mapping-chain-invalid",
            "datatypes/",
        ),
        (
            "datatypes/XCN.yaml",
            "identity: practitioner",
            "identity: doctor",
            "mapping-identity-unknown",
            "datatypes/XCN.yaml:",
        ),
        (
            "guide/tables/AdministrativeSex.yaml",
            "F: female",
            "F: true",
            "mapping-value-invalid",
            "guide/tables/AdministrativeSex.yaml:",
        ),
        (
            "guide/tables/AdministrativeSex.yaml",
            "default:",
            "unmapped: lose\ndefault:",
            "mapping-value-invalid",
            "guide/",
        ),
        ("messages/ADT_A39.yaml", "PATIENT={", "PATIENT=[", "mapping-structure-invalid", "messages/ADT_A39.yaml:"),
        ("messages/ADT_A39.yaml", "to: subsumed}", "to: loser}", "mapping-resource-unknown", "messages/ADT_A39.yaml:"),
        (
            "messages/ADT_A39.yaml",
            "map: Provenance, to: provenance",
            "map: None, to: provenance",
            "mapping-map-unknown",
            "messages/",
        ),
        (
            "messages/ADT_A39.yaml",
            "  PATIENT.PD1:",
            "  PATIENT.PV2:",
            "mapping-place-unknown",
            "messages/ADT_A39.yaml:",
        ),
        ("messages/ADT_A39.yaml", "kind: person", "kind: thing", "mapping-value-invalid", "messages/ADT_A39.yaml:"),
        ("messages/ADT_A39.yaml", "create-only", "change-only", "mapping-value-invalid", "messages/ADT_A39.yaml:"),
        ("messages/ADT_A39.yaml", "ADT^A40:", "ADT^A01:", "mapping-event-twice", "messages/ADT_A39.yaml:"),
        (
            "messages/ADT_A39.yaml",
            "rule: subsumed,",
            "rule: twin,",
            "mapping-identity-unknown",
            "messages/ADT_A39.yaml:",
        ),
        (
            "messages/ADT_A39.yaml",
            "{rule: provenance, of: MSH-9}",
            "{rule: provenance}",
            "mapping-identity-incomplete",
            "messages/",
        ),
        ("messages/ADT_A02.yaml", "like: ADT_A01", "like: ADT_A00", "mapping-like-unknown", "messages/ADT_A02.yaml:"),
        ("messages/ADT_A02.yaml", "like: ADT_A01", "like: [", "mapping-unreadable", "messages/ADT_A02.yaml:"),
    ],
)
def test_a_mistake_is_named_with_its_place(root, file, old, new, code, place):
    """Each kind of mistake has its code, and the place where it stands."""
    edit(root, file, old, new)

    with pytest.raises(Incorrect) as raised:
        load_rules(root)

    assert raised.value.code == code
    assert str(raised.value.where).startswith(place)
    assert raised.value.remedy


def test_an_empty_directory_is_no_mapping(tmp_path):
    """Loading from the wrong place is said so, instead of knowing no event."""
    with pytest.raises(Incorrect) as raised:
        load_rules(tmp_path)

    assert raised.value.code == "mapping-root-empty"


@pytest.mark.parametrize("tables", ["hl7v2/tables", "hl7v2/guide/tables"])
def test_the_first_overlay_that_has_a_file_wins(root, tmp_path_factory, tables):
    """An engineer changes a rule in a directory of their own; nothing else changes."""
    overlays = [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]
    for overlay, code in zip(overlays, ("male", "other"), strict=True):
        folder = overlay / tables
        folder.mkdir(parents=True)
        (folder / "AdministrativeSex.yaml").write_text(
            f"table: AdministrativeSex\ncodes: {{Q: {code}}}\n", encoding="utf-8"
        )
    changed = load_rules(root, overlays)
    raw = parse(adt("A01", pid(f8="Q"), pv1()))

    def gender(loaded):
        return {unit.path: unit.value for unit in only(convert(raw, site(), loaded), "Patient").units}.get("gender")

    assert gender(changed) == "male"
    assert gender(rules()) == "unknown"
    assert set(changed.events) == set(rules().events)


def test_every_file_names_what_its_name_says():
    """A segment's, table's or message's file is called like what it holds."""
    for kind, key in (("segments", "segment"), ("tables", "table"), ("messages", "message"), ("datatypes", "datatype")):
        for path in (mappings_root() / "hl7v2").glob(f"**/{kind}/*.yaml"):
            name = path.name.removesuffix(".yaml")
            if name != "coding-systems":
                assert f"{key}: {name}\n" in path.read_text(encoding="utf-8"), path
