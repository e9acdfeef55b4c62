"""The site of an object, from its key."""

from __future__ import annotations

import polars as pl
import pytest

from airlock.stages.sites import MOST_COUNTED, OTHER, SITE_LENGTH, CountedSites, site_of
from tests.unit.airlock.world import pipeline


def sites(*keys: str, **source: str) -> list[str]:
    found = pl.DataFrame({"key": keys}, schema={"key": pl.String})
    return found.select(site_of(pipeline(source=source).source))["site"].to_list()


FIRST_FOLDER = r"^in/(?P<site>[^/]+)/"


def test_without_a_pattern_the_source_is_one_site() -> None:
    """Any folder may be named after a patient."""
    assert sites("in/mueller/1.dcm", "in/meier/a/b/1.dcm", "in/1.dcm", "in/") == [""] * 4


def test_an_object_whose_key_does_not_match_has_none() -> None:
    assert sites("in/1.dcm", "in/", "in/north/1.dcm", site_pattern=FIRST_FOLDER) == ["", "", "north"]


def test_a_pattern_names_it_wherever_it_stands() -> None:
    named = sites("in/2026/north/1.dcm", "in/2026/1.dcm", site_pattern=r"^in/(\d+)/(?P<site>[^/]+)/")
    assert named == ["north", ""]


def test_a_long_name_is_cut() -> None:
    assert sites(f"in/{'n' * 200}/1.dcm", site_pattern=FIRST_FOLDER) == ["n" * SITE_LENGTH]


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


def counted(*frames: list[str], **source: str) -> list[str]:
    sites = CountedSites(pipeline(source=source).source)
    added = [sites.add_to(pl.DataFrame({"key": keys}, schema={"key": pl.String})) for keys in frames]
    return pl.concat(added)["site"].to_list()


def test_a_site_counts_by_the_name_that_the_pattern_gives() -> None:
    assert counted(["in/north/1", "in/1"], ["in/south/1"], site_pattern=FIRST_FOLDER) == ["north", "", "south"]


def test_of_too_many_sites_the_further_ones_count_as_one() -> None:
    keys = [f"in/{number:04}/1" for number in range(MOST_COUNTED + 2)]
    found = counted(keys[:10], keys[10:], keys[:1], site_pattern=FIRST_FOLDER)
    assert found[-4:] == [f"{MOST_COUNTED - 1:04}", OTHER, OTHER, "0000"]
    assert len(set(found)) == MOST_COUNTED + 1
