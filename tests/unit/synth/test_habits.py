"""Each facility writes as it is said to, its site file agrees, and another reader understands it."""

from __future__ import annotations

import re

import pytest
import yaml
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from bridge.config.site import AuthorityUse, Site
from bridge.hl7v2.message import Message, parse
from bridge.synth.events import Outcome
from bridge.synth.feed import SynthMessage
from bridge.synth.region import Region
from bridge.synth.scribe import folded
from bridge.synth.tables import Facility, tables
from tests.reference import ROOT, reference_data

SITES = ROOT / "mappings" / "sites"
FACILITIES = tuple(tables().facilities.values())


def site_of(name: str) -> Site:
    return Site.model_validate(yaml.safe_load((SITES / f"{name}.yaml").read_text("utf-8")))


@pytest.fixture(scope="module")
def feed() -> list[SynthMessage]:
    return list(Region(3, 400, 3000, uncovered_percent=6))


@pytest.fixture(scope="module")
def by_site(feed) -> dict[str, list[tuple[SynthMessage, Message]]]:
    found: dict[str, list[tuple[SynthMessage, Message]]] = {}
    for message in feed:
        found.setdefault(message.site, []).append((message, parse(message.content)))
    return found


def each(facility: Facility) -> object:
    return pytest.param(facility, id=facility.site)


every_facility = pytest.mark.parametrize("facility", [each(facility) for facility in FACILITIES])
every_hospital = pytest.mark.parametrize("facility", [each(facility) for facility in tables().hospitals])


def test_the_region_has_the_habits_that_were_asked_for():
    """Four hospitals and a laboratory: three versions, three character sets, three line ends, the odd habits."""
    hospitals = tables().hospitals

    assert len(hospitals) >= 4
    assert len({facility.oid for facility in FACILITIES}) == len(FACILITIES)
    assert {facility.version for facility in hospitals} == {"2.3", "2.5.1", "2.7"}
    assert {facility.charset for facility in hospitals} == {"ASCII", "8859/1", "UNICODE UTF-8"}
    assert {facility.newline for facility in FACILITIES} == {"CR", "CRLF", "LF"}
    assert {facility.codes for facility in hospitals} == {"loinc", "local", "both"}
    assert {facility.identifiers[0] for facility in hospitals} == {"record", "national", "either"}
    assert [facility.site for facility in hospitals if facility.namespace == "empty"] == ["rivermoor"]
    assert [facility.site for facility in hospitals if facility.z_segments] == ["queensbridge"]


@every_facility
def test_header_and_line_ends_are_as_declared(facility, by_site):
    """Version, sender, character set, structure and line ends of each message are the facility's."""
    ends = {"CR": b"\r", "CRLF": b"\r\n", "LF": b"\n"}[facility.newline]
    for message, parsed in by_site[facility.site]:
        header = parsed.header
        assert (header.sending_application, header.sending_facility) == (facility.application, facility.facility)
        assert header.version == facility.version
        assert header.charsets == ((facility.charset,) if facility.charset else ())
        assert set(re.findall(rb"[\r\n]+", message.content)) == {ends}
        if message.outcome is Outcome.STORED:
            told = parsed.segments[0].get(9, 3)
            assert told is None if facility.version == "2.3" else told == parsed.type.structure
            assert parsed.delimiters.truncation == ("#" if facility.version == "2.7" else "")


@every_hospital
def test_identifiers_are_written_as_declared(facility, by_site):
    """PID-3: order of authorities, authority empty or not, region-wide number known to the declared share."""
    orders: set[tuple[str | None, ...]] = set()
    known = count = 0
    for message, parsed in by_site[facility.site]:
        pid = parsed.segment("PID")
        if message.kind.startswith("ADT^A01") and pid is not None:
            order = tuple(pid.get(3, 4, 1, n) for n in range(1, len(pid.repetitions(3)) + 1))
            orders.add(order)
            known += len(order) == 2
            count += 1

    own = None if facility.namespace == "empty" else facility.authority
    expected = {
        "record": {(own,), (own, "NHR")},
        "national": {(own,), ("NHR", own)},
        "either": {(own,), (own, "NHR"), ("NHR", own)},
    }[facility.identifiers[0]]
    assert orders == (expected if facility.national_percent else {(own,)})
    assert abs(100 * known / count - facility.national_percent) < 15


@every_hospital
def test_result_codes_are_as_declared(facility, by_site):
    """OBX-3 carries LOINC, the laboratory's own codes, or both."""
    systems = {
        (obx.get(3, 3), obx.get(3, 6)) for _, parsed in by_site[facility.site] for obx in parsed.all("OBX")
    }  # fmt: skip

    assert systems == {{"loinc": ("LN", None), "local": ("L", None), "both": ("LN", "L")}[facility.codes]}


def test_z_segments_are_in_every_adt_of_one_hospital(by_site):
    """Queensbridge adds a Z-segment to every ADT message, nobody else adds any."""
    for site, messages in by_site.items():
        for message, parsed in messages:
            expected = site == "queensbridge" and message.kind.startswith("ADT")
            assert any(segment.name.startswith("Z") for segment in parsed.segments) == expected


