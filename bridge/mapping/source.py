"""YAML of the mapping files, read so that every complaint can name file, line and column.

A mapping file is plain YAML without types of its own: keys are always texts (``NO`` is a country, not a boolean), values are
texts, integers, ``true`` and ``false``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from bridge.errors import Incorrect, Where

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_WORDS: Final[dict[str, bool]] = {"true": True, "false": False}


class Map(dict[str, Any]):
    """A YAML mapping that knows where it and its keys stand."""

    __slots__ = ("keys_at", "where")

    def __init__(self, where: Where) -> None:
        super().__init__()
        self.where = where
        self.keys_at: dict[str, Where] = {}

    def at(self, key: str) -> Where:
        """Where ``key`` stands; the mapping itself if it is not there."""
        return self.keys_at.get(key, self.where)

    def only(self, allowed: Iterable[str], what: str) -> None:
        """Refuses keys that are not ``allowed`` in ``what``."""
        known = set(allowed)
        for key in self:
            if key not in known:
                raise mistake("mapping-key-unknown", f"'{key}' is no key of {what}", self.at(key), known)

    def text(self, key: str, default: str | None = None) -> str:
        """A text value."""
        value = self.get(key, default)
        if not isinstance(value, str):
            raise mistake("mapping-value-invalid", f"'{key}' must be a text", self.at(key))
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """One text or a list of them; empty if absent."""
        value = self.get(key, ())
        values = (value,) if isinstance(value, str) else tuple(value)
        if not all(isinstance(item, str) for item in values):
            raise mistake("mapping-value-invalid", f"'{key}' must be a text or a list of texts", self.at(key))
        return values

    def flag(self, key: str) -> bool:
        """A boolean; False if absent."""
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise mistake("mapping-value-invalid", f"'{key}' must be true or false", self.at(key))
        return value

    def map(self, key: str) -> Map:
        """A mapping; an empty one if absent."""
        value = self.get(key)
        if value is None:
            return Map(self.at(key))
        if not isinstance(value, Map):
            raise mistake("mapping-value-invalid", f"'{key}' must be a mapping", self.at(key))
        return value

    def maps(self) -> Iterator[tuple[str, Map]]:
        """All entries, each of which must be a mapping."""
        for key in self:
            yield key, self.map(key)


def mistake(code: str, message: str, where: Where, known: Iterable[str] = ()) -> Incorrect:
    """A mistake in a mapping file."""
    remedy = f"Known: {', '.join(sorted(known))}." if known else "Correct the mapping file."
    return Incorrect(code, message, remedy=remedy, where=where)


def load(path: Path, name: str) -> Map:
    """Reads one file; ``name`` is how messages call it (relative to the mapping root).

    Raises:
        Incorrect: ``mapping-unreadable`` or ``mapping-value-invalid``.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise Incorrect("mapping-unreadable", f"{name} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = Where(name, mark.line + 1, mark.column + 1) if mark else Where(name, 1, 1)
        raise mistake("mapping-unreadable", "not YAML in UTF-8", where) from error
    value = _value(node, name) if node is not None else None
    if not isinstance(value, Map):
        raise mistake("mapping-value-invalid", "the file must hold one mapping", Where(name, 1, 1))
    return value


def _value(node: yaml.Node, name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        mapping = Map(_where(node, name))
        for key_node, value_node in node.value:
            key = key_node.value
            where = _where(key_node, name)
            if not isinstance(key, str):
                raise mistake("mapping-value-invalid", "a key must be a text", where)
            if key in mapping:
                raise mistake("mapping-key-twice", f"'{key}' stands twice", where)
            mapping.keys_at[key] = where
            mapping[key] = _value(value_node, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, name) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    text = node.value
    if not node.style:
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
    return text


def _where(node: yaml.Node, name: str) -> Where:
    return Where(name, node.start_mark.line + 1, node.start_mark.column + 1)
