"""The distribution holds all that the program needs, and works where no checkout is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.reference import ROOT
from tests.unit.test_project import committed

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as ``make wheel`` builds it, without network."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    """What the wheel holds, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _project_files(folder: str) -> dict[str, bytes]:
    base = ROOT / folder
    return {str(file.relative_to(base)): file.read_bytes() for file in committed() if file.is_relative_to(base)}


def test_the_wheel_holds_the_mappings_as_they_are_in_the_checkout(contents: dict[str, bytes]) -> None:
    """``bridge/_mappings`` and ``mappings/`` hold the same files, byte for byte."""
    packaged = {
        name.removeprefix("bridge/_mappings/"): content
        for name, content in contents.items()
        if name.startswith("bridge/_mappings/")
    }

    assert packaged == _project_files("mappings")
    assert any(name.startswith("hl7v2/messages/") for name in packaged)


@pytest.mark.parametrize("package", ["bridge", "adapters"])
def test_the_wheel_holds_each_file_of_the_packages(package: str, contents: dict[str, bytes]) -> None:
    """Modules, tables, migrations and contract artefacts: all that is beside the code travels with it, and no more."""
    packaged = {
        name for name in contents if name.startswith(f"{package}/") and not name.startswith("bridge/_mappings/")
    }

    assert packaged == {f"{package}/{name}" for name in _project_files(package)}


@pytest.mark.parametrize(
    "pattern",
    ["bridge/store/migrations/versions/*.py", "adapters/chains/evm/**/*.json"],
    ids=["migrations", "contract artefacts"],
)
def test_the_project_has_what_the_wheel_must_carry(pattern: str) -> None:
    """The packages hold migrations and built contracts, so the test above speaks of them too."""
    assert [file for file in ROOT.glob(pattern) if file in committed()]


def test_the_wheel_holds_nothing_but_the_two_packages(contents: dict[str, bytes]) -> None:
    """No test, benchmark or document lands in a user's site-packages."""
    assert {name.partition("/")[0] for name in contents} == {"bridge", "adapters", f"hie_bridge-{VERSION}.dist-info"}


def test_the_wheel_says_who_it_is(contents: dict[str, bytes]) -> None:
    """Command, licence text and the entry points of the adapters are in the metadata."""
    info = f"hie_bridge-{VERSION}.dist-info"
    entry_points = contents[f"{info}/entry_points.txt"].decode()

    assert "hiebridge = bridge.cli.main:main" in entry_points
    assert "[hiebridge." in entry_points
    assert contents[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_every_entry_point_of_the_project_can_be_loaded() -> None:
    """An adapter that is declared exists: a moved module is found here, not by a user."""
    from importlib.metadata import EntryPoint

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}

    for group, entries in groups.items():
        for name, value in entries.items():
            assert EntryPoint(name, value, group).load() is not None


@pytest.mark.ci
@pytest.mark.timeout(900)
def test_the_wheel_runs_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """Installed from the runtime lock alone, outside the tree, the demonstration holds: nothing leans on the checkout."""
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    uv = shutil.which("uv")
    if uv:
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(environment)], check=True)
        install = [uv, "pip", "install", "-q", "--python", str(python)]
    else:
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        install = [str(python), "-m", "pip", "install", "-q"]
    subprocess.run([*install, "--require-hashes", "-r", str(ROOT / "requirements.lock")], check=True)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HIEBRIDGE"))}

    def hiebridge(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = str(environment / "bin" / "hiebridge")
        return subprocess.run(
            [program, *arguments], cwd=elsewhere, env=clean, capture_output=True, text=True, check=False
        )

    version = hiebridge("--version")
    assert (version.returncode, VERSION in version.stdout) == (0, True), version.stderr
    shown = hiebridge("demo")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert str(ROOT) not in (elsewhere / ".demo" / "bridge.yaml").read_text(encoding="utf-8")
