"""Failpoints: nothing unless named, and then exactly what was asked for."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from bridge.telemetry.failpoints import NAMES, failpoint
from tests.reference import ROOT

CODE = """
from bridge.errors import Unavailable
from bridge.telemetry.failpoints import failpoint
for _ in range(3):
    try:
        failpoint("worker.before-commit")
        failpoint("worker.after-commit")
    except Unavailable as error:
        print(error.code)
print("end")
"""


def passes(points, trace=""):
    """Passes two failpoints three times in another process."""
    return subprocess.run(
        [sys.executable, "-c", CODE],
        env={"HIEBRIDGE_FAILPOINTS": points, "HIEBRIDGE_FAILPOINT_TRACE": trace, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_unnamed_failpoints_do_nothing():
    """Production pays one look-up."""
    failpoint("worker.before-commit")

    assert passes("").stdout == "end\n"
    assert passes("sequencer.before-sign=kill").stdout == "end\n"


def test_kill_ends_the_process_at_the_named_passage(tmp_path):
    """SIGKILL at the second passage: no cleaning up, and the trace holds both passages."""
    done = passes("worker.after-commit=kill@2", str(tmp_path / "trace"))

    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""
    assert [line.split()[::2] for line in (tmp_path / "trace").read_text().splitlines()] == [
        ["worker.after-commit", "1"],
        ["worker.after-commit", "2"],
    ]


def test_error_is_transient():
    """The named passage fails as something that a retry may mend."""
    assert passes("worker.before-commit=error@3").stdout == "failpoint\nend\n"


def test_trace_changes_nothing(tmp_path):
    """Tracing alone lets everything pass."""
    done = passes("worker.before-commit=trace,worker.after-commit", str(tmp_path / "trace"))

    assert done.stdout == "end\n"
    assert len((tmp_path / "trace").read_text().splitlines()) == 6


@pytest.mark.parametrize("folder", ["bridge", "adapters"])
def test_every_failpoint_in_the_code_is_a_known_name(folder):
    """A fault suite that names a failpoint can count on it: names in code are in the list."""
    used = {
        name
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r'\bfailpoint\("([^"]+)"\)', path.read_text(encoding="utf-8"))
    }

    assert used <= NAMES
