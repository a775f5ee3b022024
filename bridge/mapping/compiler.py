"""Compiles rules of data types: from YAML to functions over raw text, once, at start.

A rule says ``from`` where it reads, ``to`` which element it writes, and ``as`` what type the text has: a primitive
(``dateTime``) or a map of a data type (``CX.Identifier``). ``when`` is a condition, ``table`` a vocabulary map, ``within`` a
template around each value, ``default`` members that a value gets where it has none of its own, ``add`` members that come from
other fields; ``value`` instead of ``from`` is a constant, ``text`` a text with places in braces, all of which must be valued.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bridge.errors import Where
from bridge.mapping import builtins as built_in
from bridge.mapping.conditions import (
    NULL,
    Condition,
    Reference,
    Scope,
    compile_condition,
    getter,
    parse_reference,
)
from bridge.mapping.durations import later
from bridge.mapping.objects import Converter, Leaf, Part, Path, build, parse_path, plain, template
from bridge.mapping.places import ALL, FIRST, Cover, at, union
from bridge.mapping.primitives import PRIMITIVES
from bridge.mapping.source import Map, mistake
from bridge.mapping.tables import CodingSystems, Table

if TYPE_CHECKING:
    from bridge.mapping.operations import Report
    from bridge.mapping.run import Run

Json = Any

_RULE_KEYS: Final = (
    "from",
    "to",
    "as",
    "table",
    "when",
    "within",
    "default",
    "value",
    "text",
    "by",
    "choose",
    "add",
    "after",
)
_CHOICE_KEYS: Final = ("to", "as", "table", "when", "within", "default", "add")
_MAP_KEYS: Final = ("rules", "resource", "identity", "display", "stamp", "chain", "remember")


class TypeMap(NamedTuple):
    """A map of a data type as read from its file."""

    name: str
    owner: str
    file: str
    source: Map


class Rule(NamedTuple):
    """A compiled rule: its parts of the object, what it reads, and its name for explanations."""

    name: str
    parts: list[Part]
    indexes: tuple[int, ...]  # parts of the own segment or type that it reads
    covers: tuple[tuple[int, Cover], ...]  # what it reads of each
    reads: bool  # it reads something; else it is a constant
    within: bool = False  # it reads its own segment or type alone


class Compiler:
    """Compiles with the tables, data types and identity rules of one set of mapping files."""

    def __init__(
        self,
        types: Mapping[str, TypeMap],
        tables: Mapping[str, Table],
        systems: CodingSystems,
        resources: Callable[[Compiler, TypeMap, int], tuple[Converter, Cover]],
    ) -> None:
        self.types = types
        self.tables = tables
        self.systems = systems
        self._resources = resources
        self._converters: dict[tuple[str, int], tuple[Converter, Cover]] = {}
        self._building: set[tuple[str, int]] = set()

    # data types

    def converter(self, name: str, level: int, where: Where) -> tuple[Converter, Cover]:
        """The function that converts raw text of ``level`` (0 a repetition, 1 a component, 2 a subcomponent)."""
        key = (name, level)
        known = self._converters.get(key)
        if known is not None:
            return known
        if name in PRIMITIVES:
            made = _primitive(name, level)
        elif name in built_in.CONVERTERS:
            made = built_in.CONVERTERS[name](self.systems), ALL
        elif name in self.types:
            if key in self._building:
                raise mistake("mapping-type-circular", f"{name} is made of itself", where)
            self._building.add(key)
            type_map = self.types[name]
            type_map.source.only(_MAP_KEYS, "a map of a data type")
            resource = "resource" in type_map.source
            made = self._resources(self, type_map, level) if resource else self._type(type_map, level)
            self._building.discard(key)
        else:
            raise mistake(
                "mapping-type-unknown", f"'{name}' is no type that values are converted to", where, self._names()
            )
        self._converters[key] = made
        return made

    def _names(self) -> list[str]:
        return [*PRIMITIVES, *built_in.CONVERTERS, *self.types]

    def _type(self, type_map: TypeMap, level: int) -> tuple[Converter, Cover]:
        scope = Scope(type_map.owner, level + 1)
        rules = [self.rule(name, source, scope, type_map.file) for name, source in type_map.source.map("rules").maps()]
        built = build([part for rule in rules for part in rule.parts])
        if built.leaf is None:
            raise mistake("mapping-rules-empty", "no rule reads anything", type_map.source.where)
        parts: dict[int, list[Cover]] = {}
        for rule in rules:
            for index, cover in rule.covers:
                parts.setdefault(index + 1, []).append(cover)
        everything = _EVERYTHING + 1 in parts
        cover = ALL if everything else Cover({number: union(covers) for number, covers in parts.items()})
        return splitting(built.leaf, level), cover

    # rules

    def rule(self, name: str, source: Map, scope: Scope, file: str) -> Rule:
        """Compiles one rule of a segment or data type."""
        source.only(_RULE_KEYS, "a rule")
        where = source.where
        full_name = f"{file}#{name}"
        path = parse_path(source.text("to"), source.at("to"))
        when = self.condition(source, scope)
        if "value" in source:
            if "from" in source:
                raise mistake("mapping-rule-invalid", "a rule has either from or value", source.at("value"))
            return Rule(full_name, [Part(path, None, plain(source["value"]), when)], (), (), reads=False)
        if "text" in source:
            return self._text(full_name, path, source, scope, when)
        references = [parse_reference(text, source.at("from")) for text in source.texts("from")]
        if not references:
            raise mistake("mapping-rule-invalid", "a rule needs from or value", where)
        many = bool(path) and path[-1].label == "" and scope.level == 0
        reads = [self._read(reference, source, scope, many=many) for reference in references]
        leaf = reads[0].leaf if len(reads) == 1 else _first_of([read.leaf for read in reads])
        own = [read for read in reads if read.part >= 0]
        within = len(own) == len(reads) and source.get("as") not in built_in.LEAVES  # those look at absent parts too
        if when is not None:
            leaf = _at_when(reads[0], when) if within and len(reads) == 1 else _guarded(leaf, when)
        plainest = reads[0] if len(reads) == 1 and when is None and not many else None
        part = Part(path, leaf, listed=many)
        if plainest is not None and plainest.converter is not None:
            part = part._replace(at=plainest.part, converter=plainest.converter)
        covers = tuple((read.part, read.cover) for read in reads if read.part >= 0 or read.part == _EVERYTHING)
        extra = self._added_covers(source, scope)
        return Rule(full_name, [part], tuple(read.part for read in own), covers + extra, reads=True, within=within)

    def _text(self, name: str, path: Path, source: Map, scope: Scope, when: Condition | None) -> Rule:
        """A rule that makes one text of several components."""
        where = source.at("text")
        pieces = _PLACE.split(source.text("text"))
        references = [parse_reference(text, where) for text in pieces[1::2]]
        if not references or scope.level != 1 or any(one.owner != scope.owner for one in references):
            raise mistake("mapping-rule-invalid", "a text is made of components of its data type", where)
        numbers = [one.component for one in references]
        read = PRIMITIVES["string"]

        def filled(parts: list[str], run: Run) -> str | None:
            texts = list(pieces)
            for at_piece, number in enumerate(numbers):
                raw = parts[number - 1] if number <= len(parts) else ""
                value = read(raw, run) if raw and raw != NULL else None
                if value is None:
                    return None
                texts[2 * at_piece + 1] = value
            return "".join(texts)

        leaf = filled if when is None else _kept(filled, when)
        if "within" in source:
            leaf = _enclosed(leaf, template(source["within"], source.at("within")))
        indexes = tuple(number - 1 for number in numbers)
        covers = tuple((index, ALL) for index in indexes)
        return Rule(name, [Part(path, leaf)], indexes, covers, reads=True, within=True)

    def condition(self, source: Map, scope: Scope) -> Condition | None:
        """The compiled ``when`` of a rule, if it has one."""
        return compile_condition(source.text("when"), scope, source.at("when")) if "when" in source else None

    def _read(self, reference: Reference, source: Map, scope: Scope, *, many: bool) -> _Read:  # noqa: C901, PLR0911 - one answer for each level of delimiters
        foreign = reference.owner != scope.owner
        if source.get("as") in built_in.LEAVES:
            return self._leaf(source.text("as"), reference, scope, source.at("as"))
        if scope.level == 0 or foreign:
            index = reference.field
            depth = 2 if reference.subcomponent else 1 if reference.component else 0
        else:
            index = (reference.component or 1) - 1
            depth = scope.level + (1 if reference.subcomponent else 0)
            if not reference.component:  # the whole data type
                return self._whole(reference, source, scope)
        convert, cover = self._value(source, scope, min(depth, 2))
        if scope.level == 0 or foreign:
            if reference.subcomponent:
                cover = at(reference.component, at(reference.subcomponent, ALL))
            elif reference.component:
                cover = at(reference.component, cover)
        elif reference.subcomponent:
            cover = at(reference.subcomponent, ALL)
        if foreign:
            get = getter(reference, scope, source.at("from"))
            return _Read(-1, _single_text(get, convert), cover, None)
        if scope.level == 0 and source.get("as") in _LINES:
            return _Read(index, _lines(index, encoded=source.get("as") == "document"), ALL, None)
        if scope.level == 0:
            leaf = _repeated(reference, convert, many=many)
            return _Read(index, leaf, cover if many else cover._replace(every=False), None)
        if reference.subcomponent:
            get = getter(reference, scope, source.at("from"))
            return _Read(index, _single_text(get, convert), cover, None)
        return _Read(index, _at(index, convert), cover, convert)

    def _whole(self, reference: Reference, source: Map, scope: Scope) -> _Read:
        """A rule that reads all parts of its data type, joined by blanks."""
        convert, _ = self._value(source, scope, 2)

        def joined(parts: list[str], run: Run) -> Json:
            text = " ".join(part for part in parts if part and part != NULL)
            return convert(text, run) if text else None

        if reference.owner != scope.owner:
            raise mistake("mapping-reference-invalid", f"'{reference}' is no part of {scope.owner}", source.at("from"))
        return _Read(_EVERYTHING, joined, ALL, None)

    def _value(self, source: Map, scope: Scope, depth: int) -> tuple[Converter, Cover]:
        """Converts one raw text, as a rule (or one of its choices) says."""
        if "choose" in source:
            return self._chosen(source, scope, depth)
        name = source.text("as", "string")
        convert, cover = self.converter(name, depth, source.at("as"))
        if "after" in source:
            convert = self._later(convert, source.map("after"), scope)
        finished = self._finished(convert, source, name)
        if name in self.types and self.types[name].source.flag("remember"):
            finished = _remembering(finished)
        return self._with_additions(finished, source, scope), cover

    def _later(self, convert: Converter, source: Map, scope: Scope) -> Converter:
        source.only(("amount", "unit"), "a duration")
        amount = getter(parse_reference(source.text("amount"), source.at("amount")), scope, source.at("amount"))
        unit = None
        if "unit" in source:
            unit = getter(parse_reference(source.text("unit"), source.at("unit")), scope, source.at("unit"))
        return later(convert, amount, unit)

    def _leaf(self, name: str, reference: Reference, scope: Scope, where: Where) -> _Read:
        """A conversion that looks at its neighbours too."""
        if scope.level != 1 or reference.owner != scope.owner or not reference.component:
            raise mistake("mapping-rule-invalid", f"{name} reads a component of a field", where)
        index = reference.component - 1
        return _Read(index, built_in.LEAVES[name](index), ALL, None)

    def _finished(self, convert: Converter, source: Map, name: str) -> Converter:
        if "table" in source:
            convert = self._translated(convert, source, name)
        if "default" in source:
            convert = _defaulted(convert, plain(source.map("default")))
        if "within" in source:
            convert = _wrapped(convert, template(source["within"], source.at("within")))
        return convert

    def _with_additions(self, convert: Converter, source: Map, scope: Scope) -> Converter:
        added = self._added(source, scope)
        if not added:
            return convert

        def enriched(raw: str, run: Run) -> Json:
            value = convert(raw, run)
            if value is not None:
                for leaf, name in added:
                    extra = leaf(run.fields, run)
                    if extra is not None:
                        value = {**value, name: extra}
            return value

        return enriched

    def _translated(self, convert: Converter, source: Map, name: str) -> Converter:
        table = self.tables.get(source.text("table"))
        if table is None:
            raise mistake(
                "mapping-table-unknown", f"there is no table '{source['table']}'", source.at("table"), self.tables
            )
        place = "/".join(source.texts("from"))
        apply = table.code
        if name.endswith("CodeableConcept"):
            apply = table.concept  # type: ignore[assignment]  # the value is a concept, not a code
        elif name.endswith("Coding"):
            apply = table.coding  # type: ignore[assignment]  # the value is a Coding, not a code

        def translated(raw: str, run: Run) -> Json:
            value = convert(raw, run)
            return None if value is None else apply(value, run, place)

        return translated

    # values whose type another field tells (OBX-5 by OBX-2)

    def _chosen(self, source: Map, scope: Scope, depth: int) -> tuple[Converter, Cover]:
        selector = getter(parse_reference(source.text("by"), source.at("by")), scope, source.at("by"))
        choices: dict[str, tuple[_Choice, ...]] = {}
        added = self._added(source, scope)
        alternatives = source.map("choose")
        for key, value in alternatives.items():
            entries = value if isinstance(value, list) else [value]
            made = []
            for entry in entries:
                if not isinstance(entry, Map):
                    raise mistake("mapping-value-invalid", "a choice must be a mapping", alternatives.at(key))
                made.append(self._choice(entry, scope, depth, key.split()[0]))
            for word in key.split():
                choices[word] = tuple(made)
        otherwise = choices.pop("otherwise", ())

        def chosen(raw: str, run: Run) -> Json:
            for choice in choices.get(selector(run.fields, run), otherwise):
                value = choice(raw, run)
                if value is not None:
                    for leaf, name in added:
                        extra = leaf(run.fields, run)
                        if extra is not None:
                            value[name] = extra
                    return value
            return None

        return chosen, ALL

    def _choice(self, source: Map, scope: Scope, depth: int, owner: str) -> _Choice:
        source.only(_CHOICE_KEYS, "a choice")
        path = parse_path(source.text("to"), source.at("to"))
        name = source.text("as", "string")
        convert, _ = self.converter(name, depth, source.at("as"))
        convert = self._finished(convert, source, name)
        inner = Scope(owner, depth + 1)
        when = self.condition(source, inner)
        element = path[0].name
        additions: list[tuple[Leaf, tuple[str, ...]]] = []
        for target, entry in source.map("add").maps():
            steps = tuple(step.name for step in parse_path(target, entry.where))
            additions.append((self._addition(entry, scope), steps))

        def choice(raw: str, run: Run) -> dict[str, Json] | None:
            if when is not None and not when(raw.split(run.component), run):
                return None
            value = convert(raw, run)
            if value is None:
                return None
            for leaf, steps in additions:
                extra = leaf(run.fields, run)
                if extra is not None:
                    value = _merged(value, steps, extra)
            return {element: value}

        return choice

    def _added(self, source: Map, scope: Scope) -> list[tuple[Leaf, str]]:
        return [(self._addition(entry, scope), name) for name, entry in source.map("add").maps()]

    def _addition(self, source: Map, scope: Scope) -> Leaf:
        """A member of the value that comes from another field than the value itself."""
        source.only(("from", "as", "table", "when"), "an addition")
        when = self.condition(source, scope)
        reference = parse_reference(source.text("from"), source.at("from"))
        read = self._read(reference, source, scope, many=False)
        return _guarded(read.leaf, when) if when is not None else read.leaf

    def _added_covers(self, source: Map, scope: Scope) -> tuple[tuple[int, Cover], ...]:
        """What additions read."""
        found: list[tuple[int, Cover]] = []
        entries = [entry for _, entry in source.map("add").maps()]
        for value in source.map("choose").values():
            for choice in value if isinstance(value, list) else [value]:
                entries += [entry for _, entry in choice.map("add").maps()]
        for entry in entries:
            reference = parse_reference(entry.text("from"), entry.at("from"))
            if reference.owner == scope.owner:
                _, cover = self.converter(entry.text("as", "string"), 0, entry.where)
                found.append((reference.field, cover._replace(every=False)))
        return tuple(found)


_Choice = Callable[[str, "Run"], "dict[str, Json] | None"]


_EVERYTHING: Final = -2  # stands for the index of a rule that reads all of its data type


_REMEMBERED: Final = 2_000  # texts a rule, before they are forgotten together: of up to a kilobyte or two each


def _remembering(convert: Converter) -> Converter:
    """Keeps the values of texts that come again and again (codes, names, addresses), with what was reported about them.

    The values are shared between messages: nobody changes a value in place.
    """
    known: dict[tuple[str, str], tuple[Json, tuple[Report, ...]]] = {}

    def remembered(raw: str, run: Run) -> Json:
        key = (raw, run.dialect)
        found = known.get(key)
        if found is None:
            outer, run.reports = run.reports, {}
            found = convert(raw, run), tuple(run.reports)
            run.reports = outer
            if len(known) >= _REMEMBERED:
                known.clear()
            known[key] = found
        value, reports = found
        for report in reports:
            run.reports[report] = None
        return value

    return remembered


class _Read(NamedTuple):
    part: int  # -1: of another segment
    leaf: Leaf
    cover: Cover
    converter: Converter | None


_PLACE: Final = re.compile(r"\{([A-Z0-9.]+)\}")
_LINES: Final = ("lines", "document")  # read all repetitions of a field as lines of one text
_WHOLE: Final = frozenset({"whole", "text-field", "nothing", *_LINES})  # read a field with its delimiters


def _primitive(name: str, level: int) -> tuple[Converter, Cover]:
    convert = PRIMITIVES[name]
    if level or name in _WHOLE:
        return convert, ALL

    def of_field(raw: str, run: Run) -> Json:
        if run.component in raw:
            raw = raw.split(run.component, 1)[0]
            if not raw or raw == NULL:
                return None
        return convert(raw, run)

    return of_field, FIRST


def splitting(leaf: Leaf, level: int) -> Converter:
    """A converter that splits its text into the parts of the next level."""
    if level == 0:
        return lambda raw, run: leaf(raw.split(run.component), run)
    if level == 1:
        return lambda raw, run: leaf(raw.split(run.subcomponent), run)
    return lambda raw, run: leaf([raw], run)


def _at(index: int, convert: Converter) -> Leaf:
    def at_index(parts: list[str], run: Run) -> Json:
        if index < len(parts):
            raw = parts[index]
            if raw and raw != NULL:
                return convert(raw, run)
        return None

    return at_index


def _single_text(get: Callable[[list[str], Run], str], convert: Converter) -> Leaf:
    def single(parts: list[str], run: Run) -> Json:
        raw = get(parts, run)
        if run.repetition in raw:
            raw = raw.split(run.repetition, 1)[0]
        return convert(raw, run) if raw and raw != NULL else None

    return single


def _repeated(reference: Reference, convert: Converter, *, many: bool) -> Leaf:  # noqa: C901 - two closures over the same names
    index = reference.field
    piece = _piece_of(reference)

    def first(parts: list[str], run: Run) -> Json:
        raw = parts[index] if index < len(parts) else ""
        if not raw:
            return None
        if run.repetition in raw:
            raw = raw.split(run.repetition, 1)[0]
        if piece is not None:
            raw = piece(raw, run)
        return convert(raw, run) if raw and raw != NULL else None

    def every(parts: list[str], run: Run) -> Json:
        raw = parts[index] if index < len(parts) else ""
        if not raw:
            return None
        found = []
        for text in raw.split(run.repetition) if run.repetition in raw else (raw,):
            if piece is not None:
                text = piece(text, run)  # noqa: PLW2901 - the part of the repetition that is read
            if text and text != NULL:
                value = convert(text, run)
                if value is not None:
                    found.append(value)
        return found or None

    return every if many else first


def _lines(index: int, *, encoded: bool) -> Leaf:
    """The repetitions of a text field, as lines; ``encoded`` as base64Binary."""
    read = PRIMITIVES["lines"]

    def lines(parts: list[str], run: Run) -> str | None:
        raw = parts[index] if index < len(parts) else ""
        found = [read(line, run) or "" for line in raw.split(run.repetition) if line != NULL]
        text = "\n".join(found).strip("\n")
        if not text:
            return None
        return base64.b64encode(text.encode()).decode("ascii") if encoded else text

    return lines


def _piece_of(reference: Reference) -> Converter | None:
    component, subcomponent = reference.component, reference.subcomponent
    if not component:
        return None

    def piece(raw: str, run: Run) -> str:
        pieces = raw.split(run.component)
        text = pieces[component - 1] if component <= len(pieces) else ""
        if subcomponent:
            pieces = text.split(run.subcomponent)
            text = pieces[subcomponent - 1] if subcomponent <= len(pieces) else ""
        return text

    return piece


def _first_of(leaves: list[Leaf]) -> Leaf:
    def first(parts: list[str], run: Run) -> Json:
        for leaf in leaves:
            value = leaf(parts, run)
            if value is not None:
                return value
        return None

    return first


def _guarded(leaf: Leaf, when: Condition) -> Leaf:
    return lambda parts, run: leaf(parts, run) if when(parts, run) else None


def _at_when(read: _Read, when: Condition) -> Leaf:
    """A guarded read of one part: most are absent, and conditions take longer than to see that."""
    index, leaf = read.part, read.leaf

    def guarded(parts: list[str], run: Run) -> Json:
        return leaf(parts, run) if index < len(parts) and parts[index] and when(parts, run) else None

    return guarded


def _kept(leaf: Leaf, when: Condition) -> Leaf:
    """A value kept on a condition: for values that are sooner made than the condition is decided."""

    def kept(parts: list[str], run: Run) -> Json:
        value = leaf(parts, run)
        return value if value is not None and when(parts, run) else None

    return kept


def _defaulted(convert: Converter, members: dict[str, Json]) -> Converter:
    def defaulted(raw: str, run: Run) -> Json:
        value = convert(raw, run)
        return None if value is None else {**members, **value}

    return defaulted


def _enclosed(leaf: Leaf, fill: Callable[[Json], Json]) -> Leaf:
    def enclosed(parts: list[str], run: Run) -> Json:
        value = leaf(parts, run)
        return None if value is None else fill(value)

    return enclosed


def _wrapped(convert: Converter, fill: Callable[[Json], Json]) -> Converter:
    def wrapped(raw: str, run: Run) -> Json:
        value = convert(raw, run)
        return None if value is None else fill(value)

    return wrapped


def _merged(value: Json, steps: tuple[str, ...], extra: Json) -> Json:
    if steps == ("*",):
        return {**value, **extra}
    name, rest = steps[0], steps[1:]
    if not rest:
        return {**value, name: extra}
    return {**value, name: _merged(value.get(name, {}), rest, extra)} if name in value else value
