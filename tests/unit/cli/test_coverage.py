"""``coverage``: what became of every field of a feed."""

from __future__ import annotations

import json

import pytest

from bridge.cli.main import run

ADT = (
    b"MSH|^~\\&|N|N|H|H|20240110185142||%s|C1|P|2.5.1\r"
    b"EVN|A04|20240110185142\r"
    b"PID|1||Q1^^^N^MR||Ash^Ida||19700102|F\r"
    b"PV1|1|O\r"
    b"ZPI|1|local^kind\r"
)
A04 = b"ADT^A04^ADT_A01"


@pytest.fixture
def coverage(tmp_path, monkeypatch, capsys):
    """Runs ``coverage`` where two feeds stand: one of two messages, one of a message and one that is refused."""
    monkeypatch.chdir(tmp_path)
    for feed, messages in {"a": [A04, A04], "b": [A04, b"ADT^A99"]}.items():
        (tmp_path / feed).mkdir()
        (tmp_path / feed / "m.hl7").write_bytes(b"".join(ADT % message for message in messages))

    def coverage(*arguments):
        capsys.readouterr()
        return run(["coverage", *arguments]), capsys.readouterr().out

    return coverage


def field(described, name):
    [found] = [one for one in described["fields"] if one["field"] == name]
    return found


def test_each_feed_is_told_by_field_and_all_are_summed(coverage):
    """Fields are those that were valued; every element of a message is in one of them."""
    code, out = coverage("a", "b", "--json")

    said = json.loads(out)
    a, b, total = said["feeds"]["a"], said["feeds"]["b"], said["total"]
    assert code == 1  # one was refused
    assert (a["converted"], a["refused"]) == ({"ADT^A04": 2}, {})
    assert (b["converted"], b["refused"]) == ({"ADT^A04": 1}, {"unknown-event": 1})
    assert [field(one, "ZPI-2")["unmapped"] for one in (a, b, total)] == [4, 2, 6]
    assert field(total, "ZPI-2")["unmapped_components"] == {"1": 3, "2": 3}
    assert field(total, "PID-8")["mapped"] == 3
    assert field(total, "PID-8")["rules"] == {"segments/PID.yaml#sex": 3}
    assert field(total, "PID-1")["dropped"] == 3
    for one in (a, b, total):
        for fate in ("mapped", "dropped", "unmapped"):
            assert sum(place[fate] for place in one["fields"]) == one["elements"][fate]


def test_a_reader_sees_what_is_lost_and_where(coverage):
    """With the components; without values."""
    code, out = coverage("a", "--unmapped")

    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "a: 2 messages converted, 0 refused"
    assert "  ZPI-2            0         0         4  .1, .2" in lines
    assert not [line for line in lines if line.split()[:1] == ["PID-8"]]
    assert "local" not in out
    assert coverage("a", "--fail-on-unmapped")[0] == 1


def test_rules_that_no_message_exercised_are_listed(coverage):
    """By the names that explanations give them."""
    _, out = coverage("a", "--rules", "--json")

    rules = json.loads(out)["rules"]
    assert rules["exercised"] + len(rules["not_exercised"]) == rules["compiled"]
    assert "segments/PID.yaml#sex" not in rules["not_exercised"]
    assert "segments/OBX.yaml#status" in rules["not_exercised"]


def test_the_official_guide_is_held_against_rules_and_messages(coverage, tmp_path):
    """Fields that have a target there: how many rules read, and how many messages exercised."""
    (tmp_path / "guide" / "segments").mkdir(parents=True)
    rows = [("PID-8", "Patient.gender"), ("PID-8", "Patient.other"), ("PID-1", ""), ("OBX-11", "Observation.status")]
    rows += [("ZZZ-3", "Basic.code")]
    text = "".join(f",{field},,,,,,,,{target},\n" for field, target in rows)
    (tmp_path / "guide" / "segments" / "a.csv").write_text("\ufeffhead,er\n" + text, encoding="utf-8")

    _, out = coverage("a", "--guide", "guide", "--json")
    assert json.loads(out)["guide"] == {"there": 3, "read": 2, "exercised": 1, "unread": ["ZZZ-3"]}

    _, out = coverage("a", "--guide", "guide", "--rules")
    assert "official guide: of 3 fields with a target rules read 2, messages exercised 1\n" in out
    assert "  not read: ZZZ-3\n" in out
    assert coverage("a", "--guide", "b")[0] == 2
