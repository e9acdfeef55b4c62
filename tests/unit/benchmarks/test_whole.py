"""The figures of the whole chain, from what was seen of one that is small enough to calculate by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from benchmarks.bars import bars_of_whole
from benchmarks.whole_figures import Instance, Seen, figures, share_staged_first, sum_spans, table
from benchmarks.whole_size import FULL, QUICK, THIN, Size
from benchmarks.whole_stack import ARCHIVES, STAGING, WHOLE, read_pipeline

SIZE = Size(objects=7_000, waves=2, batch=500, early_batch=0)  # 700 copies a second: 10 s
BEGAN = 1_000.0


def instance(task: str, start: float, end: float, *, index: int = -1, run: str = "one") -> Instance:
    return Instance(f"{run} {task} {index}", task, run, index, BEGAN + start, BEGAN + end)


SEEN = Seen(
    began=BEGAN,
    ended=BEGAN + 30,
    instances=[
        instance("parse", 2, 6, index=0),
        instance("parse", 4, 8, index=1),
        instance("stage", 9, 20, index=0),
        instance("import", 20, 25, index=0),
        instance("audit", 25, 30),
        instance("audit", 26, 29, run="two"),
    ],
    requests={"get airlock-archive": 7_700, "copy airlock-staging": 7_000},
    spans={"get airlock-archive": [BEGAN + 2, BEGAN + 8], "copy airlock-staging": [BEGAN + 9, BEGAN + 20]},
    refused={},
    calls={"StartDICOMImportJob": 1},
    jobs=[(BEGAN + 20, BEGAN + 24)],
    cpu_by_instance={"one parse 0": 3.0, "one parse 1": 2.0, "elsewhere": 1.0},
    cpu_by_part={"scheduler": 6.0},
    cores=2,
    released=7_000,
)


def found(seen: Seen = SEEN, size: Size = SIZE) -> dict[str, Any]:
    return figures(size, seen, ARCHIVES[WHOLE], STAGING[WHOLE], read_pipeline(WHOLE, size))


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [([], 0), ([(1, 3)], 2), ([(1, 3), (2, 5)], 4), ([(4, 5), (1, 3)], 3), ([(1, 9), (2, 3)], 8)],
)
def test_spans_count_once_where_they_overlap(spans: list[tuple[float, float]], seconds: float) -> None:
    assert sum_spans(spans) == seconds


def test_a_stage_has_its_time_its_tasks_and_their_cpu() -> None:
    parse = next(row for row in found()["stages"] if row["stage"] == "parse")
    assert (parse["instances"], parse["wall_seconds"], parse["cpu_seconds"]) == (2, 6, 5)
    assert (parse["first"], parse["last"]) == (2, 8)


def test_a_limit_is_used_by_the_time_that_it_allows_over_the_time_that_was_taken() -> None:
    used = {row["limit"]: row for row in found()["limits"]}
    assert used["S3 COPY"]["seconds_at_limit"] == 10
    assert used["S3 COPY"]["utilisation"] == pytest.approx(10 / 11)
    assert used["S3 GET"]["utilisation"] == pytest.approx(7 / 6)  # 1,100 a second, while parse runs


def test_the_wall_is_compared_with_the_limit_that_binds_and_what_is_before_and_after() -> None:
    whole = found()["whole"]
    assert (whole["binding"], whole["binding_seconds"]) == ("S3 COPY", 10)
    assert (whole["head_seconds"], whole["tail_seconds"], whole["wall_seconds"]) == (9, 10, 30)
    assert whole["ratio"] == pytest.approx(30 / 29)


def test_a_share_of_the_cpu_is_that_of_all_processes() -> None:
    assert found()["cpu_share"] == pytest.approx(12 / (2 * 30))


def test_stagings_count_that_ended_before_the_first_import() -> None:
    staged = [instance("stage", n, n + 1, index=n) for n in range(4)]
    assert share_staged_first([*staged, instance("import", 2.5, 9, index=0), instance("import", 7, 9, index=1)]) == 0.5


def test_instances_of_a_million_are_known_only_of_the_full_size() -> None:
    assert "in_one_wave" not in found()["instances"]
    waves = [f"wave {n}" for n in range(10)]
    ones = [instance(f"{n}", 0, 1, run=run) for run in waves for n in range(7)]
    ones += [instance("stage", 0, 1, index=n, run=run) for run in waves for n in range(44)]
    counted = found(replace(SEEN, instances=ones), FULL)["instances"]
    assert (counted["in_one_wave"], counted["of_each_further_wave"]) == (447, 7)


def test_what_was_cut_off_has_no_figures_of_the_whole() -> None:
    cut = found(replace(SEEN, ended=None))
    assert "whole" not in cut
    assert "The time was up" in table(cut | {"size": vars(SIZE)})


def test_the_projection_is_to_100_million_by_whole_limits_and_measured_figures() -> None:
    projection = found()["projection"]
    assert projection["objects"] == 100_000_000
    assert {row["limit"]: row["objects_per_second"] for row in projection["limits"]}["S3 COPY"] == 3_500
    assert "limited by" in table(found() | {"size": vars(SIZE)})


@pytest.mark.parametrize("size", [FULL, QUICK, THIN])
def test_every_size_has_the_same_limits_in_objects_a_second(size: Size) -> None:
    limits = size.limits()
    assert limits.copies_per_second == 700
    assert limits.starts_per_second * size.batch == pytest.approx(1_000)
    one_job = limits.job_seconds + size.batch / limits.job_files_per_second
    assert limits.jobs * size.batch / one_job == pytest.approx(625)


@pytest.mark.parametrize("size", [FULL, QUICK, THIN])
def test_its_pipeline_is_cut_into_its_waves(size: Size) -> None:
    objects, _ = read_pipeline(WHOLE, size).wave_limits
    assert -(-size.objects // objects) == size.waves


def test_the_first_delivery_is_shown_where_it_was_taken_to_its_end() -> None:
    early = {"batches": 24, "slots": 4, "staged_before_first_import": 0.125}
    shown = found() | {"size": vars(SIZE)}
    assert "24 batches, 4 slots: 12% were staged" in table(shown | {"early": early})
    assert "24 batches" not in table(shown | {"early": early | {"staged_before_first_import": None}})


def test_a_bar_that_was_not_measured_is_not_met() -> None:
    bars = {bar.figure: bar for bar in bars_of_whole(found(replace(SEEN, ended=None)))}
    assert bars["whole chain: copies/s against S3's limit, first to last copy"].met is True
    assert bars["whole chain: wall over binding stage + head + tail"].met is None


def test_what_stands_for_aws_counts_for_this_machine_and_not_for_a_deployment() -> None:
    more = replace(SEEN, cpu_by_part=SEEN.cpu_by_part | {"s3": 100.0, "health": 100.0})
    assert found(more, FULL)["cpu_seconds"] == found(SEEN, FULL)["cpu_seconds"] + 200
    assert found(more, FULL)["projection"] == found(SEEN, FULL)["projection"]
