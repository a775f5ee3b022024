"""Conversions of HL7 v2's primitive texts to FHIR's primitive types (datatypes.html), by the names mapping files use."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bridge.hl7v2.delimiters import unescape
from bridge.hl7v2.times import Precision, parse_time, parse_time_of_day
from bridge.hl7v2.values import parse_number

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from bridge.mapping.run import Run

Json = Any
Converter = Callable[[str, "Run"], Json]


def text(raw: str, run: Run) -> str | None:
    """string, markdown: unescaped, without blanks at the ends; None where nothing is left."""
    if run.escape in raw:
        raw = unescape(raw, run.message.delimiters)
    return raw.strip() or None


class Moment(NamedTuple):
    """A v2 time, read once."""

    fhir: str
    date: str
    instant: str | None  # as a FHIR instant; None where no time of day or no offset is known
    us: int
    cut: bool
    shifted: bool


@lru_cache(maxsize=4096)
def moment(raw: str, zone: ZoneInfo | None) -> Moment | None:
    """The time that ``raw`` tells, in ``zone`` where it has no offset; None where it is no time.

    TS.2, the degree of precision of old versions, follows a component separator (any punctuation).
    """
    time = parse_time(raw)
    if time is None:
        return None
    told = time.to_fhir(zone)
    instant = told.text if time.precision >= Precision.HOUR and not told.cut else None
    return Moment(told.text, time.to_fhir_date(), instant, time.to_instant_us(zone), told.cut, told.shifted)


def _moment(raw: str, run: Run) -> Moment | None:
    found = moment(raw.split(run.component, 1)[0].split(run.subcomponent, 1)[0], run.zone)
    if found is None:
        run.report("time-invalid")
    elif found.cut:
        run.report("time-without-zone")
    elif found.shifted:
        run.report("time-in-gap")
    return found


def date_time(raw: str, run: Run) -> str | None:
    """dateTime: in the site's zone where the sender wrote no offset; without a zone cut to the date, and reported."""
    found = _moment(raw, run)
    return found.fhir if found else None


def date(raw: str, run: Run) -> str | None:
    """Date."""
    found = moment(raw.split(run.component, 1)[0].split(run.subcomponent, 1)[0], run.zone)
    if found is None:
        run.report("time-invalid")
        return None
    return found.date


def instant(raw: str, run: Run) -> str | None:
    """instant; None where the time of day or its offset is unknown."""
    found = _moment(raw, run)
    return found.instant if found else None


def time_of_day(raw: str, _run: Run) -> str | None:
    """Time."""
    return parse_time_of_day(raw)


def decimal(raw: str, _run: Run) -> Decimal | None:
    """decimal, digits kept."""
    return parse_number(raw)


_INTEGER: Final = re.compile(r"[+-]?\d{1,9}(?:\.0*)?", re.ASCII)


def integer(raw: str, _run: Run) -> int | None:
    """Integer."""
    raw = raw.strip()
    return int(raw.split(".", 1)[0]) if _INTEGER.fullmatch(raw) else None


def positive(raw: str, run: Run) -> int | None:
    """PositiveInt."""
    number = integer(raw, run)
    return number if number is not None and number > 0 else None


def boolean(raw: str, _run: Run) -> bool | None:
    """boolean, of HL7 table 0136."""
    return _BOOLEANS.get(raw.strip().upper())


_BOOLEANS: Final = {"Y": True, "N": False, "1": True, "0": False, "YES": True, "NO": False, "T": True, "F": False}
_CODE: Final = re.compile(r"\S+(?: \S+)*")


def code(raw: str, run: Run) -> str | None:
    """code: no blanks at the ends, none doubled."""
    found = text(raw, run)
    return " ".join(found.split()) if found else None


def uri(raw: str, run: Run) -> str | None:
    """uri, url: a text without blanks."""
    found = text(raw, run)
    return found if found and " " not in found else None


def base64_of_text(raw: str, run: Run) -> str | None:
    """base64Binary of a text."""
    found = text(raw, run)
    return base64.b64encode(found.encode()).decode("ascii") if found else None


def base64_binary(raw: str, run: Run) -> str | None:
    """base64Binary that is base64 already; None where it is not."""
    found = "".join((text(raw, run) or "").split())
    try:
        return found if found and base64.b64decode(found, validate=True) else None
    except binascii.Error:
        return None


def hexadecimal(raw: str, run: Run) -> str | None:
    """base64Binary of hexadecimal digits."""
    try:
        octets = bytes.fromhex(text(raw, run) or "")
    except ValueError:
        return None
    return base64.b64encode(octets).decode("ascii") if octets else None


def narrative(raw: str, run: Run) -> str | None:
    """Xhtml of a text."""
    found = text(raw, run)
    if not found:
        return None
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        found = found.replace(character, entity)
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{found}</div>'


def universal_id(raw: str, run: Run) -> str | None:
    """Uri of an OID, UUID or URI as HD.2 and EI.3 hold them."""
    found = uri(raw, run)
    if not found:
        return None
    if _OID.fullmatch(found):
        return f"urn:oid:{found}"
    if _UUID.fullmatch(found):
        return f"urn:uuid:{found.lower()}"
    return found if "://" in found or found.startswith("urn:") else None


_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9]\d*))+", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def whole(raw: str, run: Run) -> str | None:
    """String of a whole field, its delimiters as blanks."""
    for delimiter in (run.component, run.subcomponent):
        raw = raw.replace(delimiter, " ")
    found = text(raw, run)
    return " ".join(found.split()) if found else None


def nothing(_raw: str, _run: Run) -> None:
    """Never a value."""


PRIMITIVES: Final[dict[str, Converter]] = {
    "string": text,
    "markdown": text,
    "code": code,
    "uri": uri,
    "url": uri,
    "universal-id": universal_id,
    "date": date,
    "dateTime": date_time,
    "instant": instant,
    "time": time_of_day,
    "decimal": decimal,
    "integer": integer,
    "positiveInt": positive,
    "unsignedInt": integer,
    "boolean": boolean,
    "base64": base64_binary,
    "base64-of-text": base64_of_text,
    "base64-of-hex": hexadecimal,
    "xhtml": narrative,
    "whole": whole,
    "text-field": text,
    "lines": text,
    "document": base64_of_text,
    "nothing": nothing,
}
