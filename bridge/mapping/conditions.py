"""The small language of conditions in mapping files, compiled to functions.

    PV1-45 valued and not (PV1-2.1 in (P, O))
    count(PID-11) > 1 or length(PID-7) > 8
    OBX-5 is number

A reference names a segment's field (``PID-11``), one of its components (``PV1-3.4``), a component of the data type at hand
(``XTN.3``) or a subcomponent (``CX.4.2``); of a field that repeats it is the first repetition. ``valued`` is true for what
has a value that is not HL7 null. Texts stand bare, or in double quotes where they are no plain word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from bridge.errors import Where
from bridge.hl7v2.values import parse_number
from bridge.mapping.source import mistake

if TYPE_CHECKING:
    from bridge.mapping.run import Run

NULL: Final = '""'
_NO_VALUE: Final = frozenset({"", NULL})

Condition = Callable[[list[str], "Run"], bool]
Getter = Callable[[list[str], "Run"], str]

_TOKEN: Final = re.compile(
    r'\s*(?:"(?P<quoted>[^"]*)"|(?P<reference>[A-Z][A-Z0-9]{1,2}(?:-\d+(?:\.\d+){0,2}|(?:\.\d+){1,2}))(?![\w.])'
    r"|(?P<word>[\w.:/+~-]+)|(?P<sign><=|>=|!=|[=<>(),]))",
)
_REFERENCE: Final = re.compile(r"([A-Z][A-Z0-9]{1,2})(?:-(\d+)(?:\.(\d+))?(?:\.(\d+))?|\.(\d+)(?:\.(\d+))?)?")


class Reference(NamedTuple):
    """A place in a segment or in a data type; component and subcomponent are 0 where not named.

    In a data type (``CX.4.1``) ``field`` is 0.
    """

    owner: str
    field: int
    component: int
    subcomponent: int

    def __str__(self) -> str:
        text = f"{self.owner}-{self.field}" if self.field else self.owner
        if self.component:
            text += f".{self.component}"
        return f"{text}.{self.subcomponent}" if self.subcomponent else text


def parse_reference(text: str, where: Where) -> Reference:
    """``PID-5.1``, ``CX.4`` or ``CX`` (the whole data type) as a reference."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise mistake("mapping-reference-invalid", f"'{text}' names no field or component", where)
    owner, field, component, sub, type_component, type_sub = match.groups()
    if field:
        return Reference(owner, int(field), int(component or 0), int(sub or 0))
    return Reference(owner, 0, int(type_component or 0), int(type_sub or 0))


class Scope(NamedTuple):
    """What references in a condition are relative to: the segment or data type at hand, and its delimiter level."""

    owner: str
    level: int  # 0 = the parts are fields; 1 = components; 2 = subcomponents


def getter(reference: Reference, scope: Scope, where: Where) -> Getter:
    """A function that answers the raw text at ``reference``, '' where it is absent."""
    if reference.owner != scope.owner:
        if not reference.field:
            raise mistake("mapping-reference-invalid", f"'{reference}' is no part of {scope.owner}", where)
        return _foreign(reference)
    if scope.level == 0:
        if not reference.field:
            raise mistake("mapping-reference-invalid", f"'{reference}' names no field of {scope.owner}", where)
        return _within_field(reference)
    index = (reference.component or 1) - 1
    sub = reference.subcomponent

    def part(parts: list[str], run: Run) -> str:
        text = parts[index] if index < len(parts) else ""
        if sub and text:
            pieces = text.split(run.subcomponent)
            text = pieces[sub - 1] if sub <= len(pieces) else ""
        return text

    return part


def _within_field(reference: Reference) -> Getter:
    index, component, sub = reference.field, reference.component, reference.subcomponent

    def whole(parts: list[str], _run: Run) -> str:
        return parts[index] if index < len(parts) else ""

    if not component:
        return whole

    def part(parts: list[str], run: Run) -> str:
        return _piece(parts[index], component, sub, run) if index < len(parts) else ""

    return part


def _piece(text: str, component: int, sub: int, run: Run) -> str:
    if not text:
        return ""
    text = text.split(run.repetition, 1)[0]
    pieces = text.split(run.component)
    text = pieces[component - 1] if component <= len(pieces) else ""
    if sub:
        pieces = text.split(run.subcomponent)
        text = pieces[sub - 1] if sub <= len(pieces) else ""
    return text


def _foreign(reference: Reference) -> Getter:
    name, index, component, sub = reference

    def elsewhere(_parts: list[str], run: Run) -> str:
        segment = run.group.find(name)
        if segment is None or index >= len(segment.fields):
            return ""
        text = segment.fields[index]
        return _piece(text, component, sub, run) if component else text

    return elsewhere


