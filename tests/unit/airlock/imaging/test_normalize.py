"""Batches of whole series, each under a prefix that holds its files and nothing else."""

from __future__ import annotations

import traceback
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.imaging.contracts import StudyContract
from airlock.imaging.normalize import has_job_in_datastore, normalize, plan
from airlock.imaging.validate import validate
from airlock.ledger import Job
from airlock.pipelines import Limits
from airlock.records import BATCHES, STUDIES, VERDICTS
from airlock.stages.batches import INDEX, Batch, TooManyBatchesError, find_batches
from airlock.storage import spool
from airlock.storage.s3 import BucketError
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import Spool
from airlock.storage.workspace import DatasetMissingError
from tests.unit.airlock.world import dicom, pipeline, verdicts

if TYPE_CHECKING:
    from airlock.run import Run
    from tests.unit.airlock.world import World

UIDS = ("StudyInstanceUID", "SeriesInstanceUID")
ODD = ["a b", "a+b", "é ü", "x//y", "%41", "100%", "q?#{}", "../up", "back\\slash", "~'\""]


def delivered(world: World, *files: dict[str, Any], run_id: str = "one", **changes: Any) -> Run:
    """Put the files' objects, and give the run verdicts that accept them as they lie there now."""
    run = world.run(run_id, pipeline(**changes))
    rows = []
    for each in files:
        body = f"content of {each['key']}".encode()
        etag = world.put(f"s3://archive/{each['key']}", body)
        rows.append(dicom("", **(each | {"etag": etag, "size": len(body)})))
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    run.workspace.write("verdicts", VERDICTS, verdicts(*rows))
    return run


def read_batches(run: Run) -> pl.DataFrame:
    """Return every file of every batch of the run."""
    return run.workspace.read_all([f"batches/{batch.batch_id}" for batch in find_batches(run)], BATCHES)


def series(name: str, number: int, size: int = 10, study: str = "1.1") -> list[dict[str, Any]]:
    return [dicom(f"{name}/{i:03}", SeriesInstanceUID=name, StudyInstanceUID=study, size=size) for i in range(number)]


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

    @settings(max_examples=60, deadline=None)
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


