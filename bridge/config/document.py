"""YAML read so that every value knows its place, and the environment laid over it.

YAML 1.1 as PyYAML's safe loader reads it, without merge keys; a key given twice is an error. Values keep their places
in :class:`MarkedDict` and :class:`MarkedList`, a plain ``dict`` and ``list`` for whoever does not ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from bridge.config.problems import Problem, invalid
from bridge.errors import Incorrect, Where

PREFIX: Final = "HIEBRIDGE__"
Loc = tuple[int | str, ...]


class MarkedDict(dict[str, Any]):
    """A mapping that knows where it, its keys and its values stand, and which folder its relative paths start from."""

    __slots__ = ("base", "key_places", "value_places", "where")

    def __init__(self, where: Where, base: Path) -> None:
        super().__init__()
        self.where = where
        self.base = base
        self.key_places: dict[str, Where] = {}
        self.value_places: dict[str, Where] = {}

    def put(self, key: str, value: Any, key_place: Where, value_place: Where) -> None:
        """Sets ``key`` and says where it stands."""
        self[key] = value
        self.key_places[key] = key_place
        self.value_places[key] = value_place

    def without(self, keys: frozenset[str]) -> MarkedDict:
        """A copy that leaves out ``keys`` and still knows where they stand."""
        rest = MarkedDict(self.where, self.base)
        rest.update((key, value) for key, value in self.items() if key not in keys)
        rest.key_places, rest.value_places = self.key_places, self.value_places
        return rest


class MarkedList(list[Any]):
    """A sequence that knows where it and its items stand."""

    __slots__ = ("places", "where")

    def __init__(self, where: Where) -> None:
        super().__init__()
        self.where = where
        self.places: list[Where] = []


def place_of(tree: Any, loc: Loc, *, key: bool = False) -> Where | None:
    """The place of the value at ``loc``, or of the nearest holder that is there.

    Args:
        tree: a marked mapping or list.
        loc: names and numbers from its top; steps that are not there (labels of a union's members) are passed over.
        key: the place of the last step's name instead of its value.
    """
    where: Where | None = getattr(tree, "where", None)
    for index, step in enumerate(loc):
        if isinstance(tree, MarkedDict) and step in tree.key_places:
            name = str(step)
            where = tree.key_places[name] if key and index == len(loc) - 1 else tree.value_places[name]
            tree = tree.get(name)
        elif isinstance(tree, MarkedList) and isinstance(step, int) and step < len(tree):
            where, tree = tree.places[step], tree[step]
    return where


def read_document(path: Path) -> MarkedDict:
    """Reads a YAML file whose top is a mapping; an empty file is an empty one.

    Raises:
        ConfigurationInvalid: the file cannot be read, is not UTF-8 or YAML, or gives keys twice; every problem is listed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Incorrect(
            "configuration-missing",
            f"{path} cannot be read ({type(error).__name__})",
            remedy="Name a readable file with --config or HIEBRIDGE_CONFIG.",
        ) from None
    except UnicodeDecodeError:
        raise invalid(
            [Problem("configuration-syntax", "the file is not UTF-8", where=Where(str(path), 1, 1))]
        ) from None
    return parse_document(text, str(path), path.parent)


def parse_document(text: str, file: str, base: Path) -> MarkedDict:
    """As :func:`read_document`, from a text.

    Args:
        text: the YAML.
        file: name for places.
        base: folder that relative paths start from.
    """
    reader = _Reader(file, base)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        tree = MarkedDict(Where(file, 1, 1), base) if node is None else reader.read(loader, node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Where(file, mark.line + 1, mark.column + 1) if mark else Where(file, 1, 1)
        raise invalid(
            [Problem("configuration-syntax", f"not YAML: {error.problem or error.context}", where=where)]
        ) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = Where(file, before.count("\n") + 1, error.position - before.rfind("\n"))
        raise invalid([Problem("configuration-syntax", "a character that YAML does not allow", where=where)]) from None
    if not isinstance(tree, MarkedDict):
        reader.problems.append(
            Problem("configuration-syntax", "the file does not hold settings by name", where=Where(file, 1, 1))
        )
    if reader.problems:
        raise invalid(reader.problems)
    assert isinstance(tree, MarkedDict)
    return tree


class _Reader:
    """Turns YAML nodes into values with places; gathers problems and goes on."""

    def __init__(self, file: str, base: Path) -> None:
        self.file = file
        self.base = base
        self.problems: list[Problem] = []
        self._open: set[int] = set()

    def read(self, loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        if id(node) in self._open:
            self._report(node, "an alias stands inside what it names")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(loader, node)
            if isinstance(node, yaml.SequenceNode):
                items = MarkedList(self._where(node))
                for item in node.value:
                    items.append(self.read(loader, item))
                    items.places.append(self._where(item))
                return items
            return self._scalar(loader, node)
        finally:
            self._open.discard(id(node))

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode) -> MarkedDict:
        found = MarkedDict(self._where(node), self.base)
        for key_node, value_node in node.value:
            key = self._scalar(loader, key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self._report(key_node, "a setting's name is not a text; quote it")
            elif key in found:
                self._report(key_node, f"{key} is given twice; first in line {found.key_places[key].line}")
            else:
                found.put(key, self.read(loader, value_node), self._where(key_node), self._where(value_node))
        return found

    def _scalar(self, loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        try:
            return loader.construct_object(node)
        except (yaml.constructor.ConstructorError, ValueError):
            self._report(node, f"a value of the kind {node.tag.removeprefix('tag:yaml.org,2002:')} is not known here")
            return None

    def _where(self, node: yaml.Node) -> Where:
        return Where(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _report(self, node: yaml.Node, text: str) -> None:
        self.problems.append(Problem("configuration-syntax", text, where=self._where(node)))


def overlay_environment(tree: MarkedDict, environ: Mapping[str, str]) -> list[Problem]:
    """Lays variables like ``HIEBRIDGE__STORE__URL`` over ``tree``, in place.

    Each part between double underscores is a setting's name in any case; in a list, the ``name`` of an item or its number
    from 0. A value that starts with ``{``, ``[`` or a quote is read as YAML, any other is the text itself.

    Returns:
        What is wrong with the variables.
    """
    problems: list[Problem] = []
    for variable in sorted(name for name in environ if name.upper().startswith(PREFIX)):
        where = Where(variable, 1, 1)
        steps = variable[len(PREFIX) :].lower().split("__")
        if not all(steps):
            problems.append(Problem("environment-invalid", "a part of the variable's name is empty", where=where))
            continue
        try:
            value = _environment_value(environ[variable], variable, tree.base)
        except Incorrect as error:
            problems.append(Problem("environment-invalid", "the value is not YAML: " + error.message, where=where))
            continue
        problem = _put(tree, steps, value, where)
        if problem:
            problems.append(Problem("environment-invalid", problem, where=where))
    return problems


def _environment_value(text: str, variable: str, base: Path) -> Any:
    if not text.startswith(("{", "[", '"', "'")):
        return text
    return parse_document(f"value: {text}", variable, base)["value"]


def _put(tree: MarkedDict, steps: list[str], value: Any, where: Where) -> str | None:
    holder: Any = tree
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        if isinstance(holder, MarkedDict):
            key = next((key for key in holder if _plain(key) == _plain(step)), step)
            if last or not isinstance(holder.get(key), (MarkedDict, MarkedList)):
                below = value if last else MarkedDict(where, tree.base)
                holder.put(key, below, where, where)
            holder = holder[key]
            continue
        number = _item(holder, step)
        if number is None:
            names = ", ".join(_names(holder)) or "none has a name"
            return f"{step} is no item of the list; write its name ({names}) or its number from 0"
        if last or not isinstance(holder[number], (MarkedDict, MarkedList)):
            holder[number] = value if last else MarkedDict(where, tree.base)
            holder.places[number] = where
        holder = holder[number]
    return None


def _item(items: MarkedList, step: str) -> int | None:
    for index, item in enumerate(items):
        if isinstance(item, dict) and isinstance(item.get("name"), str) and _plain(item["name"]) == _plain(step):
            return index
    return int(step) if re.fullmatch(r"[0-9]{1,6}", step) and int(step) < len(items) else None


def _names(items: MarkedList) -> Iterator[str]:
    return (item["name"] for item in items if isinstance(item, dict) and isinstance(item.get("name"), str))


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
