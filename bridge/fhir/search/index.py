"""Resource → what the store files it under."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from bridge.fhir.dates import Interval, interval_of
from bridge.fhir.references import parse_reference
from bridge.fhir.search.definitions import Definition, Form, TokenParameter, definitions
from bridge.fhir.search.terms import cached_term, normalize, term

Json = Any


class Index(NamedTuple):
    """Everything by which a resource is found.

    Attributes:
        terms: hashes of its tokens and references, signed 64 bit, ascending, each once.
        strings: (parameter, normalized text), each once.
        date_start_us, date_end_us: interval of the type's date parameter (for Patient the birth date), both included.
        status: the status code of the types that have one.
    """

    terms: tuple[int, ...]
    strings: tuple[tuple[str, str], ...]
    date_start_us: int | None
    date_end_us: int | None
    status: str | None


EMPTY: Final = Index((), (), None, None, None)
_Collect = Callable[[Mapping[str, Json], set[int]], None]


def extract(resource: Mapping[str, Json]) -> Index:
    """The index entries of a resource of a stored type; an element of an unexpected shape is passed over.

    Raises:
        KeyError: the type is not stored.
    """
    definition, collectors = _compiled(resource["resourceType"])
    terms: set[int] = set()
    for collect in collectors:
        collect(resource, terms)
    strings: dict[tuple[str, str], None] = {}
    for name, parameter in definition.strings.items():
        for value in parameter.values(resource):
            if isinstance(value, str) and (text := normalize(value)):
                strings[name, text] = None
    interval = date_interval(definition, resource)
    status = resource.get("status") if definition.status else None
    return Index(
        tuple(sorted(terms)),
        tuple(strings),
        interval.start_us if interval else None,
        interval.end_us if interval else None,
        status if isinstance(status, str) else None,
    )


def date_interval(definition: Definition, resource: Mapping[str, Json]) -> Interval | None:
    """The interval of the type's date parameter, if the resource has one."""
    if definition.date is None:
        return None
    for value in definition.date.values(resource):
        interval = interval_of(value)
        if interval is not None:
            return interval
    return None


@cache
def _compiled(kind: str) -> tuple[Definition, tuple[_Collect, ...]]:
    definition = definitions()[kind]
    collectors = [_token_collector(kind, parameter) for parameter in definition.tokens.values()]
    collectors += [
        _reference_collector(kind, parameter.name, parameter.values) for parameter in definition.references.values()
    ]
    return definition, tuple(collectors)


def tokens_of(parameter: TokenParameter, value: Json) -> list[tuple[str, str]]:
    """The (system, code) pairs that one element value stands for; system ``""`` if it has none."""
    form = parameter.form
    if form is Form.CODE:
        return [(parameter.system, value)] if isinstance(value, str) else []
    if form is Form.BOOLEAN:
        return [(parameter.system, "true" if value else "false")] if isinstance(value, bool) else []
    if not isinstance(value, dict):
        return []
    if form is Form.CONCEPT:
        codings = value.get("coding")
        return [_pair(item, "code") for item in codings if isinstance(item, dict)] if isinstance(codings, list) else []
    if form is Form.CONTACT:
        return [("", _text(value.get("value")))] if value.get("system") == parameter.contact else []
    return [_pair(value, "code" if form is Form.CODING else "value")]


def _pair(item: Mapping[str, Json], key: str) -> tuple[str, str]:
    return _text(item.get("system")), _text(item.get(key))


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _token_collector(kind: str, parameter: TokenParameter) -> _Collect:
    name, values = parameter.name, parameter.values
    hashed = term if parameter.form in (Form.IDENTIFIER, Form.CONTACT) else cached_term

    def collect(resource: Mapping[str, Json], terms: set[int]) -> None:
        for value in values(resource):
            for system, code in tokens_of(parameter, value):
                if code:
                    terms.add(hashed(kind, name, code))
                    if system:
                        terms.add(hashed(kind, name, f"{system}|{code}"))
                if system:
                    terms.add(cached_term(kind, name, f"{system}|"))

    return collect


def _reference_collector(kind: str, name: str, values: Callable[[Mapping[str, Json]], list[Json]]) -> _Collect:
    def collect(resource: Mapping[str, Json], terms: set[int]) -> None:
        for value in values(resource):
            text = value.get("reference") if isinstance(value, dict) else None
            target = parse_reference(text) if isinstance(text, str) else None
            if target:
                terms.add(term(kind, name, f"{target.type}/{target.id}"))

    return collect
