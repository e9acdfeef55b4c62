"""Batches of whole series, planned within the limits of a job."""

from __future__ import annotations

from dataclasses import replace
from threading import Barrier
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.imaging.contracts import StudyContract
from airlock.imaging.normalize import has_job_in_datastore, normalize, plan
from airlock.imaging.validate import validate
from airlock.pipelines import Limits
from airlock.records import BATCHES, STUDIES, VERDICTS
from airlock.stages.batches import INDEX, TooManyBatchesError, find_batches
from airlock.storage import spool
from airlock.storage.s3 import S3, S3Error
from airlock.storage.spool import Spool
from airlock.storage.workspace import DatasetMissingError
from tests.unit.airlock.imaging.batches import delivered, read_batches, series, stage_all, started
from tests.unit.airlock.world import dicom, pipeline, verdicts

if TYPE_CHECKING:
    from airlock.storage.s3uri import S3Uri
    from tests.unit.airlock.world import World

UIDS = ("StudyInstanceUID", "SeriesInstanceUID")


def planned(files: list[dict[str, Any]], **limits: int) -> list[list[str]]:
    return [[key.removeprefix("in/") for key in batch["key"]] for batch in plan([verdicts(*files)], Limits(**limits))]


class TestPlan:
    def test_series_stay_whole_and_share_a_job_as_far_as_it_holds(self) -> None:
        files = series("1.1", 3) + series("1.2", 2) + series("1.3", 2)
        sizes = [len(batch) for batch in planned(files, files_per_job=5)]
        assert sizes == [5, 2]
        assert [len(batch) for batch in planned(files, files_per_job=4)] == [3, 4]

    def test_a_job_is_full_at_its_limit_and_not_before(self) -> None:
        files = series("1.1", 2) + series("1.2", 2)
        assert len(planned(files, files_per_job=4)) == 1
        assert len(planned(files, files_per_job=3)) == 2
        assert len(planned(files, bytes_per_job=40)) == 1
        assert len(planned(files, bytes_per_job=39)) == 2

    def test_a_series_larger_than_a_job_is_split(self) -> None:
        assert [len(batch) for batch in planned(series("1.1", 7), files_per_job=3)] == [3, 3, 1]
        assert [len(batch) for batch in planned(series("1.1", 7), bytes_per_job=29)] == [2, 2, 2, 1]

    def test_a_file_larger_than_a_job_goes_alone(self) -> None:
        files = series("1.1", 1, size=99) + series("1.2", 2)
        assert [len(batch) for batch in planned(files, bytes_per_job=50)] == [1, 2]

    def test_nothing_makes_no_batch(self) -> None:
        assert planned([]) == []

    @settings(max_examples=60)
    @given(
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(1, 60)), max_size=12),
        st.integers(1, 6),
        st.integers(50, 200),
        st.randoms(use_true_random=False),
    )
    def test_any_plan_is_a_partition_within_the_limits(
        self, shape: list[tuple[str, str, int]], most: int, heaviest: int, random: Any
    ) -> None:
        files = [
            dicom(f"{number}", StudyInstanceUID=study, SeriesInstanceUID=study + name, size=size)
            for number, (study, name, size) in enumerate(shape)
        ]
        limits = Limits(files_per_job=most, bytes_per_job=heaviest)
        batches = list(plan([verdicts(*files)], limits))
        assert sorted(each for batch in batches for each in batch["arrival_id"]) == sorted(
            f["arrival_id"] for f in files
        )
        for batch in batches:
            assert 0 < batch.height <= most
            assert batch["size"].sum() <= heaviest or batch.height == 1
        for name, rows in verdicts(*files).group_by("SeriesInstanceUID"):
            parts = sum(batch["SeriesInstanceUID"].is_in(list(name)).any() for batch in batches)
            assert parts == 1 or rows.height > most or rows["size"].sum() > heaviest
        random.shuffle(files)
        with Spool(pl.col("StudyInstanceUID"), 3) as parts:
            parts.add(verdicts(*files))
            again = list(plan(parts, limits))
        assert [batch["arrival_id"].to_list() for batch in again] == [
            batch["arrival_id"].to_list() for batch in batches
        ]


def test_before_a_job_was_begun_no_batch_is_read_to_know_it(world: World) -> None:
    run = world.run()
    run.workspace.write_json(INDEX, [{"batch_id": "gone", "input_uri": "s3://work/x/", "files": 1, "bytes": 1}])
    assert not has_job_in_datastore(run)


def test_only_what_was_accepted_is_planned(world: World) -> None:
    run = delivered(world, dicom("a"), dicom("b", verdict="duplicate"), dicom("c", verdict="quarantine"))
    (batch,) = normalize(run)
    assert (batch.files, read_batches(run).height) == (1, 1)


