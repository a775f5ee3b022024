"""Steps 4 to 6: a clinician's search over the person, the patient's objection, the same search again."""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import uuid4

from bridge.cli.demo.console import expect
from bridge.cli.demo.running import wait_until
from bridge.cli.demo.stage import PATIENT, Stage, described
from bridge.cli.demo.tools import Answer
from bridge.cli.deployment import open_deployment
from bridge.ledger.chain import ConsentStatus, ConsentWord, Handle
from bridge.store import consents, resources
from bridge.synth.morning import PERSON

_UNSTEADY: Final = frozenset({"date"})


def clinicians_search(stage: Stage) -> str:
    """Searches with the one id that the clinician's hospital knows; the client's profile reaches the person."""
    stage.console.say(
        "At St Olave's the ward portal asks for her results, with the id of its own record. The portal's profile in the "
        "configuration says `expand_person: true`; the portal itself is unchanged."
    )
    stage.results = stage.search(stage.her_results())
    stage.console.table(list(described(stage.results, stage)))
    seen = {stage.hospital_of(item["subject"]["reference"]) for item in stage.results}
    wanted = {stage.hospitals["st-olave"], stage.hospitals["queensbridge"]}
    expect(seen == wanted, f"results of {' and '.join(sorted(wanted))}", sorted(seen))
    return f"one search finds {len(stage.results)} results, of both hospitals that have some"


def revocation(stage: Stage) -> str:
    """The patient writes a Consent that denies, with her own token."""
    stage.console.say("She does not want her records seen any longer, and says so with the app that patients use.")
    answer = stage.tools.request(
        f"{stage.demonstration.fhir}/Consent",
        stage.patient_token(),
        name=PATIENT,
        body=json.dumps(_deny(stage.records[PERSON.result_site])),
    )
    location = dict(answer.headers).get("location", "")
    stage.console.answer([f"HTTP {answer.status}", f"Location: {location}"])
    expect(answer.status == 201, "status 201: the Consent is stored", answer.status)
    handle, word = _word_on_chain(stage)
    stage.console.say(
        f"On the chain, seconds later, under a random name that says nothing about her: {handle}", after=True
    )
    stage.console.answer([word.status.name.lower()])
    expect(word.status is ConsentStatus.REVOKED, "a revocation on the chain", word.status.name)
    return "the Consent is stored and holds from now on; the chain has the revocation, and nothing about whose it is"


def _word_on_chain(stage: Stage) -> tuple[Handle, ConsentWord]:
    """Handle and word of her Consent, once the chain has it."""
    deployment = open_deployment(stage.demonstration.settings())
    with deployment.database(read_only=True) as database, database.transaction(read_only=True) as txn:
        rows = resources.load_by_id(txn, [("Patient", fhir_id) for fhir_id in stage.records.values()])
        states = consents.state_for_patients(txn, [row.resource_key for row in rows.values()])
    handles = [Handle(state.handle) for of_record in states.values() for state in of_record]
    expect(len(handles) == 1, "one consent on file", len(handles))
    words: list[ConsentWord] = []

    def is_there() -> bool:
        word = chain.read_consent(handles[0]).word
        words.extend([word] if word else [])
        return bool(words)

    chain = deployment.chain()
    try:
        wait_until(is_there, "a word on the chain for her consent")
    finally:
        chain.close()
    return handles[0], words[0]


def _deny(patient: str) -> dict[str, Any]:
    scope = {"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}
    category = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "INFA"}
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [scope]},
        "category": [{"coding": [category]}],
        "patient": {"reference": f"Patient/{patient}"},
        "provision": {"type": "deny"},
    }


def search_again(stage: Stage) -> str:
    """The same search is empty; a read of a known id answers as for an id that does not exist; she still sees her own."""
    stage.console.say("The ward portal asks the same again.")
    found = stage.search(stage.her_results())
    stage.console.answer([f"{len(found)} results"])
    expect(not found, "no results", f"{len(found)} results")
    known, unknown = stage.results[0]["id"], str(uuid4())
    stage.console.say("It remembers an id from before, and makes one up:", after=True)
    answers = [_read(stage, fhir_id) for fhir_id in (known, unknown)]
    expect(answers[0].status == 404, "status 404 for the hidden result", answers[0].status)
    expect(_steady(answers[0]) == _steady(answers[1]), "the same status, headers and body for both", "they differ")
    stage.console.say("She herself asks with her own token:", after=True)
    own = stage.tools.request(
        f"{stage.demonstration.fhir}/{stage.her_results()}", stage.patient_token(), name=PATIENT
    ).json()
    stage.console.answer([f"{own['total']} results"])
    expect(own["total"] > 0, "the patient sees her own results", own["total"])
    return "the search is empty, a hidden result answers exactly as one that never was, and the patient sees her own"


def _read(stage: Stage, fhir_id: str) -> Answer:
    answer = stage.ask(f"Observation/{fhir_id}")
    stage.console.answer([f"HTTP {answer.status}  {answer.body.decode()[:90]}…"])
    return answer


def _steady(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    return answer.status, [item for item in answer.headers if item[0] not in _UNSTEADY], answer.body
