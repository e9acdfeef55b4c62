"""A run's name and the prefix that it takes in."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.run import PrefixOutsideSourceError, run_key, source_prefix
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.world import pipeline

SOURCE = "s3://archive/in/"


@given(st.text(min_size=1, max_size=250))
def test_any_run_id_gives_a_name_legal_in_keys_and_job_names(run_id: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9-]{1,49}", run_key("nightly", run_id))


def test_two_run_ids_never_share_a_name() -> None:
    ids = ["manual__2026-11-24T00:00:00+00:00", "manual__2026-11-24T00:00:00-00:00", "x" * 60, "x" * 61]
    assert len({run_key("nightly", run_id) for run_id in ids}) == len(ids)
    assert run_key("nightly", ids[0]) != run_key("weekly", ids[0])
    assert run_key("nightly", ids[0]) == run_key("nightly", ids[0])


def test_without_a_prefix_the_whole_source_is_taken_in() -> None:
    assert source_prefix(pipeline(), None) == source_prefix(pipeline(), "") == S3Uri("archive", "in/")


@pytest.mark.parametrize("prefix", ["in/2026/", "/in/2026/", "s3://archive/in/2026/"])
def test_a_prefix_below_the_source_narrows_it(prefix: str) -> None:
    assert source_prefix(pipeline(), prefix) == S3Uri("archive", "in/2026/")


@pytest.mark.parametrize(
    "prefix",
    [
        "out/MUELLER/",
        "in",
        "in/MUELLER",
        "s3://other/in/MUELLER/",
        "s3://archive/",
        "s3://A/MUELLER/",
        "s3://MUELLER",
        " ",
    ],
)
def test_any_other_prefix_is_refused_with_the_source_and_the_fix(prefix: str) -> None:
    with pytest.raises(
        PrefixOutsideSourceError, match="inside the source s3://archive/in/ of pipeline 'nightly'"
    ) as info:
        source_prefix(pipeline(), prefix)
    assert "Correct the prefix" in str(info.value)
    assert "MUELLER" not in str(info.value)
