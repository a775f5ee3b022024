"""A part of the configuration whose model lives on a higher floor or in an adapter: kept raw, checked later, places kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from bridge.config.checking import check, try_check
from bridge.config.document import Loc, MarkedDict, place_of
from bridge.config.problems import Problem
from bridge.errors import Where

M = TypeVar("M", bound=BaseModel)


class Section:
    """Settings by name, not yet checked.

    The composition root calls :meth:`check` with the model of the room or adapter they are for; errors then carry the
    same ``file:line:column`` as any other. Printing shows names only.

    Attributes:
        data: the values as the file and the environment give them.
    """

    __slots__ = ("data",)

    def __init__(self, data: MarkedDict | None = None) -> None:
        self.data = data if data is not None else MarkedDict(Where("built-in", 1, 1), Path())

    def check(self, model: type[M], path: str = "") -> M:
        """The typed settings.

        Args:
            model: pydantic model that forbids extra settings.
            path: dotted path of this section, for error texts.

        Raises:
            ConfigurationInvalid: lists every problem.
        """
        return check(model, self.data, prefix=path)

    def problems(self, model: type[BaseModel], path: str = "") -> list[Problem]:
        """What :meth:`check` would complain of."""
        return try_check(model, self.data, prefix=path)[1]

    def place(self, *loc: int | str) -> Where | None:
        """Where the value at ``loc`` stands; of the section itself without arguments."""
        found: Loc = loc
        return place_of(self.data, found)

    def __repr__(self) -> str:
        return f"Section({', '.join(self.data)})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def build(value: Any) -> Section:
            if isinstance(value, Section):
                return value
            if isinstance(value, MarkedDict):
                return cls(value)
            raise PydanticCustomError("setting-invalid", "settings by name should stand here")

        return core_schema.no_info_plain_validator_function(
            build, serialization=core_schema.plain_serializer_function_ser_schema(lambda section: dict(section.data))
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "object"}
