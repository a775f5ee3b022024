"""Writes ``bridge/fhir/elements.tsv`` from the models of ``fhir.resources``: ``python -m tools.fhir_elements``.

The models are those of R4B (4.3); types that R4B added or remade against R4 are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from fhir.resources import R4B
from pydantic import BaseModel

TARGET: Final = Path(__file__).resolve().parent.parent / "bridge" / "fhir" / "elements.tsv"
HEAD: Final = """\
# The elements of the types of FHIR R4, for checks of mappings; made by tools/fhir_elements.py from the models of fhir.resources.
# A line a type: its name, then its elements in order as name:type, with * where it repeats, ! where it must be there, and in
# parentheses the codes that a required binding allows. A choice of types stands as each of its forms.
"""
# R4B remade these, or has them where R4 has none (FHIR R4B, "Differences from R4").
NOT_R4: Final = re.compile(
    r"(AdministrableProductDefinition|CatalogEntry|Citation|ClinicalUseDefinition|Evidence|EvidenceReport|EvidenceVariable|Ingredient"
    r"|ManufacturedItemDefinition|MedicinalProduct|NutritionProduct|PackagedProductDefinition|RegulatedAuthorization|SubscriptionStatus"
    r"|SubscriptionTopic|SubstanceDefinition|CodeableReference|RatioRange).*"
)
_CODE: Final = re.compile(r"[A-Za-z0-9<>=!.+-]+(?:[A-Za-z0-9_/.-])*")
_PRIMITIVES: Final = {
    "str": "string",
    "bool": "boolean",
    "int": "integer",
    "EncodedBytes": "base64Binary",
    "UuidVersion": "uuid",
}


def types() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every type that has elements, by its name in the models (``PatientContact`` for ``Patient.contact``)."""
    folder = Path(R4B.__file__).parent
    found: dict[str, type[BaseModel]] = {}
    for path in sorted(folder.glob("[a-z]*.py")):
        if path.stem in ("fhirtypes", "graphql"):
            continue
        module = import_module(f"{R4B.__name__}.{path.stem}")
        found |= {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == module.__name__
        }
    yield from sorted((name, value) for name, value in found.items() if not NOT_R4.fullmatch(name))


def line(name: str, model: type[BaseModel]) -> str:
    """One line of the file."""
    elements = [_element(field) for field in model.model_fields.values() if _is_element(field)]
    elements = [element for element in elements if not NOT_R4.match(element.partition(":")[2])]
    return "\t".join([name, *elements])


def page() -> str:
    """The whole file."""
    return HEAD + "".join(f"{line(name, model)}\n" for name, model in types())


def _is_element(field: Any) -> bool:
    extra = field.json_schema_extra or {}
    return bool(extra.get("element_property")) and not (field.alias or "").startswith("_")


def _element(field: Any) -> str:
    extra = field.json_schema_extra
    kind, repeats = _kind(field.annotation)
    text = f"{field.alias}:{kind}{'*' if repeats else ''}"
    if field.is_required() or extra.get("element_required"):
        text += "!"
    codes = extra.get("enum_values") or []
    title = f"{field.title or ''}"
    if kind == "code" and codes and "+" not in title and all(_CODE.fullmatch(code) for code in codes):
        text += f"({' '.join(codes)})"
    return text


def _kind(annotation: Any) -> tuple[str, bool]:
    """The name of a type as FHIR has it, and whether the element is a list."""
    arguments = [one for one in get_args(annotation) if one is not type(None)]
    if get_origin(annotation) is list:
        return _kind(arguments[0])[0], True
    marks = getattr(annotation, "__metadata__", ())
    if marks:
        name = (marks[0] if isinstance(marks[0], type) else type(marks[0])).__name__
        return _PRIMITIVES.get(name) or f"{name[0].lower()}{name[1:]}", False
    if arguments:
        return _kind(arguments[0])
    name = annotation.__name__
    return _PRIMITIVES.get(name) or name.removesuffix("Type"), False


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="ascii")
