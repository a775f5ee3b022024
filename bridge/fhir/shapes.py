"""Whether a resource has the shape that R4 gives its type: texts, numbers and objects where they belong, lists where they may.

No validation: values, cardinalities and elements that R4 does not know are not looked at. What passes can be read by code that
expects each element to hold JSON of its kind (``shapes.yaml``).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

Json = Any

_KINDS: Final[Mapping[str, frozenset[type]]] = {
    "text": frozenset({str}),
    "boolean": frozenset({bool}),
    "number": frozenset({int, float, Decimal}),
    "object": frozenset({dict}),
}


class _Element(NamedTuple):
    repeats: bool
    types: frozenset[type]
    inner: dict[str, _Element] | None  # of an object whose members are known


_Shape = dict[str, _Element]


def misshapen(resource: Mapping[str, Json]) -> str | None:
    """The first element that holds JSON of another kind than R4 gives it, as ``Patient.name.given``.

    Args:
        resource: with its resourceType; as :func:`bridge.fhir.json.loads` answers it.

    Returns:
        A path of R4's own names, so without anything that the sender wrote; None where all is in shape, or where the type is
        none of the stored ones (of which ``meta`` alone is looked at).
    """
    kind = resource["resourceType"]
    shapes = _shapes()
    found = _misshapen(resource, shapes.get(kind) or {"meta": shapes["Patient"]["meta"]})
    return f"{kind}.{found}" if found else None


def _misshapen(value: Mapping[str, Json], shape: _Shape) -> str | None:
    for name, item in value.items():
        element = shape.get(name)
        if element is None:
            continue
        repeats, types, inner = element
        if repeats and type(item) is not list:
            return name
        for one in item if repeats else (item,):
            if type(one) not in types:
                if one is None and repeats and inner is None and dict not in types:
                    continue  # a primitive without a value, which has an extension beside it
                return name
            if inner is not None:
                found = _misshapen(one, inner)
                if found is not None:
                    return f"{name}.{found}"
    return None


@cache
def _shapes() -> Mapping[str, _Shape]:
    read = yaml.safe_load((Path(__file__).parent / "shapes.yaml").read_text(encoding="utf-8"))
    shapes: dict[str, _Shape] = {name: {} for name in read}
    for name, kinds in read.items():
        for told, elements in kinds.items():
            kind = told.strip("[]")
            types, inner = (_KINDS[kind], None) if kind in _KINDS else (_KINDS["object"], shapes[kind])
            shapes[name].update(dict.fromkeys(elements, _Element(told.startswith("["), types, inner)))
    return shapes
