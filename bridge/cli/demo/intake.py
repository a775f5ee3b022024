"""Steps 1 to 3: messages in, resources out, registrations recognised as one person."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from bridge.cli.demo.console import expect
from bridge.cli.demo.feed import send_all
from bridge.cli.demo.running import wait_until
from bridge.cli.demo.stage import Stage, identifier
from bridge.store import leaves, persons, resources
from bridge.store.database import open_database
from bridge.store.rows import LinkEventRow
from bridge.synth import morning
from bridge.synth.morning import PERSON

_POSITION: Final = re.compile(r'hiebridge_positions\{outcome="(\w+)",source="([\w-]+)"\} ([0-9.e+]+)')
_OUTCOMES: Final = ("stored", "filtered", "duplicate", "dead")
_TYPES: Final = (
    "Patient",
    "Encounter",
    "ServiceRequest",
    "Specimen",
    "DiagnosticReport",
    "Observation",
    "Practitioner",
    "Organization",
    "Location",
    "Provenance",
)


def messages_in(stage: Stage) -> str:
    """Sends the morning, and checks that each message ended as it should and that the totals add up (promise P2)."""
    stage.console.say(
        "A Monday morning: three hospitals send HL7 v2 messages by MLLP, each to a port of its own and in its own habits "
        "(versions 2.3, 2.5.1 and 2.7). A message is acknowledged once it is durable."
    )
    sent = send_all(morning.messages(), stage.demonstration.mllp_ports)
    expected: Counter[tuple[str, str]] = Counter()
    for message, taken in sent:
        malformed = message.kind.startswith("malformed/")
        expect(taken is not malformed, "AA for each message, AR for what is none", f"{message.kind}: taken is {taken}")
        if taken:
            expected[message.site, message.outcome.value] += 1
            expected[message.site, "received"] += 1
    accepted = sum(taken for _, taken in sent)
    stage.console.say(
        f"{len(sent)} sent, {accepted} acknowledged (AA), {len(sent) - accepted} refused for good (AR): a message cut off "
        "in the middle of its header.",
        after=True,
    )
    url = f"{stage.demonstration.server}/metrics"
    counted: dict[tuple[str, str], int] = {}

    def all_worked() -> bool:
        text = stage.tools.request(url, show=False).body.decode()
        counted.update({(source, outcome): int(float(n)) for outcome, source, n in _POSITION.findall(text)})
        return sum(n for (_, outcome), n in counted.items() if outcome == "received") >= accepted

    wait_until(all_worked, f"{accepted} messages worked off")
    stage.tools.request(url)
    rows: list[list[str | int]] = [["hiebridge_positions", "received", *_OUTCOMES]]
    for site in stage.demonstration.mllp_ports:
        numbers = [counted.get((site, outcome), 0) for outcome in ("received", *_OUTCOMES)]
        rows.append([site, *numbers])
        expect(numbers[0] == sum(numbers[1:]), f"{site}: received = {' + '.join(_OUTCOMES)}", numbers)
        wanted = [expected[site, outcome] for outcome in ("received", *_OUTCOMES)]
        expect(numbers == wanted, f"{site}: {wanted} of received, {', '.join(_OUTCOMES)}", numbers)
    stage.console.table(rows)
    listed = stage.tools.hiebridge("deadletters", "list")
    stage.console.answer(listed.lines)
    expect(
        listed.code == 0 and "unknown-event" in listed.out, "a dead letter with the cause unknown-event", listed.lines
    )
    return f"{accepted} messages received = stored + filtered + duplicates + dead letters, at each hospital"


def resources_out(stage: Stage) -> str:
    """Counts what the messages became, and looks at one result that was preliminary, final, then corrected."""
    stage.console.say(
        "The messages became FHIR R4 resources. The ward portal of one hospital asks for them; the other types are asked "
        "for in the same way."
    )
    stage.ward_token()
    found = {kind: stage.search(f"{kind}?_count=1000", show=kind == "Patient") for kind in _TYPES}
    stage.console.table([[kind, len(resources_found)] for kind, resources_found in found.items()])
    registrations = sum(len(records) for records in morning.truth().people.values())
    expect(
        len(found["Patient"]) == registrations, f"{registrations} Patients, one a registration", len(found["Patient"])
    )
    expect(all(found.values()), "resources of every type", {kind: len(items) for kind, items in found.items()})
    [patient] = stage.search(f"Patient?{identifier(*PERSON.records[PERSON.result_site])}", show=False)
    creatinine = stage.search(f"Observation?code={PERSON.creatinine}&patient={patient['id']}", show=False)
    values = [(item["status"], str(item["valueQuantity"]["value"])) for item in creatinine]
    expect(values == [("corrected", PERSON.values[2])], f"one creatinine, corrected to {PERSON.values[2]}", values)
    checkpoint = stage.tools.request(f"{stage.demonstration.server}/log/checkpoint")
    lines = checkpoint.body.decode().splitlines()
    stage.console.answer(
        [lines[0], f"{lines[1]}   leaves: one for each version, link and access", f"{lines[2]}   root"]
    )
    expect(
        int(lines[1]) >= sum(map(len, found.values())), "a leaf for each resource, under a signed checkpoint", lines[1]
    )
    return (
        f"{sum(map(len, found.values()))} resources; a creatinine told as {', '.join(PERSON.values)} "
        f"(preliminary, final, corrected) is one Observation of {PERSON.values[2]}"
    )


def one_person(stage: Stage) -> str:
    """Checks that her three registrations are linked, each by the rule that should have linked it."""
    stage.console.say(
        f"{PERSON.given} {PERSON.family} is registered at three hospitals, as three Patients. Two know her by the region's "
        "number; the third does not, and has her name, birth date, sex and phone."
    )
    named = {}
    for site, (system, value) in PERSON.records.items():
        [patient] = stage.search(f"Patient?{identifier(system, value)}", show=site == PERSON.result_site)
        stage.records[site] = patient["id"]
        named[site] = f"{patient['name'][0]['given'][0]} {patient['name'][0]['family']}"
    keys, links, events = _links(stage)
    hospital = {key: stage.hospitals[site] for site, key in keys.items()}
    stage.console.say("What matching decided, read from the store:", after=True)
    stage.console.table(
        [
            ["registered at", "as", "person"],
            *([hospital[key], named[site], links[key][0]] for site, key in keys.items()),
        ]
    )
    stage.console.say(
        "The link events behind it, each with its leaf in the log. They are appended and never changed.", after=True
    )
    stage.console.table(
        [
            ["record of", "linked to that of", "by rule", "certainty", "leaf"],
            *(
                [hospital[event.record_key], hospital.get(event.other_key or 0, ""), event.rule, event.certainty, leaf]
                for event, leaf in events.items()
            ),
        ]
    )
    people = {links[key][0] for key in keys.values()}
    expect(len(people) == 1, "one person", people)
    rules = {site: links[key][1] for site, key in keys.items()}
    # Whoever was stored first, alone, is the person that the others are linked to, and has no rule but its own.
    wanted = {
        "st-olave": {"same-evidence-identifier"},
        "queensbridge": {"same-evidence-identifier", "own"},
        "rivermoor": {"same-name-birth-sex-phone"},
    }
    expect(all(rules[site] in allowed for site, allowed in wanted.items()), f"rules as in {wanted}", rules)
    expect(all(leaf >= 0 for leaf in events.values()), "a leaf for each link event", list(events.values()))
    return (
        "three registrations are one person: two by the region's number, the third by name, birth date, sex and phone"
    )


def _links(stage: Stage) -> tuple[dict[str, int], dict[int, tuple[int, str]], dict[LinkEventRow, int]]:
    """Her record keys by site, their persons and rules, and her link events with their leaf numbers."""
    url = stage.demonstration.settings().store.address().reveal()
    with open_database(url, read_only=True) as database, database.transaction(read_only=True) as txn:
        rows = resources.load_by_id(txn, [("Patient", fhir_id) for fhir_id in stage.records.values()])
        keys = {site: rows["Patient", fhir_id].resource_key for site, fhir_id in stage.records.items()}
        links = {key: (link.person_key, link.rule) for key, link in persons.links(txn, keys.values()).items()}
        events = [event for event in persons.events(txn, keys.values()) if event.kind == "link"]
        numbers = leaves.leaves_by_id(txn, [event.leaf_id for event in events])
    return keys, links, {e: numbers[e.leaf_id].leaf_index if e.leaf_id in numbers else -1 for e in events}
