"""Times: precision and offset kept, zones applied by one rule."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from bridge.hl7v2.times import FhirTime, Precision, parse_time, parse_time_of_day

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")


def fhir(text: str, zone: ZoneInfo | None = None, degree: str = "") -> FhirTime:
    time = parse_time(text, degree)
    assert time is not None
    return time.to_fhir(zone)


@pytest.mark.parametrize(
    ("text", "precision", "expected"),
    [
        ("2026", Precision.YEAR, "2026"),
        ("202602", Precision.MONTH, "2026-02"),
        ("20260228", Precision.DAY, "2026-02-28"),
        ("2026022813", Precision.HOUR, "2026-02-28T13:00:00+01:00"),
        ("202602281314", Precision.MINUTE, "2026-02-28T13:14:00+01:00"),
        ("20260228131415", Precision.SECOND, "2026-02-28T13:14:15+01:00"),
        ("20260228131415.0010", Precision.FRACTION, "2026-02-28T13:14:15.0010+01:00"),
        ("20260228131415-0500", Precision.SECOND, "2026-02-28T13:14:15-05:00"),
        ("20260228131415.1+0530", Precision.FRACTION, "2026-02-28T13:14:15.1+05:30"),
        ("202602281314-0330", Precision.MINUTE, "2026-02-28T13:14:00-03:30"),
        ("20260228131415Z", Precision.SECOND, "2026-02-28T13:14:15+00:00"),
        ("20260228131415-00:00", Precision.SECOND, "2026-02-28T13:14:15+00:00"),
        ("20260228+0100", Precision.DAY, "2026-02-28"),
        (" 20260228 ", Precision.DAY, "2026-02-28"),
    ],
)
def test_precision_and_offset_are_kept(text, precision, expected):
    """What the sender knew is what FHIR says; the site's zone only fills in where no offset was sent."""
    time = parse_time(text)

    assert time is not None
    assert time.precision is precision
    assert time.to_fhir(BERLIN) == FhirTime(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "20",
        "20261",
        "20261301",
        "20260230",
        "20250229",
        "00000000",
        "2026022824",
        "202602281360",
        "20260228131460",
        "20260228131415.",
        "20260228131415+1500",
        "20260228131415-1401",
        "20260228131415+01",
        "2026-02-28",
        "２０２６",
        '""',
        "20260228\n13",
    ],
)
def test_what_is_no_time_is_none(text):
    """No guess is made: the caller reports the element."""
    assert parse_time(text) is None


def test_without_offset_and_zone_a_time_is_cut_to_its_date():
    """And the cut is told; a date is not cut, an offset needs no zone."""
    assert fhir("20260228131415") == FhirTime("2026-02-28", cut=True)
    assert fhir("20260228") == FhirTime("2026-02-28", cut=False)
    assert fhir("20260228131415+0000") == FhirTime("2026-02-28T13:14:15+00:00")


def test_a_time_that_the_clocks_leap_over_is_moved_on_by_the_gap():
    """02:30 on the night the clocks go forward is 03:30, told as shifted; the minutes around it are not."""
    assert fhir("20260329023000", BERLIN) == FhirTime("2026-03-29T03:30:00+02:00", shifted=True)
    assert fhir("202603290159", BERLIN) == FhirTime("2026-03-29T01:59:00+01:00")
    assert fhir("202603290300", BERLIN) == FhirTime("2026-03-29T03:00:00+02:00")
    assert fhir("202603080230", NEW_YORK) == FhirTime("2026-03-08T03:30:00-04:00", shifted=True)


def test_of_a_time_that_the_clocks_pass_twice_it_is_the_first():
    """02:30 on the night the clocks go back is still summer time; an offset that was sent stands."""
    assert fhir("202610250230", BERLIN) == FhirTime("2026-10-25T02:30:00+02:00")
    assert fhir("202610250300", BERLIN) == FhirTime("2026-10-25T03:00:00+01:00")
    assert fhir("202610250230+0100", BERLIN) == FhirTime("2026-10-25T02:30:00+01:00")


def test_a_gap_of_half_an_hour():
    """Lord Howe's clocks move by thirty minutes, and so does the time."""
    assert fhir("202610040215", ZoneInfo("Australia/Lord_Howe")) == FhirTime("2026-10-04T02:45:00+11:00", shifted=True)


def test_offsets_of_old_local_time_lose_their_seconds():
    """FHIR's offsets are whole minutes; the text and the instant agree."""
    monrovia = ZoneInfo("Africa/Monrovia")  # 44 minutes and 30 seconds behind until 1972
    time = parse_time("1970010100")
    assert time is not None

    assert time.to_fhir(monrovia) == FhirTime("1970-01-01T00:00:00-00:44")
    assert time.to_instant_us(monrovia) == 44 * 60 * 1_000_000


@pytest.mark.parametrize(
    ("degree", "expected"),
    [
        ("Y", "2026"),
        ("L", "2026-02"),
        ("D", "2026-02-28"),
        ("H", "2026-02-28T13:00:00+01:00"),
        ("M", "2026-02-28T13:14:00+01:00"),
        ("S", "2026-02-28T13:14:15.5+01:00"),
        ("?", "2026-02-28T13:14:15.5+01:00"),
    ],
)
def test_degree_of_precision_makes_a_padded_time_coarser(degree, expected):
    """TS.2 says how much of TS.1 is meant; what it does not know changes nothing."""
    assert fhir("20260228131415.5", BERLIN, degree).text == expected


def test_degree_of_precision_never_makes_a_time_finer():
    """A date with degree S stays a date."""
    assert fhir("20260228", BERLIN, "S") == FhirTime("2026-02-28")


def test_date_of_a_time():
    """Elements of type date take the calendar day as written, whatever the zone."""
    time = parse_time("20260228235959-1200")

    assert time is not None
    assert time.to_fhir_date() == "2026-02-28"
    assert [parse_time(t).to_fhir_date() for t in ("2026", "202602")] == ["2026", "2026-02"]


def test_instants():
    """µs since the epoch of the first moment meant; digits beyond µs are dropped; UTC without offset and zone."""

    def instant(text: str, zone: ZoneInfo | None) -> int:
        time = parse_time(text)
        assert time is not None
        return time.to_instant_us(zone)

    noon = int(datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp()) * 1_000_000

    assert instant("2026022812", None) == noon
    assert instant("2026022813", BERLIN) == noon
    assert instant("20260228120000.1234567+0000", BERLIN) == noon + 123_456
    assert instant("2026022807-0500", BERLIN) == noon
    assert instant("202603290230", BERLIN) == instant("202603290330", BERLIN)
    assert instant("1969", None) == -365 * 86_400 * 1_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("13", "13:00:00"),
        ("1314", "13:14:00"),
        ("131415.20", "13:14:15.20"),
        ("131415-0500", "13:14:15"),
        ("24", None),
        ("1360", None),
        ("", None),
        ("13:14", None),
    ],
)
def test_time_of_day(text, expected):
    """TM as FHIR time, without its offset."""
    assert parse_time_of_day(text) == expected
