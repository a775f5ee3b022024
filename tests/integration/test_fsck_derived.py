"""What follows from the stored bytes and has no leaf of its own is checked as well: search rows, names, states, messages, blocks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from bridge.pipeline import fsck_links, fsck_messages, fsck_projections
from bridge.store import schema
from tests.integration.evidence import SECRETS, Evidence, codes
from tests.integration.hospital import Hospital, hl7, pid

Act = Callable[[Hospital, Evidence], None]
NOWHERE = 10**9


def _row(hospital: Hospital, table: str, **like: Any) -> dict[str, Any]:
    return next(dict(row) for row in hospital.rows(table) if all(row[name] == one for name, one in like.items()))


def _column(column: str, value: Any, **like: Any) -> Act:
    """One column of a resource."""

    def act(hospital: Hospital, evidence: Evidence) -> None:
        row = _row(hospital, "resource", **like)
        assert row[column] != value
        evidence.alter("resource", {"resource_key": row["resource_key"]}, **{column: value})

    return act


def _state(change: Callable[[dict[str, Any]], None]) -> Act:
    """The units of an encounter."""

    def act(hospital: Hospital, evidence: Evidence) -> None:
        row = _row(hospital, "resource", type="Encounter")
        state = json.loads(row["state"])
        change(state)
        evidence.alter("resource", {"resource_key": row["resource_key"]}, state=json.dumps(state).encode())

    return act


def _later(state: dict[str, Any]) -> None:
    state["s"][0][1] += 100 * 366 * 86_400_000_000


def _without_number(state: dict[str, Any]) -> None:
    del state["u"]["identifier#PV1.19"]


def _unknown_stamp(state: dict[str, Any]) -> None:
    state["t"] = 99


def _another_text(hospital: Hospital, evidence: Evidence) -> None:
    row = _row(hospital, "resource_string", parameter="family", value="ash")
    evidence.alter("resource_string", row, value="elm")


def _term_gone(hospital: Hospital, evidence: Evidence) -> None:
    if hospital.database.dialect == "sqlite":
        evidence.remove("resource_term", **hospital.rows("resource_term")[0])
    else:
        row = hospital.rows("resource_index")[0]
        evidence.alter("resource_index", {"resource_key": row["resource_key"]}, terms=row["terms"][1:])


def _added(table: str, *rows: tuple[Any, ...]) -> Act:
    def act(hospital: Hospital, _: Evidence) -> None:
        with hospital.database.transaction() as txn:
            txn.insert_rows(schema.metadata.tables[table], rows)

    return act


def _name_moved(hospital: Hospital, evidence: Evidence) -> None:
    """The number of one patient leads to another's record."""
    row = _row(hospital, "identity", resource_type="Patient", value="1")
    evidence.alter("identity", row, resource_key=hospital.key_of(hospital.patient("2")))


def _name_of_another(hospital: Hospital, evidence: Evidence) -> None:
    row = _row(hospital, "identity", resource_type="Encounter")
    evidence.alter("identity", row, resource_key=hospital.key_of(hospital.patient("1")))


def _linked_rows(hospital: Hospital, *, moved: bool) -> list[dict[str, Any]]:
    """Links of records that a link event moved, or of those that founded their persons."""
    named = {row["record_key"] for row in hospital.rows("link_event") if row["kind"] == "link"}
    return [dict(row) for row in hospital.rows("person_link") if (row["record_key"] in named) == moved]


def _linked_elsewhere(founders: int) -> Act:
    def act(hospital: Hospital, evidence: Evidence) -> None:
        hospital.feed(hl7("ADT^A04", pid("50^^^NORTH^MR", "Fir^Una", "19500505")))
        row = _linked_rows(hospital, moved=not founders)[0]
        other = next(r["person_key"] for r in hospital.rows("person_link") if r["person_key"] != row["person_key"])
        evidence.alter("person_link", {"record_key": row["record_key"]}, person_key=other)

    return act


def _linked(column: str, value: str) -> Act:
    def act(hospital: Hospital, evidence: Evidence) -> None:
        row = next(row for row in _linked_rows(hospital, moved=True) if row[column] != value)
        evidence.alter("person_link", {"record_key": row["record_key"]}, **{column: value})

    return act


def _unlinked(hospital: Hospital, evidence: Evidence) -> None:
    evidence.remove("person_link", record_key=hospital.rows("person_link")[0]["record_key"])


def _message(column: str, value: Callable[[Any], Any]) -> Act:
    def act(hospital: Hospital, evidence: Evidence) -> None:
        row = _row(hospital, "raw_message", outcome="stored")
        evidence.alter("raw_message", {"raw_key": row["raw_key"]}, **{column: value(row[column])})

    return act


