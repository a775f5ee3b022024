"""The matching model: the rules as data (``mappings/matching/*.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bridge.errors import Incorrect

Feature = Literal["evidence", "name", "birth_date", "sex", "phone", "address"]


class _RuleFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[a-z0-9-]+$")
    equal: tuple[Feature, ...] = Field(min_length=1)


class _ModelFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    key_cap: int = Field(ge=2, le=10_000)
    rules: tuple[_RuleFile, ...] = Field(min_length=1)
    conflicts: tuple[Literal["evidence"], ...] = ()
    placeholder_names: frozenset[str] = frozenset()
    placeholder_identifiers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rule:
    """Features that must all be present and equal for a certain link."""

    name: str
    equal: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A compiled matching model.

    Attributes:
        name: recorded with every decision.
        key_cap: a key that more records share is no evidence.
        rules: in order of strength; the first that holds is named as the reason.
        evidence_conflicts: different values of one evidence system forbid a link that rests on no identifier.
        placeholder_names, placeholder_identifiers: normalized values that are no evidence.
    """

    name: str
    key_cap: int
    rules: tuple[Rule, ...]
    evidence_conflicts: bool
    placeholder_names: frozenset[str]
    placeholder_identifiers: frozenset[str]

    @property
    def by_name(self) -> Mapping[str, Rule]:
        """The rules by name."""
        return {rule.name: rule for rule in self.rules}


def load_model(path: Path) -> Model:
    """Reads a model file.

    Raises:
        Incorrect: ``matching-model-invalid``, naming file and element.
    """
    try:
        read = _ModelFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise Incorrect(
            "matching-model-invalid", f"{path.name} cannot be read as YAML ({type(error).__name__})."
        ) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Incorrect(
            "matching-model-invalid", f"{path.name}: {place}: {first['msg']}.", remedy="Correct the file."
        ) from error
    return Model(
        name=read.model,
        key_cap=read.key_cap,
        rules=tuple(Rule(rule.name, rule.equal) for rule in read.rules),
        evidence_conflicts="evidence" in read.conflicts,
        placeholder_names=read.placeholder_names,
        placeholder_identifiers=read.placeholder_identifiers,
    )