def test_the_laboratory_is_thin(by_site):
    """The laboratory sends results only, under a hospital's number, with the barest PID and no visit."""
    for message, parsed in by_site["vale-laboratory"]:
        pid = parsed.segment("PID")
        assert message.kind == "ORU^R01"
        assert pid.get(3, 4) in ("STO", "QBH")
        assert pid.field_count == 8
        assert parsed.segment("PV1") is None


def test_events_carry_their_time(by_site):
    """EVN-2 is the event's time and MSH-7 not before it, in the habit of the sender."""
    for messages in by_site.values():
        for message, parsed in messages:
            evn = parsed.segment("EVN")
            if message.kind.startswith("ADT"):
                assert evn.get(1) == message.kind[4:]
                assert evn.get(2) <= parsed.header.time


def test_names_lose_only_what_the_character_set_lacks():
    """ASCII folds accents, ISO 8859-1 keeps its own and folds the rest, UTF-8 keeps all."""
    assert folded("Zoë Wiśniewska-Straße Nguyễn", "ascii") == "Zoe Wisniewska-Strasse Nguyen"
    assert folded("Zoë Wiśniewska Ørsted Łukasz", "latin-1") == "Zoë Wisniewska Ørsted Lukasz"
    assert folded("Zoë Wiśniewska", "utf-8") == "Zoë Wiśniewska"


@every_facility
def test_hl7apy_reads_the_same(facility, by_site):
    """An independent parser finds the same segments, message type, identifiers and results, of every kind of event."""
    seen: set[str] = set()
    for message, parsed in by_site[facility.site]:
        if message.kind in seen:
            continue
        seen.add(message.kind)
        text = "\r".join(segment.text for segment in parsed.segments) + "\r"
        read = parse_message(text, validation_level=VALIDATION_LEVEL.TOLERANT, find_groups=False)
        assert [child.name for child in read.children] == [segment.name for segment in parsed.segments]
        assert read.msh.msh_10.to_er7() == parsed.header.control_id
        for segment, child in zip(parsed.segments, read.children, strict=True):
            assert child.to_er7().rstrip("|") == segment.text.rstrip("|")


@every_facility
def test_site_file_lists_what_the_facility_sends(facility, feed):
    """The site file validates, allows every covered event, and treats every uncovered one as the truth says."""
    site = site_of(facility.site)
    names = {authority.name: authority for authority in site.authorities}
    allowed = {message.kind: message.kind in site.events.allowed for message in feed if message.site == facility.site}
    outcomes = {message.kind: message.outcome for message in feed if message.site == facility.site}

    assert site.site == facility.site
    assert names[facility.authority].system == f"urn:oid:{facility.oid}"
    assert names[facility.authority].types == (facility.type,)
    assert names[facility.authority].default
    assert site.sender.applications == (facility.application,)
    assert site.sender.facilities == (facility.facility,)
    assert allowed == {kind: outcome is not Outcome.FILTERED for kind, outcome in outcomes.items()}


def test_sites_share_authorities_alike():
    """An authority that several sites list has the same system and use everywhere; the region's number is evidence."""
    listed: dict[str, set[tuple[str, AuthorityUse]]] = {}
    for facility in FACILITIES:
        for authority in site_of(facility.site).authorities:
            listed.setdefault(authority.name, set()).add((authority.system, authority.use))

    assert all(len(same) == 1 for same in listed.values())
    assert listed["NHR"] == {(f"urn:oid:{tables().national.oid}", AuthorityUse.EVIDENCE)}


def test_events_of_no_map_are_allowed_or_filtered_in_every_hospital():
    """Each hospital's file says the same of the uncovered events as the table that they are drawn from."""
    for facility in tables().hospitals:
        allowed = site_of(facility.site).events.allowed
        assert allowed.issuperset(tables().uncovered["dead"])
        assert allowed.isdisjoint(tables().uncovered["filtered"])


def test_simhospital_site_lists_what_simhospital_sends():
    """The site file knows every authority and event of simhospital's recorded messages."""
    content = reference_data("hl7v2", "google-simhospital", "messages.out").read_bytes()
    site = site_of("simhospital")
    for raw in filter(None, re.split(rb"[\r\n]+(?=MSH\|)", content.strip())):
        parsed = parse(raw)
        pid, header = parsed.segment("PID"), parsed.header
        for repetition in range(1, len(pid.repetitions(3)) + 1):
            authority = site.by_authority[pid.get(3, 4, 1, repetition)]
            assert pid.get(3, 5, 1, repetition) in authority.types
        assert f"{parsed.type.code}^{parsed.type.event}" in {*site.events.allow, *site.events.filter}
        assert header.sending_application in site.sender.applications
        for segment in (*parsed.all("OBR"), *parsed.all("OBX"), *parsed.all("AL1")):
            code = segment.get(4 if segment.name == "OBR" else 3, 3)
            assert code in site.code_systems or code == "L"
