"""Site files: all problems of all files at once, and every feed bound to a site that exists."""

from __future__ import annotations

import pytest

from bridge.config.load import load_settings, load_sites
from bridge.config.problems import ConfigurationInvalid
from tests.unit.config.test_settings import MINIMAL

SITE = """\
site: {name}
organization: {{name: St Olave, identifier: {{system: "urn:x", value: "1"}}}}
time_zone: Europe/London
authorities:
  - {{name: MRN, system: "urn:mrn", use: record, default: true}}
  - {{name: NHS, system: "urn:nhs", use: evidence}}
events: {{allow: [ADT^A01]}}
"""


@pytest.fixture
def settings(tmp_path):
    """Loads a configuration with site files of the given contents and the given further lines."""

    def settings(files, further=""):
        (tmp_path / "sites").mkdir()
        for name, text in files.items():
            (tmp_path / "sites" / name).write_text(text)
        (tmp_path / "bridge.yaml").write_text(MINIMAL + "sites: [sites]\n" + further)
        return load_settings(tmp_path / "bridge.yaml", {})

    return settings


def test_sites_are_found_by_name(settings):
    """A folder's YAML files are its sites; other files are not."""
    files = {"a.yaml": SITE.format(name="a"), "b.yaml": SITE.format(name="b"), "README.md": "# no site"}

    sites = load_sites(settings(files))

    assert sorted(sites) == ["a", "b"]
    assert sites["a"].by_authority[""].name == "MRN"


def test_every_problem_of_every_file_is_shown(settings):
    """One run shows what is wrong in all site files, each with file and line."""
    files = {
        "a.yaml": SITE.format(name="A B"),
        "b.yaml": SITE.format(name="b")
        .replace("Europe/London", "Europe/Londn")
        .replace("use: evidence", "uze: evidence"),
        "c.yaml": "site: [\n",
    }

    with pytest.raises(ConfigurationInvalid) as caught:
        load_sites(settings(files))

    assert [f"{p.where.file.rpartition('/')[2]}:{p.where.line} {p.path}" for p in caught.value.problems] == [
        "a.yaml:1 site",
        "b.yaml:3 time_zone",
        "b.yaml:6 authorities[1].use",
        "b.yaml:6 authorities[1].uze",
        "c.yaml:2 ",
    ]


def test_a_site_is_described_once(settings):
    """Two files for one site would make the answer depend on their order."""
    with pytest.raises(ConfigurationInvalid) as caught:
        load_sites(settings({"a.yaml": SITE.format(name="a"), "b.yaml": SITE.format(name="a")}))

    assert caught.value.code == "name-taken"


def test_every_feed_names_a_site_that_exists(settings):
    """A source or listener without its site would assert nothing at all: refused, with place and known names."""
    further = "sources:\n  - {name: s, adapter: kafka, site: b}\nlisteners:\n  - {name: l, adapter: mllp, site: c}\n"

    with pytest.raises(ConfigurationInvalid, match="Known: a") as caught:
        load_sites(settings({"a.yaml": SITE.format(name="a")}, further))

    assert [(p.code, p.where.line, p.where.column) for p in caught.value.problems] == [
        ("site-unknown", 14, 37),
        ("site-unknown", 16, 36),
    ]


def test_a_missing_folder_is_named(tmp_path):
    """A path that leads nowhere is a problem, not an empty list of sites."""
    (tmp_path / "bridge.yaml").write_text(MINIMAL + "sites: nowhere\n")

    with pytest.raises(ConfigurationInvalid, match="nowhere") as caught:
        load_sites(load_settings(tmp_path / "bridge.yaml", {}))

    assert caught.value.code == "site-file-missing"
