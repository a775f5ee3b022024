"""``verify``: exit code 0 only for a proof that holds, and nothing but two files is needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bridge.cli.main import run
from bridge.ledger.policy import policy_json
from tests.reference import ROOT
from tests.unit.ledger import example


@pytest.fixture
def verify(tmp_path, capsys, monkeypatch):
    """Runs ``verify`` in a folder without configuration; answers exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.json").write_text(json.dumps(policy_json(example.policy())))
    (tmp_path / "proof.json").write_text(example.bundle().encode())

    def verify(*arguments):
        capsys.readouterr()
        return run(["verify", "proof.json", "--policy", "policy.json", *arguments]), *capsys.readouterr()

    return verify


def test_each_level_stands_on_its_own_line(verify):
    """What holds is said level by level: logged, opened, each chain, the time, and against whose rewriting it stands."""
    code, out, err = verify()

    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "verified"
    assert [line.split(":")[0].split(" ")[0] for line in lines[1:]] == [
        "logged",
        "opened",
        "chain",
        "chain",
        "time",
        "rewriting",
    ]
    assert "operator's own chain" in out


def test_a_program_reads_the_same(verify):
    """As JSON, with the levels as words."""
    code, out, _ = verify("--json")

    said = json.loads(out)
    assert code == 0
    assert said["verified"] is True
    assert [chain["level"] for chain in said["chains"]] == ["final", "final"]
    assert said["attested_by"] == "eip155:31337"


def test_without_a_trusted_block_the_chain_is_not_authenticated(verify, tmp_path):
    """The proof holds, and says that the time is only the operator's word."""
    policy = policy_json(example.policy())
    policy["chains"] = [{**chain, "blocks": []} if chain["kind"] == "evm" else chain for chain in policy["chains"]]
    (tmp_path / "policy.json").write_text(json.dumps(policy))

    code, out, _ = verify()

    assert code == 0
    assert "chain evidence consistent, chain not authenticated" in out
    assert "time: operator's claim" in out


@pytest.mark.parametrize("member", ["content", "salt"])
def test_a_changed_proof_is_not_verified(verify, tmp_path, member):
    """Exit code 1 and the cause; nothing in it is said to hold."""
    proof = json.loads((tmp_path / "proof.json").read_text())
    value = proof["opening"][member]
    proof["opening"][member] = ("B" if value[0] != "B" else "C") + value[1:]
    (tmp_path / "proof.json").write_text(json.dumps(proof))

    code, out, err = verify()

    assert (code, err) == (1, "")
    assert out.startswith("not verified: ")
    assert "[commitment-mismatch]" in out
    assert "logged" not in out
    assert json.loads(verify("--json")[1]) == {
        "verified": False,
        "error": {
            "category": "incorrect",
            "code": "commitment-mismatch",
            "message": "the leaf does not commit to these bytes: content, context or salt was changed",
            "remedy": "",
        },
    }


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\x00", '{"format": "hie-bridge-proof/v9"}'])
def test_what_is_no_proof_is_not_verified(verify, tmp_path, text):
    """A malformed file is as good as a false one."""
    (tmp_path / "proof.json").write_text(text)

    code, out, _ = verify()

    assert code == 1
    assert "[proof-malformed]" in out


def test_a_stranger_is_not_trusted(verify, tmp_path):
    """A proof of another log fails, whatever its signatures."""
    other = example.policy().logs[example.ORIGIN]
    policy = policy_json(example.policy())
    policy["logs"] = [{"key": type(other)("other.example/log", other.public_key).encode()}]
    (tmp_path / "policy.json").write_text(json.dumps(policy))

    code, out, _ = verify()

    assert code == 1
    assert "[log-not-trusted]" in out


def test_a_policy_that_cannot_be_read_is_the_callers_mistake(verify, tmp_path):
    """Exit code 2: the proof was not looked at."""
    (tmp_path / "policy.json").write_text("{}")
    assert verify()[0] == 2
    (tmp_path / "policy.json").unlink()

    code, out, err = verify()

    assert (code, out) == (2, "")
    assert "[file-unreadable]" in err


def test_the_proved_bytes_can_be_written_to_a_file(verify, tmp_path):
    """For their owner alone to read."""
    assert verify("--content", "shown.json")[0] == 0

    shown = tmp_path / "shown.json"
    assert shown.read_bytes() == example.OPENINGS[7].content
    assert shown.stat().st_mode & 0o077 == 0


def test_nothing_but_two_files_is_needed(verify, tmp_path):
    """No configuration, no store, no chain client, and no socket: an auditor may run it on a machine of their own."""
    program = (
        "import sys\n"
        "def no_sockets(event, arguments):\n"
        "    if event.startswith('socket.'): raise SystemExit(99)\n"
        "sys.addaudithook(no_sockets)\n"
        "from bridge.cli.main import run\n"
        "code = run(['verify', 'proof.json', '--policy', 'policy.json'])\n"
        "heavy = [name for name in ('sqlalchemy', 'psycopg', 'web3', 'kafka', 'fastapi') if name in sys.modules]\n"
        "sys.exit(code or (98 if heavy else 0))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"verified")
