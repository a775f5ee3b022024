"""The pure stage: whatever the bytes are, a message comes out as something to do or as a reason, and no value leaks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BridgeError, Incorrect
from bridge.keys.envelope import open_envelope
from bridge.mapping.operations import Conversion, IdentityKey, Target
from bridge.pipeline.ports import ContentKind, RawMessage
from bridge.pipeline.prepare import Prepared, Preparer, Stage, aad, detect, joined, structure_of
from tests.integration.hospital import KEYS, SITES, hl7, obr, obx, pid, pv1, rules

PREPARER = Preparer(rules(), SITES, KEYS, b"i" * 32, 1 << 16)
GOOD = hl7("ORU^R01", pid("1^^^NORTH^MR~9^^^NHR^NH"), pv1(), obr(at="20240301120000"), obx())


def prepare(content: bytes, kind: ContentKind | None = None, site: str = "north") -> Prepared:
    return PREPARER.prepare(RawMessage(site, content, kind, None, 1_700_000_000_000_000))


def decided(prepared: Prepared) -> str:
    """Exactly one of: something to do, a reason, left out on purpose."""
    if prepared.error is not None:
        assert prepared.conversion is None
        return "dead"
    return "done" if prepared.conversion is not None else "filtered"


@given(st.binary(max_size=300))
def test_no_bytes_raise(content: bytes) -> None:
    """Anything at all is a dead letter with a code, and its raw bytes are kept as they came."""
    prepared = prepare(content)

    assert decided(prepared) == "dead"
    assert isinstance(prepared.error, BridgeError)
    assert open_envelope(prepared.envelope, aad(prepared.raw), KEYS) == content


@given(st.data())
def test_no_damage_to_a_message_raises(data: st.DataObject) -> None:
    """Bytes of a good message replaced, removed, doubled: still one of the three, never an exception."""
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["set", "cut", "double"])):
            case "set":
                content[at] = data.draw(st.integers(0, 255))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 40))]
            case "double":
                content[at:at] = content[at : at + 40]
        if not content:
            return

    assert decided(prepare(bytes(content))) in {"dead", "done", "filtered"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["resourceType", "id", "meta", "identifier", "entry", "type", "patient", "status", "provision"]
        ),
        json_values | st.sampled_from(["Patient", "Bundle", "Consent", "batch"]),
    )
)
def test_no_json_raises(document: dict[str, Any]) -> None:
    """FHIR input of any shape."""
    assert decided(prepare(json.dumps(document).encode(), ContentKind.FHIR_JSON)) in {"dead", "done"}


secrets = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=3, max_size=10)


@given(secrets, secrets, st.sampled_from(["MFN^M02", "ADT^A08", "ADT^A40", "XYZ^X99"]))
def test_dead_letters_show_no_values(name: str, number: str, event: str) -> None:
    """Structure and error hold names of segments, sizes and codes: nothing that the sender wrote into a field."""
    [code, trigger] = event.split("^")
    content = (
        f"MSH|^~\\&|A|B|C|D|20240301||{code}^{trigger}|{number}|P|2.5\rPID|1||{number}^^^ELSEWHERE||{name}^{name}\r"
    )
    prepared = prepare(content.encode())
    assert prepared.error is None or prepared.error.code
    shown = prepared.structure + str(prepared.error) + (prepared.error.remedy if prepared.error else "")

    assert name not in shown
    assert number not in shown


@given(st.lists(st.tuples(st.from_regex(r"[A-Z][A-Z0-9]{2}", fullmatch=True), secrets), min_size=1, max_size=6))
def test_structure_is_the_segments_in_order(lines: list[tuple[str, str]]) -> None:
    """As far as lines look like segments, by the message's own separator: free text may begin with a short name."""
    body = [f"{name}${text}${text}^{text}\rNOT a segment|{text}" for name, text in lines]
    content = "\r".join(["MSH$^~\\&$A", *body]).encode()
    shape = json.loads(structure_of(content, ContentKind.HL7V2))

    assert shape == {
        "kind": "hl7v2",
        "bytes": len(content),
        "segments": ["MSH", *(name for name, _ in lines)],
        "segment_count": len(lines) + 1,
    }


def test_a_structure_does_not_grow_without_bound() -> None:
    """A million segments are counted, not listed."""
    shape = json.loads(structure_of(b"MSH|^~\\&\r" + b"OBX|1\r" * 50_000, ContentKind.HL7V2))

    assert (len(shape["segments"]), shape["segment_count"]) == (200, 50_001)


@pytest.mark.parametrize("start", [b"{", b"[", b"\xef\xbb\xbf{", b" \r\n\t{"])
def test_braces_mean_json(start: bytes) -> None:
    """A byte order mark and blanks may stand before; everything else is taken for HL7 v2."""
    assert detect(start + b'"resourceType"') is ContentKind.FHIR_JSON
    assert detect(b"MSH" + start) is ContentKind.HL7V2
    assert detect(b"") is ContentKind.HL7V2


def test_what_the_transport_says_goes_before_detection() -> None:
    """A header that names the content is believed."""
    assert prepare(GOOD, ContentKind.FHIR_JSON).kind is ContentKind.FHIR_JSON
    assert decided(prepare(GOOD, ContentKind.FHIR_JSON)) == "dead"


