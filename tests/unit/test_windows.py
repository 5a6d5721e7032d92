from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import ConfigurationError
from components.records import Window

MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
LENGTHS = st.sampled_from(["month", "week", "day"])


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("2026-W53", date(2026, 12, 28), date(2027, 1, 4)),
        ("2027-W01", date(2027, 1, 4), date(2027, 1, 11)),
        ("2026-W44", date(2026, 10, 26), date(2026, 11, 2)),
        ("2028-02", date(2028, 2, 1), date(2028, 3, 1)),
        ("2026-12-31", date(2026, 12, 31), date(2027, 1, 1)),
    ],
)
def test_a_window_spans_what_its_name_says(name: str, start: date, end: date) -> None:
    window = Window.parse(name)
    assert (window.start.date(), window.end.date()) == (start, end)
    assert Window.containing(window.start, window.length) == window
    assert Window.containing(window.end - timedelta(microseconds=1), window.length) == window


@pytest.mark.parametrize(
    "name", ["2027-W53", "2026-W54", "2026-W00", "2026-13", "2026-02-30", "9999-12", "２０２６-11"]
)
def test_a_name_that_no_calendar_has_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a month"):
        Window.parse(name)


@given(MOMENTS, LENGTHS)
def test_windows_of_one_length_follow_one_another_without_gap_or_overlap(moment: datetime, length: str) -> None:
    window = Window.containing(moment, length)
    assert window.start <= moment < window.end
    assert window.length == length
    assert Window.parse(window.name) == window
    following = window.following()
    assert following.start == window.end
    assert following.previous() == window
    assert not window.overlaps(following)


@given(MOMENTS, LENGTHS, MOMENTS, LENGTHS)
def test_windows_overlap_where_they_share_a_day(a: datetime, one: str, b: datetime, other: str) -> None:
    first, second = Window.containing(a, one), Window.containing(b, other)
    days = [{w.start.date() + timedelta(days=n) for n in range((w.end - w.start).days)} for w in (first, second)]
    assert first.overlaps(second) == second.overlaps(first) == bool(days[0] & days[1])