def compile_condition(text: str, scope: Scope, where: Where) -> Condition:
    """Compiles a condition.

    Raises:
        Incorrect: ``mapping-condition-invalid``, ``mapping-reference-invalid``.
    """
    return _Parser(text, scope, where).compile()


class _Token(NamedTuple):
    kind: str
    text: str


def _tokens(text: str, where: Where) -> Iterator[_Token]:
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise mistake("mapping-condition-invalid", "the condition has a character that is no part of one", where)
        yield _Token(match.lastgroup, match[match.lastgroup])
        at = match.end()


class _Parser:
    def __init__(self, text: str, scope: Scope, where: Where) -> None:
        self.tokens = [*_tokens(text, where), _Token("end", "")]
        self.at = 0
        self.scope = scope
        self.where = where

    def compile(self) -> Condition:
        condition = self.either()
        if self.tokens[self.at].kind != "end":
            raise self.wrong()
        return condition

    def wrong(self) -> Exception:
        shown = self.tokens[self.at].text or "the end"
        return mistake("mapping-condition-invalid", f"the condition cannot be read at '{shown}'", self.where)

    def take(self, *texts: str) -> bool:
        token = self.tokens[self.at]
        if token.kind != "quoted" and token.text in texts:
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise self.wrong()

    def either(self) -> Condition:
        left = self.both()
        while self.take("or"):
            left = _or(left, self.both())
        return left

    def both(self) -> Condition:
        left = self.single()
        while self.take("and"):
            left = _and(left, self.single())
        return left

    def single(self) -> Condition:
        if self.take("not"):
            return _not(self.single())
        if self.take("("):
            inner = self.either()
            self.expect(")")
            return inner
        if self.take("count", "length"):
            return self.measured(self.tokens[self.at - 1].text)
        token = self.tokens[self.at]
        if token.kind != "reference":
            raise self.wrong()
        self.at += 1
        return self.compared(getter(parse_reference(token.text, self.where), self.scope, self.where))

    def measured(self, measure: str) -> Condition:
        self.expect("(")
        token = self.tokens[self.at]
        self.at += 1
        get = getter(parse_reference(token.text, self.where), self.scope, self.where)
        self.expect(")")
        sign, number = self.tokens[self.at].text, self.tokens[self.at + 1].text
        if sign not in _SIGNS or not number.isdigit():
            raise self.wrong()
        self.at += 2
        return _measured(get, measure, sign, int(number))

    def compared(self, get: Getter) -> Condition:
        if self.take("is"):
            self.expect("number")
            return _number(get)
        negated = self.take("not")
        if self.take("valued"):
            condition = _valued(get)
        elif self.take("in"):
            self.expect("(")
            texts = [self.literal()]
            while self.take(","):
                texts.append(self.literal())
            self.expect(")")
            condition = _in(get, frozenset(texts))
        elif self.take("="):
            condition = _in(get, frozenset((self.literal(),)))
        elif self.take("!="):
            condition = _not(_in(get, frozenset((self.literal(),))))
        else:
            raise self.wrong()
        return _not(condition) if negated else condition

    def literal(self) -> str:
        token = self.tokens[self.at]
        if token.kind not in ("quoted", "word"):
            raise self.wrong()
        self.at += 1
        return token.text


def _or(left: Condition, right: Condition) -> Condition:
    return lambda parts, run: left(parts, run) or right(parts, run)


def _and(left: Condition, right: Condition) -> Condition:
    return lambda parts, run: left(parts, run) and right(parts, run)


def _not(condition: Condition) -> Condition:
    return lambda parts, run: not condition(parts, run)


def _valued(get: Getter) -> Condition:
    def valued(parts: list[str], run: Run) -> bool:
        text = get(parts, run)
        return text not in _NO_VALUE

    return valued


def _in(get: Getter, texts: frozenset[str]) -> Condition:
    return lambda parts, run: get(parts, run) in texts


def _number(get: Getter) -> Condition:
    return lambda parts, run: is_number(get(parts, run))


def is_number(text: str) -> bool:
    """Whether ``text`` is a number as NM has it."""
    return parse_number(text) is not None


_SIGNS: Final[dict[str, Callable[[int, int], bool]]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}


def _measured(get: Getter, measure: str, sign: str, number: int) -> Condition:
    compare = _SIGNS[sign]
    if measure == "length":
        return lambda parts, run: compare(len(get(parts, run)), number)

    def counted(parts: list[str], run: Run) -> bool:
        text = get(parts, run)
        return compare(sum(1 for piece in text.split(run.repetition) if piece and piece != NULL), number)

    return counted
