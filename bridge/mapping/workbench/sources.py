"""The mapping files as they are written, each with its place: what checks read beside the compiled rules."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge.errors import Incorrect, Where
from bridge.mapping.rules import file_label, mapping_files
from bridge.mapping.source import Map, load
from bridge.mapping.workbench.findings import Finding

Json = Any


class Source(NamedTuple):
    """One file.

    Attributes:
        kind: ``messages``, ``segments``, ``datatypes`` or ``tables``.
        label: what the compiler calls it: ``segments/PID.yaml``.
        path: where it is.
        content: what it holds; places in it name ``path``.
    """

    kind: str
    label: str
    path: Path
    content: Map


class Sources(NamedTuple):
    """All files of a set of mappings, and what keeps some from being read."""

    files: tuple[Source, ...]
    problems: tuple[Finding, ...]

    def of(self, kind: str) -> Iterator[Source]:
        """The files of one kind."""
        return (source for source in self.files if source.kind == kind)


def read_sources(root: Path, overlays: Sequence[Path] = ()) -> Sources:
    """Every file that :func:`bridge.mapping.rules.load_rules` would take."""
    found: list[Source] = []
    problems: list[Finding] = []
    for kind, files in mapping_files(root, overlays).items():
        for name, path in files.items():
            try:
                found.append(Source(kind, file_label(kind, name), path, load(path, shown(path))))
            except Incorrect as error:
                problems.append(Finding.at(error.where or Where(shown(path), 1, 1), error.code, error.message))
    return Sources(tuple(found), tuple(problems))


def shown(path: Path) -> str:
    """A path as reports name it: from the current folder where that is above it."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return os.fspath(path)


def scalars(value: Json) -> Iterator[str]:
    """Every text in a value, at any depth."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from scalars(item)
    elif isinstance(value, list):
        for item in value:
            yield from scalars(item)
    elif isinstance(value, str):
        yield value


def keyed(value: Json, key: str) -> Iterator[str]:
    """Every text that stands under ``key``, at any depth."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name == key and isinstance(item, str):
                yield item
            else:
                yield from keyed(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from keyed(item, key)
