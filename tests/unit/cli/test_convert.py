"""``convert``: what a message becomes, without a configuration."""

from __future__ import annotations

import io
import json
import sys

import pytest

from bridge.cli import corpus
from bridge.cli.main import run
from bridge.synth.region import Region

ADT = (
    b"MSH|^~\\&|QB-EPR|QBH|HIE|HIE|20240110185142+0000||ADT^A04^ADT_A01|C1|P|2.5.1||||||UNICODE UTF-8\r"
    b"EVN|A04|20240110185141+0000\r"
    b"PID|1||Q1^^^QBH^MR||Ash^Ida||19700102|F\r"
    b"PV1|1|O|||||||||||||||||V1^^^QBH^VN\r"
    b"ZPI|1|local\r"
)
ORPHAN = b"MSH|^~\\&|QB-EPR|QBH|HIE|HIE|20240110185142||ADT^A04^ADT_A01|C2|P|2.5.1\rEVN|A04\rPID|1||||Elm^Ole\r"


@pytest.fixture
def convert(tmp_path, capsys, monkeypatch):
    """Runs ``convert`` on bytes in a folder without configuration; answers exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def convert(content, *arguments):
        (tmp_path / "message").write_bytes(content)
        capsys.readouterr()
        return run(["convert", "message", *arguments]), *capsys.readouterr()

    return convert


def types(bundle):
    return [entry["resource"]["resourceType"] for entry in bundle["entry"]]


def test_a_message_becomes_a_bundle(convert):
    """Without a site, too: then each authority of the message names records."""
    code, out, err = convert(ADT)

    bundle = json.loads(out)
    assert code == 0
    assert err.splitlines()[0] == "1 files: 1 messages converted, 0 refused"
    assert err.splitlines()[1].startswith("elements: ")
    assert bundle["resourceType"] == "Bundle"
    assert {"Patient", "Encounter"} <= set(types(bundle))
    [patient] = [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == "Patient"]
    assert patient["birthDate"] == "1970-01-02"


def test_the_same_bytes_give_the_same_bundle(convert):
    """So that a change of a mapping shows in a comparison."""
    assert convert(ADT) == convert(ADT)


def test_a_site_decides_by_its_name_or_file(convert, tmp_path):
    """Identifier systems come from the site's file."""
    _, by_name, _ = convert(ADT, "--site", "queensbridge")
    text = (
        "site: q\norganization: {name: Q, identifier: {system: 'urn:o', value: q}}\n"
        "authorities: [{name: QBH, system: 'urn:mine', use: record}]\nevents: {allow: [ADT^A04]}\n"
    )
    (tmp_path / "q.yaml").write_text(text)
    code, by_file, _ = convert(ADT, "--site", "q.yaml")

    assert code == 0
    assert "urn:oid:2.16.840.1.113883.19.7.2" in by_name
    assert "urn:mine" in by_file


def test_a_site_that_is_not_there_names_those_that_are(convert):
    """And a path out of the folder of sites is none."""
    code, _, err = convert(ADT, "--site", "nowhere")
    assert code == 4
    assert "queensbridge" in err
    assert convert(ADT, "--site", "../matching/certain")[0] == 4


def test_a_site_file_that_is_wrong_shows_where(convert, tmp_path):
    """As in a configuration."""
    (tmp_path / "q.yaml").write_text("site: q\nsitte: q\n")

    code, _, err = convert(ADT, "--site", "q.yaml")

    assert code == 2
    assert "q.yaml:2:1: sitte" in err


def test_what_the_site_leaves_out_is_shown_with_a_note(convert, tmp_path):
    """Converting is no statement about what the bridge would take in."""
    code, out, err = convert(ADT.replace(b"A04", b"A11"), "--site", "simhospital")
    assert code == 1  # MSH-3 is not one of the site's senders
    assert not out
    assert "[sender-not-allowed]" in err
    text = (
        "site: q\norganization: {name: Q, identifier: {system: 'urn:o', value: q}}\n"
        "authorities: [{name: QBH, system: 'urn:mine', use: record}]\nevents: {allow: []}\n"
    )
    (tmp_path / "q.yaml").write_text(text)

    code, out, err = convert(ADT, "--site", "q.yaml")

    assert code == 0
    assert json.loads(out)["entry"]
    assert "note: the file of q leaves ADT^A04 out (1)\n" in err


