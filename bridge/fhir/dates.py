"""FHIR dates and times as closed intervals of µs (search.html#date: a value stands for all it may mean)."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Final, NamedTuple

_PATTERN: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?)?)?"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
MINIMUM_US: Final = -(2**62)  # an open beginning
MAXIMUM_US: Final = 2**62  # an open end


class Interval(NamedTuple):
    """First and last µs (both included), UTC."""

    start_us: int
    end_us: int


@lru_cache(maxsize=4096)
def parse_date(text: str) -> Interval:
    """A FHIR date, dateTime or instant as the interval it covers; a value without offset is taken as UTC.

    Raises:
        ValueError: not a FHIR date or time.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError("not a FHIR date or time")
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if month is None:
        return Interval(_us(int(year), 1, 1), _us(int(year), 12, 31) + _DAY - 1)
    if day is None:
        last = calendar.monthrange(int(year), int(month))[1] if 1 <= int(month) <= 12 else 0
        return Interval(_us(int(year), int(month), 1), _us(int(year), int(month), last) + _DAY - 1)
    start = _us(int(year), int(month), int(day))
    if hour is None:
        return Interval(start, start + _DAY - 1)
    moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=_offset(offset))
    start = (moment - _EPOCH) // _MICROSECOND
    if second is None:
        return Interval(start, start + 60_000_000 - 1)
    if fraction is None:
        return Interval(start, start + 1_000_000 - 1)
    unit = 10 ** max(6 - len(fraction), 0)
    start += int(fraction[:6]) * unit
    return Interval(start, start + unit - 1)


_DAY: Final = 86_400_000_000


def _us(year: int, month: int, day: int) -> int:
    return (datetime(year, month, day, tzinfo=UTC) - _EPOCH) // _MICROSECOND


def _offset(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def interval_of(value: Any) -> Interval | None:
    """The interval of a date, dateTime, instant or Period as it stands in a resource; None if there is none."""
    try:
        if isinstance(value, str):
            return parse_date(value)
        if isinstance(value, Mapping) and ("start" in value or "end" in value):
            start = parse_date(value["start"]).start_us if "start" in value else MINIMUM_US
            end = parse_date(value["end"]).end_us if "end" in value else MAXIMUM_US
            return Interval(start, end)
    except (ValueError, TypeError):
        return None
    return None
