"""Reads HL7 v2 messages in the ER7 encoding: lazily, tolerantly, and without losing a byte of meaning.

Source: HL7 v2.9 chapter 2 (2.5 message construction, 2.6 delimiters, 2.7 escape sequences); older versions agree save where
noted. ``parse`` decodes once, cuts the text into segments, and splits a segment into fields only when one is asked for.

Absent, null and valued are three different things here: ``None`` means that the sender says nothing (keep what is known),
:data:`NULL` (two double quotes on the wire) that the sender says there is nothing (clear it), a ``str`` is a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from bridge.errors import Incorrect
from bridge.hl7v2.charset import decode, decode_wide, is_encoding
from bridge.hl7v2.delimiters import (
    DEFAULT_DELIMITERS,
    Delimiters,
    declared_delimiters,
    split_components,
    split_repetitions,
    split_subcomponents,
    unescape,
)
from bridge.hl7v2.msh import read_msh, stripped, without_framing
from bridge.hl7v2.structures import event_of_code, structure_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DEFAULT_DELIMITERS",
    "DEFAULT_LIMITS",
    "NULL",
    "Delimiters",
    "Element",
    "Header",
    "Limits",
    "Message",
    "MessageType",
    "Null",
    "Segment",
    "State",
    "parse",
    "primitive",
    "read_msh",
    "split_components",
    "split_repetitions",
    "split_subcomponents",
    "unescape",
    "valued_elements",
    "without_framing",
]


class Null(Enum):
    """The type of :data:`NULL`; falsy, so that ``if value:`` asks for a real value."""

    NULL = '""'

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "NULL"


NULL: Final = Null.NULL
_QUOTES: Final = '""'


class State(Enum):
    """What a field says."""

    ABSENT = "absent"
    NULL = "null"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one message, so that a hostile one costs little.

    Attributes:
        message_bytes: of the whole message.
        segment_chars: of one segment (embedded documents in OBX-5 are the largest that are real).
        segments: in one message.
        fields: in one segment.
        lines: in the whole message, blank ones and those that continue a field included.
        repetitions: in one segment, of all its fields.
        elements: delimiters in the whole message, and so the positions that it can value.

    There is no limit on depth: a field has repetitions, components and subcomponents, and nothing below.
    """

    message_bytes: int = 32 * 1024 * 1024
    segment_chars: int = 16 * 1024 * 1024
    segments: int = 20_000
    fields: int = 1_000
    lines: int = 200_000
    repetitions: int = 10_000
    elements: int = 500_000


DEFAULT_LIMITS: Final = Limits()


class MessageType(NamedTuple):
    """MSH-9: message code, trigger event, message structure (derived where MSH-9.3 is missing); '' where not told."""

    code: str
    event: str
    structure: str


@dataclass(frozen=True, slots=True)
class Header:
    """MSH, unescaped; '' where absent. Applications and facilities are HD.1, or HD.2 where HD.1 is empty."""

    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str
    time: str
    control_id: str
    processing_id: str
    version: str
    sequence_number: str
    accept_ack: str
    application_ack: str
    charsets: tuple[str, ...]


class Element(NamedTuple):
    """A valued primitive position (all counted from 1) with its text as written, or NULL."""

    field: int
    repetition: int
    component: int
    subcomponent: int
    text: str | Null


class Segment:
    """One segment. Treat as immutable; fields are split at the first question."""

    __slots__ = ("_fields", "delimiters", "name", "position", "text")

    def __init__(self, text: str, position: int, delimiters: Delimiters) -> None:
        self.text = text
        self.name = text[:3]
        self.position = position
        self.delimiters = delimiters
        self._fields: list[str] | None = None

    @property
    def fields(self) -> list[str]:
        """Raw fields by HL7's number: ``fields[0]`` is the name, ``fields[1]`` field 1 (MSH-1 is the separator)."""
        fields = self._fields
        if fields is None:
            separator = self.delimiters.field
            fields = self.text.split(separator)
            if self.name in _HEADERS:
                fields.insert(1, separator)
            self._fields = fields
        return fields

    @property
    def field_count(self) -> int:
        """The number of the last field written, valued or not."""
        return len(self.fields) - 1

    def field(self, number: int) -> str:
        """Raw text of the whole field, all repetitions; '' if absent."""
        fields = self._fields or self.fields
        return fields[number] if 0 < number < len(fields) else ""

    def repetitions(self, number: int) -> tuple[str, ...]:
        """Raw text of each repetition; empty where the field is absent."""
        text = self.field(number)
        if not text:
            return ()
        if self.delimiters.repetition not in text or (number == 2 and self.name in _HEADERS):
            return (text,)
        return tuple(text.split(self.delimiters.repetition))

    def get(self, number: int, component: int = 1, subcomponent: int = 1, repetition: int = 1) -> str | Null | None:
        """The unescaped value at a position, counted from 1; None = absent, NULL = cleared by the sender.

        A null repetition is null in each of its components, a null component in each of its subcomponents. A position
        below what the sender split answers the undivided text at 1 and is absent beyond.
        """
        text = self.field(number)
        if not text:
            return None
        delimiters = self.delimiters
        if number <= 2 and self.name in _HEADERS:
            return text if component == subcomponent == repetition == 1 else None
        if delimiters.repetition in text:
            text = _nth(text, delimiters.repetition, repetition)
        elif repetition != 1:
            return None
        return primitive(text, delimiters, component, subcomponent)

    def state(self, number: int) -> State:
        """Whether anything in the field is valued; NULL where all that is valued is null."""
        text = self.field(number)
        if not text:
            return State.ABSENT
        if text == _QUOTES:
            return State.NULL
        state = State.ABSENT
        for element in _elements_of_field(number, text, self.delimiters):
            if element.text is not NULL:
                return State.VALUE
            state = State.NULL
        return state

    def __repr__(self) -> str:
        return f"Segment({_shown(self.name)} at {self.position})"