def test_an_event_outside_the_sites_file_is_left_out_unread() -> None:
    """Filtered is not wrong: no error, no conversion, and the message is known when it comes again."""
    prepared = prepare(hl7("SIU^S12", "SCH|?"))

    assert (decided(prepared), prepared.event) == ("filtered", "SIU^S12")
    assert prepared.seen is not None


def test_the_same_message_is_recognized_by_sender_control_id_and_content() -> None:
    """Each of the three tells messages apart; the digest is keyed, so nobody compares it with guesses."""
    same = prepare(GOOD).seen
    assert same is not None
    assert prepare(GOOD).seen == same
    assert prepare(GOOD.replace(b"4.1", b"4.2")).seen != same
    assert prepare(GOOD, site="south").seen != same
    other_key = Preparer(rules(), SITES, KEYS, b"x" * 32, 1 << 16).prepare(RawMessage("north", GOOD))
    assert other_key.seen is not None
    assert other_key.seen.digest != same.digest


def test_raw_bytes_open_only_for_their_source_and_time() -> None:
    """A row that was moved under another message does not open."""
    prepared = prepare(GOOD)
    moved = RawMessage("south", b"", None, None, prepared.raw.received_us)

    with pytest.raises(Incorrect):
        open_envelope(prepared.envelope, aad(moved), KEYS)


def test_a_source_that_is_not_configured_is_named_as_such() -> None:
    """The only thing that is not in the message."""
    with pytest.raises(Incorrect) as caught:
        prepare(GOOD, site="nowhere")
    assert caught.value.code == "source-unknown"


@pytest.mark.parametrize(
    "content",
    [
        hl7("ADT^A08", pid(name="A\\X00\\sh^Ida")),
        hl7("ADT^A08", pid(name="A\x00sh^Ida")),
        hl7("ADT^A08", pid("1\\X00\\^^^NORTH^MR")),
        hl7("ORU^R01", pid(), obr(at="20240301120000", placer="P\\X00\\1"), obx()),
        hl7("ADT^A40", pid(), "MRG|2\\X00\\^^^NORTH^MR"),
    ],
    ids=["escaped", "plain", "identifier", "order", "merge"],
)
def test_a_zero_character_anywhere_that_is_mapped_is_refused(content: bytes) -> None:
    """In a value, in a name of a resource, in what a reference points to."""
    prepared = prepare(content)

    assert prepared.error is not None
    assert (prepared.error.code, prepared.stage) == ("zero-character", Stage.MAP)


def test_other_characters_in_hexadecimal_are_no_zero() -> None:
    """``\\X41\\`` is an A."""
    prepared = prepare(hl7("ADT^A08", pid(name="\\X41\\sh^Ida")))

    assert decided(prepared) == "done"


def conversion(number: int) -> Conversion:
    patient = Target((IdentityKey("Patient", "n", "", str(number)),)) if number else None
    return Conversion("fhir:X", "fhir", number, patient, (), mapped=number, unmapped=1, restricts_patient=number == 2)


def test_the_entries_of_a_bundle_are_one_message() -> None:
    """All or nothing: operations joined in order, counts added, the first patient named."""
    one = joined([conversion(0), conversion(1), conversion(2)])

    assert (one.event, one.mapped, one.unmapped, one.restricts_patient) == ("fhir:Bundle", 3, 3, True)
    assert one.patient == conversion(1).patient
    assert joined([conversion(1)]) == conversion(1)
    with pytest.raises(Incorrect):
        joined([])


def test_a_message_whose_bytes_no_longer_open_keeps_them() -> None:
    """The dead letter of an altered row holds the row's envelope, not a new one over nothing."""
    good = prepare(GOOD)
    error = Incorrect("envelope-not-authentic", "Altered.")
    lost = PREPARER.unreadable(good.raw, good.envelope, error)

    assert (lost.error, lost.envelope, lost.stage) == (error, good.envelope, Stage.DETECT)
    assert decided(lost) == "dead"


def test_a_change_dated_into_the_future_is_a_dead_letter() -> None:
    """Until that day it would outrank every true change; a day of tolerance covers clocks and zones."""
    strict = Preparer(rules(), SITES, KEYS, b"i" * 32, 1 << 16, event_ahead_us=24 * 3_600_000_000)
    noon_us = 1_709_294_400_000_000  # 2024-03-01 12:00 UTC

    def prepared(at: str) -> Prepared:
        message = hl7("ADT^A01", pid(), pv1(), at=at)
        return strict.prepare(RawMessage("north", message, received_us=noon_us))

    assert prepared("20240302110000").error is None
    late = prepared("20240302130000").error
    assert late is not None
    assert late.code == "event-in-the-future"


def test_a_site_with_an_unknown_charset_is_refused_at_the_start() -> None:
    """Not message by message: the bridge does not start on a site file that no message of the site could be read by."""
    site = SITES["north"].model_copy(update={"charset": "VENDOR 7"})

    with pytest.raises(Incorrect) as caught:
        Preparer(rules(), {"north": site}, KEYS, b"i" * 32, 1 << 16)

    assert caught.value.code == "site-charset-unknown"


def test_the_structure_of_a_wide_message() -> None:
    """A dead letter in UTF-16 shows its segments like any other."""
    wide = json.loads(structure_of(GOOD.decode().encode("utf-16"), ContentKind.HL7V2))

    assert wide["segments"] == json.loads(structure_of(GOOD, ContentKind.HL7V2))["segments"]
