"""Steps 7 and 8: a proof that is checked offline, and a byte altered behind the bridge's back."""

from __future__ import annotations

from typing import Any

from bridge.cli.demo.console import expect
from bridge.cli.demo.stage import Stage
from bridge.cli.demo.tools import Output
from bridge.synth.morning import PERSON


def proof(stage: Stage) -> str:
    """Writes a proof and a policy, and verifies the one against the other in a folder that holds nothing else."""
    stage.console.say(
        "The hospital hands an auditor the proof of that creatinine, which is a file. The policy says whose keys the auditor "
        "believes; it should come by another road than the proof. The auditor needs neither network nor bridge."
    )
    auditor = stage.demonstration.folder / "auditor"
    auditor.mkdir()
    creatinine = _creatinine(stage)
    proved = stage.tools.hiebridge("prove", f"Observation/{creatinine['id']}", "-o", str(auditor / "proof.json"))
    stage.console.answer(proved.lines[:1])
    expect(proved.code == 0, "a proof", proved.lines)
    policy = stage.tools.hiebridge("policy", "-o", str(auditor / "policy.json"))
    stage.console.answer(policy.out.splitlines())
    expect(policy.code == 0, "a policy", policy.lines)
    verified = stage.tools.hiebridge("verify", "proof.json", "--policy", "policy.json", folder=auditor)
    stage.console.answer(verified.lines)
    expect(verified.code == 0 and verified.lines[:1] == ["verified"], "verified", verified.lines)
    opened = any(line.startswith("opened:") for line in verified.lines)
    own_chain = any("operator's own chain" in line for line in verified.lines)
    expect(opened and own_chain, "levels `opened` and `operator's own chain`", verified.lines)
    expect("time: operator's claim" in verified.lines, "`time: operator's claim`", verified.lines)
    stage.console.say(
        "Proved: exactly these bytes are in the log under a head that the log's key signed. Not proved: when, and that the "
        "operator never rewrote the whole log: the chain here is the operator's own. A chain of several organisations, or a "
        "head held elsewhere, would say both.",
        after=True,
    )
    return "the proof holds offline, and says what it does not prove"


def altered_byte(stage: Stage) -> str:
    """Alters one stored byte in the database file; ``fsck``, clean before, names the resource; then puts it back."""
    stage.console.say(
        "Now someone with access to the database file makes the kidney look worse than it is: 1.31 becomes 1.81."
    )
    _clean(_fsck(stage))
    creatinine = _creatinine(stage)
    told = PERSON.values[2]
    false = told.replace("3", "8")
    _replace(stage, creatinine["id"], told, false)
    name = f"Observation/{creatinine['id']}"
    found = _fsck(stage)
    expect(found.code == 1, "fsck ends with exit code 1", found.code)
    expect(any(name in line for line in found.lines), f"fsck names {name}", found.lines)
    stage.console.say("The byte is put back, so that what is left is sound.", after=True)
    _replace(stage, creatinine["id"], false, told)
    _clean(_fsck(stage))
    return f"fsck was clean, named {name} once a byte was altered, and is clean again"


def _creatinine(stage: Stage) -> dict[str, Any]:
    return next(item for item in stage.results if item["code"]["coding"][0]["code"] == PERSON.creatinine)


def _fsck(stage: Stage) -> Output:
    output = stage.tools.hiebridge("fsck")
    stage.console.answer(output.lines)
    return output


def _clean(output: Output) -> None:
    expect(output.code == 0 and output.lines[-1:] == ["in order"], "fsck finds everything in order", output.lines)


def _replace(stage: Stage, fhir_id: str, old: str, new: str) -> None:
    """One value in the current stored bytes of an Observation, by SQLite alone."""
    current = "SELECT resource_key, version FROM resource WHERE fhir_id = ?"
    update = f"UPDATE resource_version SET body = CAST(replace(body, ?, ?) AS BLOB) WHERE (resource_key, version) = ({current})"  # noqa: S608 - values are bound
    values = (f":{old}", f":{new}", fhir_id)
    done = stage.tools.python(
        f"import sqlite3; db = sqlite3.connect({str(stage.demonstration.store)!r}); "
        f"done = db.execute({update!r}, {values!r}); db.commit(); print(done.rowcount, 'row changed')"
    )
    stage.console.answer(done.lines)
    expect(done.lines == ["1 row changed"], "1 row changed", done.lines)
