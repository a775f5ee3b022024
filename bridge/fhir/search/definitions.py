"""The search parameters of each stored type, read once from ``parameters.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml

Json = Any
Accessor = Callable[[Mapping[str, Json]], list[Json]]


class Form(StrEnum):
    """How a token stands in the resource (search.html#token)."""

    CODE = "code"
    BOOLEAN = "boolean"
    CODING = "coding"
    CONCEPT = "concept"
    IDENTIFIER = "identifier"
    CONTACT = "contact"


@dataclass(frozen=True, slots=True)
class TokenParameter:
    """A token parameter; ``system`` is the implied system of a code, ``contact`` the ContactPoint.system it is limited to."""

    name: str
    form: Form
    values: Accessor
    system: str = ""
    contact: str = ""


@dataclass(frozen=True, slots=True)
class StringParameter:
    """A string parameter; ``also`` names parameters whose values count as its own, so that they are indexed once."""

    name: str
    values: Accessor
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReferenceParameter:
    """A reference parameter other than the patient; ``types`` are the stored types that a bare id may name."""

    name: str
    values: Accessor
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DateParameter:
    """The date parameter in the hot columns."""

    name: str
    values: Accessor


@dataclass(frozen=True, slots=True)
class Definition:
    """What can be searched in one type."""

    type: str
    patient: tuple[str, ...]
    date: DateParameter | None
    status: TokenParameter | None
    tokens: Mapping[str, TokenParameter]
    strings: Mapping[str, StringParameter]
    references: Mapping[str, ReferenceParameter]

    @property
    def parameters(self) -> dict[str, str]:
        """Name → FHIR search parameter type of everything that can be asked, ``_id`` and ``_lastUpdated`` included."""
        named: dict[str, str] = {"_id": "token", "_lastUpdated": "date"}
        named.update(dict.fromkeys(self.patient, "reference"))
        if self.date:
            named[self.date.name] = "date"
        if self.status:
            named["status"] = "token"
        named.update(dict.fromkeys(self.tokens, "token"))
        named.update(dict.fromkeys(self.strings, "string"))
        named.update(dict.fromkeys(self.references, "reference"))
        return named


def _accessor(paths: list[str]) -> Accessor:
    """Compiles element paths of one or two names into one function; lists on the way are walked through."""
    split = [path.split(".") for path in paths]
    if len(split) == 1 and len(split[0]) == 1:
        return _top(split[0][0])

    def values(resource: Mapping[str, Json]) -> list[Json]:
        found: list[Json] = []
        for names in split:
            level: list[Json] = [resource]
            for name in names:
                deeper: list[Json] = []
                for node in level:
                    value = node.get(name) if isinstance(node, dict) else None
                    if isinstance(value, list):
                        deeper.extend(value)
                    elif value is not None:
                        deeper.append(value)
                level = deeper
            found.extend(level)
        return found

    return values


def _top(name: str) -> Accessor:
    def values(resource: Mapping[str, Json]) -> list[Json]:
        value = resource.get(name)
        if value is None:
            return _EMPTY
        return value if isinstance(value, list) else [value]

    return values


_EMPTY: Final[list[Json]] = []


@cache
def definitions() -> Mapping[str, Definition]:
    """All definitions by type, in the order of the file."""
    text = resources.files("bridge.fhir.search").joinpath("parameters.yaml").read_text(encoding="utf-8")
    return {kind: _definition(kind, entry or {}) for kind, entry in yaml.safe_load(text).items()}


def _definition(kind: str, entry: dict[str, Json]) -> Definition:
    date, status = entry.get("date"), entry.get("status")
    return Definition(
        type=kind,
        patient=tuple(entry.get("patient", ())),
        date=DateParameter(date["name"], _accessor(date["paths"])) if date else None,
        status=TokenParameter("status", Form.CODE, _accessor(status["paths"]), system=status["system"])
        if status
        else None,
        tokens={
            name: TokenParameter(
                name, Form(item["form"]), _accessor(item["paths"]), item.get("system", ""), item.get("contact", "")
            )
            for name, item in entry.get("token", {}).items()
        },
        strings={
            name: StringParameter(name, _accessor(item["paths"]), tuple(item.get("also", ())))
            for name, item in entry.get("string", {}).items()
        },
        references={
            name: ReferenceParameter(name, _accessor(item["paths"]), tuple(item["types"]))
            for name, item in entry.get("reference", {}).items()
        },
    )
