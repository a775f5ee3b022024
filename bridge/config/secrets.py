"""Secrets by reference: the configuration says where one is kept, never what it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from bridge.errors import Incorrect


class SecretRef(BaseModel):
    """Where a secret is kept: ``{file: PATH}`` or ``{env: NAME}``. Read late, each time; never printed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path | None = Field(
        default=None, description="File that holds the secret; one line end at its end is cut off."
    )
    env: str | None = Field(default=None, description="Environment variable that holds the secret.", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _by_reference(cls, value: Any) -> Any:
        if isinstance(value, (str, int, float, bytes)):
            raise PydanticCustomError(
                "secret-literal",
                "a secret stands here itself; write where it is kept, {file: PATH} or {env: NAME}, and change the secret",
            )
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretRef:
        if (self.file is None) == (self.env is None):
            raise PydanticCustomError("secret-reference", "give exactly one of {file: PATH} and {env: NAME}")
        return self

    def resolve(self) -> str:
        """The secret itself, read now, so that a rotated one is seen; hand it to its user and keep it nowhere.

        Raises:
            Incorrect: ``secret-missing``; names the file or variable.
        """
        if self.env is not None:
            value = os.environ.get(self.env, "")
            place = f"the environment variable {self.env}"
        else:
            assert self.file is not None
            place = f"the file {self.file}"
            try:
                value = self.file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
            except (OSError, UnicodeDecodeError) as error:
                raise Incorrect(
                    "secret-missing", f"{place}, which should hold a secret, cannot be read ({type(error).__name__})"
                ) from None
        if not value:
            raise Incorrect("secret-missing", f"{place}, which should hold a secret, is empty or not there")
        return value
