"""The site of an object, from its key."""

from __future__ import annotations

import polars as pl
import pytest

from airlock.stages.sites import SITE_LENGTH, site_of
from tests.unit.airlock.world import pipeline


def sites(*keys: str, **source: str) -> list[str]:
    found = pl.DataFrame({"key": keys}, schema={"key": pl.String})
    return found.select(site_of(pipeline(source=source).source))["site"].to_list()


def test_it_is_the_first_folder_below_the_source() -> None:
    assert sites("in/north/1.dcm", "in/north/a/b/1.dcm", "in/south/") == ["north", "north", "south"]


def test_an_object_directly_in_the_source_has_none() -> None:
    assert sites("in/1.dcm", "in/") == ["", ""]


def test_a_pattern_names_it_wherever_it_stands() -> None:
    named = sites("in/2026/north/1.dcm", "in/2026/1.dcm", site_pattern=r"^in/(\d+)/(?P<site>[^/]+)/")
    assert named == ["north", ""]


def test_a_long_name_is_cut() -> None:
    assert sites(f"in/{'n' * 200}/1.dcm") == ["n" * SITE_LENGTH]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression"),
        ("^in/([^/]+)/", "site_pattern has no group named site"),
        ("(?P<site>a)(?=b)", "look-around"),
    ],
)
def test_a_pattern_that_cannot_name_a_site_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sites("in/1.dcm", site_pattern=pattern)
