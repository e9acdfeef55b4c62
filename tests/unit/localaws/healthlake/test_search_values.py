"""Dates and numbers as ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localaws.healthlake.search_values import plain_reference, read_moments, read_numbers, split_prefix

DAY = 86_400_000


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("1970", (0, 365 * DAY)),
        ("1970-02", (31 * DAY, 59 * DAY)),
        ("1970-12", (334 * DAY, 365 * DAY)),
        ("1970-01-02", (DAY, 2 * DAY)),
        ("1970-01-01T01:00Z", (3_600_000, 3_660_000)),
        ("1970-01-01T00:00:01", (1000, 2000)),
        ("1970-01-01T00:00:01.5Z", (1500, 1501)),
        ("1970-01-01T02:00:00+02:00", (0, 1000)),
        ("1969-12-31T23:00:00-01:00", (0, 1000)),
    ],
)
def test_a_date_covers_what_it_does_not_say(text: str, span: tuple[float, float]) -> None:
    assert read_moments(text) == span


@pytest.mark.parametrize(
    "text",
    ["", "70", "1970-13", "1970-02-30", "1970-01-01T25:00Z", "0000", "9999", "x1970", "\uff11\uff19\uff17\uff10"],
)
def test_what_is_no_date_or_beyond_the_calendar_has_no_span(text: str) -> None:
    assert read_moments(text) is None


@given(st.text())
def test_no_text_raises(text: str) -> None:
    read_moments(text)
    read_numbers(text)
    split_prefix(text)
    plain_reference(text)


@pytest.mark.parametrize(
    ("text", "span"), [("100", (99.5, 100.5)), ("5.4", (5.35, 5.45)), ("-1.0", (-1.05, -0.95)), ("1e2", (50.0, 150.0))]
)
def test_a_number_covers_its_significant_digits(text: str, span: tuple[float, float]) -> None:
    assert read_numbers(text) == pytest.approx(span)
    assert read_numbers(text, exact=True) == (float(text), float(text))


def test_references_are_compared_without_version_and_own_address() -> None:
    assert plain_reference("https://healthlake.eu.test/datastore/abc/r4/Patient/1/_history/2") == "Patient/1"
    assert plain_reference("https://elsewhere.test/r4/Patient/1") == "https://elsewhere.test/r4/Patient/1"
