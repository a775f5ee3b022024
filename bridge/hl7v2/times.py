"""Dates and times of HL7 v2 (DT, DTM, TS, TM) with the precision and the offset that the sender wrote.

Source: HL7 v2.9 chapter 2A.2.21 (DT), 2A.2.22 (DTM), 2A.2.75 (TM); targets: FHIR R4 date, dateTime, instant, time. What is
not of that form is no time: the parsers answer None, and the caller reports the element as unmapped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


class Precision(IntEnum):
    """How far a time is known; ordered from coarse to fine."""

    YEAR = 4
    MONTH = 6
    DAY = 8
    HOUR = 10
    MINUTE = 12
    SECOND = 14
    FRACTION = 15


class FhirTime(NamedTuple):
    """A FHIR date or dateTime.

    Attributes:
        text: as FHIR writes it.
        cut: a time of day was given and is left out, because neither the sender nor the site told a zone.
        shifted: the local time does not exist (the clocks go forward over it) and was moved on by the length of the gap.
    """

    text: str
    cut: bool = False
    shifted: bool = False


_DEGREES: Final = {
    "Y": Precision.YEAR,
    "L": Precision.MONTH,
    "D": Precision.DAY,
    "H": Precision.HOUR,
    "M": Precision.MINUTE,
    "S": Precision.FRACTION,
}
_OFFSET: Final = r"(?:([+-])([01][0-9]):?([0-5][0-9])|(Z))?"
_CLOCK: Final = r"([01][0-9]|2[0-3])(?:([0-5][0-9])(?:([0-5][0-9])(\.[0-9]{1,9})?)?)?"
_TIME: Final = re.compile(
    rf"([0-9]{{4}})(?:(0[1-9]|1[0-2])(?:(0[1-9]|[12][0-9]|3[01])(?:{_CLOCK})?)?)?{_OFFSET}", re.ASCII
)
_TIME_OF_DAY: Final = re.compile(_CLOCK + _OFFSET, re.ASCII)
_FARTHEST_OFFSET: Final = 14 * 60


@dataclass(frozen=True, slots=True)
class Time:
    """A point in time as written; parts finer than ``precision`` are at their least value.

    Attributes:
        fraction: the digits after the second with their point, as written; '' if none.
        offset_minutes: east of UTC; None where the sender wrote none.
    """

    precision: Precision
    year: int
    month: int = 1
    day: int = 1
    hour: int = 0
    minute: int = 0
    second: int = 0
    fraction: str = ""
    offset_minutes: int | None = None

    def to_fhir_date(self) -> str:
        """The date alone, at most to the day, as the sender's calendar has it (for elements of type date)."""
        if self.precision >= Precision.DAY:
            return f"{self.year:04}-{self.month:02}-{self.day:02}"
        return f"{self.year:04}-{self.month:02}" if self.precision is Precision.MONTH else f"{self.year:04}"

    def to_fhir(self, zone: ZoneInfo | None) -> FhirTime:
        """The FHIR dateTime, or date where no time of day is known.

        A time without offset takes ``zone``; without either it is cut to its date. Minutes and seconds that are not told
        are zero, for FHIR knows no dateTime without them. Of a local time that the clocks pass twice it is the first
        passage; one that they leap over is moved on by the gap. Offsets that are no whole minutes (before about 1937)
        lose their seconds.
        """
        if self.precision < Precision.HOUR:
            return FhirTime(self.to_fhir_date())
        if self.offset_minutes is None and zone is None:
            return FhirTime(self.to_fhir_date(), cut=True)
        local, minutes, shifted = self._local(zone)
        sign, minutes = ("-", -minutes) if minutes < 0 else ("+", minutes)
        return FhirTime(
            f"{local.year:04}-{local.month:02}-{local.day:02}T{local.hour:02}:{local.minute:02}:{self.second:02}"
            f"{self.fraction}{sign}{minutes // 60:02}:{minutes % 60:02}",
            shifted=shifted,
        )

    def to_instant_us(self, zone: ZoneInfo | None) -> int:
        """µs since the epoch of the first moment that the time may mean; UTC where neither sender nor ``zone`` tells."""
        local, minutes, _ = self._local(zone)
        whole = (local.replace(tzinfo=None) - _EPOCH) // _SECOND - minutes * 60 + self.second
        return whole * 1_000_000 + int(self.fraction[1:7].ljust(6, "0"))

    def _local(self, zone: ZoneInfo | None) -> tuple[datetime, int, bool]:
        return _local(self.year, self.month, self.day, self.hour, self.minute, self.offset_minutes, zone)


