"""Keys in an environment variable, for platforms that hand secrets to containers that way."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field

from bridge.config.adapters import AdapterSpec
from bridge.errors import Incorrect
from bridge.keys.keyset import KeySet, parse_key_set


class EnvironmentKeysSettings(BaseModel):
    """A key set in an environment variable, for platforms that hand secrets to containers that way."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variable: str = Field(
        default="HIEBRIDGE_KEYS",
        description="Variable that holds the whole key set (JSON).",
        examples=["HIEBRIDGE_KEYS"],
    )


def open_environment_keys(settings: EnvironmentKeysSettings) -> KeySet:
    """The keys in the variable.

    Raises:
        Incorrect: ``keys-variable-missing``, ``key-set-invalid``.
    """
    text = os.environ.get(settings.variable)
    if not text:
        raise Incorrect(
            "keys-variable-missing",
            f"the environment variable {settings.variable} is empty or not set",
            remedy="Set it to the content of a key file.",
        )
    return parse_key_set(text, f"environment variable {settings.variable}")


adapter = AdapterSpec("environment", EnvironmentKeysSettings, open_environment_keys)
