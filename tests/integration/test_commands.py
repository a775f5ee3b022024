"""The operator's commands over a store of a configured deployment: prove, policy, verify, fsck, deadletters."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.cli.deployment import Deployment, open_deployment
from bridge.cli.main import run
from bridge.config.load import load_settings
from bridge.pipeline.batch import Item, Place, Verdict
from bridge.pipeline.ports import Partition, RawMessage
from bridge.store import positions, schema
from bridge.store.dialect import Statement
from bridge.telemetry.stop import Stop
from tests.integration.hospital import hl7, pid, pv1

CONFIGURATION = """\
deployment: {name: north, origin: log.north.example/hie, fhir_base_url: "https://north.example/fhir"}
store: {url: "sqlite:///bridge.db"}
keys: {adapter: file, path: keys.json}
sites: [north.yaml]
listeners: [{name: wards, adapter: folder, site: north, path: in}]
chain: {adapter: local, path: chain.db, name: north.example/chain}
log: {watermark: watermark.json}
consent: {default_policy: deny}
"""
SITE = """\
site: north
organization: {name: North, identifier: {system: "urn:test:organizations", value: north}}
time_zone: Europe/London
authorities:
  - {name: NORTH, system: "urn:test:north", use: record, default: true}
%s
events: {allow: [ADT^A04, ADT^A08]}
"""
RECEIVED = 1_720_000_000_000_000  # after the events of the messages: those from the future are dead letters
SECRETS = ("Ash", "Ida", "19700102", "Q-4711")


class Bridge:
    """A deployment in a folder of its own, worked by hand."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self._offsets = itertools.count()
        (folder / "bridge.yaml").write_text(CONFIGURATION)
        self.site()
        assert self("keys", "init", "keys.json")[0] == 0
        assert self("migrate")[0] == 0

    def site(self, *authorities: str) -> None:
        """Writes the site's file, with more authorities than the first."""
        lines = [f'  - {{name: {name}, system: "urn:test:{name.lower()}", use: record}}' for name in authorities]
        (self.folder / "north.yaml").write_text(SITE % "\n".join(lines))

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Runs a command; exit code, output, errors."""
        self._capsys.readouterr()
        code = run(["--config", str(self.folder / "bridge.yaml"), *arguments])
        return code, *self._capsys.readouterr()

    def said(self, *arguments: str) -> Any:
        """What a command answers to a program."""
        return json.loads(self(*arguments, "--json")[1])

    @property
    def deployment(self) -> Deployment:
        """As the configuration is now."""
        return open_deployment(load_settings(self.folder / "bridge.yaml", {}))

    def feed(self, *contents: bytes) -> list[Verdict]:
        """Stores messages of the listener ``wards`` as the worker of a source would."""
        deployment = self.deployment
        preparer = deployment.preparer()
        with deployment.database() as database:
            with database.transaction() as txn:
                position = positions.claim(txn, "wards", "topic", 0)
            numbers = [next(self._offsets) for _ in contents]
            place = Place(Partition("wards", "topic", 0), position.next_offset, position.epoch)
            items = [
                Item(preparer.prepare(RawMessage("wards", content, None, None, RECEIVED + number)), offset=number)
                for content, number in zip(contents, numbers, strict=True)
            ]
            return deployment.batcher(database).store(items, place, Stop())

    def anchor(self) -> None:
        """Numbers, signs, anchors."""
        deployment = self.deployment
        sequencer, anchorer = deployment.sequencer(), deployment.anchorer()
        sequencer.step()
        anchorer.anchor()

    def patient(self) -> str:
        """Name of the only Patient."""
        [fhir_id] = [
            fhir_id
            for kind, fhir_id in self.rows(sa.select(schema.resource.c.type, schema.resource.c.fhir_id))
            if kind == "Patient"
        ]
        return f"Patient/{fhir_id}"

    def rows(self, statement: Any) -> list[Any]:
        """What a query finds."""
        with self.deployment.database() as database, database.transaction(read_only=True) as txn:
            return txn.execute(Statement(statement))


@pytest.fixture
def bridge(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bridge]:
    """A fresh one. Connections of roles are closed with the process; here by hand."""
    opened: list[Any] = []
    database = Deployment.database

    def noted(self: Deployment, **options: bool) -> Any:
        opened.append(database(self, **options))
        return opened[-1]

    monkeypatch.setattr(Deployment, "database", noted)
    chain = Deployment.chain
    monkeypatch.setattr(Deployment, "chain", lambda self: opened.append(chain(self)) or opened[-1])
    monkeypatch.chdir(tmp_path)
    yield Bridge(tmp_path, capsys)
    for each in opened:
        each.close()


def arrival(number: str = "1^^^NORTH^MR", **fields: str) -> bytes:
    return hl7("ADT^A04", pid(number, **fields), pv1())


# proofs


def test_prove_policy_verify(bridge: Bridge) -> None:
    """The whole way of a proof, by the commands alone."""
    bridge.feed(arrival())
    bridge.anchor()
    name = bridge.patient()

    code, out, err = bridge("prove", name, "-o", "proof.json")
    assert (code, err) == (0, "")
    assert f"proof of {name} version 1" in out
    code, out, err = bridge("policy", "-o", "policy.json")
    assert code == 0
    assert "no reason to believe in it" in err
    code, out, err = bridge("verify", "proof.json", "--policy", "policy.json")

    assert (code, err) == (0, "")
    assert out.startswith("verified\nlogged: leaf ")
    assert "local:north.example/chain (operator's own chain): final" in out
    assert "time: operator's claim" in out
    assert (bridge.folder / "proof.json").stat().st_mode & 0o077 == 0


def test_prove_answers_programs_and_pipes(bridge: Bridge) -> None:
    """``--json`` says what was written, ``-o -`` writes the bundle itself."""
    bridge.feed(arrival(), hl7("ADT^A08", pid(sex="F"), pv1(), at="20240301130000"))
    bridge.anchor()
    name = bridge.patient()

    said = bridge.said("prove", name, "--version", "1", "-o", "proof.json")
    printed = bridge("prove", name, "--version", "1", "-o", "-", "--without-chain")[1]

    assert (said["resource"], said["version"], said["anchored"]) == (name, 1, True)
    assert said["verdict"]["logged"] is True
    assert json.loads(printed)["anchors"] == []
    whole = json.loads((bridge.folder / "proof.json").read_text())
    assert {**whole, "anchors": []} == json.loads(printed)


def test_prove_says_what_is_missing(bridge: Bridge) -> None:
    """Errors of the closed categories, without a file left behind."""
    bridge.feed(arrival())
    name = bridge.patient()

    assert [
        bridge("prove", *arguments, "-o", "proof.json")[0]
        for arguments in ((name,), ("Patient/nobody",), ("Patient",), (name, "--version", "0"))
    ] == [7, 4, 2, 2]
    bridge.anchor()
    assert "[version-absent]" in bridge("prove", name, "--version", "7", "-o", "proof.json")[2]
    assert not (bridge.folder / "proof.json").exists()
    assert "[file-unwritable]" in bridge("prove", name, "-o", "no/such/folder/proof.json")[2]


def test_a_proof_says_that_nothing_is_anchored_yet(bridge: Bridge) -> None:
    """It holds, and the chain's word can be had later."""
    bridge.feed(arrival())
    bridge.deployment.sequencer().step()

    code, out, _ = bridge("prove", bridge.patient(), "-o", "proof.json")

    assert code == 0
    assert "not anchored yet" in out