def primitive(text: str, delimiters: Delimiters, component: int = 1, subcomponent: int = 1) -> str | Null | None:
    """The unescaped value at a position of one raw repetition; the rules of :meth:`Segment.get`."""
    if delimiters.component in text:
        text = _nth(text, delimiters.component, component)
    elif component != 1 and text != _QUOTES:
        return None
    if delimiters.subcomponent in text:
        text = _nth(text, delimiters.subcomponent, subcomponent)
    elif subcomponent != 1 and text != _QUOTES:
        return None
    if text == _QUOTES:
        return NULL
    return unescape(text, delimiters) or None


def _nth(text: str, delimiter: str, index: int) -> str:
    """The ``index``-th part, counted from 1; '' where there is none."""
    parts = text.split(delimiter, index)
    return parts[index - 1] if 0 < index <= len(parts) else ""


def valued_elements(segment: Segment) -> Iterator[Element]:
    """Every valued primitive position of a segment, in order of writing; MSH-1 and MSH-2 count as one each."""
    delimiters = segment.delimiters
    component, repetition, subcomponent = delimiters.component, delimiters.repetition, delimiters.subcomponent
    header = segment.name in _HEADERS
    for number, text in enumerate(segment.fields):
        if not text or number == 0:
            continue
        if header and number <= 2:
            yield Element(number, 1, 1, 1, text)
        elif component in text or repetition in text or subcomponent in text:
            yield from _elements_of_field(number, text, delimiters)
        else:
            yield _element(Element, (number, 1, 1, 1, text if text != _QUOTES else NULL))


def _elements_of_field(number: int, text: str, delimiters: Delimiters) -> list[Element]:
    component, subcomponent = delimiters.component, delimiters.subcomponent
    found: list[Element] = []
    for r, repetition_text in enumerate(text.split(delimiters.repetition), 1):
        if not repetition_text:
            continue
        split = subcomponent in repetition_text
        for c, component_text in enumerate(repetition_text.split(component), 1):
            if not component_text:
                continue
            if not split or subcomponent not in component_text:
                value = component_text if component_text != _QUOTES else NULL
                found.append(_element(Element, (number, r, c, 1, value)))
                continue
            for s, part in enumerate(component_text.split(subcomponent), 1):
                if part:
                    found.append(_element(Element, (number, r, c, s, part if part != _QUOTES else NULL)))
    return found


_element: Final = tuple.__new__  # past the named tuple's own constructor, which takes as long as all the rest


