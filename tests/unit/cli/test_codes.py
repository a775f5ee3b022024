"""``codes``: the vocabulary of senders."""

from __future__ import annotations

import json

import pytest

from bridge.cli.main import run

ADT = (
    b"MSH|^~\\&|N|N|H|H|20240110185142||ADT^A04^ADT_A01|C1|P|2.5.1\r"
    b"EVN|A04|20240110185142\r"
    b"PID|1||Q1^^^N^MR||Ash^Ida^^^^^%s||19700102|%s\r"
    b"PV1|1|O\r"
)


@pytest.fixture
def unmapped(tmp_path, monkeypatch, capsys):
    """Runs ``codes unmapped`` over a feed in which two codes are not known, one of them twice, and a message is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feed").mkdir()
    (tmp_path / "feed" / "a.hl7").write_bytes(ADT % (b"L", b"W") + ADT % (b"L", b"F") + ADT % (b"CURR", b"W"))
    (tmp_path / "feed" / "b.hl7").write_bytes(b"MSH|^~\\&|N|N|H|H|20240110185142||ADT^A99|C1|P|2.5.1\r")

    def unmapped(*arguments):
        capsys.readouterr()
        return run(["codes", "unmapped", "feed", *arguments]), *capsys.readouterr()

    return unmapped


def test_codes_that_no_table_knows_are_counted_with_an_example(unmapped):
    """In messages that hold them, however often the same text was seen before; by table."""
    code, out, _ = unmapped("--json")

    said = json.loads(out)
    assert code == 0
    assert (said["messages"], said["refused"]) == (4, {"unknown-event": 1})
    assert said["codes"] == [
        {"table": "AdministrativeSex", "code": "W", "kept": False, "places": ["PID-8"], "messages": 2, "example": "a.hl7#1"},
        {"table": "NameType", "code": "CURR", "kept": False, "places": ["PID XPN.7"], "messages": 1, "example": "a.hl7#3"},
    ]  # fmt: skip


def test_a_reader_sees_a_line_a_code(unmapped):
    """And how many messages were looked at."""
    _, out, _ = unmapped()

    assert out.splitlines() == [
        "AdministrativeSex  W  2 messages  PID-8  e.g. a.hl7#1",
        "NameType  CURR  1 messages  PID XPN.7  e.g. a.hl7#3",
        "4 messages, 1 refused: 2 codes unmapped",
    ]


def test_tables_are_written_to_be_filled_in(unmapped, tmp_path):
    """Copies of the built-in ones, which work as they are, and in which a code is mapped by writing what it means."""
    assert unmapped("--fill", "mine")[0] == 0
    [path] = (tmp_path / "mine").rglob("AdministrativeSex.yaml")
    assert run(["mappings", "lint", "mine", "--fail-on", "error"]) == 0
    assert len(json.loads(unmapped("--mappings", "mine", "--json")[1])["codes"]) == 2

    path.write_text(path.read_text().replace('  # "W": ?  #', '  "W": female  #'))

    [left] = json.loads(unmapped("--mappings", "mine", "--json")[1])["codes"]
    assert left["table"] == "NameType"


def test_what_was_filled_in_is_not_overwritten(unmapped):
    """Work of hours may stand there."""
    unmapped("--fill", "mine")

    code, _, err = unmapped("--fill", "mine")

    assert code == 2
    assert "[overlay-exists]" in err


def test_codes_that_are_kept_are_left_out_unless_asked_for(unmapped, tmp_path):
    """A table that keeps what it does not know loses nothing."""
    unmapped("--fill", "mine")
    [path] = (tmp_path / "mine").rglob("NameType.yaml")
    path.write_text(path.read_text().replace("table: NameType\n", "table: NameType\nunmapped: keep\n"))

    codes = [one["code"] for one in json.loads(unmapped("--mappings", "mine", "--json")[1])["codes"]]
    kept = [one["code"] for one in json.loads(unmapped("--mappings", "mine", "--kept", "--json")[1])["codes"]]

    assert (codes, kept) == (["W"], ["W", "CURR"])
