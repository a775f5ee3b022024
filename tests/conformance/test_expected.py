"""Messages whose resources were written by hand from the standards, not from the mappings.

``expected/NN-name.yaml`` holds one message, the site that sent it, and what the v2-to-FHIR tables of HL7, the chapters of HL7
v2, FHIR R4 and the laws of the architecture decide about the outcome; each group of expectations names its source. What they
leave open (ids, narrative, the number of shared resources) is not stated. The keys of a case:

- ``title``, ``message`` (segments on lines), ``charset`` (of the bytes; UTF-8), ``site`` (as in ``mappings/sites``);
- ``count``: how many resources of a type there are; ``nowhere``: texts that no resource may hold;
- ``expect``: a list of groups: the one resource of ``type`` that matches ``where`` matches ``has`` too, carries nothing at the
  paths ``absent`` and something at ``present``, and has lists of the lengths ``sizes``.

A mapping matches when each of its elements does; a list of mappings when each of them matches an element of its own, in any
order; a list of plain values when it is equal. ``{$ref: Type, where: ...}`` matches a reference that leads within the Bundle to
such a resource. Times are equal when instant, offset and fraction are; decimals when their digits are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.config.site import Site
from bridge.hl7v2.message import parse
from bridge.mapping.bundle import to_bundle
from bridge.mapping.convert import convert
from bridge.mapping.rules import Rules, load_rules

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted(Path(__file__).with_name("expected").glob("*.yaml"))
TYPES = frozenset(
    {"Patient", "Encounter", "Observation", "DiagnosticReport", "ServiceRequest", "Specimen"}
    | {"Practitioner", "Organization", "Location", "Provenance"}
    | {"Condition", "AllergyIntolerance", "Procedure", "Immunization", "MedicationRequest", "DocumentReference"}
    | {"Appointment", "Coverage", "Account", "CareTeam", "RelatedPerson"}
)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class _Loader(yaml.SafeLoader):
    """YAML whose plain scalars are texts, integers, decimals with their digits, or true, false and null."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^null$"), ["n"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9]\d*)$"), list("-0123456789"))
