"""Acknowledgements: what a message asks for in its header, and the answer to it, whatever could be read.

Source: HL7 v2.9 chapter 2.9.2 (original mode), 2.9.3 (enhanced mode), 2.14.1 (ACK), 2.14.8 (MSA), 2.14.5 (ERR; its form before
2.5: v2.3.1 chapter 2.24.6), 2.14.9.15 and .16 (MSH-15, MSH-16), tables 0008 (acknowledgement code), 0155 (condition), 0357
(error code).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from bridge.errors import BridgeError
from bridge.hl7v2.charset import decode, decode_wide
from bridge.hl7v2.message import DEFAULT_DELIMITERS, Delimiters, read_msh, without_framing
from bridge.hl7v2.write import escape, joined, write_field, write_message

_CONTROLS: Final = dict.fromkeys(range(0x20))
_KEPT: Final = 16_384  # no real MSH is longer


class AckCode(StrEnum):
    """Table 0008: ``A`` of the application (and the only ones of original mode), ``C`` of the receiver's storage."""

    ACCEPT = "AA"
    ERROR = "AE"
    REJECT = "AR"
    COMMIT_ACCEPT = "CA"
    COMMIT_ERROR = "CE"
    COMMIT_REJECT = "CR"


class AckCondition(StrEnum):
    """Table 0155: when an acknowledgement is wanted."""

    ALWAYS = "AL"
    NEVER = "NE"
    ERRORS = "ER"
    SUCCESSES = "SU"

    def wants(self, *, success: bool) -> bool:
        """Whether an answer with this outcome is wanted."""
        return self is AckCondition.ALWAYS or self is (AckCondition.SUCCESSES if success else AckCondition.ERRORS)


@dataclass(frozen=True, slots=True)
class Asked:
    """The header of a message as far as it can be read: what an answer echoes, and how it is to be answered.

    Attributes:
        delimiters: of the message, else the usual ones.
        charset: encoding that the header was read in.
        fields: MSH as it was written, by HL7's number; [] if it can't be read.
        refusal: why it can't be; None if it can.
    """

    delimiters: Delimiters
    charset: str
    fields: list[str] = field(repr=False)
    refusal: BridgeError | None = None

    def written(self, number: int, default: str = "") -> str:
        """A field of MSH, with its escapes; ``default`` if it is absent."""
        fields = self.fields
        return fields[number] if number < len(fields) and fields[number] else default

    @property
    def enhanced(self) -> bool:
        """Whether the sender speaks enhanced mode: MSH-15 or MSH-16 has a value."""
        return _valued(self.written(15)) or _valued(self.written(16))

    @property
    def accept(self) -> AckCondition:
        """When it wants to hear that the message is durable (MSH-15, in enhanced mode)."""
        return _condition(self.written(15))

    @property
    def application(self) -> AckCondition:
        """When it wants to hear what became of the message (MSH-16, in enhanced mode)."""
        return _condition(self.written(16))


def _valued(text: str) -> bool:
    return text not in {"", '""'}


def _condition(text: str) -> AckCondition:
    """Absent is never, where the mode is enhanced; a word that table 0155 has not is always: better one answer too many."""
    if not _valued(text):
        return AckCondition.NEVER
    return _CONDITIONS.get(text.strip().upper(), AckCondition.ALWAYS)


_CONDITIONS: Final[Mapping[str, AckCondition]] = MappingProxyType({str(one): one for one in AckCondition})


def read_asked(raw: bytes) -> Asked:
    """What the header of ``raw`` asks for; raises nothing.

    Args:
        raw: what was received, or as much of its beginning as was kept.
    """
    head = without_framing(raw[:_KEPT])
    try:
        delimiters, declared = read_msh(head)
    except BridgeError as error:
        return Asked(DEFAULT_DELIMITERS, "US-ASCII", [], error)
    line = _LINE_END.split(head, maxsplit=1)[0]
    wide = decode_wide(raw[:_KEPT], strict=False)
    try:
        text, charset, _ = decode(line, "UTF-8" if wide else declared, delimiters.escape.encode("latin-1"))
    except BridgeError:
        text, charset = line.decode("latin-1"), "ISO-8859-1"
    fields = ["MSH", delimiters.field, *text.translate(_CONTROLS).split(delimiters.field)[1:]]
    return Asked(delimiters, wide[1] if wide else charset, fields)