class Message:
    """One message. Treat as immutable. ``repr`` shows structure, never values.

    Attributes:
        raw: the bytes given to :func:`parse`.
        delimiters: as MSH declares them.
        charset: IANA name of the encoding that the bytes were read in.
        charset_fallback: True where that is not what MSH-18 or the caller declared.
        segments: in order; the first is MSH.
    """

    __slots__ = ("_by_name", "_header", "_type", "charset", "charset_fallback", "delimiters", "raw", "segments")

    def __init__(
        self,
        raw: bytes,
        delimiters: Delimiters,
        segments: tuple[Segment, ...],
        *,
        charset_fallback: bool,
    ) -> None:
        self.raw = raw
        self.delimiters = delimiters
        self.charset = delimiters.charset
        self.charset_fallback = charset_fallback
        self.segments = segments
        self._by_name: dict[str, tuple[Segment, ...]] | None = None
        self._type: MessageType | None = None
        self._header: Header | None = None

    def segment(self, name: str) -> Segment | None:
        """The first segment of this name."""
        found = self.all(name)
        return found[0] if found else None

    def all(self, name: str) -> tuple[Segment, ...]:
        """Every segment of this name, in order."""
        index = self._by_name
        if index is None:
            lists: dict[str, list[Segment]] = {}
            for segment in self.segments:
                lists.setdefault(segment.name, []).append(segment)
            index = self._by_name = {key: tuple(value) for key, value in lists.items()}
        return index.get(name, ())

    @property
    def type(self) -> MessageType:
        """MSH-9; the event falls back to EVN-1 and to the only one that the code has, the structure to table 0354."""
        known = self._type
        if known is None:
            msh = self.segments[0]
            code, event = _text(msh.get(9)), _text(msh.get(9, 2))
            if not event:
                code, event = self._type_without_event(code)
            known = self._type = MessageType(code, event, _text(msh.get(9, 3)) or structure_of(code, event))
        return known

    def _type_without_event(self, code: str) -> tuple[str, str]:
        """Code and event where MSH-9.2 is empty: EVN-1, what a structure in the place of the code says, or its only event."""
        evn = self.segment("EVN")
        event = _text(evn.get(1)) if evn is not None else ""
        if _STRUCTURE.fullmatch(code):
            return code[:3], event or code[4:]
        return code, event or event_of_code(code)

    @property
    def header(self) -> Header:
        """MSH, read once."""
        known = self._header
        if known is None:
            msh = self.segments[0]
            known = self._header = Header(
                sending_application=_text(msh.get(3)) or _text(msh.get(3, 2)),
                sending_facility=_text(msh.get(4)) or _text(msh.get(4, 2)),
                receiving_application=_text(msh.get(5)) or _text(msh.get(5, 2)),
                receiving_facility=_text(msh.get(6)) or _text(msh.get(6, 2)),
                time=_text(msh.get(7)),
                control_id=_text(msh.get(10)),
                processing_id=_text(msh.get(11)),
                version=_text(msh.get(12)),
                sequence_number=_text(msh.get(13)),
                accept_ack=_text(msh.get(15)),
                application_ack=_text(msh.get(16)),
                charsets=msh.repetitions(18),
            )
        return known

    def __repr__(self) -> str:
        names = " ".join(_shown(segment.name) for segment in self.segments)
        return f"Message({len(self.raw)} bytes, {self.charset}: {names})"


def _text(value: str | Null | None) -> str:
    return value or ""


def _shown(name: str) -> str:
    return name if _SEGMENT_NAME.fullmatch(name) else "???"


_HEADERS: Final = frozenset({"MSH", "FHS", "BHS"})
_SEGMENT_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
_STRUCTURE: Final = re.compile(r"[A-Z][A-Z0-9]{2}_[A-Z0-9]{3}")


def parse(raw: bytes, *, charset: str | None = None, limits: Limits = DEFAULT_LIMITS) -> Message:
    """Reads one message.

    Tolerated: CR, LF and CRLF as segment ends, blank lines, MLLP framing bytes and a byte order mark around the message,
    missing encoding characters (the usual ones are taken), a doubled escape character in MSH-2 (a common export fault),
    blanks before a segment name, and line breaks inside a field (a line that cannot begin a segment continues the one
    before it, joined by a line feed).

    Args:
        raw: the message without transport framing (framing bytes around it are ignored).
        charset: what the site is known to use, by the names of table 0211 as MSH-18 has them; overrules MSH-18. UTF-16
            and UTF-32 are known by their bytes, whatever is declared.
        limits: bounds.

    Raises:
        Incorrect: ``message-too-large``, ``not-hl7``, ``hl7-batch`` (split it first: ``bridge.hl7v2.batch``),
            ``msh-truncated`` (MSH ends before MSH-9), ``delimiters-invalid``, ``charset-invalid``,
            ``segment-too-long``, ``too-many-lines``, ``too-many-segments``, ``too-many-fields``,
            ``too-many-repetitions``, ``too-many-elements``, ``several-messages``.
        Unsupported: ``charset-unsupported``.
    """
    if len(raw) > limits.message_bytes:
        raise Incorrect(
            "message-too-large",
            f"the message has {len(raw)} bytes, the limit is {limits.message_bytes}",
            remedy="Raise the limit if such messages are real.",
        )
    body = stripped(raw)
    if body[:3] != b"MSH" and (wide := decode_wide(raw)) is not None:
        text, encoding = wide
        delimiters, declared = read_msh(_LINE_END_OF_TEXT.split(text, maxsplit=1)[0].encode("utf-8", "replace"))
        fallback = not is_encoding(charset if charset is not None else declared, encoding)
    else:
        delimiters, declared = read_msh(body)
        text, encoding, fallback = decode(
            body, charset if charset is not None else declared, delimiters.escape.encode("latin-1")
        )
    if encoding != "UTF-8":
        delimiters = declared_delimiters(delimiters.field, delimiters.encoding_characters, encoding)
    if text.find("MSH", 4) >= 0 and text.find(text[: text.index(delimiters.field, 4) + 1], 4) >= 0:
        raise _several()
    return Message(raw, delimiters, _segments(text, delimiters, limits), charset_fallback=fallback)


