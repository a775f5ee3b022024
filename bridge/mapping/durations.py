"""Ends that are told as a start and a duration (SCH, AIS): v2 tells the amount and its unit in two fields."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from bridge.mapping.primitives import decimal

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.mapping.conditions import Getter
    from bridge.mapping.objects import Converter
    from bridge.mapping.run import Run

Json = Any
# UCUM and the words that senders write, in small letters; none at all is minutes (table 0335 has no default, feeds have)
_SECONDS: Final = {
    "": 60,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3_600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
}


def later(convert: Converter, amount: Getter, unit: Getter | None) -> Callable[[str, Run], Json]:
    """The time that ``convert`` makes, moved by the amount (of minutes, without a unit); None where either is unknown."""

    def moved(raw: str, run: Run) -> Json:
        start = convert(raw, run)
        number = decimal(amount(run.fields, run), run)
        named = unit(run.fields, run).split(run.component, 1)[0].strip().lower() if unit is not None else ""
        seconds = _SECONDS.get(named)
        if start is None or "T" not in start or number is None or seconds is None or not 0 < number * seconds < 10**9:
            return None
        try:
            return (datetime.fromisoformat(start) + timedelta(seconds=float(number * seconds))).isoformat()
        except (ValueError, OverflowError):
            return None

    return moved
