"""Normalize: import files of one type each within the limits, every accepted resource on exactly one line."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.clinical.normalize import normalize, number_files
from airlock.clinical.records import BATCHES
from airlock.clinical.unreviewed import TAG
from airlock.run import Run
from airlock.stages.batches import TooManyBatchesError, find_batches
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import MINIMAL, observation, patient, pipeline
from tests.unit.airlock.clinical.world import Row, begun, bundle, entry, pretty, validated, verdicts

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline
    from tests.unit.airlock.world import World

URN = "urn:uuid:11111111-2222-4333-8444-555555555555"
PATIENTS = [patient(f"p{number}") for number in range(6)]
WEIGHTS = [observation(f"o{number}", f"p{number % 6}", note=[{"text": "é" * 9 * (number + 1)}]) for number in range(20)]
FILES = {
    "a.ndjson": [WEIGHTS[0], *PATIENTS[:3], *WEIGHTS[1:9]],
    "b.json": pretty(bundle("batch", *map(entry, [*PATIENTS[3:], WEIGHTS[9]]))),
    "c.ndjson": [*WEIGHTS[10:], "x", PATIENTS[0]],
}


def normalized(world: World, files: Any = FILES, run_id: str = "one", **limits: int) -> Run[ClinicalPipeline]:
    run = validated(world, files, run_id, healthlake=limits)
    normalize(run, run.pipeline.healthlake)
    return run


def rows(run: Run[ClinicalPipeline]) -> list[Row]:
    return [row for batch in find_batches(run) for row in _rows(run, batch.batch_id)]


def _rows(run: Run[ClinicalPipeline], batch_id: str) -> list[Row]:
    return run.workspace.read(f"batches/{batch_id}", BATCHES).to_dicts()


def import_files(run: Run[ClinicalPipeline]) -> dict[str, bytes]:
    """Return all that lies below the prefixes of the run's batches."""
    found = {}
    for batch in find_batches(run):
        for item in run.s3.list_objects(S3Uri.parse(batch.input_uri), placeholders=True):
            found[item.key] = run.s3.get(S3Uri("work", item.key))
    return found


def lines(body: bytes) -> list[bytes]:
    assert body.endswith(b"\n")
    return body[:-1].split(b"\n")


LIMITS = [{}, {"bytes_per_file": 1}, {"bytes_per_file": 600}, {"bytes_per_file": 700, "bytes_per_job": 1500}]
LIMITS += [{"files_per_job": 1}, {"bytes_per_file": 400, "files_per_job": 3}, {"bytes_per_job": 1}]


@pytest.mark.parametrize("limits", LIMITS)
def test_every_accepted_resource_is_on_exactly_one_line_within_the_limits(world: World, limits: dict[str, int]) -> None:
    run = normalized(world, **limits)
    accepted = sorted((row["arrival_id"], row["line"]) for row in verdicts(run) if row["verdict"] == "accept")
    placed = rows(run)
    assert len(accepted) == 26
    assert sorted((row["arrival_id"], row["line"]) for row in placed) == accepted
    assert len({(row["staged_key"], row["staged_line"]) for row in placed}) == len(placed)
    files = import_files(run)
    assert files.keys() == {row["staged_key"] for row in placed}
    assert sum(len(lines(body)) for body in files.values()) == len(placed)
    for row in placed:
        resource = json.loads(lines(files[row["staged_key"]])[row["staged_line"] - 1])
        assert (resource["resourceType"], resource["id"]) == (row["resource_type"], row["resource_id"])

    _check_limits(run, files)


def _check_limits(run: Run[ClinicalPipeline], files: dict[str, bytes]) -> None:
    """Files are of one type, and files and batches within the limits."""
    store = run.pipeline.healthlake
    for key, body in files.items():
        kind = key.rpartition("/")[2].partition(".")[0]
        assert {json.loads(line)["resourceType"] for line in lines(body)} == {kind}
        assert len(body) <= store.bytes_per_file or len(lines(body)) == 1
    for batch in find_batches(run):
        prefix = S3Uri.parse(batch.input_uri).key
        below = {key: len(body) for key, body in files.items() if key.startswith(prefix)}
        assert (batch.files, batch.bytes) == (len(below), sum(below.values()))
        assert batch.files <= store.files_per_job
        assert batch.bytes <= store.bytes_per_job or batch.files == 1
        assert (prefix.endswith("/"), batch.batch_id in prefix) == (True, True)


@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(2, 30)), max_size=40), st.integers(1, 60))
def test_a_file_is_left_only_when_the_next_resource_does_not_fit(sizes: list[tuple[str, int]], limit: int) -> None:
    frame = pl.DataFrame(sizes, schema={"resource_type": pl.String, "size": pl.Int64}, orient="row")
    numbers = number_files(frame, limit, {})
    for kind in "AB":
        own = [(number, size) for number, (of, size) in zip(numbers, sizes, strict=True) if of == kind]
        assert [number for number, _ in own] == sorted(number for number, _ in own)
        filled = [[size for number, size in own if number == each] for each in range(len({n for n, _ in own}))]
        assert all(sum(file) <= limit or len(file) == 1 for file in filled)
        assert all(sum(before) + after[0] > limit for before, after in pairwise(filled))