def test_nothing_accepted_makes_no_batch(world: World) -> None:
    run = delivered(world, dicom("a", verdict="ignore"))
    assert normalize(run) == []
    assert find_batches(run) == []
    assert read_batches(run).height == 0


def test_without_verdicts_it_says_so(world: World) -> None:
    with pytest.raises(DatasetMissingError, match="verdicts"):
        normalize(world.run())
    assert find_batches(world.run()) == []


def test_too_many_batches_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlock.stages.batches.MAX_BATCHES", 2)
    run = delivered(world, *series("1.1", 3), limits={"files_per_job": 1})
    with pytest.raises(TooManyBatchesError, match="needs 3 import jobs, one run maps at most 2: take it in by smaller"):
        normalize(run)
    assert find_batches(run) == []


def test_batches_are_written_several_at_a_time_and_keep_their_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = delivered(world, *series("1.1", 12), limits={"files_per_job": 1})
    together, put = Barrier(4), S3.put

    def wait(s3: S3, uri: S3Uri, *given: Any) -> None:
        if "/batches/" in uri.key and uri.key.endswith(".parquet"):
            together.wait(20)
        put(s3, uri, *given)

    with monkeypatch.context() as patched:
        patched.setattr(S3, "put", wait)
        batches = normalize(run)
    assert batches == find_batches(run) == normalize(run)
    keys = [run.workspace.read(f"batches/{batch.batch_id}", BATCHES)["key"][0] for batch in batches]
    assert keys == sorted(keys)
    assert len(set(keys)) == 12


def test_a_batch_that_cannot_be_written_leaves_none_that_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = delivered(world, *series("1.1", 12), limits={"files_per_job": 1})
    put, left = S3.put, iter(range(5))

    def fail(s3: S3, uri: S3Uri, *given: Any) -> None:
        if "/batches/" in uri.key and next(left, None) is None:
            raise S3Error("an object cannot be written", "PutObject", "SlowDown")
        put(s3, uri, *given)

    with monkeypatch.context() as patched:
        patched.setattr(S3, "put", fail)
        with pytest.raises(S3Error, match="SlowDown"):
            normalize(run)
    assert find_batches(run) == []
    assert len(normalize(run)) == 12


def test_batches_of_two_runs_and_two_stores_have_names_of_their_own(world: World) -> None:
    ids = set()
    for run_id, store in (("one", "d" * 32), ("two", "d" * 32), ("one", "e" * 32)):
        name = f"n{store[0]}"
        run = delivered(world, dicom("a"), run_id=run_id, name=name, healthimaging={"datastore_id": store})
        ids.add(normalize(run)[0].batch_id)
    assert len(ids) == 3
    assert all(len(each) == 32 for each in ids)


def test_once_a_job_was_begun_the_plan_stands(world: World) -> None:
    run = delivered(world, *series("1.1", 3))
    (batch,) = stage_all(run)
    started(run, batch)
    smaller = world.run("one", pipeline(limits={"files_per_job": 1}))
    world.s3.delete("work", [f"{batch.input_uri.removeprefix('s3://work/')}000000.dcm"])
    assert stage_all(smaller) == [batch]
    assert read_batches(smaller).height == 3
    assert len(world.keys(batch.input_uri)) == 2  # the job has them: nothing is staged again


def test_how_a_delivery_is_partitioned_changes_no_batch_and_no_study(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    files = [
        dicom(f"{number:02}", SOPInstanceUID=f"2.{number}", **dict.fromkeys(UIDS, f"1.{number % 7}"))
        for number in range(25)
    ]
    run = delivered(world, *files)
    world.buffered(run, *run.workspace.read("verdicts", VERDICTS).to_dicts())
    small = replace(run, pipeline=pipeline(limits={"files_per_job": 6}))
    for rows in (spool.PARTITION_ROWS, 1):
        monkeypatch.setattr(spool, "PARTITION_ROWS", rows)
        validate(small)
        batches = normalize(small)
        found.append((batches, read_batches(small).rows(), sorted(small.workspace.read("studies", STUDIES).rows())))
    assert len(list(small.workspace.parts("verdicts", VERDICTS))) > 1
    assert len(found[0][0]) > 1
    assert found[0] == found[1]


def test_the_studies_are_written_as_contracts_to_be(world: World) -> None:
    run = delivered(
        world, dicom("a"), dicom("b", StudyInstanceUID="1.2"), dicom("c", verdict="quarantine", StudyInstanceUID="1.3")
    )
    normalize(run)
    rows = run.workspace.read("studies", STUDIES)
    assert sorted(rows["StudyInstanceUID"]) == ["1.1", "1.2"]
    for row in rows.rows(named=True):
        contract = StudyContract.model_validate_json(row["contract"])
        assert (contract.StudyInstanceUID, contract.study_key) == (row["StudyInstanceUID"], row["study_key"])
