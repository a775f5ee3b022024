"""What the official guide maps to one of our ten types is mapped by us too, save for a reviewed list.

The guide's tables say for each field, and for each component of a data type, which element it goes to. A message is made for
each such field in which it is valued, with every component valued, and the ledger is asked what became of them.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import pytest
import yaml

from bridge.hl7v2.message import parse
from bridge.mapping.convert import convert
from bridge.mapping.operations import Fate
from tests.conformance.feeds import rules
from tests.reference import reference_data
from tests.unit.mapping.messages import site

TYPES = {
    "Patient", "Encounter", "Observation", "DiagnosticReport", "ServiceRequest", "Specimen", "Practitioner",
    "Organization", "Location", "Provenance",
}  # fmt: skip

# one value a data type, every component of the guide's maps valued
SAMPLES = {
    "CX": "555^7^M10^NORTH&1.2.3&ISO^MR^FAC&1.2.4&ISO^20200101^20300101",
    "XPN": "Moss&van&Own&de&Partner^Ada^Bee^Jr^Dr^MD^L^A^^20200101&20210101^G^20200101^20210101^PhD^Addie",
    "XAD": "1 Road&Road&1^Flat 2^Town^State^AB1^GBR^H^^Shire^T1^^20200101&20210101^20200101^20210101^^^^^c/o Bo",
    "XTN": "0123456^PRN^PH^a@b.example^44^123^456^78^txt^^^0123456^20200101^20300101^^^^1",
    "XCN": "D1^Doe&van&Own&de&Partner^Jo^Kay^Jr^Dr^MD^^NORTH&1.2.3&ISO^L^7^M10^DN^FAC&1.2.4&ISO^^^^G^20200101^20300101^PhD",
    "CWE": "C1^Text^L^C2^Text 2^L^1^2^Original^C3^Text 3^L^3",
    "CE": "C1^Text^L^C2^Text 2^L",
    "CNE": "C1^Text^L^C2^Text 2^L^1^2^Original^C3^Text 3^L^3",
    "PL": "WARD^ROOM^BED^HOSP^^^BUILDING^LEVEL^Near the door^77&NORTH&1.2.3&ISO^AUTH&1.2.3&ISO",
    "XON": "Practice^L^12^3^M10^NORTH&1.2.3&ISO^XX^FAC^^A12",
    "HD": "SPACE^1.2.3^ISO",
    "EI": "E1^NORTH^1.2.3^ISO",
    "EIP": "P1&NORTH&1.2.3&ISO^F1&LAB&1.2.4&ISO",
    "DLN": "L1^CA^20300101",
    "DLD": "HOME^20260301",
    "CQ": "5^mL&milliliter&UCUM",
    "DTM": "20260301101112+0000",
    "DT": "20260301",
    "TS": "20260301101112+0000",
    "DR": "20260301101112+0000^20260302101112+0000",
    "NM": "2",
    "SI": "1",
    "ID": "A",
    "IS": "A",
    "ST": "text",
    "TX": "text",
    "FT": "text",
    "NDL": "D1&Doe&Jo&Kay&Jr&Dr&MD&&NORTH^20260301^20260302",
    "SPS": "BLD&Blood&HL70487^HEPA&Heparin&L^Text^LA&Left arm&L^^F&Frozen&L",
    "TQ": "5&mL^Q1H&0800^^20260301^20260302^S",
    "MSG": "ADT^A01^ADT_A01",
    "RPT": "Q1H^^1^2^1^h",
    "varies": "5.4",
    "OG": "sub^1^2^3",
    "TM": "0800",
    "": "text",
}
# a second value, for what counts only where another component is not valued
VARIANTS = {
    "XCN": "D1^Doe^Jo^^^^^^NORTH^L^^^DN^^^^20200101&20210101",
    "XPN": "Moss^Ada^^^^^L^^^20200101&20210101",
    "XAD": "1 Road^^Town^^^^M^^^^^20200101&20210101",
    "XTN": "^NET^Internet^a@b.example",
    "EIP": "P1",
    "XON": "Practice^^12",
    "TQ": "5^Q1H^^20260301^20260302^S^^text^^^^3",
    "RPT": "Q1D^DW^1^2^^^^AC",
}
# where the value decides: codes of tables that elements require
_CODED = "^Text^L^X2^Text 2^L^1^2^Original^X3^Text 3^L^3"
VALUES = {
    "PID-8": f"F{_CODED}", "PID-24": "Y", "PID-30": "Y", "NK1-15": f"F{_CODED}", "PV1-2": f"I{_CODED}", "PV1-40": "O",
    "OBX-2": "NM", "OBX-11": "F", "OBR-25": "F", "ORC-1": "NW", "ORC-5": "CM", "OBR-5": "S", "OBR-11": "G",
    "TQ1-9": f"S{_CODED}", "SPM-20": "Y", "PV2-22": "Y", "EVN-4": f"01{_CODED}", "OBR-24": "LAB", "OBX-4": SAMPLES["OG"],
    "MSH-7": "20260301120000+0000", "EVN-2": "20260301120000+0000", "PID-3": "100^7^M10^NORTH^MR^^20200101^20300101",
    "OBX-5": "5.4", "TQ1-4": "0800", "TQ1-13": "5^h",
}  # fmt: skip
# what else must be valued for the guide's condition to hold (or for the target to be named at all)
COMPANIONS = {
    "OBX-24": {23: "Lab"}, "ORC-22": {21: "Clinic"}, "ORC-23": {21: "Clinic"}, "ORC-24": {12: "D1^Doe"},
    "PID-33": {34: "FAC"}, "PID-34": {33: "20260301"},
}  # fmt: skip
DEFAULTS = {
    "MSH": {9: "ADT^A01^ADT_A01", 7: "20260301120000+0000", 10: "1", 11: "P", 12: "2.9"},
    "EVN": {2: "20260301120000+0000"},
    "PID": {3: "100^^^NORTH^MR"},
    "PV1": {2: "I", 3: "W^R^B", 19: "V1"},
    "OBR": {4: "GLU^Glucose^LN"},
    "OBX": {2: "NM", 3: "GLU^Glucose^LN", 5: "5.4", 11: "F"},
    "ORC": {1: "NW"},
    "SPM": {4: "BLD"},
}
ADT = ("MSH", "EVN", "PID", "PD1", "NK1", "PV1", "PV2", "OBX")
ORU = ("MSH", "PID", "ORC", "OBR", "TQ1", "OBX", "NTE", "SPM")
# the official maps that are used in the covered messages for our types
MAPS = {
    "ADT": ["EVN[Provenance]", "MSH[Provenance-Source]", "MSH[Provenance-Operator]", "PID[Patient]", "PID[Provenance-Patient]",
            "PD1[Patient]", "PD1[Observation-LivingWill]", "NK1[Patient]", "PV1[Encounter]", "PV2[Encounter]"],
    "ORU": ["ORC[ServiceRequest]", "ORC[DiagnosticReport]", "ORC[Provenance]", "OBR[ServiceRequest]", "OBR[DiagnosticReport]",
            "OBR[Specimen]", "OBX[Observation]", "NTE[Observation]", "SPM[Specimen]", "TQ1[ServiceRequest]"],
}  # fmt: skip


def rows(kind, name):
    folder = reference_data("hl7v2", "v2-to-fhir-ig", kind)
    (path,) = [one for one in folder.iterdir() if f"_ {name} - " in one.name and one.suffix == ".csv"]
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file)][2:]


@cache
def components(name):
    """Components of a data type map that have an official target."""
    owner = name.partition("[")[0]
    found = set()
    for row in rows("datatypes", name):
        number = row[1].partition(".")[2]
        if row[1].startswith(f"{owner}.") and number.isdigit() and row[9]:
            found.add(int(number))
    return found


@cache
def targets():
    """Each (event, field, component) with an official target of our types."""
    known = {one.name.partition("_ ")[2].partition(" - ")[0].lower(): one.name.partition("_ ")[2].partition(" - ")[0]
             for one in reference_data("hl7v2", "v2-to-fhir-ig", "datatypes").iterdir() if "[" in one.name}  # fmt: skip
    found = {}
    for event, maps in MAPS.items():
        for name in maps:
            for row in rows("segments", name):
                field, kind, target, type_map = row[1], row[3], row[9], row[14]
                if "-" not in field or not target:
                    continue
                numbers = components(known[type_map.lower()]) if type_map.lower() in known else {1}
                sample = SAMPLES[kind]
                numbers = {number for number in numbers if number <= sample.count("^") + 1} or {1}
                for number in numbers:
                    found.setdefault((event, field, kind, number), set()).add(name)
    return found


def message(event, field, value):
    segment_name, _, number = field.partition("-")
    lines = []
    for name in ADT if event == "ADT" else ORU:
        fields = dict(DEFAULTS.get(name, {}))
        if event == "ORU" and name == "MSH":
            fields[9] = "ORU^R01^ORU_R01"
        if name == segment_name:
            fields.update(COMPANIONS.get(field, {}))
            if (name, number) != ("MSH", "9"):
                fields[int(number)] = value
        elif name not in DEFAULTS:
            continue
        start = 3 if name == "MSH" else 1
        body = [fields.get(one, "") for one in range(start, max(fields) + 1)]
        lines.append("|".join([name, *(["^~\\&"] if name == "MSH" else []), *body]))
    return "\r".join(lines).encode()


@cache
def reviewed():
    path = Path(__file__).parent / "reviewed_targets.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def mapped(event, field, kind):
    """Components of the field that are mapped when it is valued."""
    name, _, number = field.partition("-")
    prefix = f"{name}[1]-{number}[1]."
    values = [VALUES.get(field, SAMPLES[kind])]
    if kind in VARIANTS and field not in VALUES:
        values.append(VARIANTS[kind])
    conversions = [convert(parse(message(event, field, value)), site(), rules(), explain=True) for value in values]
    return {
        int(entry.place.removeprefix(prefix).partition(".")[0])
        for conversion in conversions
        for entry in conversion.ledger
        if entry.place.startswith(prefix) and entry.fate is Fate.MAPPED
    }


def missing():
    """Places with an official target that are not mapped: field, or field and component where the field is read."""
    found = {}
    for (event, field, kind, number), maps in targets().items():
        got = mapped(event, field, kind)
        if not got:
            found.setdefault(field, set()).update(maps)
        elif number not in got:
            found.setdefault(f"{field}.{number}", set()).update(maps)
    return found


def test_every_official_target_is_mapped_or_reviewed():
    """No field or component with an official target is dropped or unmapped, save for the reviewed list."""
    unlisted = {place: sorted(maps) for place, maps in missing().items() if place not in reviewed()}

    assert unlisted == {}


def test_the_reviewed_list_holds_nothing_that_is_mapped():
    """The list only holds what is really missing, each with a reason."""
    assert set(reviewed()) <= set(missing())
    assert all(isinstance(reason, str) and reason for reason in reviewed().values())


@pytest.mark.parametrize("event", MAPS)
def test_the_made_messages_value_what_they_say(event):
    """The check is about something: hundreds of places, and most of them mapped."""
    places = [key for key in targets() if key[0] == event]

    assert len(places) > 150
    assert sum(1 for one in places if one[3] in mapped(*one[:3])) > 0.85 * len(places)
