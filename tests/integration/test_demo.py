"""The demonstration shows what it says, on a running bridge, and fails where something does not hold."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bridge.cli.demo.access import search_again
from bridge.cli.demo.console import Console, StepFailed
from bridge.cli.demo.evidence import altered_byte
from bridge.cli.demo.folder import Demonstration, demonstration_folder
from bridge.cli.demo.play import STEPS, play
from bridge.cli.demo.stage import Stage, identifier
from bridge.cli.demo.tools import PROGRAM, Tools, own_environment
from bridge.errors import Conflict
from bridge.ledger.policy import load_policy
from bridge.ledger.proof import parse_bundle
from bridge.ledger.verify import verify
from bridge.synth import morning
from bridge.synth.morning import PERSON
from tests.reference import ROOT

STEADY = {"content-type", "etag", "cache-control", "last-modified"}
LAST_LINE = "curl -s -H"
TOM = {"st-olave": ("urn:oid:2.16.840.1.113883.19.7.1", "40310649")}


@dataclass
class Kept:
    """A demonstration that was left running."""

    process: subprocess.Popen[bytes]
    folder: Path
    text: str
    _code: int | None = field(default=None)

    @property
    def demonstration(self) -> Demonstration:
        """Its folder, with the ports that it told."""
        api = int(re.search(r"FHIR R4 +http://127\.0\.0\.1:(\d+)/fhir", self.text)[1])
        mllp = re.search(r"MLLP +(.+)", self.text)[1]
        ports = {site: int(port) for site, port in re.findall(r"([\w-]+) 127\.0\.0\.1:(\d+)", mllp)}
        return Demonstration(self.folder, api, ports)

    def stage(self, **facts) -> Stage:
        """A stage in front of it."""
        return Stage(self.demonstration, Tools(Console(color=False), self.folder / "bridge.yaml"), **facts)

    def end(self) -> int:
        """Ends it by SIGTERM, once; its exit code."""
        if self._code is None:
            self.process.terminate()
            self._code = self.process.wait(60)
            self.process.stdout.close()
        return self._code

    def section(self, number: int) -> str:
        """What was told in a step."""
        return re.search(rf"(?ms)^{number}  .*?(?=^{number + 1}  |^Summary)", self.text)[0]


def read_until(process: subprocess.Popen[bytes], mark: str, seconds: float) -> str:
    """Its output up to the line with ``mark``, or all of it if it ends before."""
    deadline, read = time.monotonic() + seconds, b""
    while time.monotonic() < deadline:
        ready, _, _ = select.select([process.stdout], [], [], 1)
        if ready:
            data = os.read(process.stdout.fileno(), 65536)
            read += data
            if not data or (mark.encode() in read and read.endswith(b"\n")):
                return read.decode()
    process.kill()
    pytest.fail(f"the demonstration did not come to {mark!r}; it said:\n{read.decode()}")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("demo") / "shown"
    process = subprocess.Popen(
        [*PROGRAM, "demo", "--keep", "--dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=own_environment(),
    )
    running = Kept(process, folder, read_until(process, LAST_LINE, 240))
    yield running
    running.end()


def test_every_step_holds(kept):
    """All steps are in the summary, each with its mark, in order."""
    summary = kept.text.partition("\nSummary\n")[2]

    assert re.findall(r"^   (.) (\d) ", summary, re.MULTILINE) == [("✓", str(n)) for n in range(1, len(STEPS) + 1)]


def test_messages_in_add_up(kept):
    """The table of step 1 adds up row by row, and to what the truth about the morning says (P2)."""
    rows = re.findall(r"^ +([\w-]+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", kept.section(1), re.MULTILINE)
    numbers = {site: [int(n) for n in rest] for site, *rest in rows}
    received, stored, filtered, duplicates, dead = (sum(column) for column in zip(*numbers.values(), strict=True))
    truth = morning.truth()

    assert set(numbers) == set(morning.SITES)
    assert all(first == sum(rest) for first, *rest in numbers.values())
    assert [stored, filtered, duplicates] == [truth.total(o) for o in ("stored", "filtered", "duplicate")]
    assert dead == truth.total("dead") - 1, "the message that is none was refused on the wire"
    assert received == len(morning.messages()) - 1
    assert "unknown-event" in kept.section(1)


def test_resources_out(kept):
    """Each registration is a Patient; the result that was told three times is one."""
    assert re.search(rf"Patient +{sum(map(len, morning.truth().people.values()))}\n", kept.section(2))
    assert f"one Observation of {PERSON.values[2]}" in kept.section(2)


def test_one_person(kept):
    """Three registrations under one person number; those that came later each with the rule that linked it, and a leaf."""
    persons = re.findall(r"Zo\w+ Wi.niewska +(\d+)$", kept.section(3), re.MULTILINE)
    events = re.findall(r"^ +(.+?)  .* (same-[\w-]+) +certain +(\d+)$", kept.section(3), re.MULTILINE)
    rules = {hospital.split()[0]: rule for hospital, rule, _ in events}

    assert len(persons) == 3
    assert len(set(persons)) == 1
    assert rules["St"] == "same-evidence-identifier"
    assert rules["Rivermoor"] == "same-name-birth-sex-phone"
    assert rules.get("Queensbridge", "same-evidence-identifier") == "same-evidence-identifier", (
        "unless it came first, alone"
    )
    assert len({leaf for _, _, leaf in events}) == len(events)


def test_the_search_finds_both_hospitals_and_then_nothing(kept):
    """The same request, printed alike, before and after the Consent."""
    [before] = re.findall(r"curl .*Observation\?.*", kept.section(4))
    after, *_ = re.findall(r"curl .*Observation\?.*", kept.section(6))

    assert before == after
    assert "St Olave" in kept.section(4)
    assert "Queensbridge" in kept.section(4)
    assert "HTTP 201" in kept.section(5)
    assert "0 results" in kept.section(6)
    assert len(set(re.findall(r"HTTP 404 .*", kept.section(6)))) == 1


def test_her_objection_still_holds(kept):
    """Asked by someone else than the demonstration: her records are hidden, another patient's are not."""
    stage = kept.stage()

    assert stage.search(f"Patient?{identifier(*PERSON.records['queensbridge'])}", show=False) == []
    assert len(stage.search(f"Patient?{identifier(*TOM['st-olave'])}", show=False)) == 1


