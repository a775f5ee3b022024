"""The tolerant scan names at least everyone whom the reader would have named (*Consent never fails open*)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mapping.operations import IdentityKey
from bridge.pipeline.consent_scan import MOST_NAMES, carries_consent, patients_named
from bridge.pipeline.ports import ContentKind, RawMessage
from bridge.pipeline.prepare import Preparer
from tests.integration.hospital import KEYS, SITES, hl7, rules

PREPARER = Preparer(rules(), SITES, KEYS, b"i" * 32, 1 << 16)
V2, FHIR = ContentKind.HL7V2, ContentKind.FHIR_JSON


def named(
    content: bytes, site: str = "north", key: bytes | None = None, kind: ContentKind = V2
) -> set[tuple[str, str]]:
    """Namespace and value of everyone named."""
    return {(n.namespace, n.value) for n in patients_named(RawMessage(site, content, kind, key), kind, SITES[site])}


numbers = st.text("0123456789AB", min_size=1, max_size=6)
identifiers = st.builds(
    lambda number, authority, kind: f"{number}^^^{authority}^{kind}".rstrip("^"),
    numbers,
    st.sampled_from(["NORTH", "ARCHIVE", "NHR", "", "ELSEWHERE", "NORTH&1.2.3&ISO", "&NORTH&L"]),
    st.sampled_from(["MR", "NH", "", "XX"]),
)
fields = st.lists(identifiers, min_size=1, max_size=3).map("~".join)


@given(fields, st.sampled_from([3, 2, 4]))
def test_whom_the_reader_names_the_scan_names_too(text: str, place: int) -> None:
    """Wherever the identifiers stand: one of the names that a conversion gives the patient is among the scan's."""
    row = ["PID", "1", "", "", "", "Ash^Ida"]
    row[place] = text
    content = hl7("ADT^A08", "|".join(row))
    conversion = PREPARER.prepare(RawMessage("north", content)).conversion
    if conversion is None:  # nobody the site may name
        return

    assert conversion.patient is not None
    found = {(name.namespace, name.value) for name in conversion.patient.keys}
    assert found <= named(content)


@given(fields, st.integers(0, 60))
def test_what_stands_around_does_not_matter(text: str, cut: int) -> None:
    """The scan needs neither a header nor an end."""
    content = hl7("ADT^A08", f"PID|1||{text}||Ash^Ida")
    whole = named(content)

    assert named(content[content.index(b"PID") :]) == whole
    assert named(b"junk\r\n" * cut + content + b"\rZZZ|broken") == whole


@given(st.binary(max_size=200), st.sampled_from([V2, FHIR]))
def test_no_bytes_raise(content: bytes, kind: ContentKind) -> None:
    """It works on what everything else gave up on."""
    carries_consent(content, kind)
    named(content, kind=kind)
    named(b"PID|" + content, kind=kind)


def test_evidence_names_a_patient_within_the_site() -> None:
    """As the identity table holds those who have no record number."""
    assert ("urn:hie-bridge:site:north", "9") in named(hl7("ADT^A08", "PID|1||9^^^NHR^NH"))


def test_an_unlisted_authority_is_taken_for_any_of_the_sites() -> None:
    """Rather close one too many."""
    assert {("urn:test:north", "9"), ("urn:test:archive", "9")} <= named(hl7("ADT^A08", "PID|1||9^^^WRITTEN WRONG"))


@pytest.mark.parametrize("key", [b"north|7", b"7"])
def test_the_partitioning_key_names_a_patient(key: bytes) -> None:
    """Where the content names none."""
    assert ("urn:test:north", "7") in named(b"", key=key)
    assert named(b"") == set()


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (b"MSH|^~\\&\rCON|1|x\r", V2, True),
        (b"MSH|^~\\&\nARV|1|A\n", V2, True),
        (b"CON|1|x", V2, True),
        (b"\x0bCON|1|x", V2, True),
        (b"MSH|^~\\&\rCON|||\r", V2, False),
        (b"MSH|^~\\&\rCON\r", V2, False),
        (b"MSH|^~\\&\rPID|1||CON|ARV\r", V2, False),
        (b"MSH|^~\\&\rCONX|1\r", V2, False),
        (b'{"resourceType":"Consent"}', FHIR, True),
        (b'{"entry":[{"resource":{ "resourceType" : "Consent", ', FHIR, True),
        (b'{"resourceType":"Patient","name":"Consent"}', FHIR, False),
    ],
)
def test_consent_content_is_recognized(content: bytes, kind: ContentKind, expected: bool) -> None:
    """A segment with a value, or a resource of that type; anywhere, whole or cut."""
    assert carries_consent(content, kind) is expected