_Loader.add_implicit_resolver("!decimal", re.compile(r"^-?\d+\.\d+$"), list("-0123456789"))
_Loader.add_constructor("!decimal", lambda loader, node: Decimal(loader.construct_scalar(node)))


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One place where the resources say something else."""

    path: str
    expected: str
    got: str
    source: str = ""

    def __str__(self) -> str:
        because = f"\n    by {self.source}" if self.source else ""
        return f"{self.path}: expected {self.expected}, got {self.got}{because}"


class Outcome:
    """The resources of one Bundle, and what can be asked of them."""

    def __init__(self, bundle: Mapping[str, Any]) -> None:
        entries = bundle.get("entry", [])
        self.resources: list[Mapping[str, Any]] = [entry["resource"] for entry in entries]
        self._by_reference: dict[str, Mapping[str, Any]] = {}
        for entry in entries:
            resource = entry["resource"]
            self._by_reference[f"{resource['resourceType']}/{resource.get('id')}"] = resource
            if "fullUrl" in entry:
                self._by_reference[entry["fullUrl"]] = resource

    def of_type(self, name: str) -> list[Mapping[str, Any]]:
        return [resource for resource in self.resources if resource["resourceType"] == name]

    def compare(self, expected: Any, got: Any, path: str) -> list[Disagreement]:
        """Every place below ``path`` where ``got`` does not say what ``expected`` says."""
        if isinstance(expected, dict):
            if "$ref" in expected:
                return self._compare_reference(expected, got, path)
            if not isinstance(got, dict):
                return [Disagreement(path, _shown(expected), _shown(got))]
            return [
                found for key, value in expected.items() for found in self.compare(value, got.get(key), f"{path}.{key}")
            ]
        if isinstance(expected, list):
            return self._compare_list(expected, got, path)
        return [] if _same(expected, got) else [Disagreement(path, _shown(expected), _shown(got))]

    def _compare_reference(self, expected: dict[str, Any], got: Any, path: str) -> list[Disagreement]:
        wanted = f"a reference to {expected['$ref']} with {_shown(expected.get('where', {}))}"
        if not isinstance(got, dict) or "reference" not in got:
            return [Disagreement(path, wanted, _shown(got))]
        target = self._by_reference.get(got["reference"])
        if target is None:
            return [Disagreement(path, wanted, "a reference that leads to nothing in the Bundle")]
        if target["resourceType"] != expected["$ref"]:
            return [Disagreement(path, wanted, f"a reference to {target['resourceType']}")]
        return self.compare(expected.get("where", {}), target, f"{path}->{target['resourceType']}")

    def _compare_list(self, expected: list[Any], got: Any, path: str) -> list[Disagreement]:
        if not isinstance(got, list):
            return [Disagreement(path, _shown(expected), _shown(got))]
        if not any(isinstance(item, dict) for item in expected):
            same = len(expected) == len(got) and all(map(_same, expected, got))
            return [] if same else [Disagreement(path, _shown(expected), _shown(got))]
        found: list[Disagreement] = []
        left = list(enumerate(got))
        for number, item in enumerate(expected):
            tries = [(self.compare(item, value, f"{path}[{index}]"), index) for index, value in left]
            if not tries:
                found.append(Disagreement(f"{path}[{number}]", _shown(item), "no such element"))
                continue
            nearest, taken = min(tries, key=lambda one: len(one[0]))
            found += nearest
            left = [(index, value) for index, value in left if index != taken]
        return found


def _same(expected: Any, got: Any) -> bool:
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, int | Decimal):
        return isinstance(got, int | Decimal) and Decimal(expected).as_tuple() == Decimal(got).as_tuple()
    if isinstance(expected, str) and isinstance(got, str):
        return _moment(expected) == _moment(got)
    return bool(expected == got)


def _moment(text: str) -> tuple[str, object]:
    """A date-time with offset as (fraction, instant and offset); any other text as it is."""
    match = _MOMENT.fullmatch(text)
    if match is None:
        return text, None
    fraction = match[1] or ""
    moment = datetime.fromisoformat(text.replace(fraction, ""))
    return fraction, (moment, moment.utcoffset())


def _shown(value: Any) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, allow_unicode=True, width=10_000).strip()
    return "nothing" if value is None else text.removesuffix("\n...")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Decimal) else value


def _at(value: Any, path: list[str]) -> Iterator[Any]:
    """What stands at a dotted path, through every element of the lists on the way."""
    if isinstance(value, list) and path:
        for item in value:
            yield from _at(item, path)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _at(value[path[0]], path[1:])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _judge_group(group: dict[str, Any], outcome: Outcome) -> list[Disagreement]:
    name = f"{group['type']}({_shown(group['where'])})"
    source = group["source"].strip()
    candidates = outcome.of_type(group["type"])
    matching = [one for one in candidates if not outcome.compare(group["where"], one, "")]
    if len(matching) != 1:
        return [Disagreement(name, "one resource", f"{len(matching)} of {len(candidates)} of its type", source)]
    resource = matching[0]
    found = outcome.compare(group["has"], resource, name)
    for path in group.get("absent", ()):
        for value in _at(resource, path.split(".")):
            found.append(Disagreement(f"{name}.{path}", "nothing", _shown(value)))
    for path in group.get("present", ()):
        if not any(True for _ in _at(resource, path.split("."))):
            found.append(Disagreement(f"{name}.{path}", "something", "nothing"))
    for path, size in group.get("sizes", {}).items():
        lengths = [len(value) if isinstance(value, list) else 1 for value in _at(resource, path.split("."))]
        if lengths != [size]:
            found.append(Disagreement(f"{name}.{path}", f"{size} elements", f"{sum(lengths)} elements"))
    return [replace(one, source=source) for one in found]


def judge(case: dict[str, Any], bundle: Mapping[str, Any]) -> list[Disagreement]:
    """Every disagreement between a case and the Bundle that its message became."""
    outcome = Outcome(bundle)
    found = [
        Disagreement(f"count of {name}", str(count), str(len(outcome.of_type(name))))
        for name, count in case.get("count", {}).items()
        if len(outcome.of_type(name)) != count
    ]
    for group in case["expect"]:
        found += _judge_group(group, outcome)
    for text in _texts(outcome.resources):
        if text == '""':
            found.append(Disagreement("anywhere", "no HL7 null as a value", text))
        found += [Disagreement("anywhere", f"no {word}", text) for word in case.get("nowhere", ()) if word in text]
    return found


def _load(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    return case


@pytest.fixture(scope="module")
def rules() -> Rules:
    return load_rules(ROOT / "mappings")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_message_becomes_what_the_standard_says(path: Path, rules: Rules) -> None:
    """The resources of the message are what tables, chapters, FHIR and laws decide."""
    case = _load(path)
    raw = case["message"].rstrip("\n").replace("\n", "\r").encode(case.get("charset", "utf-8"))
    site = Site.model_validate(case["site"])

    conversion = convert(parse(raw), site, rules)
    disagreements = judge(case, to_bundle(conversion))

    assert not disagreements, f"{case['title']}\n" + "\n".join(f"- {one}" for one in disagreements)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case_names_its_sources_and_only_known_words(path: Path) -> None:
    """Each group of expectations cites the standard and can be told apart; a misspelt key would expect nothing."""
    case = _load(path)

    assert set(case) <= {"title", "message", "charset", "site", "count", "nowhere", "expect"}
    assert set(case.get("count", {})) <= TYPES
    for group in case["expect"]:
        assert set(group) <= {"type", "where", "source", "has", "absent", "present", "sizes"}
        assert group["type"] in TYPES
        assert group["where"]
        assert re.search(r"row|[Cc]hapter|table|Table|FHIR|[Ll]aw", group["source"])


def test_every_resource_type_is_expected_somewhere() -> None:
    """No type that messages become is without an expectation."""
    cases = [_load(path) for path in CASES]

    assert len(cases) >= 26
    assert {group["type"] for case in cases for group in case["expect"]} == TYPES


_PATIENT = {
    "resourceType": "Patient",
    "id": "p",
    "identifier": [{"value": "1"}],
    "name": [{"use": "usual", "given": ["A", "B"]}, {"use": "official", "family": "C"}],
    "birthDate": "1950",
}
_ENCOUNTER = {
    "resourceType": "Encounter",
    "id": "e",
    "subject": {"reference": "Patient/p"},
    "period": {"start": "2024-07-01T10:00:00+00:00"},
    "length": {"value": Decimal("1.50")},
}
_BUNDLE = {"entry": [{"resource": _PATIENT}, {"resource": _ENCOUNTER}]}


@pytest.mark.parametrize(
    ("kind", "has"),
    [
        ("Patient", {"name": [{"family": "C"}, {"given": ["A", "B"]}], "birthDate": "1950"}),
        ("Encounter", {"subject": {"$ref": "Patient", "where": {"identifier": [{"value": "1"}]}}}),
        ("Encounter", {"period": {"start": "2024-07-01T10:00:00Z"}, "length": {"value": Decimal("1.50")}}),
    ],
)
def test_what_the_resources_say_is_agreed_to(kind: str, has: dict[str, Any]) -> None:
    """Parts of a resource, lists in another order, references and equal times match."""
    group = {"type": kind, "where": {"resourceType": kind}, "source": "FHIR", "has": has}

    assert judge({"expect": [group]}, _BUNDLE) == []


@pytest.mark.parametrize(
    ("kind", "claim"),
    [
        ("Patient", {"has": {"gender": "male"}}),
        ("Patient", {"has": {"name": [{"use": "official", "given": ["A", "B"]}]}}),
        ("Patient", {"has": {"name": [{"given": ["B", "A"]}]}}),
        ("Patient", {"has": {"name": [{}, {}, {}]}}),
        ("Patient", {"has": {"birthDate": 1950}}),
        ("Patient", {"absent": ["name.family"]}),
        ("Patient", {"present": ["name.suffix"]}),
        ("Patient", {"sizes": {"name": 1}}),
        ("Encounter", {"has": {"subject": {"$ref": "Practitioner"}}}),
        ("Encounter", {"has": {"subject": {"$ref": "Patient", "where": {"identifier": [{"value": "2"}]}}}}),
        ("Encounter", {"has": {"period": {"start": "2024-07-01T11:00:00+01:00"}}}),
        ("Encounter", {"has": {"length": {"value": Decimal("1.5")}}}),
        ("Location", {"has": {}}),
    ],
)
def test_what_the_resources_do_not_say_is_a_disagreement(kind: str, claim: dict[str, Any]) -> None:
    """The comparison finds each kind of difference, once."""
    group = {"type": kind, "where": {"resourceType": kind}, "source": "FHIR", "has": {}} | claim

    assert len(judge({"expect": [group]}, _BUNDLE)) == 1


def test_counts_forbidden_texts_and_nulls_are_disagreements() -> None:
    """What no resource may hold is found wherever it stands."""
    bundle = {"entry": [{"resource": {"resourceType": "Patient", "name": [{"family": '""', "given": ["xSECRETx"]}]}}]}

    assert len(judge({"count": {"Patient": 2}, "nowhere": ["SECRET"], "expect": []}, bundle)) == 3