def test_the_proof_on_disk_verifies(kept):
    """What was written verifies in this process too, says `operator's own chain`, and holds the corrected value."""
    auditor = kept.folder / "auditor"
    verdict = verify(
        parse_bundle((auditor / "proof.json").read_bytes()), load_policy((auditor / "policy.json").read_bytes())
    )
    resource = json.loads(verdict.opening.content)

    assert resource["valueQuantity"]["value"] == float(PERSON.values[2])
    assert [claim.own_chain for claim in verdict.claims] == [True]
    assert verdict.attested is None
    assert "operator's own chain" in kept.section(7)


def test_fsck_named_what_was_altered(kept):
    """Clean, then one finding with exactly the resource that was altered, then clean."""
    altered = re.findall(r"'([0-9a-f-]{36})'\)\)", kept.section(8))
    named = re.findall(r"resource_version Observation/([0-9a-f-]{36}) .*\[bytes-differ\]", kept.section(8))

    assert len(set(altered)) == 1
    assert named == altered[:1]
    assert kept.section(8).count("in order") == 2


def test_without_curl_the_answers_are_the_same(kept):
    """The program's own client stands in for curl: same status, FHIR headers and body."""
    config = kept.folder / "bridge.yaml"
    token, quiet = kept.stage().ward_token(), Console(color=False)
    with_curl, without = Tools(quiet, config), Tools(quiet, config, curl=None)
    if with_curl.curl is None:
        pytest.skip("there is no curl on this machine to compare with")

    for path in (f"Patient?{identifier(*TOM['st-olave'])}", "Patient/none"):
        one, other = (
            tools.request(f"{kept.demonstration.fhir}/{path}", token, name="T") for tools in (with_curl, without)
        )
        assert (one.status, one.body) == (other.status, other.body)
        mine, theirs = ({name: value for name, value in answer.headers if name in STEADY} for answer in (one, other))
        assert mine == theirs


def test_a_step_fails_where_no_consent_was_written(kept):
    """For a patient who never objected, step 6 says what it expected and what it found."""
    stage = kept.stage()
    [tom] = stage.search(f"Patient?{identifier(*TOM['st-olave'])}", show=False)
    stage.records = {"st-olave": tom["id"]}
    stage.results = stage.search(stage.her_results(), show=False)

    with pytest.raises(StepFailed) as failure:
        search_again(stage)

    assert failure.value.expected == "no results"
    assert failure.value.found == f"{len(stage.results)} results"


def test_a_step_fails_where_fsck_has_findings_before(kept, tmp_path):
    """A store that was altered already does not pass as clean."""
    copy = tmp_path / "copy"
    shutil.copytree(kept.folder, copy)
    with contextlib.closing(sqlite3.connect(copy / "store.db")) as store, store:
        store.execute("UPDATE resource_version SET body = CAST(replace(body, 'mg', 'kg') AS BLOB)")
    stage = kept.stage()
    stage.tools = Tools(Console(color=False), copy / "bridge.yaml")

    with pytest.raises(StepFailed) as failure:
        altered_byte(stage)

    assert "in order" in failure.value.expected


