"""The configuration file: every problem at once, each with its place; overrides; secrets only by reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config.load import (
    adapter_problems,
    adapter_sections,
    check_mode,
    is_loopback,
    listening_hosts,
    load_settings,
    mappings_path,
    mappings_root,
)
from bridge.config.problems import ConfigurationInvalid
from bridge.config.settings import Mode
from bridge.errors import Forbidden, Incorrect

MINIMAL = """\
deployment:
  name: north
  origin: log.north.example/hie
  fhir_base_url: https://fhir.north.example/fhir/
store: {url: "sqlite:///bridge.db"}
keys:
  adapter: file
  path: keys.json
chain: {adapter: local}
log: {watermark: watermark.json}
consent: {default_policy: deny}
"""


@pytest.fixture
def load(tmp_path):
    """Loads a text as the configuration file, with the given environment."""

    def load(text, **environ):
        path = tmp_path / "bridge.yaml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path, environ)

    return load


@pytest.fixture
def problems(load):
    """Loads a text that is wrong and answers ``line:column path code`` of each problem."""

    def problems(text, **environ):
        with pytest.raises(ConfigurationInvalid) as caught:
            load(text, **environ)
        return [f"{p.where.line}:{p.where.column} {p.path} {p.code}" for p in caught.value.problems]

    return problems


def test_the_least_configuration_is_production_on_loopback(load):
    """What is not said is safe: production, loopback, nothing listening for messages."""
    settings = load(MINIMAL)

    assert settings.mode is Mode.PRODUCTION
    assert listening_hosts(settings) == {"api.host": "127.0.0.1"}
    assert settings.deployment.fhir_base_url == "https://fhir.north.example/fhir"


def test_relative_paths_start_from_the_files_folder(load, tmp_path):
    """A configuration works from any current folder, adapters' own paths included."""
    settings = load(MINIMAL + "sites: sites\nmappings: {overlays: [maps, /srv/maps]}\n")

    assert settings.log.watermark == tmp_path / "watermark.json"
    assert settings.sites == (tmp_path / "sites",)
    assert settings.store.url == f"sqlite:///{tmp_path}/bridge.db"
    assert mappings_path(settings) == (tmp_path / "maps", Path("/srv/maps"), mappings_root())


def test_every_problem_is_shown_with_its_place(problems):
    """One run shows all that is wrong: types, missing and unknown settings, references, names taken, secrets."""
    text = """\
mode: developement
deployment: {name: North, origin: log.example/hie}
store:
  url: postgresql://bridge:hunter2@db/bridge
keys:
  adapter: file
sources:
  - {name: adt, adapter: kafka, site: a}
  - name: adt
    adapter: kafka
    site: B
listeners:
  - {name: m, adapter: mllp, site: a, intake: kafkaa}
intakes:
  - {name: queue, adapter: kafka}
chain: {adapter: local, anchor_interval_seconds: 0}
log: {watermark: w, lease: 4}
api:
  port: many
"""
    assert problems(text) == [
        "1:1 consent consent-policy-missing",
        "1:7 mode setting-invalid",
        "2:13 deployment.fhir_base_url setting-missing",
        "2:20 deployment.name setting-invalid",
        "4:8 store.url secret-literal",
        "9:11 sources[1].name name-taken",
        "11:11 sources[1].site setting-invalid",
        "13:47 listeners[0].intake intake-unknown",
        "15:12 intakes[0].name name-taken",
        "16:50 chain.anchor_interval_seconds setting-invalid",
        "17:21 log.lease setting-unknown",
        "19:9 api.port setting-invalid",
    ]


