"""The benchmark of the reader runs, and its readers agree."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.reference import ROOT


@pytest.mark.ci
def test_the_benchmark_ends_with_its_result(tmp_path):
    """Quickly, with one line of JSON that also lands in the file asked for."""
    file = tmp_path / "result.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "hl7v2.py"), "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    result = json.loads(done.stdout.splitlines()[-1])

    assert result == json.loads(file.read_text())
    assert result["readers"]["hie-bridge"]["messages_per_second"] > 0