def test_what_fails_is_named_and_what_follows_is_not_reached(capsys):
    """The first failing step ends the play, with what was expected and found."""

    def fails(_stage):
        raise StepFailed("this", "that")

    stage = Stage(None, Tools(Console(color=False), Path()))  # type: ignore[arg-type]

    assert play(stage, (("One", lambda _: "it was so"), ("Two", fails), ("Three", fails))) is False
    said = capsys.readouterr().out
    assert "expected: this\n     found:    that" in said
    assert said.endswith("   ✓ 1  it was so\n   ✗ 2  Two: failed\n   - 3  Three: not reached\n")


@pytest.mark.ci
def test_the_demonstration_fails_when_the_consent_gets_lost(tmp_path):
    """A curl that says 201 and sends nothing: the step says so, and the exit code is 1."""
    real = shutil.which("curl")
    if real is None:
        pytest.skip("there is no curl on this machine to stand in for")
    liar = tmp_path / "bin" / "curl"
    liar.parent.mkdir()
    liar.write_text(
        f'#!/bin/sh\ncase "$*" in */fhir/Consent) printf "HTTP/1.1 201 Created\\r\\n\\r\\n";; *) exec {real} "$@";; esac\n'
    )
    liar.chmod(0o755)

    done = subprocess.run(
        [*PROGRAM, "demo", "--dir", str(tmp_path / "shown")],
        env=own_environment() | {"PATH": f"{liar.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1, done.stdout + done.stderr
    assert "✗ expected: one consent on file" in done.stdout
    assert "✗ 5  The patient objects: failed" in done.stdout


def test_a_folder_that_no_demonstration_made_is_left_alone(tmp_path):
    """Whatever is in it stays."""
    (tmp_path / "mine").write_text("kept")

    with pytest.raises(Conflict, match="demo-folder-not-ours"), demonstration_folder(tmp_path):
        pass

    assert (tmp_path / "mine").read_text() == "kept"


def test_a_folder_is_made_anew_and_held(tmp_path):
    """What an earlier demonstration left is gone; while one runs, no other takes its folder."""
    folder = tmp_path / "shown"
    with demonstration_folder(folder):
        (folder / "store.db").write_text("old")
        (folder / "auditor").mkdir()
        with pytest.raises(Conflict, match="demo-running"), demonstration_folder(folder):
            pass
        assert (folder / "store.db").exists()

    with demonstration_folder(folder):
        assert [item.name for item in folder.iterdir()] == [".made-by-hiebridge-demo"]


def test_development_mode_needs_the_mark_in_the_store(kept, tmp_path):
    """The same configuration over a store of its own does not start: a real store can't be turned into a demonstration."""
    for name in ("bridge.yaml", "keys.json", "development-issuer.jwks.json"):
        shutil.copy(kept.folder / name, tmp_path / name)

    for role in ("up", "serve", "listen"):
        done = subprocess.run(
            [*PROGRAM, "--config", str(tmp_path / "bridge.yaml"), role],
            env=own_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, "development-store" in done.stderr) == (3, True), (role, done.stderr)


def test_the_readme_lists_the_steps():
    """What the README says that `make demo` shows is what it shows."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert re.findall(r"^\d\. \*\*(.+?)\.\*\*", readme, re.MULTILINE) == [title for title, _ in STEPS]


def test_it_ends_on_sigterm_with_its_bridge(kept):
    """Left running until asked: then exit code 0, and nobody listens any more."""
    assert kept.process.poll() is None or kept._code is not None

    assert kept.end() == 0
    with pytest.raises(StepFailed):
        kept.stage().tools.request(f"{kept.demonstration.server}/live", show=False)


def test_ctrl_c_in_the_middle_leaves_no_bridge_behind(tmp_path):
    """Interrupted while a step runs, the demonstration stops the bridge that it started."""
    folder = tmp_path / "shown"
    process = subprocess.Popen(
        [*PROGRAM, "demo", "--dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=own_environment(),
        # a test run in the background ignores the signal, and so would its child
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs here
    )
    text = read_until(process, "Messages in", 120)
    process.send_signal(signal.SIGINT)
    code = process.wait(60)
    process.stdout.close()

    assert code == 130, text
    port = re.search(r"port: (\d+)}$", (folder / "bridge.yaml").read_text(), re.MULTILINE)[1]
    with pytest.raises(StepFailed):
        Tools(Console(color=False), folder).request(f"http://127.0.0.1:{port}/live", show=False)