@pytest.mark.parametrize("text", [MINIMAL.replace("default_policy: deny", ""), MINIMAL.rpartition("consent")[0]])
def test_without_a_consent_policy_nothing_starts(load, text):
    """There is no built-in answer to "no consent on file": the configuration has to give one."""
    with pytest.raises(Incorrect, match=r"consent\.default_policy") as caught:
        load(text)

    assert caught.value.code == "consent-policy-missing"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("wattermark", "watermark"),
        ("checkpoint_interval", "checkpoint_interval_seconds"),
        ("leaseseconds", "lease_seconds"),
    ],
)
def test_an_unknown_setting_suggests_the_nearest(load, typed, meant):
    """A slip of the pen is answered with the name that was meant."""
    with pytest.raises(Incorrect, match=rf"Did you mean {meant}\?"):
        load(MINIMAL.replace("watermark.json", f"watermark.json, {typed}: 1"))


def test_an_unknown_setting_like_none_lists_those_known(load):
    """Where nothing is near, all names are told."""
    with pytest.raises(Incorrect, match="Known here: default_policy"):
        load(MINIMAL.replace("default_policy", "zzz"))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1\nb: 2", "2:2"),
        ("deployment: {}\ndeployment: {}", "2:1"),
        ("- 1\n- 2", "1:1"),
        ("1: 2", "1:1"),
        ("a: !shell rm", "1:4"),
        ("a: &x [*x]", "1:4"),
        ("a: \x07", "1:4"),
        ("a: 1\n--- \nb: 2", "2:1"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_place(problems, text, place):
    """Broken YAML, keys given twice, foreign tags, endless aliases: one clear error, never a stack trace."""
    (problem,) = problems(text)

    assert problem == f"{place}  configuration-syntax"


@given(st.text(max_size=60))
def test_any_text_is_loaded_or_refused_by_name(tmp_path_factory, text):
    """Whatever the file holds, the answer is settings or an error of the closed categories."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")

    with pytest.raises(Incorrect):
        load_settings(path, {})


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_an_unreadable_file_is_refused_by_name(tmp_path, content):
    """A missing or binary file is told as such."""
    path = tmp_path / "bridge.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(Incorrect, match=r"bridge\.yaml"):
        load_settings(path, {})


KAFKA = """
sources:
  - {name: adt-feed, adapter: kafka, site: a, topic: adt, bootstrap_servers: ["a:1"]}
"""


def test_environment_overrides_by_name_and_number(load):
    """Variables reach every setting: nested, absent in the file, in a list by name or number, in an adapter's own."""
    settings = load(
        MINIMAL + KAFKA,
        HIEBRIDGE__STORE__URL="sqlite:////srv/other.db",
        HIEBRIDGE__API__PORT="9000",
        HIEBRIDGE__SOURCES__ADT_FEED__TOPIC="orders",
        HIEBRIDGE__SOURCES__0__BOOTSTRAP_SERVERS='["b:1", "c:1"]',
        HIEBRIDGE_FAILPOINTS="",
    )

    assert settings.store.url == "sqlite:////srv/other.db"
    assert settings.api.port == 9000
    assert settings.sources[0].settings.data["topic"] == "orders"
    assert settings.sources[0].settings.data["bootstrap_servers"] == ["b:1", "c:1"]


def test_problems_of_the_environment_name_the_variable(load):
    """A wrong variable is told by its own name, beside the problems of the file."""
    with pytest.raises(ConfigurationInvalid) as caught:
        load(
            MINIMAL + KAFKA,
            HIEBRIDGE__API__PORT="many",
            HIEBRIDGE__API__PROT="1",
            HIEBRIDGE__SOURCES__ORU__TOPIC="x",
            HIEBRIDGE__SOURCES__7__TOPIC="x",
            HIEBRIDGE____X="1",
            HIEBRIDGE__LIMITS="{",
        )

    assert [(p.where.file, p.code) for p in caught.value.problems] == [
        ("HIEBRIDGE__API__PORT", "setting-invalid"),
        ("HIEBRIDGE__API__PROT", "setting-unknown"),
        ("HIEBRIDGE__LIMITS", "environment-invalid"),
        ("HIEBRIDGE__SOURCES__7__TOPIC", "environment-invalid"),
        ("HIEBRIDGE__SOURCES__ORU__TOPIC", "environment-invalid"),
        ("HIEBRIDGE____X", "environment-invalid"),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@db/x",
        "postgres://db/x?user=u&password=hunter2",
        "mysql://db/x",
        "sqlite://",
        "bridge.db",
    ],
)
def test_database_addresses_are_of_two_kinds_and_hold_no_password(load, url):
    """Refused with a clear text that does not repeat the password."""
    with pytest.raises(Incorrect) as caught:
        load(MINIMAL, HIEBRIDGE__STORE__URL=url)

    assert "hunter2" not in str(caught.value)
    assert "store.url" in str(caught.value)


