"""Places: every value knows where it stands, whatever the shape of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from bridge.config.checking import dotted, settings_at
from bridge.config.document import MarkedDict, MarkedList, overlay_environment, parse_document, place_of
from bridge.config.problems import ConfigurationInvalid
from bridge.config.section import Section
from bridge.config.settings import Settings
from bridge.config.site import Site
from bridge.errors import Where

NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
SCALARS = st.one_of(
    st.integers(-1000, 1000), st.booleans(), st.none(), st.text("abc xyz:#'\"{}[]-é\n", max_size=12), st.floats(-9, 9)
)
TREES = st.dictionaries(
    NAMES,
    st.recursive(SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(NAMES, below, max_size=3)),
    min_size=1,
    max_size=4,
)


def locations(tree, above=()):
    """Every location below the top of a tree."""
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in members:
        yield (*above, step)
        yield from locations(value, (*above, step))


def parse(text):
    return parse_document(text, "c.yaml", Path("/etc/bridge"))


@given(tree=TREES, flow=st.booleans())
def test_a_marked_tree_holds_what_yaml_says(tree, flow):
    """Marking changes no value: it is what PyYAML's safe loader reads."""
    text = yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True)

    assert parse(text) == yaml.safe_load(text)


@given(tree=TREES, flow=st.booleans())
def test_every_name_stands_where_its_place_says(tree, flow):
    """At a key's place the text has that key."""
    text = yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True)
    parsed, lines = parse(text), text.splitlines()

    for location in locations(parsed):
        where = place_of(parsed, location, key=True)
        if isinstance(location[-1], str):
            assert lines[where.line - 1][where.column - 1 :].lstrip("'\"? ").startswith(location[-1])


@given(TREES)
def test_a_setting_that_is_not_there_is_placed_at_its_nearest_holder(tree):
    """A missing setting still has a line to show."""
    parsed = parse(yaml.safe_dump(tree))

    for location in [(), *locations(parsed)]:
        assert place_of(parsed, (*location, "not there")) == (place_of(parsed, location) or parsed.where)


@given(tree=TREES, value=st.text("abc123 -", min_size=1, max_size=8))
def test_the_environment_reaches_every_setting_by_its_names(tree, value):
    """Any path of names can be overridden, one value at a time, and nothing else changes."""
    parsed = parse(yaml.safe_dump(tree))
    paths = [path for path in locations(parsed) if all(isinstance(step, str) for step in path)]
    for path in paths:
        if any("__" in step or step.startswith("_") or step.endswith("_") for step in path):
            continue  # a name that could not be told from the separator
        fresh = parse(yaml.safe_dump(tree))
        variable = "HIEBRIDGE__" + "__".join(path).upper()

        assert overlay_environment(fresh, {variable: value}) == []
        holder = fresh
        for step in path[:-1]:
            holder = holder[step]
        assert holder[path[-1]] == value
        assert place_of(fresh, path) == Where(variable, 1, 1)
        changed = {other for other in locations(parsed) if other[: len(path)] != path}
        assert changed <= set(locations(fresh))


def test_other_variables_are_left_alone():
    """Only the prefix with two underscores is ours to read."""
    tree = parse("a: 1")

    assert overlay_environment(tree, {"HIEBRIDGE_FAILPOINTS": "x", "HIEBRIDGE_CONFIG": "y", "PATH": "z"}) == []
    assert tree == {"a": 1}


def test_lists_and_mappings_keep_their_kind():
    """Code that asks for places finds them below the top too."""
    tree = parse("a: [{b: 1}]")

    assert isinstance(tree["a"], MarkedList)
    assert isinstance(tree["a"][0], MarkedDict)
    assert tree["a"][0].base == Path("/etc/bridge")


class Room(BaseModel):
    """A room's section with the shapes that rooms use."""

    model_config = {"extra": "forbid"}
    clients: tuple[dict[str, int], ...] = ()
    paths: list[Path] = []
    limit: int = 1


def test_a_sections_problems_have_the_places_of_the_file():
    """Checked late or early, an error reads the same."""
    section = Section(parse("access:\n  clients:\n    - {a: x}\n  limmit: 2\n")["access"])

    with pytest.raises(ConfigurationInvalid) as caught:
        section.check(Room, "access")

    assert [str(problem).split(" [")[0] for problem in caught.value.problems] == [
        "c.yaml:3:11: access.clients[0].a: input should be a valid integer, unable to parse string as an integer",
        "c.yaml:4:3: access.limmit: there is no such setting",
    ]
    assert section.place("clients", 0) == Where("c.yaml", 3, 7)


def test_a_sections_paths_start_from_the_files_folder():
    """Relative paths of adapters and rooms are anchored like those of the settings."""
    assert Section(parse("paths: [a, /b]")).check(Room).paths == [Path("/etc/bridge/a"), Path("/b")]


def test_an_empty_section_is_the_models_defaults():
    """A section that nobody wrote is checked like an empty one."""
    assert Section().check(Room) == Room()


@pytest.mark.parametrize(
    ("model", "location", "known"),
    [
        (Settings, (), "consent"),
        (Settings, ("store",), "password"),
        (Settings, ("store", "password"), "env"),
        (Settings, ("sources", 3), "site"),
        (Site, ("authorities", 0), "default"),
        (Site, ("organization", "identifier"), "system"),
    ],
)
def test_known_names_are_found_at_every_depth(model, location, known):
    """Suggestions come from the model at the place of the error: through lists, options and unions."""
    assert known in settings_at(model, location)


def test_names_are_free_where_the_model_has_none():
    """Below a free mapping nothing is suggested."""
    assert settings_at(Site, ("code_systems", "L")) == []
    assert settings_at(Site, ("nothing", "here")) == []


def test_locations_are_written_as_people_write_them():
    """Dotted names, numbers in brackets."""
    assert dotted(("sources", 0, "tls", "ca_file")) == "sources[0].tls.ca_file"


@given(st.sampled_from(["mode", "deployment", "store", "keys", "sources", "chain", "log", "api", "access", "limits"]))
def test_no_problem_repeats_a_value(name):
    """A value may be a secret in the wrong place: problems show names and places only."""
    marker = "hunter2hunter2"
    for shape in (
        marker,
        [marker],
        {name: marker},
        {"url": marker, "password": marker, "port": marker, "path": [marker]},
    ):
        tree = parse(yaml.safe_dump({name: shape}))

        with pytest.raises(ConfigurationInvalid) as caught:
            Section(tree).check(Settings)

        assert marker not in str(caught.value)