def test_commands_ask_for_the_schema_first(bridge: Bridge) -> None:
    """A store that is not there, or of another version, is said so."""
    (bridge.folder / "bridge.db").unlink()
    for file in bridge.folder.glob("bridge.db-*"):
        file.unlink()

    assert [bridge(*arguments)[0] for arguments in (("fsck",), ("deadletters", "list"))] == [7, 7]


# the whole store


def test_fsck_is_quiet_about_an_untouched_store(bridge: Bridge) -> None:
    """And says how much it looked at."""
    bridge.feed(arrival(), b"no message", arrival())
    bridge.anchor()

    code, out, err = bridge("fsck")

    assert (code, err) == (0, "")
    assert out.endswith("in order\n")
    assert bridge.said("fsck")["checked"]["versions"] >= 2


def test_fsck_names_the_altered_row(bridge: Bridge) -> None:
    """Exit code 1; table, resource and version, and no content."""
    bridge.feed(arrival())
    bridge.anchor()
    with bridge.deployment.database() as database, database.transaction() as txn:
        rows = txn.execute(Statement(sa.select(schema.resource_version)))
        [row] = [row for row in rows if b'"Ash"' in row[4]]
        changed = row[4].replace(b"Ash", b"Axh")
        txn.update_rows(schema.resource_version, ("resource_key",), ("body",), [(changed, row[0])])

    code, out, _ = bridge("fsck")
    said = bridge.said("fsck", "--without-chain")

    assert code == 1
    assert f"resource_version {bridge.patient()} version 1: the stored bytes are not those" in out
    assert said["in_order"] is False
    assert said["finding_count"] == len(said["findings"]) == 1
    assert out.splitlines()[-1] == "1 finding"
    assert not [secret for secret in (*SECRETS, "Axh") if secret in out + json.dumps(said)]