def test_the_database_password_joins_its_address_late(load, monkeypatch):
    """The password is read when asked for, escaped, and never printed on the way."""
    monkeypatch.setenv("DB_PASSWORD", "p@ss/word")
    settings = load(
        MINIMAL.replace("sqlite:///bridge.db", "postgresql://bridge@db:5432/x?sslmode=require"),
        HIEBRIDGE__STORE__PASSWORD="{env: DB_PASSWORD}",
    )
    address = settings.store.address()

    assert address.reveal() == "postgresql://bridge:p%40ss%2Fword@db:5432/x?sslmode=require"
    assert "ss" not in str(address).replace("<redacted>", "")


def test_adapter_settings_are_checked_by_the_adapters_own_model(load):
    """Unknown adapters and wrong adapter settings come with place and path like any other problem."""
    settings = load(MINIMAL.replace("path: keys.json", "pth: keys.json") + "intakes:\n  - {name: i, adapter: kafak}\n")
    found = [
        f"{p.where.line}:{p.where.column} {p.path} {p.code}"
        for p in adapter_problems(adapter_sections(settings))
        if not p.path.startswith("chain")
    ]

    assert found == [
        "7:3 keys.path setting-missing",
        "8:3 keys.pth setting-unknown",
        "13:24 intakes[0].adapter adapter-unknown",
    ]


def test_settings_under_settings_are_refused(load):
    """There is one way to write an adapter's settings: beside its name."""
    settings = load(MINIMAL.replace("  path: keys.json", "  settings: {path: keys.json}"))

    assert ("keys.settings", "setting-unknown") in {
        (p.path, p.code) for p in adapter_problems(adapter_sections(settings))
    }


def test_development_mode_wants_a_demonstration_store(load):
    """Development mode on any other store does not start; production does not ask."""
    check_mode(load(MINIMAL), demo_store=False)
    settings = load("mode: development\n" + MINIMAL)
    check_mode(settings, demo_store=True)

    with pytest.raises(Forbidden) as caught:
        check_mode(settings, demo_store=False)

    assert caught.value.code == "development-store"


@pytest.mark.parametrize(
    "environ",
    [
        {"HIEBRIDGE__API__HOST": "0.0.0.0"},
        {"HIEBRIDGE__API__HOST": "::"},
        {"HIEBRIDGE__API__HOST": "bridge.example"},
        {"HIEBRIDGE__TELEMETRY__METRICS_HOST": "10.0.0.1", "HIEBRIDGE__TELEMETRY__METRICS_PORT": "9100"},
    ],
)
def test_development_mode_listens_on_loopback_only(load, environ):
    """One address that others can reach is enough to refuse, and is named."""
    settings = load("mode: development\n" + MINIMAL, **environ)

    with pytest.raises(Forbidden, match=r"api\.host|telemetry\.metrics_host") as caught:
        check_mode(settings, demo_store=True)

    assert caught.value.code == "development-exposed"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "", "10.1.1.1", "localhost.example", "::")),
    ],
)
def test_loopback_is_told_from_the_rest(host, loopback):
    """Only addresses that cannot leave the machine count; a name may point anywhere."""
    assert is_loopback(host) is loopback


def test_the_built_in_mappings_are_there():
    """The root holds the mappings, packaged or in a checkout."""
    assert (mappings_root() / "hl7v2").is_dir()