def test_an_explanation_names_rules_and_places_and_no_values(convert):
    """Every output element with the rule that made it, every input element with what became of it."""
    code, out, _ = convert(ADT, "--explain")

    lines = [line.strip() for line in out.splitlines()]
    assert code == 0
    assert any(line.startswith("Patient[1].birthDate") and "segments/PID.yaml#" in line for line in lines)
    assert any(line.startswith("PID[1]-7") and "mapped" in line for line in lines)
    assert any(line.startswith("ZPI[1]-2") and line.endswith("unmapped") for line in lines)
    assert not [value for value in ("Ash", "Ida", "19700102", "Q1") if value in out]


def test_a_program_reads_the_explanation(convert):
    """The same as JSON."""
    code, out, _ = convert(ADT, "--explain", "--json")

    message = json.loads(out)
    assert code == 0
    assert message["event"] == "ADT^A04"
    assert {"resource": "Patient", "path": "gender", "rule": "segments/PID.yaml#sex"} in message["outputs"]
    fates = [entry["fate"] for entry in message["inputs"]]
    assert {fate: fates.count(fate) for fate in ("mapped", "dropped", "unmapped")} == message["elements"]


def test_a_message_that_fails_harms_no_other_in_the_file(convert):
    """All Bundles come, the refusal stands apart with its cause, and the exit code tells."""
    code, out, err = convert(ADT + ORPHAN + ADT)

    assert code == 1
    assert out.count('"resourceType": "Bundle"') == 2
    assert "message#2: " in err
    assert "[patient-without-identifier]" in err
    assert "Elm" not in err
    assert "1 files: 2 messages converted, 1 refused\n  refused: 1 patient-without-identifier\n" in err


def test_a_program_reads_a_bundle_a_line_and_the_rest_on_standard_error(convert):
    """Lines of JSON on both: Bundles here, refusals and the summary there."""
    code, out, err = convert(ADT + ORPHAN + ADT, "--json")

    bundles = [json.loads(line) for line in out.splitlines()]
    told = [json.loads(line) for line in err.splitlines()]
    assert code == 1
    assert [bundle["resourceType"] for bundle in bundles] == ["Bundle", "Bundle"]
    assert (told[0]["file"], told[0]["message"], told[0]["error"]["code"]) == (
        "message",
        2,
        "patient-without-identifier",
    )
    summary = told[-1]["summary"]
    assert (summary["files"], summary["messages"], summary["converted"]) == (1, 3, 2)
    assert summary["refused"] == {"patient-without-identifier": 1}
    assert min(summary["elements"].values()) > 0


def test_folders_are_walked_and_batches_split(convert, tmp_path, capsys):
    """Every file but the hidden ones, in order of their names, each message its own Bundle; wrong counts are told."""
    (tmp_path / "feed" / "day").mkdir(parents=True)
    (tmp_path / "feed" / "a.hl7").write_bytes(b"BHS|^~\\&|QB\r" + ADT + ADT + b"BTS|3\r")
    (tmp_path / "feed" / "day" / "b.json").write_bytes(b'{"resourceType": "Patient", "id": "p"}')
    (tmp_path / "feed" / "day" / "note.txt").write_bytes(b"no message")
    (tmp_path / "feed" / ".hidden").write_bytes(b"no message")
    (tmp_path / "feed" / "empty").write_bytes(b"")

    code, out, err = convert(ADT, "feed", "--json")
    told = [json.loads(line) for line in err.splitlines()]
    assert (code, len(out.splitlines())) == (1, 4)
    assert told[0] == {
        "file": "feed/a.hl7",
        "finding": {"code": "batch-count-wrong", "number": 1, "told": 3, "found": 2},
    }
    assert [(one["file"], one["error"]["code"]) for one in told[1:-1]] == [
        ("feed/day/note.txt", "not-hl7"),
        ("feed/empty", "file-without-message"),
    ]
    assert run(["convert", "feed", "--pattern", "*.hl7"]) == 0
    assert "1 files: 2 messages converted, 0 refused" in capsys.readouterr().err


