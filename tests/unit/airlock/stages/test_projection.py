"""The projection to a whole archive; all expected figures are calculated by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airlock.stages.projection import Assumed, Work, project
from tests.unit.airlock.world import pipeline

ARCHIVE = 100_000_000
WORK = Work(requests_per_object=1.1, copies_per_object=1, files_per_job=5_000, seconds_per_job=160)
ASSUMED = Assumed(
    copies_in_flight=128,
    copy_seconds=0.1,
    starts_per_second=1,
    concurrent_jobs=20,
    wave_objects=1_000_000,
    active_runs=2,
    list_seconds=0.15,
    gets_per_second=5_500,
    copies_per_second=3_500,
    check_seconds_per_million=80,
    audit_seconds_per_million=112,
    cpu_ms_per_object=1.4,
    cores=7,
)


def rates(work: Work = WORK, assumed: Assumed = ASSUMED) -> dict[str, float]:
    return {each.limit: round(each.objects_per_second, 1) for each in project(ARCHIVE, work, assumed).limits}


def test_each_limit_allows_a_rate_and_the_tightest_is_first() -> None:
    # A wave alone: 200 s of headers, 80 of checks, 1,600 of jobs, 160 of the last one, 112 of audit: 2,152 s.
    assert list(rates().items()) == [
        ("concurrent jobs", 625),
        ("active runs", 929.4),
        ("copies in flight", 1_280),
        ("S3 COPY", 3_500),
        ("job starts", 5_000),
        ("CPU", 5_000),
        ("S3 GET", 5_000),
    ]


def test_hours_are_the_listing_and_first_wave_then_the_limit_that_binds_then_the_last_job_and_audit() -> None:
    found = project(ARCHIVE, WORK, ASSUMED)
    assert found.limited_by == "concurrent jobs"
    assert (found.waves, found.jobs) == (100, 20_000)
    assert found.head_hours * 3600 == pytest.approx(2 * 100_000 * 0.15 + 200 + 80)
    assert found.binding_hours * 3600 == pytest.approx(ARCHIVE / 625)
    assert found.tail_hours * 3600 == pytest.approx(160 + 112)
    assert found.hours == pytest.approx(found.head_hours + found.binding_hours + found.tail_hours)


@pytest.mark.parametrize(
    ("changed", "limit", "rate"),
    [
        ({"concurrent_jobs": 100}, "copies in flight", 1_280),
        ({"concurrent_jobs": 100, "copies_in_flight": 512, "active_runs": 9}, "concurrent jobs", 3_125),
        ({"concurrent_jobs": 1_000, "copies_in_flight": 512, "active_runs": 9}, "S3 COPY", 3_500),
        ({"active_runs": 1}, "active runs", 464.7),
        ({"cores": 0.7, "active_runs": 9}, "CPU", 500),
        ({"starts_per_second": 0.1, "active_runs": 9}, "job starts", 500),
        ({"gets_per_second": 550, "active_runs": 9}, "S3 GET", 500),
    ],
)
def test_the_limit_that_binds_is_named(changed: dict[str, Any], limit: str, rate: float) -> None:
    assumed = replace(ASSUMED, **changed)
    assert project(ARCHIVE, WORK, assumed).limited_by == limit
    assert rates(WORK, assumed)[limit] == rate


def test_batches_in_place_are_not_limited_by_copies() -> None:
    assert not {"S3 COPY", "copies in flight"} & rates(WORK._replace(copies_per_object=0)).keys()


def test_times_that_are_zero_limit_nothing() -> None:
    assert "concurrent jobs" not in rates(WORK._replace(seconds_per_job=0))
    assert "copies in flight" not in rates(WORK, replace(ASSUMED, copy_seconds=0))


def test_what_fits_in_one_wave_waits_for_no_other() -> None:
    found = project(1_000_000, WORK, ASSUMED)
    assert found.waves == 1
    assert "active runs" not in {each.limit for each in found.limits}


def test_assumptions_name_every_figure() -> None:
    text = " ".join(project(ARCHIVE, WORK, ASSUMED).assumptions)
    named = ["0.15 s", "5500 GETs", "3500 copies", "1.1 GETs", "0.1 s", "128 are in flight", "5,000 objects", "160 s"]
    named += ["20 jobs", "starts a second: 1", "1,000,000 objects, 2 at", "80 s", "112 s", "1.4 ms", "7 cores"]
    assert [each for each in named if each not in text] == []


def test_settings_of_a_pipeline_are_taken_but_for_what_was_measured() -> None:
    line = pipeline(
        waves={"objects": 10},
        schedule={"max_active_runs": 3},
        plan={"copy_seconds": 0.5, "projection": {"staging_slots": 2, "cores": 4}},
    )
    assumed = Assumed.of(line, cpu_ms_per_object=9)
    assert (assumed.wave_objects, assumed.active_runs, assumed.cores) == (10, 3, 4)
    assert (assumed.copies_in_flight, assumed.copy_seconds, assumed.cpu_ms_per_object) == (128, 0.5, 9)
