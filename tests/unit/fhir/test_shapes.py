"""The shape of FHIR JSON: what R4's tables say of each element, and where a resource departs from it."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import Any

import pytest
from fhir.resources import R4B

from bridge.fhir.search.definitions import definitions
from bridge.fhir.shapes import _KINDS, _shapes, misshapen


@cache
def modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(R4B.__path__)]


def model(name: str) -> Any:
    """The model of a type or of an element within a type, by its name."""
    homes = (module for module in modules() if name.lower().startswith(module))
    return next(found for home in homes if (found := getattr(import_module(f"{R4B.__name__}.{home}"), name, None)))


def test_every_stored_type_has_a_shape() -> None:
    """What is stored is checked."""
    assert _shapes().keys() >= definitions().keys()


@pytest.mark.parametrize("name", _shapes())
def test_elements_repeat_and_hold_what_the_models_say(name: str) -> None:
    """fhir.resources knows each of them, by the same kind; and none of its elements is left out (R4B = R4 for these types)."""
    fields = {field.alias: str(field.annotation) for field in model(name).model_fields.values()}
    told = _shapes()[name]

    left_out = {"id", "fhir_comments", "resourceType", "resource_type"}
    assert {alias for alias in fields if not alias.startswith("_")} - told.keys() <= left_out
    for element, (repeats, types, inner) in told.items():
        assert repeats == ("List[" in fields[element]), element
        assert (types == _KINDS["object"]) == ("abc." in fields[element]), element
        assert inner is None or types == _KINDS["object"], element


@pytest.mark.parametrize(
    ("elements", "path"),
    [
        ({"name": "Ash"}, "Patient.name"),
        ({"name": ["Ash"]}, "Patient.name"),
        ({"name": [{"given": "Ida"}]}, "Patient.name.given"),
        ({"name": [{"family": 5}]}, "Patient.name.family"),
        ({"active": 1}, "Patient.active"),
        ({"multipleBirthInteger": True}, "Patient.multipleBirthInteger"),
        ({"identifier": [{"value": "1"}, {"type": {"coding": [{"code": 5}]}}]}, "Patient.identifier.type.coding.code"),
        ({"identifier": [None]}, "Patient.identifier"),
        ({"meta": "x"}, "Patient.meta"),
        ({"birthDate": None}, "Patient.birthDate"),
    ],
)
def test_what_is_out_of_shape_is_named_by_its_path(elements: dict[str, Any], path: str) -> None:
    """R4's names alone: neither values nor positions."""
    assert misshapen({"resourceType": "Patient", "id": "p", **elements}) == path


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Patient", "name": [{"given": [None, "Ida"], "_given": [{"id": "g"}, None]}]},
        {"resourceType": "Patient", "nickname": 5, "contained": [{"resourceType": "Basic", "id": 5}]},
        {"resourceType": "Observation", "valueQuantity": {"value": 4}, "extension": [{"url": "u", "valueInteger": 1}]},
        {"resourceType": "Basic", "code": 5, "meta": {"tag": [{"code": "x"}]}},
    ],
    ids=["primitives-without-value", "unknown-and-contained", "number", "type-not-stored"],
)
def test_what_is_in_shape_passes(resource: dict[str, Any]) -> None:
    """An element that is not known here, or may hold anything, is nobody's mistake."""
    assert misshapen(resource) is None


def test_meta_is_looked_at_in_every_type() -> None:
    """Version and time of any resource are read before its type is known to be stored."""
    assert misshapen({"resourceType": "Basic", "meta": {"lastUpdated": 5}}) == "Basic.meta.lastUpdated"
