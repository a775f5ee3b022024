"""``check-feed``: sums of what a sender breaks, with examples that show no value."""

from __future__ import annotations

import json

from bridge.cli.main import run

HEADER = b"MSH|^~\\&|LAB|NORTH|EHR|SOUTH|20260102030405||ADT^A01^ADT_A01|%d|P|2.5%s\r"
REST = b"EVN||20260102030405\rPID|1||77^^^NORTH^MR||Doe^Jane||19800102|F\r"
GOOD = HEADER % (1, b"") + REST + b"PV1|1|I\r"
NO_VISIT = HEADER % (2, b"") + REST
ODD_BYTES = HEADER % (3, b"||||||8859/1") + REST.replace(b"Jane", b"J\xe4ne") + b"PV1|1|I\r"


def checked(capsys, *arguments):
    """Exit code and answer."""
    code = run(["check-feed", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def finding(said, code):
    [one] = [one for one in said["findings"] if one["code"] == code]
    return one


def test_a_feed_by_the_book_is_clean(tmp_path, capsys):
    """Exit code 0; bytes as declared are no finding."""
    (tmp_path / "a.hl7").write_bytes(GOOD)
    (tmp_path / "b.hl7").write_bytes(ODD_BYTES)

    code, said = checked(capsys, tmp_path)

    assert (code, said) == (0, {"files": 2, "messages": 2, "clean": 2, "findings": []})


def test_findings_are_summed_over_files_and_batches(tmp_path, capsys):
    """How many messages, how often, and the first of them by name, event, version and segments."""
    for number in range(5):
        (tmp_path / f"{number}.hl7").write_bytes(NO_VISIT)
    (tmp_path / "batch.hl7").write_bytes(GOOD + NO_VISIT)

    code, said = checked(capsys, tmp_path)
    missing = finding(said, "required-missing")

    assert (code, said["messages"], said["clean"]) == (1, 7, 1)
    assert (missing["severity"], missing["place"], missing["messages"], missing["times"]) == (
        "error",
        "ADT_A01.PV1",
        6,
        6,
    )
    assert [one["name"] for one in missing["examples"]] == ["0.hl7", "1.hl7", "2.hl7"]
    assert missing["examples"][0] | {"name": ""} == {
        "name": "",
        "event": "ADT^A01",
        "version": "2.5",
        "structure": "MSH EVN PID",
    }


def test_what_cannot_be_read_is_a_finding(tmp_path, capsys):
    """Empty files, broken headers, FHIR, batches that do not fit their trailers, bytes in another charset than declared."""
    (tmp_path / "empty.hl7").write_bytes(b"")
    (tmp_path / "fhir.json").write_bytes(b'{"resourceType": "Patient"}')
    (tmp_path / "short.hl7").write_bytes(b"MSH|^~\\&|LAB\r")
    (tmp_path / "batch.hl7").write_bytes(b"BHS|^~\\&|LAB\r" + GOOD + b"BTS|7\r")
    (tmp_path / "other.hl7").write_bytes(ODD_BYTES.replace(b"8859/1", b"ASCII"))
    (tmp_path / "utf-8.hl7").write_bytes(ODD_BYTES.replace(b"8859/1", b"ASCII").replace(b"\xe4", "ä".encode()))

    code, said = checked(capsys, tmp_path)
    codes = {one["code"] for one in said["findings"]}

    assert code == 1
    assert {"file-without-message", "not-hl7", "msh-truncated", "charset-invalid", "charset-fallback"} <= codes
    assert any(code.startswith("batch-") for code in codes)


def test_with_a_site_what_its_file_does_not_list_is_a_finding(tmp_path, capsys):
    """Authorities and events; without one nobody asks."""
    (tmp_path / "a.hl7").write_bytes(GOOD)
    (tmp_path / "b.hl7").write_bytes(GOOD.replace(b"A01^ADT_A01", b"A05^ADT_A05"))

    _, alone = checked(capsys, tmp_path)
    code, said = checked(capsys, tmp_path, "--site", "st-olave")
    extra = {one["code"] for one in said["findings"]} - {one["code"] for one in alone["findings"]}

    assert code == 1
    assert extra


def test_people_are_told_the_same_without_values(tmp_path, capsys):
    """A line for each finding, one for its first example, and the sum."""
    (tmp_path / "a.hl7").write_bytes(NO_VISIT)
    (tmp_path / "b.hl7").write_bytes(GOOD)

    assert run(["check-feed", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "error: required-missing ADT_A01.PV1: in 1 of 2 messages",
        "  a.hl7: ADT^A01 2.5 MSH EVN PID",
        "2 files, 2 messages, 1 of them without a finding",
    ]