_LINE_END: Final = re.compile(rb"[\r\n]")


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a message something is wrong: a segment, counted among those of its name, and a field and component of it."""

    segment: str
    sequence: int = 1
    field: int | None = None
    component: int | None = None


@dataclass(frozen=True, slots=True)
class AckError:
    """What an acknowledgement says of a refusal.

    Attributes:
        code: kebab-case cause, without health data.
        hl7_code: table 0357; 207 = application error.
        position: where the cause stands, if it stands somewhere.
    """

    code: str
    hl7_code: str = "207"
    position: Position | None = None

    @property
    def text(self) -> str:
        """Table 0357's words for the code."""
        return _TABLE_0357[self.hl7_code]


_TABLE_0357: Final[Mapping[str, str]] = MappingProxyType(
    {
        "100": "Segment sequence error",
        "101": "Required field missing",
        "102": "Data type error",
        "103": "Table value not found",
        "200": "Unsupported message type",
        "201": "Unsupported event code",
        "202": "Unsupported processing id",
        "203": "Unsupported version id",
        "204": "Unknown key identifier",
        "205": "Duplicate key identifier",
        "206": "Application record locked",
        "207": "Application error",
    }
)

_HEADER: Final = Position("MSH")
_KNOWN: Final = {
    error.code: error
    for error in (
        AckError("not-hl7", "100", _HEADER),
        AckError("hl7-batch", "100", _HEADER),
        AckError("msh-truncated", "101", Position("MSH", 1, 9)),
        AckError("delimiters-invalid", "102", Position("MSH", 1, 2)),
        AckError("control-id-reused", "205", Position("MSH", 1, 10)),
    )
}


def ack_error(code: str) -> AckError:
    """How a refusal for ``code`` is told: by table 0357's code and the place of it, where both are known."""
    return _KNOWN.get(code) or AckError(code)


def acknowledge(
    asked: Asked,
    code: AckCode,
    *,
    control_id: str,
    now: datetime,
    error: AckError | None = None,
) -> bytes:
    """An acknowledgement of the message with the header ``asked``.

    Applications and facilities are swapped; version, processing id, event (from 2.3.1) and control id echoed as they were
    written, in the sender's delimiters and encoding. A header that cannot be read gives default delimiters, version 2.5.1 and an empty
    MSA-2. MSH-15 and MSH-16 stay empty: an acknowledgement is not acknowledged.

    Args:
        asked: what is answered.
        code: MSA-1.
        control_id: MSH-10 of the acknowledgement.
        now: MSH-7, aware.
        error: for ERR (and MSA-3 before 2.7).
    """
    delimiters, echoed = asked.delimiters, asked.written
    version = echoed(12, "2.5.1")
    number = _version_number(version)
    component = delimiters.component
    event = echoed(9).partition(component)[2].partition(component)[0]
    kind = component.join(("ACK", event, "ACK")) if event and number >= (2, 3, 1) else "ACK"
    msh = ["MSH", delimiters.encoding_characters, echoed(5), echoed(6), echoed(3), echoed(4)]
    msh += [now.strftime("%Y%m%d%H%M%S%z"), "", kind, escape(control_id, delimiters), echoed(11, "P"), version]
    if asked.charset != "US-ASCII" and echoed(18):
        msh += ["", "", "", "", "", echoed(18)]
    msa = ["MSA", code.value, echoed(10)]
    segments = [msh, msa]
    if error is not None:
        if number < (2, 7):
            msa.append(escape(error.code, delimiters))
        segments.append(_err(error, number, delimiters))
    return write_message([joined(segment, delimiters.field) for segment in segments], asked.charset)


def _err(error: AckError, version: tuple[int, ...], delimiters: Delimiters) -> list[str]:
    place = error.position
    segment, sequence, number, component = (
        (
            place.segment,
            *(None if part is None else str(part) for part in (place.sequence, place.field, place.component)),
        )
        if place is not None
        else (None, None, None, None)
    )
    if version >= (2, 5):
        # ERL: the repetition is valued wherever the field is
        repetition = "1" if number else None
        location = write_field((segment, sequence, number, repetition, component), delimiters)
        condition = write_field((error.hl7_code, error.text, "HL70357"), delimiters)
        return ["ERR", "", location, condition, "E", "", "", "", escape(error.code, delimiters)]
    return ["ERR", write_field((segment, sequence, number, (error.hl7_code, error.text, "HL70357")), delimiters)]


@lru_cache(maxsize=256)
def _version_number(version: str) -> tuple[int, ...]:
    digits = re.match(r"[0-9]{1,3}(?:\.[0-9]{1,3}){0,2}", version)
    return tuple(map(int, digits[0].split("."))) if digits else (2, 5, 1)
