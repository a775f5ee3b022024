"""Checks mapping files beyond what the compiler refuses: what can't be read or written, and what does nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bridge.errors import Incorrect, Where
from bridge.fhir.elements import elements
from bridge.mapping.conditions import Scope, parse_reference
from bridge.mapping.objects import Path as ElementPath
from bridge.mapping.objects import parse_path, plain
from bridge.mapping.primitives import PRIMITIVES
from bridge.mapping.rules import Rules, load_rules
from bridge.mapping.source import Map
from bridge.mapping.workbench.findings import Finding
from bridge.mapping.workbench.reading import never_true, references_in, unknown_source
from bridge.mapping.workbench.sources import Source, Sources, keyed, read_sources, scalars, shown
from bridge.mapping.workbench.targets import Complaint, Place, constant, resolve

Json = Any

_STATED: Final = ("value", "progress", "reset")
_WHOLE: Final = frozenset({"whole", "text-field", "string", "nothing"})  # make something of any text
_CODING_SYSTEMS: Final = "coding-systems"


def lint(root: Path, overlays: Sequence[Path] = ()) -> list[Finding]:
    """What is wrong, or of no use, in a set of mapping files; sorted by place.

    Of files that do not compile, what the compiler says stands first, and what needs compiled rules is left out.

    Args:
        root: the directory that holds ``hl7v2/``.
        overlays: directories of the same form, searched first.
    """
    sources = read_sources(root, overlays)
    findings = [*sources.problems]
    rules: Rules | None = None
    if not findings:
        try:
            rules = load_rules(root, overlays)
        except Incorrect as error:
            findings.append(_refused(error, sources))
    checker = _Checker(sources, rules)
    findings += checker.findings()
    return sorted(set(findings))


def _refused(error: Incorrect, sources: Sources) -> Finding:
    where = error.where or Where(".", 1, 1)
    paths = {source.label: shown(source.path) for source in sources.files}
    remedy = f" {error.remedy}" if error.remedy.startswith("Known") else ""
    return Finding(
        paths.get(where.file, where.file), where.line, where.column, error.code, f"{error.message}.{remedy}".rstrip()
    )


class _Checker:
    """Walks over all files once, and over data types again where only their use tells what they make."""

    def __init__(self, sources: Sources, rules: Rules | None) -> None:
        self._sources = sources
        self._rules = rules
        self._found: list[Finding] = []
        self._types: dict[str, tuple[Source, Map]] = {
            f"{source.content.get('datatype', '')}.{name}": (source, entry)
            for source in sources.of("datatypes")
            for name, entry in _maps(source.content, "maps")
        }
        self._tables: dict[str, Map] = {
            str(source.content.get("table", "")): source.content for source in sources.of("tables")
        }
        self._checked: set[tuple[str, str]] = set()  # data type maps, and what they were checked to make

    def findings(self) -> list[Finding]:
        made = self._made_by_maps()
        for source in self._sources.of("segments"):
            segment = str(source.content.get("segment", ""))
            for name, entry in _maps(source.content, "maps"):
                kinds = made.get(f"{segment}.{name}", set())
                self._segment_map(segment, name, entry, kinds)
                if self._rules is not None and not kinds:
                    self._find(source.content.map("maps").at(name), "map-unused", f"nothing uses {segment}.{name}")
        for source in self._sources.of("messages"):
            self._message(source)
        for name, (_, entry) in self._types.items():
            if "resource" in entry:
                self._type(name, str(entry["resource"]))
        for name in self._types.keys() - {name for name, _ in self._checked}:
            self._type(name, "")  # used where what R4 has is not known, or nowhere
        self._unused()
        return self._found

    def _find(self, where: Where, code: str, message: str) -> None:
        self._found.append(Finding.at(where, code, message))

    def _complain(self, where: Where, complaints: Iterator[Complaint] | Sequence[Complaint]) -> None:
        for code, message in complaints:
            self._find(where, code, message)

    # what maps make

    def _made_by_maps(self) -> dict[str, set[str]]:
        """The types of resources that segment maps write, by the messages that use them."""
        made: dict[str, set[str]] = {}
        for message, _ in self._rules.events.values() if self._rules is not None else ():
            kinds = {slot.name: slot.resource_type for slot in message.slots}
            for uses in message.uses.values():
                for use in uses:
                    made.setdefault(use.map.name, set()).add(kinds[use.slot])
        return made

    def _segment_map(self, segment: str, name: str, entry: Map, kinds: set[str]) -> None:
        scope = Scope(segment, 0)
        element = entry.get("element")
        for kind in sorted(kinds) or ([name] if name in elements() else [""]):
            start = kind
            if isinstance(element, str):
                place, complaints = resolve(kind, parse_path(element, entry.at("element")))
                self._complain(entry.at("element"), complaints)
                start = "" if entry.get("items") else place.kind
            self._rule_set(entry, scope, start)

    def _type(self, name: str, kind: str) -> None:
        """Checks a map of a data type as one that makes ``kind``."""
        if (name, kind) in self._checked or name not in self._types:
            return
        self._checked.add((name, kind))
        source, entry = self._types[name]
        self._rule_set(entry, Scope(str(source.content.get("datatype")), 1), kind)

    # rules

    def _rule_set(self, entry: Map, scope: Scope, kind: str) -> None:
        decided: dict[str, str] = {}  # paths that a rule always fills, by that rule
        told: dict[tuple[str, str], str] = {}  # what reads and writes the same without a condition
        for name, rule in _maps(entry, "rules"):
            self._rule(rule, scope, kind)
            path = rule.get("to")
            if not isinstance(path, str) or path.endswith("[]"):
                continue
            if path in decided:
                self._find(rule.where, "rule-unreachable", f"{decided[path]} always fills {path} before {name}")
            if "when" in rule:
                continue
            if "value" in rule:
                decided.setdefault(path, name)
            elif "from" in rule and "choose" not in rule:
                key = (path, repr([plain(rule.get(part)) for part in ("from", "as", "table", "within")]))
                if key in told:
                    self._find(rule.where, "rule-unreachable", f"{told[key]} does the same before {name}")
                told.setdefault(key, name)

    def _rule(self, rule: Map, scope: Scope, kind: str) -> None:
        self._reads(rule, scope)
        if not isinstance(rule.get("to"), str):
            return
        path = parse_path(rule["to"], rule.at("to"))
        place = self._target(rule, kind, path)
        if "choose" in rule:
            self._choices(rule, scope, kind, path)
        elif "value" in rule:
            self._complain(rule.at("value"), constant(place, plain(rule["value"]), _told(kind, path)))
        else:
            self._written(rule, place, _told(kind, path))
        for target, added in _maps(rule, "add"):
            self._reads(added, scope)
            if place.kind and not target.startswith("*"):
                self._target(added, place.kind, parse_path(target, added.where), added.where)

    def _target(self, rule: Map, kind: str, path: ElementPath, where: Where | None = None) -> Place:
        if not kind:
            return Place("")
        place, complaints = resolve(kind, path)
        self._complain(where or rule.at("to"), complaints)
        return place

    def _choices(self, rule: Map, scope: Scope, kind: str, path: ElementPath) -> None:
        owner_path = path[:-1]
        listed = path[-1].label == ""
        owner = resolve(kind, path if listed else owner_path)[0].kind if kind else ""
        for name, value in rule.map("choose").items():
            always = False
            for choice in value if isinstance(value, list) else [value]:
                if not isinstance(choice, Map) or not isinstance(choice.get("to"), str):
                    continue
                if always:
                    self._find(choice.where, "rule-unreachable", f"a choice before it takes every {name}")
                always = always or ("when" not in choice and choice.get("as", "string") in _WHOLE)
                place = self._target(choice, owner, parse_path(choice["to"], choice.at("to")))
                self._written(choice, place, f"{owner}.{choice['to']}")
                if "when" in choice:
                    self._condition(choice, Scope(name.split()[0], 1 if scope.level == 0 else 2))

    def _written(self, rule: Map, place: Place, told: str) -> None:
        """What a rule makes of what it reads, against what R4 has there."""
        where = rule.at("as") if "as" in rule else rule.at("to")
        name = rule.get("as", "string")
        if "within" in rule:
            hole: list[Place] = []
            inner = place._replace(listed=False)
            self._complain(rule.at("within"), constant(inner, plain(rule["within"]), told, hole))
            place = hole[0] if hole else Place("")
        if not place.kind or not isinstance(name, str):
            return
        if "default" in rule and not place.primitive:
            self._complain(rule.at("default"), constant(place._replace(listed=False), plain(rule["default"]), told))
        if name in self._types:
            refers = "resource" in self._types[name][1]
            if refers and place.kind != "Reference":
                self._find(where, "target-type", f"{told} is of type {place.kind}, and {name} makes a reference")
            elif not refers and place.primitive and name.partition(".")[2] in elements():
                self._find(where, "target-type", f"{told} is of type {place.kind}, and {name} makes members")
            elif not refers:
                self._type(name, place.kind)
        elif name in PRIMITIVES and name != "nothing" and not place.primitive:
            self._find(where, "target-type", f"{told} is of type {place.kind}, and '{name}' makes a single value")
        if place.codes:
            self._codes(rule, place, told)

    def _codes(self, rule: Map, place: Place, told: str) -> None:
        """Whether a table gives only codes that the element may have."""
        table = self._tables.get(str(rule.get("table", "")))
        if table is None:
            return
        for key in table.map("codes"):
            self._code(table.map("codes"), key, place, told)
        if "default" in table:
            self._code(table, "default", place, told)

    def _code(self, source: Map, key: str, place: Place, told: str) -> None:
        value = source[key]
        code = str(value.get("code", key)) if isinstance(value, Map) else str(value)
        if code not in place.codes:
            allowed = ", ".join(sorted(place.codes))
            self._find(source.at(key), "code-not-in-value-set", f"{told} may not be '{code}': R4 allows {allowed}")

    # what is read

    def _reads(self, rule: Map, scope: Scope) -> None:
        for text in rule.texts("from") if "from" in rule else ():
            self._reference(text, rule.at("from"))
        if "when" in rule:
            self._condition(rule, scope)

    def _condition(self, rule: Map, scope: Scope) -> None:
        text, where = rule["when"], rule.at("when")
        if not isinstance(text, str):
            return
        for one in references_in(text):
            self._reference(one, where)
        try:
            never = never_true(text, scope, where)
        except Incorrect:
            return  # the compiler's finding
        if never:
            self._find(where, "condition-never-true", f"nothing makes '{text}' true")

    def _reference(self, text: str, where: Where) -> None:
        try:
            why = unknown_source(parse_reference(text, where))
        except Incorrect:
            return  # the compiler's finding
        if why:
            self._find(where, "source-unknown", f"{text} is no place of HL7 v2: {why}")

    # messages

    def _message(self, source: Source) -> None:
        content = source.content
        kinds = {name: str(entry.get("type", "")) for name, entry in _maps(content, "resources")}
        if self._rules is not None:
            for message, _ in self._rules.events.values():
                if message.name == content.get("message"):
                    kinds |= {slot.name: slot.resource_type for slot in message.slots}
        for name, entry in _maps(content, "resources"):
            self._resource(entry, kinds[name])
        for _, event in _maps(content, "events"):
            for name, entries in event.map("set").items():
                self._sets(entries, kinds.get(name, ""), Scope("", 0))
        for spot, uses in content.map("segments").items():
            for use in uses if isinstance(uses, list) else ():
                if isinstance(use, Map) and "when" in use:
                    self._condition(use, Scope(spot.rpartition(".")[2], 0))

    def _resource(self, entry: Map, kind: str) -> None:
        if kind not in elements():
            self._find(entry.at("type"), "target-unknown", f"R4 has no resource {kind}")
            return
        references = entry.map("references")
        for path in references:
            place = self._target(entry, kind, parse_path(path, entry.where), references.at(path))
            if place.kind not in ("", "Reference"):
                self._find(references.at(path), "target-type", f"{kind}.{path} is of type {place.kind}")
        scope = Scope(str(entry.get("with", "")), 0)
        self._sets(entry.get("set"), kind, scope)
        if "when" in entry:
            self._condition(entry, scope)

    def _sets(self, entries: Json, kind: str, scope: Scope) -> None:
        for entry in entries if isinstance(entries, list) else ():
            if not isinstance(entry, Map) or not isinstance(entry.get("to"), str):
                continue
            self._reads(entry, scope)
            path = parse_path(entry["to"], entry.at("to"))
            place = self._target(entry, kind, path)
            for key in _STATED:
                if key in entry and path[-1].label != "x":
                    self._complain(entry.at(key), constant(place, plain(entry[key]), _told(kind, path)))
            if "from" in entry:
                self._written(entry, place._replace(listed=False), _told(kind, path))

    # what nothing uses

    def _unused(self) -> None:
        contents = [source.content for source in self._sources.files]
        named = {text for content in contents for text in scalars(content)}
        tables = {name for content in contents for name in keyed(content, "table")}
        for source in self._sources.of("tables"):
            name = source.content.get("table")
            users = {
                name for one in self._sources.files if one.kind != "tables" for name in keyed(one.content, "table")
            }
            if isinstance(name, str) and name in tables and name not in users:
                self._find(source.content.at("table"), "table-unused", f"nothing uses the table {name}")
        for name, (source, _) in self._types.items():
            if name not in named:
                at = source.content.map("maps").at(name.partition(".")[2])
                self._find(at, "map-unused", f"nothing uses {name}")


def _maps(source: Map, key: str) -> Iterator[tuple[str, Map]]:
    """The entries of a mapping that are mappings; the compiler complains of the others."""
    value = source.get(key)
    if isinstance(value, Map):
        for name, entry in value.items():
            if isinstance(entry, Map):
                yield name, entry


def _told(kind: str, path: ElementPath) -> str:
    return ".".join([kind, *(step.name for step in path)])
