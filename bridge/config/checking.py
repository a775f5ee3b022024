"""Marked trees against pydantic models: every problem with its place, unknown names with the nearest known one."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bridge.config.document import Loc, MarkedDict, place_of
from bridge.config.problems import Problem, invalid

M = TypeVar("M", bound=BaseModel)
_PLAIN: Final = {"missing": "setting-missing", "extra_forbidden": "setting-unknown"}


def check(
    model: type[M], tree: MarkedDict, *, prefix: str = "", missing: Mapping[Loc, tuple[str, str]] | None = None
) -> M:
    """Validates ``tree``; relative paths in the answer start from the folder of the file that gave them.

    Args:
        model: the typed settings.
        tree: what the file and the environment say.
        prefix: dotted path of ``tree`` in the whole configuration.
        missing: code and remedy for required settings that deserve their own, by location.

    Raises:
        ConfigurationInvalid: lists every problem.
    """
    checked, problems = try_check(model, tree, prefix=prefix, missing=missing)
    if checked is None:
        raise invalid(problems)
    return checked


def try_check(
    model: type[M], tree: MarkedDict, *, prefix: str = "", missing: Mapping[Loc, tuple[str, str]] | None = None
) -> tuple[M | None, list[Problem]]:
    """As :func:`check`, for callers that gather problems from several places."""
    try:
        checked = model.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        return None, [_problem(model, tree, detail, prefix, missing or {}) for detail in details]
    return _anchored(checked, tree.base), []


def _problem(
    model: type[BaseModel], tree: MarkedDict, detail: ErrorDetails, prefix: str, missing: Mapping[Loc, tuple[str, str]]
) -> Problem:
    loc = detail["loc"]
    kind = detail["type"]
    where = place_of(tree, loc, key=kind == "extra_forbidden")
    path = prefix + dotted(loc, leading=not prefix)
    if kind == "missing":
        code, remedy = missing.get(loc, (_PLAIN[kind], ""))
        return Problem(code, "the setting is required and not there", remedy, where, path)
    if kind == "extra_forbidden":
        known = settings_at(model, loc[:-1])
        near = get_close_matches(str(loc[-1]), known, n=1, cutoff=0.6)
        remedy = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(sorted(known)) or 'none'}."
        return Problem(_PLAIN[kind], "there is no such setting", remedy, where, path)
    text = detail["msg"].removeprefix("Value error, ")
    return Problem(kind if "-" in kind else "setting-invalid", text[:1].lower() + text[1:], "", where, path)


def dotted(loc: Loc, *, leading: bool = True) -> str:
    """``("sources", 0, "topic")`` as ``sources[0].topic``; with ``leading`` false, ready to follow a prefix."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return text.removeprefix(".") if leading else text


def settings_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """Names of the settings that the model knows at ``loc``; empty where names are free."""
    annotation: Any = model
    for step in loc:
        annotation = _below(annotation, step)
    found = _model_in(annotation)
    return list(found.model_fields) if found else []


def _below(annotation: Any, step: int | str) -> Any:
    found = _model_in(annotation)
    if found is not None:
        field = found.model_fields.get(str(step))
        return field.annotation if field else None
    for part in _parts(annotation):
        arguments = typing.get_args(part)
        if arguments:
            return arguments[-1] if isinstance(step, str) else arguments[0]
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    return next((part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Members of a union, or the annotation alone; ``None`` left out."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _parts(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(part for member in typing.get_args(annotation) for part in _parts(member))
    return () if annotation is type(None) else (annotation,)


def _anchored(value: Any, base: Path) -> Any:
    """``value`` with every relative path in it taken from ``base``; unchanged parts are the same objects."""
    if isinstance(value, Path):
        return base / value
    if isinstance(value, BaseModel):
        old = {name: getattr(value, name) for name in type(value).model_fields}
        new = {name: _anchored(item, base) for name, item in old.items()}
        changed = {name: new[name] for name in new if new[name] is not old[name]}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        items = [_anchored(item, base) for item in value]
        return type(value)(items) if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value
