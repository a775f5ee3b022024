"""Search requests as a typed syntax tree (FHIR R4 search.html)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from bridge.errors import Incorrect, Unsupported
from bridge.fhir.dates import Interval, parse_date
from bridge.fhir.references import Target, parse_reference
from bridge.fhir.search.definitions import Definition, definitions
from bridge.fhir.types import is_id

DEFAULT_COUNT: Final = 20
MAX_COUNT: Final = 200
MAX_ALTERNATIVES: Final = 200
MAX_PARAMETERS: Final = 50
MAX_COMPARISONS: Final = 100  # of texts and dates in one search: each is a condition of the statement


class Prefix(StrEnum):
    """How a date value compares (search.html#prefix); ``ap`` is not supported."""

    EQ = "eq"
    NE = "ne"
    LT = "lt"
    GT = "gt"
    LE = "le"
    GE = "ge"
    SA = "sa"
    EB = "eb"


_PREFIXES: Final = frozenset(prefix.value for prefix in Prefix)


class StringMatch(StrEnum):
    """How a string value compares (search.html#string)."""

    STARTS = "starts"
    EXACT = "exact"
    CONTAINS = "contains"


@dataclass(frozen=True, slots=True)
class Token:
    """``system`` None = any, ``""`` = none; ``code`` None = any."""

    system: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class TokenClause:
    """Any of the tokens."""

    parameter: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class StringClause:
    """Any of the texts, as given (not normalized)."""

    parameter: str
    match: StringMatch
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DateClause:
    """Any of the comparisons, on the type's date parameter or on ``_lastUpdated``."""

    parameter: str
    comparisons: tuple[tuple[Prefix, Interval], ...]


@dataclass(frozen=True, slots=True)
class ReferenceClause:
    """Any of the targets."""

    parameter: str
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class PatientClause:
    """Any of the patients, each with the records its source merged with it; ``expand`` adds what matching linked (``:mdm``)."""

    parameter: str
    ids: tuple[str, ...]
    expand: bool = False


@dataclass(frozen=True, slots=True)
class IdClause:
    """Any of the logical ids."""

    ids: tuple[str, ...]


Clause = TokenClause | StringClause | DateClause | ReferenceClause | PatientClause | IdClause


class SortBy(StrEnum):
    """What a result can be ordered by."""

    DATE = "date"
    LAST_UPDATED = "_lastUpdated"


@dataclass(frozen=True, slots=True)
class Sort:
    """One sort key."""

    by: SortBy
    descending: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A search request.

    Attributes:
        type: resource type searched.
        clauses: all must hold.
        sort: order of the answer; None = order of filing.
        count: resources a page; 0 asks for the count alone.
        parameters: what was understood, as (name, value) pairs in the order given: the self link.
        ignored: names of parameters that were not understood (lenient handling only).
    """

    type: str
    clauses: tuple[Clause, ...] = field(repr=False)
    sort: Sort | None
    count: int
    parameters: tuple[tuple[str, str], ...] = field(repr=False)
    ignored: tuple[str, ...] = ()

    @property
    def patient_clauses(self) -> tuple[PatientClause, ...]:
        """The clauses that name patients, in order."""
        return tuple(clause for clause in self.clauses if isinstance(clause, PatientClause))


def parse_query(
    kind: str,
    parameters: Sequence[tuple[str, str]],
    *,
    strict: bool = False,
    base: str = "",
    expand_person: bool = False,
) -> Query:
    """Reads the parameters of a search.

    Args:
        kind: a stored resource type.
        parameters: decoded (name, value) pairs of query string and form, in order.
        strict: ``Prefer: handling=strict``: unknown parameters are an error; else they are ignored and listed.
        base: the server's base address, under which absolute references are its own.
        expand_person: the caller's profile asks that every patient clause be expanded over the person.

    Raises:
        Incorrect: ``search-parameter-unknown`` (strict), ``search-value-invalid``, ``search-count-invalid``,
            ``search-sort-invalid``, ``search-too-complex``.
        Unsupported: ``search-modifier-unsupported``, ``search-format-unsupported``.
    """
    definition = definitions()[kind]
    known = definition.parameters
    clauses: list[Clause] = []
    understood: list[tuple[str, str]] = []
    ignored: list[str] = []
    sort: Sort | None = None
    count = DEFAULT_COUNT
    _check(parameters)
    for full_name, value in parameters:
        name, _, modifier = full_name.partition(":")
        if not value and name in known:
            continue  # search.html: an empty value is no criterion
        if name == "_count":
            count = _count(value)
        elif name == "_sort":
            sort = _sort(value, definition, strict=strict)
            if sort is None:
                ignored.append(name)
                continue
        elif name in ("_format", "_pretty"):
            _check_format(name, value)
            continue
        elif name in known:
            clauses.append(_clause(definition, known[name], name, modifier, value, base, expand_person=expand_person))
        else:
            ignored.append(name)
            continue
        understood.append((full_name, value))
    if sum(_comparisons(clause) for clause in clauses) > MAX_COMPARISONS:
        raise Incorrect(
            "search-too-complex", "the search compares with too many values", remedy="Ask for less at once."
        )
    if strict and ignored:
        raise Incorrect(
            "search-parameter-unknown",
            f"the search of {kind} has a parameter that is not supported",
            remedy=f"Use {', '.join(sorted(known))}, _count, _sort; or Prefer: handling=lenient.",
        )
    return Query(kind, tuple(clauses), sort, count, tuple(understood), tuple(ignored))


def _check(parameters: Sequence[tuple[str, str]]) -> None:
    if len(parameters) > MAX_PARAMETERS:
        raise Incorrect("search-too-complex", "the search has too many parameters", remedy="Ask for less at once.")
    if any("\0" in value for _, value in parameters):
        raise _invalid()


def _comparisons(clause: Clause) -> int:
    match clause:
        case StringClause():
            return len(clause.texts)
        case DateClause():
            return len(clause.comparisons)
        case _:
            return 1


def _count(value: str) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 9:
        raise Incorrect("search-count-invalid", "_count is not a whole number", remedy="Use 0 or more.")
    return min(int(value), MAX_COUNT)


def _sort(value: str, definition: Definition, *, strict: bool) -> Sort | None:
    """One sort key; several, or one that is not kept, are refused or ignored as unknown parameters are."""
    name = value.removeprefix("-")
    descending = value.startswith("-")
    if name == "_lastUpdated":
        return Sort(SortBy.LAST_UPDATED, descending)
    if definition.date and name in ("date", definition.date.name):
        return Sort(SortBy.DATE, descending)
    if strict:
        raise Incorrect(
            "search-sort-invalid", "_sort names what cannot be sorted by", remedy="Use date or _lastUpdated."
        )
    return None


def _check_format(name: str, value: str) -> None:
    if name == "_format" and value not in (
        "json",
        "application/json",
        "application/fhir+json",
        "application/fhir json",
    ):
        raise Unsupported("search-format-unsupported", "the format asked for is not served", remedy="Use _format=json.")


def _clause(
    definition: Definition, form: str, name: str, modifier: str, value: str, base: str, *, expand_person: bool
) -> Clause:
    alternatives = _split(value, ",")
    if len(alternatives) > MAX_ALTERNATIVES:
        raise Incorrect("search-too-complex", "a parameter has too many values", remedy="Ask for less at once.")
    if name == "_id":
        _refuse_modifier(modifier)
        return IdClause(tuple(_id(_unescape(item)) for item in alternatives))
    if name in definition.patient:
        if modifier not in ("", "mdm", "Patient"):
            raise _unsupported_modifier()
        ids = tuple(_patient_id(_unescape(item), base) for item in alternatives)
        return PatientClause(name, tuple(id_ for id_ in ids if id_), expand=modifier == "mdm" or expand_person)
    if form == "date":
        _refuse_modifier(modifier)
        return DateClause(name, tuple(_comparison(_unescape(item)) for item in alternatives))
    if form == "string":
        matches = {"": StringMatch.STARTS, "exact": StringMatch.EXACT, "contains": StringMatch.CONTAINS}
        if modifier not in matches:
            raise _unsupported_modifier()
        return StringClause(name, matches[modifier], tuple(_unescape(item) for item in alternatives))
    if form == "token":
        _refuse_modifier(modifier)
        return TokenClause(name, tuple(_token(item) for item in alternatives))
    return _reference(definition, name, modifier, [_unescape(item) for item in alternatives], base)


def _reference(definition: Definition, name: str, modifier: str, texts: list[str], base: str) -> ReferenceClause:
    types = definition.references[name].types
    if modifier:
        if modifier not in types:
            raise _unsupported_modifier()
        types = (modifier,)
    targets: list[Target] = []
    for text in texts:
        target = parse_reference(text, base)
        if target:
            targets.append(target)
        elif is_id(text):
            targets += [Target(kind, text) for kind in types]
    return ReferenceClause(name, tuple(targets))


def _refuse_modifier(modifier: str) -> None:
    if modifier:
        raise _unsupported_modifier()


def _unsupported_modifier() -> Unsupported:
    return Unsupported(
        "search-modifier-unsupported",
        "a search parameter has a modifier that is not supported",
        remedy="See /metadata for what is.",
    )


def _invalid() -> Incorrect:
    return Incorrect(
        "search-value-invalid", "a search parameter has a value of the wrong form", remedy="See search.html."
    )


def _id(text: str) -> str:
    if not is_id(text):
        raise _invalid()
    return text


def _patient_id(text: str, base: str) -> str | None:
    """The logical id of a patient; None when the reference names something else, which nothing matches."""
    target = parse_reference(text, base)
    if target:
        return target.id if target.type == "Patient" else None
    return text if is_id(text) else None


def _comparison(text: str) -> tuple[Prefix, Interval]:
    prefix = Prefix.EQ
    if text[:2].isalpha():
        if text[:2] not in _PREFIXES:
            raise _invalid()
        prefix, text = Prefix(text[:2]), text[2:]
    try:
        # A plus sign that nobody encoded arrives as a space.
        return prefix, parse_date(text.replace(" ", "+"))
    except ValueError:
        raise _invalid() from None


def _token(text: str) -> Token:
    parts = _split(text, "|")
    if len(parts) == 1:
        return Token(None, _unescape(parts[0]))
    system, code = _unescape(parts[0]), _unescape("|".join(parts[1:]))
    if not system and not code:
        raise _invalid()
    return Token(system, code or None)


def _split(text: str, separator: str) -> list[str]:
    """Splits at separators that no backslash stands before (search.html#escaping)."""
    if "\\" not in text:
        return text.split(separator)
    parts, start, position = [], 0, 0
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == separator:
            parts.append(text[start:position])
            start = position + 1
        position += 1
    return [*parts, text[start:]]


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    result, escaped = [], False
    for character in text:
        if escaped or character != "\\":
            result.append(character)
            escaped = False
        else:
            escaped = True
    return "".join(result)
