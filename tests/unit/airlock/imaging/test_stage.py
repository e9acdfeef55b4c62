"""Each batch gets a prefix that holds its files and nothing else."""

from __future__ import annotations

import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging.normalize import normalize
from airlock.imaging.stage import BatchNotStagedError, find_staged, stage
from airlock.ledger import Job
from airlock.records import VERDICTS
from airlock.storage.s3 import BucketError
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.imaging.batches import delivered, read_batches, series, stage_all, started
from tests.unit.airlock.world import dicom

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

IN_PLACE = {"staging": {"mode": "in_place"}}
ODD = ["a b", "a+b", "é ü", "x//y", "%41", "100%", "q?#{}", "../up", "back\\slash", "~'\""]


class TestCopies:
    def test_each_batch_lies_under_a_prefix_of_its_own(self, world: World) -> None:
        run = delivered(world, *series("1.1", 2), *series("1.2", 1), limits={"files_per_job": 2})
        one, two = stage_all(run)
        assert (one.files, two.files) == (2, 1)
        for batch in (one, two):
            assert batch.input_uri == f"s3://work/staging/{batch.batch_id}/nightly/{run.key}/"
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

    def test_names_of_the_source_are_not_in_the_staged_keys(self, world: World) -> None:
        run = delivered(world, dicom("MUELLER/scan.dcm"))
        (batch,) = stage_all(run)
        assert world.keys(batch.input_uri) == ["000000.dcm"]
        assert "MUELLER" not in batch.input_uri
        assert "MUELLER" not in str(batch)

    @pytest.mark.parametrize("mode", ["copy", "in_place"])
    def test_odd_keys_arrive_as_they_are(self, world: World, mode: str) -> None:
        run = delivered(world, *(dicom(f"odd/{name}") for name in ODD), staging={"mode": mode})
        (batch,) = stage_all(run)
        rows = read_batches(run)
        assert rows["reason"].null_count() == rows.height == len(ODD) == batch.files
        assert sorted(world.keys("s3://work/staging/")) == (
            [] if mode == "in_place" else sorted(key.removeprefix("staging/") for key in rows["staged_key"])
        )

    def test_leftovers_of_an_earlier_try_are_removed(self, world: World) -> None:
        run = delivered(world, dicom("a"))
        (batch,) = stage_all(run)
        world.put(f"{batch.input_uri}000001.dcm", b"of an earlier plan")
        world.put(f"{batch.input_uri}deep/er", b"of whoever")
        world.put(f"{batch.input_uri[:-1]}9/other", b"of another prefix")
        stage_all(run)
        assert world.keys(batch.input_uri) == ["000000.dcm"]
        assert world.keys(f"{batch.input_uri[:-1]}9/") == ["other"]

    def test_a_copy_of_other_content_is_replaced(self, world: World) -> None:
        run = delivered(world, dicom("a"))
        (batch,) = stage_all(run)
        world.put(f"{batch.input_uri}000000.dcm", b"other content!!!"[: batch.bytes].ljust(batch.bytes, b"!"))
        stage_all(run)
        copy = S3Uri.parse(batch.input_uri).join("000000.dcm")
        assert world.s3.get(copy) == b"content of in/a"

    def test_running_it_again_finds_everything_staged(self, world: World) -> None:
        run = delivered(world, dicom("a"), dicom("b"))
        first = stage_all(run)
        copies: list[Any] = []
        world.s3.client.meta.events.register(
            "before-call.s3.CopyObject", lambda **each: copies.append(each), unique_id="t"
        )
        assert stage_all(run) == first
        world.s3.client.meta.events.unregister("before-call.s3.CopyObject", unique_id="t")
        assert copies == []

    def test_an_object_that_changed_or_went_costs_itself_only(self, world: World) -> None:
        run = delivered(world, dicom("a"), dicom("b"), dicom("c"))
        world.put("s3://archive/in/b", b"new content")
        world.s3.delete("archive", ["in/c"])
        (batch,) = stage_all(run)
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

    def test_an_archived_object_costs_itself_only(self, world: World) -> None:
        run = delivered(world, dicom("a"), dicom("b"))
        batches = normalize(run)
        archived = {"Bucket": "archive", "Key": "in/b", "Body": b"content of in/b", "StorageClass": "GLACIER"}
        world.s3.client.put_object(**archived)
        (batch,) = (stage(run, each.batch_id) for each in batches)
        assert sorted(read_batches(run)["reason"], key=str) == [None, "access_denied"]
        assert batch.files == len(world.keys(batch.input_uri)) == 1

    def test_copies_stay_while_it_is_not_known_whether_their_job_has_started(self, world: World) -> None:
        """Under SSE-KMS copies have ETags of their own, so that they cannot be recognized by them."""
        run = delivered(world, dicom("a"), dicom("b"))
        (batch,) = stage_all(run)
        for name in world.keys(batch.input_uri):
            world.put(f"{batch.input_uri}{name}", b"the same, encrypted")
        run.ledger.record_job(Job(batch.batch_id, 0, run.key, "token", None, None, input_uri=batch.input_uri))
        world.put("s3://archive/in/b", b"new content")
        assert stage(run, batch.batch_id) == batch
        assert read_batches(run)["reason"].to_list() == [None, None]
        prefix = S3Uri.parse(batch.input_uri)
        world.s3.delete(prefix.bucket, [f"{prefix.key}000000.dcm"])
        assert stage(run, batch.batch_id).files == 1  # import refuses such a prefix, so that no job can have it

    def test_a_try_that_outlives_the_next_one_touches_nothing(self, world: World) -> None:
        run = delivered(world, dicom("a"), dicom("b"), staging={"copies_in_flight": 1})
        (planned,) = normalize(run)

        def overtake(copies: int) -> None:
            if copies == 1:
                started(run, stage(run, planned.batch_id))
                world.put("s3://archive/in/b", b"new content")

        late = stage(run, planned.batch_id, overtake)
        assert late.files == len(world.keys(late.input_uri)) == 2
        assert read_batches(run)["reason"].to_list() == [None, None]

    def test_any_other_refusal_fails_the_stage(self, world: World) -> None:
        run = delivered(world, dicom("a"), staging={"uri": "s3://nowhere/staging/"})
        with pytest.raises(BucketError, match="NoSuchBucket"):
            stage_all(run)
        assert read_batches(run)["staged_key"].null_count() == 1

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
                stage_all(run)
        finally:
            events.unregister("before-call.s3.CopyObject", refuse)
        assert "DOE" not in "".join(traceback.format_exception(refused.value))