def test_the_ends_of_the_lines_count(world: World) -> None:
    size = len(json.dumps(patient("p1")))
    run = normalized(world, {"a.ndjson": [patient("p1"), patient("p2")]}, bytes_per_file=2 * size + 1)
    assert [len(body) for body in import_files(run).values()] == [size + 1, size + 1]


class TestContent:
    def test_a_line_is_the_delivered_resource_with_references_rewritten(self, world: World) -> None:
        weight = (
            '{ "resourceType" : "Observation","id":"o1","status":"final", "code":{"text":"é"},'
            '"valueQuantity":{"value":70.10}, "subject":{ "reference" : "Patient?identifier=s|1" } }'
        )
        bearer = patient("p1", identifier=[{"system": "s", "value": "1"}])
        run = normalized(world, {"a.ndjson": [bearer, weight]})
        body = next(body for key, body in import_files(run).items() if "Observation" in key)
        assert body.decode() == weight.replace("Patient?identifier=s|1", "Patient/p1") + "\n"

    def test_a_document_over_several_lines_becomes_one(self, world: World) -> None:
        run = normalized(world, {"a.json": pretty(patient("p1")).replace(b"\n", b"\r\n")})
        (body,) = import_files(run).values()
        assert (len(lines(body)), b"\r" in body, json.loads(body)) == (1, False, patient("p1"))

    def test_a_bundles_full_urls_are_gone(self, world: World) -> None:
        weight = observation("o1", "", subject={"reference": URN})
        run = normalized(world, {"a.json": pretty(bundle("transaction", entry(patient("p1"), URN), entry(weight)))})
        assert not any(b"urn:uuid" in body for body in import_files(run).values())

    def test_names_contain_no_name_of_the_delivery(self, world: World) -> None:
        run = normalized(world, {"MUELLER.ndjson": [patient("p1")]})
        (key,) = import_files(run)
        assert key.startswith(f"staging/records/{run.key}/")
        assert key.endswith("/Patient.00000.ndjson")

    def test_nothing_accepted_gives_no_batch(self, world: World) -> None:
        run = normalized(world, {"a.ndjson": ["x"]})
        assert find_batches(run) == []
        assert rows(run) == []


class TestReruns:
    def test_the_same_again_gives_the_same_bytes_and_batches(self, world: World) -> None:
        run = normalized(world, bytes_per_file=600, bytes_per_job=1500)
        first = find_batches(run), import_files(run), rows(run)
        assert len(first[0]) > 2
        normalize(run, run.pipeline.healthlake)
        assert (find_batches(run), import_files(run), rows(run)) == first

    def test_files_of_a_try_that_broke_off_are_deleted(self, world: World) -> None:
        run = normalized(world)
        (batch,) = find_batches(run)
        world.put(f"{batch.input_uri}Patient.00099.ndjson", b"{}")
        normalize(run, run.pipeline.healthlake)
        assert len(import_files(run)) == batch.files

    def test_another_run_has_batches_of_its_own(self, world: World) -> None:
        one = normalized(world, {"a.ndjson": [patient("p1")]})
        world.ledger.drop_resource_claims(
            one.pipeline.datastore_id, one.key, pl.DataFrame({"resource_type": ["Patient"], "resource_id": ["p1"]})
        )
        other = normalized(world, {"a.ndjson": [patient("p1")]}, "two")
        assert {batch.batch_id for batch in find_batches(one)}.isdisjoint(b.batch_id for b in find_batches(other))

    def test_once_a_job_was_begun_the_files_do_not_change(self, world: World) -> None:
        run = normalized(world)
        begun(run)
        first = find_batches(run), import_files(run)
        changed = pipeline(healthlake={"bytes_per_file": 1, "files_per_job": 1})
        again = Run(changed, run.run_id, None, run.prefix, world.s3, world.ledger)
        assert normalize(again, changed.healthlake) == first[0]
        assert import_files(run) == first[1]

    def test_more_jobs_than_a_run_can_map_are_refused_before_anything_is_written(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airlock.stages.batches.MAX_BATCHES", 3)
        with pytest.raises(TooManyBatchesError, match="needs 26 import jobs, one run maps at most 3: take it in"):
            normalized(world, bytes_per_file=1, files_per_job=1)
        assert world.keys("s3://work/staging/") == []


def test_what_is_imported_with_minimal_validation_says_that_nobody_has_reviewed_it(world: World) -> None:
    for run_id, changes, expected in (("one", MINIMAL, [TAG]), ("two", {}, None)):
        run = validated(world, {f"{run_id}.ndjson": [patient(run_id)]}, run_id, **changes)
        normalize(run, run.pipeline.healthlake)
        (body,) = import_files(run).values()
        assert json.loads(body).get("meta", {}).get("tag") == expected
