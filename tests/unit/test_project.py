"""The rules of the house that no linter knows."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.reference import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = {
    "requirements.lock": PROJECT["project"]["dependencies"],
    "requirements-dev.lock": PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"],
}
# the brackets keep these patterns from finding themselves
ADDRESS = re.compile(
    r"""(?<![\w-])--?(extra-)?index[-]url|(?<![\w-])--?find[-]links|"resolved": *"http|(GOPROXY|registry)[=]http"""
    r"""|://[^/\s]*(pypi[.]org|pythonhosted[.]org|npmjs[.]org|repo1?[.]maven|proxy[.]golang[.]org|crates[.]io)"""
)
MACHINE_PATH = re.compile(r"(?<![\w.~{}$])(/([h]ome|[U]sers)/\w|/[r]oot/|" + re.escape(str(ROOT)) + r"/)")


@cache
def committed() -> tuple[Path, ...]:
    """Every file of the project that is, or is about to be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("the project is not in a git checkout, so its own files can't be told from others")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return tuple(file for file in files if file.is_file())


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    """``file:line`` of each match in the project's text files."""
    found = []
    for file in committed():
        content = file.read_bytes()
        if b"\0" not in content:
            text = content.decode("utf-8", "replace")
            found += [
                f"{file.relative_to(ROOT)}:{text.count(chr(10), 0, m.start()) + 1}" for m in pattern.finditer(text)
            ]
    return found


def test_no_module_is_longer_than_800_lines() -> None:
    """A module that grows past the limit is divided."""
    lengths = {file: file.read_bytes().count(b"\n") for file in committed() if file.suffix == ".py"}

    assert {str(file.relative_to(ROOT)): length for file, length in lengths.items() if length > 800} == {}


def test_package_files_are_empty() -> None:
    """Importing a room runs nothing: what is needed is imported from its module."""
    packages = [file for file in committed() if file.name == "__init__.py"]

    assert [str(file.relative_to(ROOT)) for file in packages if file.read_bytes().strip()] == []
    assert packages


def test_no_file_names_a_package_registry() -> None:
    """Any mirror serves: addresses come from the machine's own settings."""
    assert lines_matching(ADDRESS) == []


def test_no_file_names_a_place_of_one_machine() -> None:
    """No home folder and no checkout's path."""
    assert lines_matching(MACHINE_PATH) == []


@pytest.mark.parametrize(
    "line",
    ["--index-{}url x", "https://pypi{}.org/simple", '"resolved{}": "http://x"', "GOPROXY={}http://x"],
)
def test_registry_addresses_are_recognized(line: str) -> None:
    """The search above finds what it is meant to find."""
    assert ADDRESS.search(line.replace("{}", ""))


@pytest.mark.parametrize("line", ["see /{}home/ann/x", "'/{}root/.cache'", f"{ROOT}/{{}}x"])
def test_machine_paths_are_recognized(line: str) -> None:
    """The search above finds what it is meant to find."""
    assert MACHINE_PATH.search(line.replace("{}", ""))


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_satisfy_the_declared_dependencies(lock: str) -> None:
    """Each declared dependency is pinned within its range: whoever changes pyproject.toml runs ``make lock``."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    pins = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)(?:\[[^]]*])?==(\S+)", text, re.MULTILINE)
    }

    for declared in map(Requirement, LOCKS[lock]):
        pinned = pins.get(canonicalize_name(declared.name))
        assert pinned is not None, f"{declared.name} is not in {lock}"
        assert declared.specifier.contains(pinned, prereleases=True), f"{lock} holds {declared.name} {pinned}"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash(lock: str) -> None:
    """No mirror can serve other files than those that were locked."""
    entries = re.split(r"^(?=[A-Za-z0-9])", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)

    assert len(entries) > 20
    assert [entry.splitlines()[0] for entry in entries if entry.strip() and "--hash=sha256:" not in entry] == []


def test_the_development_lock_agrees_with_the_runtime_lock() -> None:
    """What is tested is what runs: the development lock adds packages and changes none."""
    pins = re.compile(r"^[\w.-]+(?:\[[^]]*])?==[^\\\n]+", re.MULTILINE)
    runtime, development = (
        {pin.strip() for pin in pins.findall((ROOT / lock).read_text(encoding="utf-8"))} for lock in LOCKS
    )
    versions = {pin.partition(" ")[0].lower() for pin in development}

    assert sorted(pin for pin in runtime if pin.partition(" ")[0].lower() not in versions) == []


def test_documented_make_targets_exist() -> None:
    """Every ``make X`` that a page names can be run."""
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    pages = [file for file in committed() if file.suffix == ".md"]
    named = {
        (str(page.relative_to(ROOT)), target)
        for page in pages
        for target in re.findall(r"(?:`|^\$ )make ([a-z][\w-]*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }

    assert named
    assert {name for name in named if name[1] not in targets} == set()
