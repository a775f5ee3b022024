"""``scaffold``: files to start from."""

from __future__ import annotations

import pytest
import yaml

from bridge.cli.main import run
from bridge.config.site import Site

PID = "100^^^%s^MR~943^^^NATIONAL&1.2.3&ISO^NH~7^^^%s^PI"
ADT = (
    "MSH|^~\\&|QSPAS|QSC|H|H|20240110185142||%s|C1|P|2.5.1\r"
    "EVN|A04|20240110185142\r"
    f"PID|1||{PID}||Ash^Ida||19700102|F\r"
    "PV1|1|O\r"
    "DG1|1||A1^Asthma^QSDX|||A\r"
    "DG1|2||B2^Gout^LN|||A\r"
)


@pytest.fixture
def scaffold(tmp_path, monkeypatch, capsys):
    """Runs ``scaffold site quayside``; answers exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def scaffold(*arguments, content=None):
        if content is not None:
            (tmp_path / "feed").mkdir(exist_ok=True)
            (tmp_path / "feed" / "a.hl7").write_text(content, newline="")
        capsys.readouterr()
        return run(["scaffold", "site", *arguments]), *capsys.readouterr()

    return scaffold


def adt(event="ADT^A04^ADT_A01", record="QSC", other="QSC"):
    return ADT % (event, record, other)


def test_a_site_file_takes_in_what_messages_show(scaffold, capsys):
    """Sender, authorities with the use that their types suggest, events; no value of a patient."""
    code, out, err = scaffold("quayside", "feed", content=adt() + adt() + adt("SIU^S99"))

    site = Site.model_validate(yaml.safe_load(out))
    assert (code, err) == (0, "")
    assert (site.sender.applications, site.sender.facilities) == (("QSPAS",), ("QSC",))
    assert [(one.name, one.use, one.types) for one in site.authorities] == [
        ("QSC", "record", ("MR", "PI")),
        ("NATIONAL", "evidence", ("NH",)),
    ]
    assert site.authorities[1].system == "urn:oid:1.2.3"
    assert (site.events.allow, site.events.filter) == (("ADT^A04",), ("SIU^S99",))
    assert not [value for value in ("Ash", "Ida", "943", "19700102", "Asthma") if value in out]


def test_what_a_person_decides_stands_in_comments(scaffold):
    """A time zone where times have no offset, and coding systems that nobody knows."""
    _, out, _ = scaffold("quayside", "feed", content=adt())

    assert "# time_zone: Europe/London  # 1 messages tell times without an offset" in out
    assert '#   QSDX: ""  # 1 codes' in out
    assert "LN:" not in out


def test_the_site_file_fits_its_messages(scaffold, tmp_path, capsys):
    """They convert by it, events that are mapped are allowed, and identifiers without authority have one."""
    content = adt(record="", other="") + adt()
    code, out, _ = scaffold("quayside", "feed", "--out", "q.yaml", content=content)
    assert (code, out) == (0, "")

    assert run(["convert", "feed", "--site", "q.yaml", "--json"]) == 0
    assert "note:" not in capsys.readouterr().err
    [default] = [one for one in Site(**yaml.safe_load((tmp_path / "q.yaml").read_text())).authorities if one.default]
    assert default.name == "QSC"


@pytest.mark.parametrize("name", ["NO", "a: b", 'say "x"', "né", "1.5", "QSC # 1", "null"])
def test_names_are_kept_as_senders_write_them(scaffold, name):
    """Whatever YAML would make of them."""
    _, out, _ = scaffold("quayside", "feed", content=adt(record=name, other=name))

    assert Site.model_validate(yaml.safe_load(out)).authorities[0].name == name


def test_without_messages_it_is_a_template(scaffold):
    """One that is accepted as it is."""
    code, out, _ = scaffold("quayside")

    assert code == 0
    assert Site.model_validate(yaml.safe_load(out)).site == "quayside"


def test_what_can_not_be_read_is_counted(scaffold):
    """And the rest is used."""
    code, out, err = scaffold("quayside", "feed", content=adt() + "MSH|^~\\&|Q\r")

    assert code == 0
    assert "QSC" in out
    assert err == "note: 1 messages or files can't be read; hiebridge convert says why\n"


def test_nothing_is_overwritten_and_names_are_slugs(scaffold, tmp_path):
    """A file that is there may hold decisions."""
    (tmp_path / "q.yaml").write_text("site: mine")

    code, _, err = scaffold("quayside", "--out", "q.yaml")
    assert (code, (tmp_path / "q.yaml").read_text()) == (5, "site: mine")
    assert "[site-exists]" in err
    code, _, err = scaffold("Quay Side")
    assert code == 2
    assert "[site-not-made]" in err