def _flipped(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


def _block_altered(_: Hospital, evidence: Evidence) -> None:
    """The first block, whose file the operator can write to."""
    with sqlite3.connect(evidence.chain._path) as db:  # type: ignore[attr-defined]  # the local chain's
        db.execute("DROP TRIGGER block_fixed")
        db.execute("UPDATE block SET body = CAST(replace(body, '\"v\":1', '\"v\":2') AS BLOB) WHERE number = 0")
    db.close()


ALTERATIONS: dict[str, tuple[Act, set[tuple[str, str]]]] = {
    "another search text": (_another_text, {("resource_index", "search-rows-differ")}),
    "a search term taken away": (_term_gone, {("resource_index", "search-rows-differ")}),
    "search rows of nothing": (
        _added("resource_string", ("Patient", "family", "ash", NOWHERE)),
        {("resource_index", "index-without-resource")},
    ),
    "another status": (_column("status", "planned", type="Encounter"), {("resource", "search-columns-differ")}),
    "another date": (_column("date_start_us", 5, type="Encounter"), {("resource", "search-columns-differ")}),
    "another index digest": (_column("index_digest", 5, type="Encounter"), {("resource", "index-digest-differs")}),
    "a name that leads elsewhere": (_name_moved, {("identity", "name-missing")}),
    "a name of another type": (_name_of_another, {("identity", "name-missing"), ("identity", "name-of-another-type")}),
    "names of nothing": (
        _added("identity", *(("Patient", "urn:test:north", "MR", value, NOWHERE) for value in ("70", "71"))),
        {("identity", "name-without-resource")},
    ),
    "a record of another person": (_linked_elsewhere(0), {("person_link", "link-differs")}),
    "a founder of another person": (_linked_elsewhere(1), {("person_link", "link-unexplained")}),
    "a link called certain": (_linked("certainty", "asserted"), {("person_link", "link-differs")}),
    "a link taken away": (_unlinked, {("person_link", "link-missing")}),
    "an event in a hundred years": (_state(_later), {("resource", "state-ahead")}),
    "a unit forgotten": (_state(_without_number), {("resource", "state-differs")}),
    "a stamp that is not there": (_state(_unknown_stamp), {("resource", "state-malformed")}),
    "no state": (_column("state", b"{", type="Encounter"), {("resource", "resource-unreadable")}),
    "a message altered": (_message("ciphertext", _flipped), {("raw_message", "message-unreadable")}),
    "a data key altered": (_message("wrapped_key", _flipped), {("raw_message", "message-unreadable")}),
    "a key id that nobody knows": (_message("key_id", lambda _: "lost"), {("raw_message", "message-key-unknown")}),
    "a block altered": (_block_altered, {("chain", "block-not-signed"), ("chain", "block-hash-differs")}),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_what_follows_from_the_bytes_is_held_against_them(name: str, hospital: Hospital, evidence: Evidence) -> None:
    """Exactly what was changed is named, and nothing of what it said."""
    evidence.anchor()
    evidence.anchor()
    act, expected = ALTERATIONS[name]
    act(hospital, evidence)

    findings = evidence.check()

    assert codes(findings) == expected
    assert not [secret for secret in SECRETS if secret in " ".join(map(str, findings))]


def test_everything_derived_is_counted(hospital: Hospital, evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of one row: each resource, name, message and block is looked at once, and all are in order."""
    monkeypatch.setattr(fsck_projections, "CHUNK", 1)
    monkeypatch.setattr(fsck_messages, "CHUNK", 1)
    monkeypatch.setattr(fsck_links, "CHUNK", 1)
    evidence.anchor()
    check = evidence.fsck()

    assert list(check.run()) == []
    there = {row["resource_key"] for row in hospital.rows("resource")}
    assert check.tally.checked["resources"] == len(there)
    assert check.tally.checked["names"] == sum(row["resource_key"] in there for row in hospital.rows("identity"))
    assert check.tally.checked["messages"] == len(hospital.rows("raw_message"))
    assert check.tally.checked["links"] == len(hospital.rows("person_link"))
    assert check.tally.checked["blocks"] == evidence.chain.head().number + 1


def test_a_sample_of_messages_meets_all_of_them_in_time(
    hospital: Hospital, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in three is opened, others at each run: together the runs open every message once, and find the altered one."""
    ALTERATIONS["a message altered"][0](hospital, evidence)
    found, opened = [], 0
    for rest in range(3):
        monkeypatch.setattr(fsck_messages.secrets, "randbelow", lambda _, rest=rest: rest)
        check = evidence.fsck()
        check._one_in = 3
        found += list(check.run())
        opened += check.tally.checked["messages"]

    assert opened == len(hospital.rows("raw_message"))
    assert [finding.code for finding in found] == ["message-unreadable"]


def test_no_key_service_is_no_finding(hospital: Hospital, evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key service that does not answer ends the check, rather than calling every message lost."""
    from bridge.errors import Unavailable

    def away(*_: object) -> None:
        raise Unavailable("key-service-away", "no answer")

    monkeypatch.setattr(fsck_messages, "opened", away)
    with pytest.raises(Unavailable, match="key-service-away"):
        evidence.check(outside=False)