def test_bundles_go_to_a_folder_with_their_ledgers(convert, tmp_path):
    """A file each message, that only its owner may read; what became of each element beside it."""
    (tmp_path / "feed").mkdir()
    (tmp_path / "feed" / "two.hl7").write_bytes(ADT + ADT)

    code, out, _ = convert(ADT, "feed", "--out", "out", "--ledger")

    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert (code, out) == (0, "")
    assert written == [
        "feed/two.hl7-1.json",
        "feed/two.hl7-1.ledger.json",
        "feed/two.hl7-2.json",
        "feed/two.hl7-2.ledger.json",
        "message.json",
        "message.ledger.json",
    ]
    assert "Patient" in types(json.loads((tmp_path / "out" / "message.json").read_bytes()))
    assert (tmp_path / "out" / "message.json").stat().st_mode & 0o077 == 0
    ledger = json.loads((tmp_path / "out" / "message.ledger.json").read_bytes())
    fates = [entry["fate"] for entry in ledger["inputs"]]
    assert {fate: fates.count(fate) for fate in ("mapped", "dropped", "unmapped")} == ledger["elements"]


def test_two_files_of_one_name_give_two_bundles(convert, tmp_path):
    """Neither takes the other's place."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.hl7").write_bytes(ADT)

    assert convert(ADT, "a/m.hl7", "b/m.hl7", "--out", "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.hl7.json", "m.hl7~2.json", "message.json"]


def test_a_ledger_stands_on_standard_error_beside_bundles(convert):
    """The Bundles stay alone on standard output."""
    code, out, err = convert(ADT, "--ledger")
    assert code == 0
    assert json.loads(out)["resourceType"] == "Bundle"
    assert "  ZPI[1]-2[1].1  unmapped\n" in err

    _, out, err = convert(ADT, "--ledger", "--json")
    ledger, summary = (json.loads(line) for line in err.splitlines())
    assert len(out.splitlines()) == 1
    assert (ledger["file"], ledger["elements"]) == ("message", summary["summary"]["elements"])


def test_a_mistake_of_ours_is_one_message_refused(convert, monkeypatch):
    """The others go on, and nothing of the message is told."""
    once = iter([RuntimeError("Ash")])

    def broken(*arguments, **options):
        for error in once:
            raise error
        return real(*arguments, **options)

    real = corpus.convert
    monkeypatch.setattr(corpus, "convert", broken)

    code, out, err = convert(ADT + ADT)

    assert code == 1
    assert out.count('"resourceType": "Bundle"') == 1
    assert "[unexpected]" in err
    assert "Ash" not in err


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"no message", "not-hl7"), (b"MSH|^~\\&|QB", "msh-"), (b'{"a": 1}', "fhir-invalid"), (b"{", "json-invalid")],
)
def test_what_is_no_message_says_so(convert, content, cause):
    """A cause of the closed categories."""
    code, out, err = convert(content)

    assert (code, out) == (1, "")
    assert f"[{cause}" in err


def test_fhir_input_becomes_a_bundle_too(convert):
    """A resource, through the same operations."""
    code, out, _ = convert(b'{"resourceType": "Patient", "id": "p", "birthDate": "1970-01-02"}')

    assert code == 0
    assert json.loads(out)["entry"][0]["resource"]["birthDate"] == "1970-01-02"


def test_standard_input_is_read_for_a_dash(capsys, monkeypatch, tmp_path):
    """So that it stands in a pipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ADT)))

    assert run(["convert", "-"]) == 0
    assert "Patient" in types(json.loads(capsys.readouterr().out))


def test_a_file_that_is_not_there(capsys, tmp_path):
    """Is the caller's mistake."""
    assert run(["convert", str(tmp_path / "absent")]) == 2
    assert "[file-unreadable]" in capsys.readouterr().err


def test_every_covered_message_of_the_region_converts_at_its_site(convert):
    """The built-in sites fit the built-in mappings."""
    seen = set()
    for message in Region(3, 40, 150):
        if (message.site, message.kind) in seen:
            continue
        seen.add((message.site, message.kind))
        code, _, err = convert(message.content, "--site", message.site)
        assert code == 0
        assert err.startswith("1 files: 1 messages converted, 0 refused\n")

    assert len(seen) > 15