@pytest.mark.parametrize(
    "identifier",
    [
        '{"system":"urn:test:north","value":"7"}',
        '{"value":"7","system":"urn:test:north"}',
        '{ "use" : "usual", "system" : "urn:test:north" , "value" : "7" }',
        '{"system":"urn:test:n\\u006frth","value":"\\u0037"}',
    ],
)
def test_identifiers_in_json_name_a_patient(identifier: str) -> None:
    """In either order, escaped or not, though the text breaks off behind them."""
    assert named(f'{{"resourceType":"Consent","x":[{identifier},'.encode(), kind=FHIR) == {("urn:test:north", "7")}


def test_references_in_json_name_a_patient() -> None:
    """By the source's own id, behind a server's address too."""
    content = json.dumps({"a": {"reference": "Patient/p1"}, "b": {"reference": "https://ehr.example/fhir/Patient/p2"}})

    assert named(content.encode(), kind=FHIR) == {
        ("urn:hie-bridge:site:north", "p1"),
        ("urn:hie-bridge:site:north", "p2"),
    }


def test_systems_of_others_name_nobody() -> None:
    """What the site's file does not list is no name here."""
    assert named(b'{"system":"urn:other","value":"7"}', kind=FHIR) == set()


def test_nobody_is_named_twice() -> None:
    """Each name once, in order of finding."""
    raw = RawMessage("north", b"PID|1||7^^^NORTH^MR~7^^^NORTH^MR", V2, b"7")
    found = patients_named(raw, V2, SITES["north"])

    assert len(set(found)) == len(found)
    assert IdentityKey("Patient", "urn:test:north", "MR", "7") in found


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16le", "utf-16be", "utf-32"])
def test_wide_messages_are_scanned_like_narrow_ones(encoding: str) -> None:
    """A consent in UTF-16 or UTF-32 is one, and its patient is named, even where the message is cut in a character."""
    content = hl7("ADT^A08", "PID|1||77^^^NORTH^MR||Ash^Ida") + b"\rCON|1|permit\r"
    wide = content.decode().encode(encoding)[:-1]

    assert carries_consent(wide, V2)
    assert named(wide) == named(content) != set()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le"])
def test_a_consent_in_wide_characters_is_one_and_names_its_patient(encoding: str) -> None:
    """FHIR JSON is UTF-8, so the reader refuses it; its patient must be found all the same."""
    text = json.dumps({"resourceType": "Consent", "patient": {"reference": "Patient/p1"}})
    prepared = PREPARER.prepare(RawMessage("north", text.encode(encoding)))

    assert prepared.error is not None
    assert prepared.consent
    assert [name.value for name in prepared.patients] == ["p1"]


def test_what_stands_far_behind_is_found() -> None:
    """A Bundle may hold megabytes of others before the patient whose consent it carries."""
    content = b'{"a":"' + b"x" * (5 << 20) + b'","patient":{"reference":"Patient/p1"}}'

    assert ("urn:hie-bridge:site:north", "p1") in named(content, kind=FHIR)


def test_of_too_many_names_there_are_enough_to_see_that() -> None:
    """However many a hostile message holds: nobody can be sure of the patient's among them, and memory is spared."""
    many = b'{"resourceType":"Consent"' + b"".join(b',{"reference":"Patient/%d"}' % n for n in range(MOST_NAMES + 9))
    prepared = PREPARER.prepare(RawMessage("north", many, FHIR))

    assert len(prepared.patients) == MOST_NAMES + 1
    assert prepared.others


@pytest.mark.parametrize(
    ("url", "method", "deletes"),
    [
        ("Consent/1", "DELETE", True),
        ("https://north.example/fhir/Consent?patient=p1", "DELETE", True),
        ("Consent/1", "PUT", False),
        ("ConsentForm/1", "DELETE", False),
    ],
)
def test_a_deletion_of_a_consent_carries_one(url: str, method: str, deletes: bool) -> None:
    """What it names is a consent, and not whose."""
    content = json.dumps({"request": {"method": method, "url": url}}).encode()

    assert carries_consent(content, FHIR) is deletes
