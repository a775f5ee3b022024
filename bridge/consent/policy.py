"""What holds where no Consent speaks: configured by name, with no built-in value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import yaml

from bridge.errors import Incorrect, Where

POLICY_FILE: Final = "consent/policy.yaml"


class DefaultPolicy(StrEnum):
    """What holds for a patient without a Consent on file."""

    PERMIT = "permit"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of a deployment.

    Attributes:
        default: for patients without a Consent on file.
        open_types: types that may be read though they lie in no patient's compartment.
        purposes: known purposes of use → the broader ones that they fall under.
    """

    default: DefaultPolicy
    open_types: frozenset[str]
    purposes: Mapping[str, frozenset[str]]


def load_policy(mappings_root: Path, default: DefaultPolicy) -> Policy:
    """Reads ``consent/policy.yaml`` under the mappings and joins it with the configured default.

    Raises:
        Incorrect: ``consent-policy-malformed``.
    """
    path = mappings_root / POLICY_FILE
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        open_types = frozenset(name for name, word in document["types"].items() if _permits(word))
        unknown = document.keys() - {"types", "purposes"}
        purposes = {name: frozenset(broader) for name, broader in document["purposes"].items()}
    except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError, ValueError):
        raise Incorrect(
            "consent-policy-malformed",
            "the consent policy file is missing or malformed",
            remedy="It has types (type: permit or deny) and purposes (code: list of broader codes).",
            where=Where(str(path), 1, 1),
        ) from None
    if unknown:
        raise Incorrect(
            "consent-policy-malformed",
            "the consent policy file has an unknown key",
            remedy="It has types and purposes only.",
            where=Where(str(path), 1, 1),
        )
    return Policy(default, open_types, purposes)


def _permits(word: str) -> bool:
    return DefaultPolicy(word) is DefaultPolicy.PERMIT