_TEXT_SEGMENTS: Final = ("OBX", "NTE")  # whose last field may hold a broken text with a word of three capitals
_LINE_END_OF_TEXT: Final = re.compile(r"[\r\n]")


def _segments(text: str, delimiters: Delimiters, limits: Limits) -> tuple[Segment, ...]:
    if "\n" in text:
        text = text.replace("\r\n", "\r").replace("\n", "\r")
    if text.count("\r") > limits.lines:
        raise Incorrect(
            "too-many-lines", f"the message has more than {limits.lines} lines", remedy="Look at the sender."
        )
    if len(text) > limits.elements:
        _check_elements(text, delimiters, limits.elements)
    separator = delimiters.field
    lines: list[str] = []
    continued: dict[int, list[str]] = {}
    for line in text.split("\r"):
        if line[3:4] == separator and (name := line[:3]).isalnum() and name.isupper():
            lines.append(line)
        elif line and not line.isspace():
            _odd_line(line, lines, continued, separator)
    for index, rest in continued.items():
        lines[index] = "\n".join([lines[index], *rest])
    lines[-1] = lines[-1].rstrip("\x0b\x1c")
    if len(lines) > limits.segments:
        raise Incorrect(
            "too-many-segments",
            f"the message has {len(lines)} segments, the limit is {limits.segments}",
            remedy="Raise the limit if such messages are real.",
        )
    segments = tuple([Segment(line, position, delimiters) for position, line in enumerate(lines, 1)])
    _check(segments, delimiters, limits)
    return segments


def _odd_line(line: str, lines: list[str], continued: dict[int, list[str]], separator: str) -> None:
    """Takes a line that is no plain segment: an indented or empty one, or the rest of a field with a line break.

    Raises Incorrect where it begins another message, in delimiters of its own.
    """
    stripped = line.strip()
    if _SEGMENT_NAME.fullmatch(stripped[:3]) and stripped[3:4] == separator:
        lines.append(line.lstrip())
    elif _SEGMENT_NAME.fullmatch(stripped) and not lines[-1].startswith(_TEXT_SEGMENTS):
        lines.append(stripped)
    elif _OTHER_MSH.match(stripped):
        raise _several()
    else:
        rest = [line]
        while len(lines[-1]) == 3:  # a name without fields has none that goes on: it was a word of the text
            rest.insert(0, lines.pop())
        continued.setdefault(len(lines) - 1, []).extend(rest)


_OTHER_MSH: Final = re.compile(r"MSH([!-/:-@\[-`{-~])[!-/:-@\[-`{-~]{1,5}\1")


def _several() -> Incorrect:
    return Incorrect(
        "several-messages", "another MSH begins within the message", remedy="Send one message at a time, whole."
    )


def _check(segments: tuple[Segment, ...], delimiters: Delimiters, limits: Limits) -> None:
    longest, fields, repetitions = limits.segment_chars, limits.fields, limits.repetitions
    for segment in segments:
        length = len(segment.text)
        if length > fields:  # a segment of n fields has at least n characters
            text = segment.text
            if length > longest:
                raise Incorrect(
                    "segment-too-long",
                    f"segment {segment.position} has {length} characters, the limit is {longest}",
                    remedy="Raise the limit if such segments are real.",
                )
            if text.count(delimiters.field) > fields:
                raise Incorrect(
                    "too-many-fields",
                    f"segment {segment.position} has more than {fields} fields",
                    remedy="No standard segment is that wide: look at the sender.",
                )
            if length > repetitions and text.count(delimiters.repetition) > repetitions:
                raise Incorrect(
                    "too-many-repetitions",
                    f"segment {segment.position} has more than {repetitions} repetitions",
                    remedy="Raise the limit if such fields are real.",
                )
        if segment.name == "MSH" and segment.position > 1:
            raise Incorrect(
                "several-messages",
                f"segment {segment.position} begins another message",
                remedy="Send one message at a time, or split the file into its messages.",
            )


def _check_elements(text: str, delimiters: Delimiters, limit: int) -> None:
    marks = (delimiters.field, delimiters.repetition, delimiters.component, delimiters.subcomponent)
    if sum(map(text.count, marks)) > limit:
        raise Incorrect(
            "too-many-elements",
            f"the message has more than {limit} delimiters",
            remedy="Raise the limit if such messages are real.",
        )