class TestInPlace:
    def files(self, folder: str = "1.2.3") -> list[dict[str, Any]]:
        return [dicom(f"{folder}/a"), dicom(f"{folder}/sub/b")]

    def test_a_folder_that_holds_exactly_the_batch_is_imported_as_it_is(self, world: World) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        world.put("s3://archive/in/1.2.34/another")
        world.put("s3://archive/in/1.2.3", b"beside the folder")
        (batch,) = stage_all(run)
        assert batch.input_uri == "s3://archive/in/1.2.3/"
        assert world.keys("s3://work/staging/") == []
        assert sorted(read_batches(run)["staged_key"]) == ["in/1.2.3/a", "in/1.2.3/sub/b"]

    def test_one_file_in_a_folder_of_its_own(self, world: World) -> None:
        assert stage_all(delivered(world, dicom("x/a"), **IN_PLACE))[0].input_uri == "s3://archive/in/x/"

    @pytest.mark.parametrize("more", ["in/1.2.3/more", "in/1.2.3/", "in/1.2.3/sub/deep/er", "in/1.2.3/sub/"])
    def test_anything_else_below_it_makes_it_unclean(self, world: World, more: str) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        world.put(f"s3://archive/{more}", b"")
        assert stage_all(run)[0].input_uri.startswith("s3://work/staging/")

    def test_two_folders_of_similar_names_have_only_their_parent_in_common(self, world: World) -> None:
        files = [dicom("1.2.3/a"), dicom("1.2.34/b")]
        assert stage_all(delivered(world, *files, **IN_PLACE))[0].input_uri == "s3://archive/in/"

    def test_an_object_that_changed_makes_it_unclean(self, world: World) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        world.put("s3://archive/in/1.2.3/a", b"new")
        assert stage_all(run)[0].input_uri.startswith("s3://work/staging/")
        assert sorted(read_batches(run)["reason"], key=str) == [None, "object_changed"]

    def test_a_bare_bucket_is_never_a_batchs_prefix(self, world: World) -> None:
        run = delivered(world, dicom("", key="a"), dicom("", key="b"), **IN_PLACE)
        assert stage_all(run)[0].input_uri.startswith("s3://work/staging/")

    def test_what_a_job_was_given_stays_its_prefix(self, world: World) -> None:
        """Otherwise the job's result lines would name keys that the batch's list no longer has."""
        run = delivered(world, *self.files(), **IN_PLACE)
        (batch,) = stage_all(run)
        started(run, batch)
        world.put("s3://archive/in/1.2.3/late")
        assert stage_all(run) == [batch]
        assert sorted(read_batches(run)["staged_key"]) == ["in/1.2.3/a", "in/1.2.3/sub/b"]

    def test_a_copy_that_a_job_was_given_stays_one(self, world: World) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        world.put("s3://archive/in/1.2.3/more")
        (batch,) = stage_all(run)
        started(run, batch)
        world.s3.delete("archive", ["in/1.2.3/more"])
        assert stage_all(run) == [batch]

    def test_after_a_job_that_failed_it_is_chosen_anew(self, world: World) -> None:
        run = delivered(world, *self.files(), **IN_PLACE)
        (batch,) = stage_all(run)
        started(run, batch, status="FAILED")
        world.put("s3://archive/in/1.2.3/late")
        assert stage_all(run)[0].input_uri.startswith("s3://work/staging/")


def test_a_batch_is_not_imported_before_it_is_staged(world: World) -> None:
    run = delivered(world, dicom("a"))
    (batch,) = normalize(run)
    with pytest.raises(BatchNotStagedError, match=r"is not staged. Clear its task stage and everything after it\."):
        find_staged(run, batch.batch_id)
    assert stage(run, batch.batch_id) == find_staged(run, batch.batch_id)


def test_planning_again_forgets_no_reason(world: World) -> None:
    """Otherwise a person who clears normalize alone would have the job miss a file that nobody accounts for."""
    run = delivered(world, dicom("a"), dicom("b"))
    world.put("s3://archive/in/b", b"new content")
    (batch,) = stage_all(run)
    normalize(run)
    assert find_staged(run, batch.batch_id) == batch
    assert sorted(read_batches(run)["reason"], key=str) == [None, "object_changed"]