class TestStage:
    def test_each_batch_lies_under_a_prefix_of_its_own(self, world: World) -> None:
        run = delivered(world, *series("1.1", 2), *series("1.2", 1), limits={"files_per_job": 2})
        one, two = normalize(run)
        assert (one.files, two.files) == (2, 1)
        for batch in (one, two):
            assert batch.input_uri == f"s3://work/staging/nightly/{run.key}/{batch.batch_id}/"
            assert len(world.keys(batch.input_uri)) == batch.files
        rows = read_batches(run)
        assert rows.height == 3
        for row in rows.rows(named=True):
            source = run.workspace.read("verdicts", VERDICTS).row(
                by_predicate=pl.col("arrival_id") == row["arrival_id"], named=True
            )
            assert world.s3.client.get_object(Bucket=row["staged_bucket"], Key=row["staged_key"])["Body"].read() == (
                f"content of {source['key']}".encode()
            )
            assert row["reason"] is None

    def test_only_what_was_accepted_is_staged(self, world: World) -> None:
        run = delivered(world, dicom("a"), dicom("b", verdict="duplicate"), dicom("c", verdict="quarantine"))
        (batch,) = normalize(run)
        assert (batch.files, read_batches(run).height) == (1, 1)

    def test_nothing_accepted_makes_no_batch(self, world: World) -> None:
        run = delivered(world, dicom("a", verdict="ignore"))
        assert normalize(run) == []
        assert find_batches(run) == []
        assert read_batches(run).height == 0

    def test_without_verdicts_it_says_so(self, world: World) -> None:
        with pytest.raises(DatasetMissingError, match="verdicts"):
            normalize(world.run())
        assert find_batches(world.run()) == []

    def test_names_of_the_source_are_not_in_the_staged_keys(self, world: World) -> None:
        run = delivered(world, dicom("MUELLER/scan.dcm"))
        (batch,) = normalize(run)
        assert world.keys(batch.input_uri) == ["000000.dcm"]
        assert "MUELLER" not in batch.input_uri
        assert "MUELLER" not in str(batch)

    @pytest.mark.parametrize("mode", ["copy", "in_place"])
    def test_odd_keys_arrive_as_they_are(self, world: World, mode: str) -> None:
        run = delivered(world, *(dicom(f"odd/{name}") for name in ODD), staging={"mode": mode})
        (batch,) = normalize(run)
        rows = read_batches(run)
        assert rows["reason"].null_count() == rows.height == len(ODD) == batch.files
        assert sorted(world.keys("s3://work/staging/")) == (
            [] if mode == "in_place" else sorted(key.removeprefix("staging/") for key in rows["staged_key"])
        )

    def test_leftovers_of_an_earlier_try_are_removed(self, world: World) -> None:
        run = delivered(world, dicom("a"))
        (batch,) = normalize(run)
        world.put(f"{batch.input_uri}000001.dcm", b"of an earlier plan")
        world.put(f"{batch.input_uri}deep/er", b"of whoever")
        world.put(f"{batch.input_uri[:-1]}9/other", b"of another prefix")
        normalize(run)
        assert world.keys(batch.input_uri) == ["000000.dcm"]
        assert world.keys(f"{batch.input_uri[:-1]}9/") == ["other"]

    def test_a_copy_of_other_content_is_replaced(self, world: World) -> None:
        run = delivered(world, dicom("a"))
        (batch,) = normalize(run)
        world.put(f"{batch.input_uri}000000.dcm", b"other content!!!"[: batch.bytes].ljust(batch.bytes, b"!"))
        normalize(run)
        staged = S3Uri.parse(batch.input_uri).join("000000.dcm")
        assert world.s3.get(staged) == b"content of in/a"

    def test_running_it_again_finds_everything_staged(self, world: World) -> None:
        run = delivered(world, dicom("a"), dicom("b"))
        first = normalize(run)
        copies: list[Any] = []
        world.s3.client.meta.events.register(
            "before-call.s3.CopyObject", lambda **each: copies.append(each), unique_id="t"
        )
        assert normalize(run) == first == find_batches(run)
        world.s3.client.meta.events.unregister("before-call.s3.CopyObject", unique_id="t")
        assert copies == []

    def test_an_object_that_changed_or_went_costs_itself_only(self, world: World) -> None:
        run = delivered(world, dicom("a"), dicom("b"), dicom("c"))
        world.put("s3://archive/in/b", b"new content")
        world.s3.delete("archive", ["in/c"])
        (batch,) = normalize(run)
        rows = read_batches(run).join(
            run.workspace.read("verdicts", VERDICTS).select("arrival_id", "key"), on="arrival_id"
        )
        assert dict(rows.select("key", "reason").iter_rows()) == {
            "in/a": None,
            "in/b": "object_changed",
            "in/c": "object_gone",
        }
        assert batch.files == len(world.keys(batch.input_uri)) == 1
        assert batch.bytes == len("content of in/a")

    def test_any_other_refusal_fails_the_stage(self, world: World) -> None:
        run = delivered(world, dicom("a"), staging={"uri": "s3://nowhere/staging/"})
        with pytest.raises(BucketError, match="NoSuchBucket"):
            normalize(run)
        assert find_batches(run) == []

    def test_a_refused_copy_says_what_to_do_and_names_no_key(self, world: World) -> None:
        def refuse(params: dict[str, Any], **_: Any) -> Any:
            text = "not authorized to perform: s3:GetObject on resource: arn:aws:s3:::archive/in/DOE^JOHN"
            error = {"Code": "AccessDenied", "Message": text}
            return SimpleNamespace(status_code=403), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 403}}

        run = delivered(world, dicom("DOE^JOHN"))
        events = world.s3.client.meta.events
        events.register_first("before-call.s3.CopyObject", refuse)
        try:
            with pytest.raises(BucketError, match=r"AccessDenied\): .* give the role s3:GetObject") as refused:
                normalize(run)
        finally:
            events.unregister("before-call.s3.CopyObject", refuse)
        assert "DOE" not in "".join(traceback.format_exception(refused.value))

    def test_too_many_batches_are_refused_before_any_is_staged(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airlock.stages.batches.MAX_BATCHES", 2)
        run = delivered(world, *series("1.1", 3), limits={"files_per_job": 1})
        with pytest.raises(
            TooManyBatchesError, match="needs 3 import jobs, one run maps at most 2: take it in by smaller"
        ):
            normalize(run)
        assert world.keys("s3://work/staging/") == []

    def test_batches_of_two_runs_and_two_stores_have_names_of_their_own(self, world: World) -> None:
        ids = set()
        for run_id, store in (("one", "d" * 32), ("two", "d" * 32), ("one", "e" * 32)):
            name = f"n{store[0]}"
            run = delivered(world, dicom("a"), run_id=run_id, name=name, healthimaging={"datastore_id": store})
            ids.add(normalize(run)[0].batch_id)
        assert len(ids) == 3
        assert all(len(each) == 32 for each in ids)


IN_PLACE = {"staging": {"mode": "in_place"}}


class TestInPlace:
    def files(self, folder: str = "1.2.3") -> list[dict[str, Any]]:
        return [dicom(f"{folder}/a"), dicom(f"{folder}/sub/b")]

    def test_a_folder_that_holds_exactly_the_batch_is_imported_as_it_is(self, world: World) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        world.put("s3://archive/in/1.2.34/another")
        world.put("s3://archive/in/1.2.3", b"beside the folder")
        (batch,) = normalize(run)
        assert batch.input_uri == "s3://archive/in/1.2.3/"
        assert world.keys("s3://work/staging/") == []
        assert sorted(read_batches(run)["staged_key"]) == ["in/1.2.3/a", "in/1.2.3/sub/b"]

    def test_one_file_in_a_folder_of_its_own(self, world: World) -> None:
        assert normalize(delivered(world, dicom("x/a"), **IN_PLACE))[0].input_uri == "s3://archive/in/x/"

    @pytest.mark.parametrize("more", ["in/1.2.3/more", "in/1.2.3/", "in/1.2.3/sub/deep/er", "in/1.2.3/sub/"])
    def test_anything_else_below_it_makes_it_unclean(self, world: World, more: str) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        world.put(f"s3://archive/{more}", b"")
        assert normalize(run)[0].input_uri.startswith("s3://work/staging/")

    def test_two_folders_of_similar_names_have_only_their_parent_in_common(self, world: World) -> None:
        files = [dicom("1.2.3/a"), dicom("1.2.34/b")]
        assert normalize(delivered(world, *files, **IN_PLACE))[0].input_uri == "s3://archive/in/"

    def test_an_object_that_changed_makes_it_unclean(self, world: World) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        world.put("s3://archive/in/1.2.3/a", b"new")
        assert normalize(run)[0].input_uri.startswith("s3://work/staging/")
        assert sorted(read_batches(run)["reason"], key=str) == [None, "object_changed"]

    def test_a_bare_bucket_is_never_a_batchs_prefix(self, world: World) -> None:
        run = delivered(world, dicom("", key="a"), dicom("", key="b"), **IN_PLACE)
        assert normalize(run)[0].input_uri.startswith("s3://work/staging/")

    def test_what_a_job_was_given_stays_its_prefix(self, world: World) -> None:
        """Otherwise the job's result lines would name keys that the batch's list no longer has."""
        run = delivered(world, *self.files(), **IN_PLACE)
        (batch,) = normalize(run)
        started(run, batch)
        world.put("s3://archive/in/1.2.3/late")
        assert normalize(run) == [batch]
        assert sorted(read_batches(run)["staged_key"]) == ["in/1.2.3/a", "in/1.2.3/sub/b"]

    def test_a_copy_that_a_job_was_given_stays_one(self, world: World) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        world.put("s3://archive/in/1.2.3/more")
        (batch,) = normalize(run)
        started(run, batch)
        world.s3.delete("archive", ["in/1.2.3/more"])
        assert normalize(run) == [batch]

    def test_once_a_job_was_begun_the_plan_stands(self, world: World) -> None:
        run = delivered(world, *series("1.1", 3))
        (batch,) = normalize(run)
        started(run, batch)
        smaller = world.run("one", pipeline(limits={"files_per_job": 1}))
        world.s3.delete("work", [f"{batch.input_uri.removeprefix('s3://work/')}000000.dcm"])
        assert normalize(smaller) == [batch]
        assert read_batches(smaller).height == 3
        assert len(world.keys(batch.input_uri)) == 2  # the job has them: nothing is staged again

    def test_after_a_job_that_failed_it_is_chosen_anew(self, world: World) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        (batch,) = normalize(run)
        started(run, batch, status="FAILED")
        world.put("s3://archive/in/1.2.3/late")
        assert normalize(run)[0].input_uri.startswith("s3://work/staging/")


def started(run: Run, batch: Batch, status: str | None = None) -> None:
    """Write a batch's job down as import does."""
    run.ledger.record_job(Job(batch.batch_id, 0, run.key, "token", "job", status, input_uri=batch.input_uri))


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
