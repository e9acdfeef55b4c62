"""C-CDA documents taken through the stages, and a conversion job that leaves what a test says.

A document is named by its key below the source.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airlock.ccda.import_ import record
from airlock.ccda.normalize import normalize
from airlock.ccda.parse import parse
from airlock.ccda.records import BATCHES, DOCUMENTS, VERDICTS
from airlock.ccda.validate import validate
from airlock.ledger import Job
from airlock.run import Run
from airlock.stages.batches import find_batches
from airlock.stages.buffer import buffer, find_shards
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import CCDA, ndjson, patient, pipeline, put
from tests.unit.airlock.world import read_arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airlock.pipelines import CcdaPipeline
    from tests.unit.airlock.world import World

Row = dict[str, Any]
PROFILE = f"{'a' * 32}/1"  # what stands for the data store of documents in the ledger


def delivery(world: World, files: Mapping[str, bytes], run_id: str = "one", **changes: Any) -> Run[CcdaPipeline]:
    """Buffer documents; ``transformation`` adds to that section."""
    transformation = CCDA["transformation"] | changes.pop("transformation", {})
    chosen = pipeline(**CCDA | {"transformation": transformation} | changes)
    run: Run[Any] = Run(chosen, run_id, None, S3Uri("archive", f"in/{run_id}/"), world.s3, world.ledger)
    put(world, run_id, files)
    buffer(run)
    return run


def parsed(world: World, files: Mapping[str, bytes], run_id: str = "one", **changes: Any) -> Run[CcdaPipeline]:
    run = delivery(world, files, run_id, **changes)
    for shard in find_shards(run):
        parse(run, shard)
    return run


def validated(world: World, files: Mapping[str, bytes], run_id: str = "one", **changes: Any) -> Run[CcdaPipeline]:
    run = parsed(world, files, run_id, **changes)
    validate(run)
    return run


def normalized(world: World, files: Mapping[str, bytes], run_id: str = "one", **changes: Any) -> Run[CcdaPipeline]:
    run = validated(world, files, run_id, **changes)
    normalize(run)
    return run


def names(run: Run[CcdaPipeline]) -> dict[str, str]:
    """Return the documents' names by arrival id."""
    rows = read_arrivals(run).iter_rows(named=True)
    return {row["arrival_id"]: row["key"].removeprefix(run.prefix.key) for row in rows}


def documents(run: Run[CcdaPipeline]) -> dict[str, Row]:
    named = names(run)
    rows = run.workspace.read_all([f"documents/{shard}" for shard in find_shards(run)], DOCUMENTS)
    return {named[row["arrival_id"]]: row for row in rows.iter_rows(named=True)}


def words(run: Run[CcdaPipeline]) -> dict[str, tuple[str, str | None]]:
    """Return verdict and reason of each document."""
    named = names(run)
    rows = run.workspace.read("verdicts", VERDICTS).iter_rows(named=True)
    return {named[row["arrival_id"]]: (row["verdict"], row["reason"]) for row in rows}


def staged(run: Run[CcdaPipeline]) -> dict[str, Row]:
    """Return the rows of the batches by the documents' names."""
    named = names(run)
    frames = [run.workspace.read(f"batches/{batch.batch_id}", BATCHES) for batch in find_batches(run)]
    return {named[row["arrival_id"]]: row for frame in frames for row in frame.iter_rows(named=True)}


@dataclass
class Left:
    """What a job leaves about one document."""

    resources: list[Any] | None = field(default_factory=lambda: [patient("p1")])
    error: str | bytes | None = None
    coverage: Any = None
    ending: str = ""  # of the input's name, where the job keeps it


def ended(
    world: World,
    run: Run[CcdaPipeline],
    left: Mapping[str, Left],
    *,
    status: str = "COMPLETED",
    message: str = "",
    batches: int | None = None,
    **progress: int,
) -> None:
    """End each batch's job, or those of the first *batches*.

    Of a document that is not named a job leaves one Patient. Counts are right unless given.
    """
    for number, batch in enumerate(find_batches(run)[:batches]):
        job_id = f"job-{run.run_id}-{number}"
        folder = S3Uri.parse(run.pipeline.transformation.output_uri).join(job_id, "")
        rows = {name: row for name, row in staged(run).items() if row["batch_id"] == batch.batch_id}
        sent = {name: left.get(name, Left()) for name, row in rows.items() if row["reason"] is None}
        for name, each in sent.items():
            for place, body in _written(rows[name]["staged_key"], each):
                run.s3.put(folder.join(place), body)
        failed = sum(each.error is not None for each in sent.values())
        counts = {
            "TotalFilesScanned": len(sent),
            "TotalFilesConverted": sum(each.resources is not None for each in sent.values()),
            "TotalFilesFailed": failed,
        }
        job = Job(batch.batch_id, 0, run.key, "token", job_id, input_uri=batch.input_uri)
        world.ledger.record_job(job)
        properties = {"JobId": job_id, "JobStatus": status, "Message": message, "ProfileVersion": 1}
        record(run, job, properties | {"JobProgressReport": counts | progress}, str(folder))


def _written(key: str, left: Left) -> Iterator[tuple[str, bytes]]:
    stem = key.rpartition("/")[2].removesuffix(".xml") + left.ending
    if left.resources is not None:
        yield f"converted/{stem}.ndjson", ndjson(left.resources)
    if left.error is not None:
        told = json.dumps({"inputFile": key, "errorMessage": left.error}) if isinstance(left.error, str) else left.error
        yield f"ERROR/{stem}.json", told if isinstance(told, bytes) else told.encode()
    if left.coverage is not None:
        drift = {"overallCoverageRate": left.coverage, "unknownSections": []}
        yield f"driftDetectionPerFileResults/{stem}_driftMetrics.json", json.dumps(drift).encode()
