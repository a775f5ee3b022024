"""What the steps of the demonstration share: the deployment, the tools, and what earlier steps have found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

from bridge.cli.demo.console import Console, expect
from bridge.cli.demo.folder import Demonstration
from bridge.cli.demo.tools import Answer, Tools
from bridge.config.load import load_sites
from bridge.synth.morning import PERSON

WARD: str = "WARD_TOKEN"
PATIENT: str = "PATIENT_TOKEN"


@dataclass
class Stage:
    """One run of the demonstration.

    Attributes:
        demonstration: the folder.
        tools: what is run and shown.
        records: the person's Patient ids, by site; found by the third step.
        results: what the clinician saw of her, before she objected; found by the fourth.
    """

    demonstration: Demonstration
    tools: Tools
    records: dict[str, str] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    _tokens: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def console(self) -> Console:
        """Where everything is told."""
        return self.tools.console

    @cached_property
    def hospitals(self) -> Mapping[str, str]:
        """Names of the organisations, by site."""
        sites = load_sites(self.demonstration.settings())
        return {site: sites[site].organization.name for site in self.demonstration.mllp_ports}

    def hospital_of(self, patient: str) -> str:
        """Whose record ``Patient/id`` is, if it is one of the person's."""
        return next((self.hospitals[s] for s, i in self.records.items() if patient == f"Patient/{i}"), "another record")

    def ward_token(self) -> str:
        """The clinician's token; made, and shown, when first asked for."""
        return self._token(WARD, "--client", "ward-portal", "--user", "Practitioner/dr-reed", "--purpose", "TREAT")

    def patient_token(self) -> str:
        """The patient's own token; made, and shown, when first asked for."""
        own = self.records[PERSON.result_site]
        return self._token(PATIENT, "--client", "patient-app", "--purpose", "PATRQT", "--patient", own)

    def _token(self, name: str, *arguments: str) -> str:
        if name not in self._tokens:
            made = self.tools.hiebridge("token", *arguments, assigned=name)
            expect(made.code == 0, "a token of the development issuer", made.err.strip())
            self._tokens[name] = made.out.strip()
        return self._tokens[name]

    def ask(self, path: str, *, show: bool = True) -> Answer:
        """A FHIR request of the clinician's client."""
        token = self.ward_token()
        return self.tools.request(f"{self.demonstration.fhir}/{path}", token, name=WARD, show=show)

    def search(self, path: str, *, show: bool = True) -> list[dict[str, Any]]:
        """The resources that the clinician's search finds, all on one page."""
        answer = self.ask(path, show=show)
        expect(answer.status == 200, "status 200", answer.status)
        bundle = answer.json()
        found = [entry["resource"] for entry in bundle.get("entry", [])]
        expect(bundle.get("total") == len(found), "the whole answer on one page", f"total {bundle.get('total')}")
        return found

    def her_results(self) -> str:
        """The clinician's search for her results, by the one id that the clinician's hospital knows."""
        return f"Observation?patient={self.records[PERSON.result_site]}&_sort=date"


def identifier(system: str, value: str) -> str:
    """The search parameter ``identifier``."""
    return f"identifier={quote(f'{system}|{value}', safe='')}"


def described(results: list[dict[str, Any]], stage: Stage) -> Iterator[tuple[str, str, str, str]]:
    """A line for each Observation: when, what, the value, whose."""
    for result in results:
        yield (
            result.get("effectiveDateTime", "")[:16].replace("T", " "),
            result["code"]["coding"][0]["display"].partition(" [")[0],
            _value(result),
            stage.hospital_of(result["subject"]["reference"]),
        )


def _value(result: Mapping[str, Any]) -> str:
    quantity = result.get("valueQuantity")
    if quantity:
        return f"{quantity['value']} {quantity.get('unit', '')} ({result['status']})"
    parts = [part["valueString"] for part in result.get("component", []) if "valueString" in part]
    text = result.get("valueString") or " ".join(parts)
    return f"{text if len(text) <= 28 else text[:27] + '…'} ({result['status']})"