def test_fsck_counts_what_it_does_not_show(bridge: Bridge) -> None:
    """However much is wrong."""
    bridge.feed(*[arrival(f"{n}^^^NORTH^MR") for n in range(5)])
    bridge.anchor()
    with bridge.deployment.database() as database, database.transaction() as txn:
        assert txn.change(Statement(sa.delete(schema.nonce))) > 5

    code, out, _ = bridge("fsck", "--limit", "2")

    assert code == 1
    assert out.count("[nonce-missing]") == 2
    assert "more findings" in out


# dead letters


def dead(bridge: Bridge) -> None:
    """Two that an authority makes when it is listed, one that nothing mends."""
    bridge.feed(arrival(), arrival("2^^^WEST^MR"), b"no message Ida", arrival("Q-4711^^^WEST^MR"))


def test_dead_letters_are_listed_and_shown_without_values(bridge: Bridge) -> None:
    """The latest first; by state, source and page."""
    dead(bridge)

    letters = bridge.said("deadletters", "list")["dead_letters"]
    shown = bridge.said("deadletters", "show", str(letters[0]["id"]))

    assert [letter["code"] for letter in letters] == ["foreign-authority", "not-hl7", "foreign-authority"]
    assert [letter["place"] for letter in letters] == ["0@3", "0@2", "0@1"]
    assert shown["structure"]["segments"] == ["MSH", "EVN", "PID", "PV1"]
    assert shown["open_restrictions"] == 0
    page = bridge.said("deadletters", "list", "--before", str(letters[0]["id"]), "--limit", "1")["dead_letters"]
    assert page == letters[1:2]
    assert bridge.said("deadletters", "list", "--source", "other")["dead_letters"] == []
    assert bridge("deadletters", "list", "--state", "resolved")[1] == "none\n"
    text = bridge("deadletters", "list")[1] + bridge("deadletters", "show", str(letters[0]["id"]))[1]
    assert not [secret for secret in SECRETS if secret in text + json.dumps([letters, shown])]
    assert bridge("deadletters", "show", "999")[0] == 4


def test_replay_with_the_mapping_in_force(bridge: Bridge) -> None:
    """Once the site lists the authority they are stored, counted as such, and fsck is content (P2)."""
    dead(bridge)
    code, out, _ = bridge("deadletters", "replay", "--all", "--reason", "try")
    assert code == 1
    assert out.count("still dead") == 3
    assert out.endswith("0 of 3 done\n")
    bridge.site("WEST")

    said = bridge.said("deadletters", "replay", "--all", "--source", "wards", "--reason", "listed", "--by", "ops")

    assert [item["outcome"] for item in said["replayed"]] == ["stored", "dead", "stored"]
    assert (said["done"], said["of"]) == (2, 3)
    [left] = bridge.said("deadletters", "list")["dead_letters"]
    assert left["code"] == "not-hl7"
    replayed = bridge.said("deadletters", "list", "--state", "replayed")["dead_letters"]
    assert {(letter["closed_by"], letter["reason"]) for letter in replayed} == {("ops", "listed")}
    totals = bridge.rows(sa.select(schema.source_position.c.stored, schema.source_position.c.dead))
    assert totals == [(3, 1)]
    assert bridge("fsck")[0] == 0


