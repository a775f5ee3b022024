"""Loads the mapping files of a root directory and its overlays, and compiles them once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bridge.errors import Incorrect
from bridge.mapping.compiler import Compiler, TypeMap
from bridge.mapping.messages import Event, MessageMap, SegmentMaps, compile_message, compile_segment
from bridge.mapping.resources import compile_resource
from bridge.mapping.source import Map, load, mistake
from bridge.mapping.tables import CodingSystems, Table, read_systems, read_table

_HL7V2: Final = "hl7v2"
_GUIDE: Final = "guide/"
_CODING_SYSTEMS: Final = "coding-systems"
_TYPE_KEYS: Final = ("datatype", "maps", "source")


class Rules(NamedTuple):
    """Compiled mappings; immutable, shared by all conversions of a process.

    Attributes:
        events: what to do for each trigger event, by its name (``ADT^A01``).
        segments: segment maps by segment name.
        tables: vocabulary maps by name.
    """

    events: Mapping[str, tuple[MessageMap, Event]]
    segments: Mapping[str, SegmentMaps]
    tables: Mapping[str, Table]


def load_rules(root: Path, overlays: Sequence[Path] = (), *, watched: Callable[[Table], Table] | None = None) -> Rules:
    """Reads and compiles the mapping files under ``root``.

    A file of the same path in an overlay directory takes the place of the root's; the first overlay that has it wins.

    Args:
        root: the directory that holds ``hl7v2/``.
        overlays: directories of the same form, searched first.
        watched: what stands in for each table, for whoever counts the codes that none knows.

    Raises:
        Incorrect: a code beginning with ``mapping-``, with file, line and column of the mistake.
    """
    files = mapping_files(root, overlays)
    if not files["messages"]:
        raise Incorrect(
            "mapping-root-empty", "the mapping directory holds no messages", remedy="Name the directory that does."
        )
    systems = CodingSystems({})
    tables: dict[str, Table] = {}
    for name, path in files["tables"].items():
        source = load(path, file_label("tables", name))
        if name == _CODING_SYSTEMS:
            systems = read_systems(source)
        else:
            table = read_table(source)
            if table.name in tables:
                raise mistake("mapping-table-twice", f"two files hold the table {table.name}", source.at("table"))
            tables[table.name] = watched(table) if watched is not None else table
    compiler = Compiler(_types(files["datatypes"]), tables, systems, compile_resource)
    segments: dict[str, SegmentMaps] = {}
    for name, path in files["segments"].items():
        file = file_label("segments", name)
        source = load(path, file)
        maps = compile_segment(compiler, source, file)
        segments[maps.name] = _together(segments[maps.name], maps, source) if maps.name in segments else maps
    events: dict[str, tuple[MessageMap, Event]] = {}
    sources = {name: load(path, f"messages/{name}.yaml") for name, path in files["messages"].items()}
    for name, source in sources.items():
        message = compile_message(compiler, source, f"messages/{name}.yaml", segments, _like(source, sources))
        for event in message.events.values():
            if event.name in events:
                where = source.map("events").at(event.name)
                raise mistake("mapping-event-twice", f"two messages map {event.name}", where)
            events[event.name] = (message, event)
    return Rules(events, segments, tables)


def mapping_files(root: Path, overlays: Sequence[Path] = ()) -> dict[str, dict[str, Path]]:
    """The files of each kind by name; what was made from the official guide has names that begin with ``guide/``.

    An overlay's file takes the place of the file of the same path; its table also that of the guide's table of the same name.
    """
    found: dict[str, dict[str, Path]] = {kind: {} for kind in ("messages", "segments", "datatypes", "tables")}
    for base in (root, *reversed(overlays)):
        for path in (base / _HL7V2 / "tables").glob("*.yaml"):
            found["tables"].pop(_GUIDE + path.stem, None)
        for kind, files in found.items():
            for prefix in (_GUIDE, ""):
                for path in sorted((base / _HL7V2 / prefix / kind).glob("*.yaml")):
                    files[prefix + path.name.removesuffix(".yaml")] = path
    return found


def file_label(kind: str, name: str) -> str:
    """What messages call a file: its path below ``hl7v2``."""
    prefix, _, stem = name.rpartition("/")
    return f"{prefix}/{kind}/{stem}.yaml" if prefix else f"{kind}/{stem}.yaml"


def _together(known: SegmentMaps, more: SegmentMaps, source: Map) -> SegmentMaps:
    """The maps of one segment from two files."""
    for name in more.maps:
        if name in known.maps:
            raise mistake("mapping-map-twice", f"two files map {name}", source.map("maps").where)
    return SegmentMaps(known.name, {**known.maps, **more.maps}, {**known.drops, **more.drops})


def _types(files: Mapping[str, Path]) -> dict[str, TypeMap]:
    types: dict[str, TypeMap] = {}
    for name, path in files.items():
        file = file_label("datatypes", name)
        source = load(path, file)
        source.only(_TYPE_KEYS, "a data type")
        owner = source.text("datatype")
        for target, entry in source.map("maps").maps():
            full = f"{owner}.{target}"
            if full in types:
                raise mistake("mapping-map-twice", f"two files map {full}", entry.where)
            types[full] = TypeMap(full, owner, file, entry)
    return types


def _like(source: Map, sources: Mapping[str, Map]) -> tuple[Map, ...]:
    """The messages that another is like, the first of them counting most."""
    for name in source.texts("like"):
        if name not in sources:
            raise mistake("mapping-like-unknown", f"there is no message '{name}'", source.at("like"), sources)
    return tuple(sources[name] for name in source.texts("like"))
