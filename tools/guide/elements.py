"""What FHIR R4 says of an element: whether it is a list, and of which type. Read from the models that tests validate with."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final, NamedTuple

from fhir.resources.R4B import get_fhir_model_class

_COMPLEX: Final = re.compile(r"abc\.(\w+)Type")
_PRIMITIVE: Final = re.compile(r"(\w+)\([^()]*(?:\([^()]*\))?[^()]*\)\]")


class Element(NamedTuple):
    """An element of a type.

    Attributes:
        type: its type as FHIR names it (``CodeableConcept``, ``dateTime``); of a backbone element the model's name.
        listed: it may repeat.
    """

    type: str
    listed: bool


@cache
def _model(name: str) -> Any:
    return get_fhir_model_class(name)


@cache
def element(owner: str, name: str) -> Element | None:
    """The element ``name`` of the type ``owner``; None if R4 has none."""
    try:
        fields = _model(owner).model_fields
    except ValueError:  # a primitive
        return None
    field = next((field for key, field in fields.items() if (field.alias or key) == name), None)
    if field is None:
        return None
    text = str(field.annotation)
    listed = "List[" in text
    complex_type = _COMPLEX.search(text)
    if complex_type is not None:
        return Element(complex_type[1], listed)
    found = _PRIMITIVE.findall(text)
    primitive = found[-1] if found else ("boolean" if "bool" in text else "decimal")
    return Element(primitive[0].lower() + primitive[1:], listed)