def test_a_closed_one_is_not_replayed_again(bridge: Bridge) -> None:
    """Nor resolved; and the others named with it are done all the same."""
    dead(bridge)
    bridge.site("WEST")
    ids = [str(letter["id"]) for letter in bridge.said("deadletters", "list")["dead_letters"]][::-1]
    assert bridge("deadletters", "replay", ids[0], "--reason", "listed")[0] == 0

    said = bridge.said("deadletters", "replay", *ids, "999", "--reason", "again")

    codes = [item.get("error", {}).get("code") for item in said["replayed"]]
    assert codes == ["dead-letter-closed", "not-hl7", None, "dead-letter-absent"]
    assert bridge("deadletters", "resolve", ids[0], "--reason", "x")[0] == 5


def test_what_the_site_leaves_out_now_is_to_be_resolved(bridge: Bridge) -> None:
    """A filtered event is no success of a replay."""
    dead(bridge)
    site = (bridge.folder / "north.yaml").read_text()
    (bridge.folder / "north.yaml").write_text(site.replace("[ADT^A04, ADT^A08]", "[ADT^A08]"))

    code, out, _ = bridge("deadletters", "replay", "--all", "--reason", "x")

    assert code == 1
    assert out.count("leaves its event out now") == 2


def test_resolve_lifts_the_restriction_that_came_with_it(bridge: Bridge) -> None:
    """A consent that could not be stored closes its patient until someone has seen to it."""
    bridge.feed(arrival("2^^^WEST^MR").rstrip(b"\r") + b"\rCON|1|C^x\r")
    [letter] = bridge.said("deadletters", "list")["dead_letters"]
    closed = bridge.said("deadletters", "show", str(letter["id"]))["open_restrictions"]

    said = bridge.said("deadletters", "resolve", str(letter["id"]), "--reason", "seen to")

    assert closed > 0
    assert said == {"resolved": [{"id": letter["id"], "restrictions_lifted": closed}]}
    after = bridge.said("deadletters", "show", str(letter["id"]))
    assert (after["state"], after["open_restrictions"], after["reason"]) == ("resolved", 0, "seen to")
    assert bridge("fsck")[0] == 0


def test_a_consent_without_patient_stops_the_source_until_it_is_resumed(bridge: Bridge) -> None:
    """The list says so; only that pause is lifted by this command."""
    bridge.feed(hl7("ADT^A08", "CON|1|C^x"))
    assert bridge.said("deadletters", "list")["paused_sources"] == ["wards"]
    assert "intake from wards waits" in bridge("deadletters", "list")[1]

    assert bridge("deadletters", "resume", "wards", "--reason", "found by hand")[0] == 0

    assert bridge.said("deadletters", "list")["paused_sources"] == []
    assert bridge.rows(sa.select(schema.alarm.c.cleared_us.is_not(None))) == [(1,)]
    assert bridge("deadletters", "resume", "wards", "--reason", "again")[0] == 5


@pytest.mark.parametrize(
    "arguments",
    [("replay", "--reason", "x"), ("replay", "1", "--all", "--reason", "x"), ("replay", "1", "--source", "s", "--reason", "x"),
     ("resolve", "--reason", "x"), ("replay", "1"), ("resolve", "x", "--reason", "x")],
)  # fmt: skip
def test_what_to_do_must_be_said(bridge: Bridge, arguments: tuple[str, ...]) -> None:
    """Which ones, and why."""
    assert bridge("deadletters", *arguments)[0] == 2