@lru_cache(maxsize=1024)  # a time is asked for its text and for its instant, and many of one message are of one minute
def _local(
    year: int, month: int, day: int, hour: int, minute: int, offset_minutes: int | None, zone: ZoneInfo | None
) -> tuple[datetime, int, bool]:
    """The aware local time to the minute, its offset in minutes, and whether it had to be moved out of a gap."""
    if offset_minutes is not None:
        fixed = timezone(timedelta(minutes=offset_minutes)) if offset_minutes else UTC
        return datetime(year, month, day, hour, minute, tzinfo=fixed), offset_minutes, False
    if zone is None:
        return datetime(year, month, day, hour, minute, tzinfo=UTC), 0, False
    local = datetime(year, month, day, hour, minute, tzinfo=zone)  # fold 0: first passage
    before, after = local.utcoffset(), local.replace(fold=1).utcoffset()
    if before is None or after is None or before >= after:
        return local, _offset_minutes(local), False
    local += after - before  # only in a gap is the second reading's offset the greater one
    return local, _offset_minutes(local), True


_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - compared with local times whose offset is counted apart
_SECOND: Final = timedelta(seconds=1)


def _offset_minutes(local: datetime) -> int:
    offset = local.utcoffset()
    assert offset is not None
    return int(offset.total_seconds() / 60)


def parse_time(text: str, degree: str = "") -> Time | None:
    """Reads DTM, TS or DT: ``YYYY[MM[DD[HH[MM[SS[.S…]]]]]][±ZZZZ]``; None where ``text`` is not of that form.

    Args:
        text: the value, unescaped.
        degree: the deprecated degree of precision (TS.2: Y L D H M S), which may make a padded time coarser.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, zone_hours, zone_minutes, zulu = match.groups()
    offset = _offset(sign, zone_hours, zone_minutes, zulu)
    precision = _precision(match)
    limit = _DEGREES.get(degree)
    if limit is not None and limit < precision:
        precision = limit
        month, day, hour, minute = (
            part if precision >= least else None
            for part, least in zip((month, day, hour, minute), (6, 8, 10, 12), strict=True)
        )
        second = fraction = None
    try:
        date(int(year), int(month or 1), int(day or 1))
    except ValueError:
        return None
    if offset is not None and abs(offset) > _FARTHEST_OFFSET:
        return None
    return Time(
        precision,
        int(year),
        int(month or 1),
        int(day or 1),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        fraction or "",
        offset,
    )


def _precision(match: re.Match[str]) -> Precision:
    last = match.lastindex or 1
    last = min(last, 7)
    while match[last] is None:
        last -= 1
    return _PRECISIONS[last - 1]


_PRECISIONS: Final = tuple(Precision)


def _offset(sign: str | None, hours: str | None, minutes: str | None, zulu: str | None) -> int | None:
    if zulu:
        return 0
    if sign is None or hours is None or minutes is None:
        return None
    offset = int(hours) * 60 + int(minutes)
    return -offset if sign == "-" else offset


def parse_time_of_day(text: str) -> str | None:
    """Reads TM, ``HH[MM[SS[.S…]]][±ZZZZ]``, as FHIR time ``HH:MM:SS[.S…]``; None where it is not of that form.

    FHIR's time has no zone: an offset is left out. Seconds that are not told are zero.
    """
    match = _TIME_OF_DAY.fullmatch(text.strip())
    if match is None:
        return None
    return f"{match[1]}:{match[2] or '00'}:{match[3] or '00'}{match[4] or ''}"
