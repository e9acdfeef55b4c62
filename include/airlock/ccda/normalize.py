"""Normalize: write the accepted documents, unpacked and under numbered names, below a prefix per batch.

Writes one ``batches/<batch id>`` dataset per batch, and last ``batches/index.json``: batches that it does not list do
not exist.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ccda.parse import read_object
from airlock.ccda.records import BATCHES, VERDICTS
from airlock.records import Verdict, digest
from airlock.stages.batches import Batch, find_batches, find_begun_batches, write_batches
from airlock.storage.lines import unpack
from airlock.storage.refusals import refusal_of
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import CcdaPipeline
    from airlock.reasons import Reason
    from airlock.run import Run


def normalize(run: Run[CcdaPipeline]) -> list[Batch]:
    """Stage the documents to convert and return their batches; once a conversion was begun, they do not change."""
    if find_begun_batches(run):
        return find_batches(run)
    batches = [_stage_batch(run, rows) for rows in plan_batches(run)]
    write_batches(run, batches)
    return batches


def plan_batches(run: Run[CcdaPipeline]) -> Iterator[pl.DataFrame]:
    """Yield the accepted documents of each batch that `normalize` would stage, in the order of keys."""
    limits = run.pipeline.transformation
    pending: list[pl.DataFrame] = []
    count = size = 0
    for part in run.workspace.parts("verdicts", VERDICTS):
        documents, first = part.filter(pl.col("verdict") == Verdict.ACCEPT), 0
        for number, more in enumerate(documents["unpacked"]):
            if count and (count == limits.documents_per_job or size + more > limits.bytes_per_job):
                yield pl.concat([*pending, documents[first:number]])
                pending, count, size, first = [], 0, 0, number
            count, size = count + 1, size + more
        pending.append(documents[first:])
    if count:
        yield pl.concat(pending)


def _stage_batch(run: Run[CcdaPipeline], documents: pl.DataFrame) -> Batch:
    batch_id = digest(run.pipeline.transformation.profile_id, run.key, *documents["arrival_id"].sort())
    prefix = S3Uri.parse(run.pipeline.staging.uri).join(run.pipeline.name, run.key, batch_id, "")
    run.s3.delete(prefix.bucket, [item.key for item in run.s3.list_objects(prefix, placeholders=True)])
    names = [prefix.join(f"{number:06}.xml") for number in range(documents.height)]
    with ThreadPoolExecutor(run.pipeline.staging.copies_in_flight) as pool:
        refusals = list(
            pool.map(lambda row, name: _stage_document(run, row, name), documents.iter_rows(named=True), names)
        )
    rows = documents.select(
        "arrival_id",
        batch_id=pl.lit(batch_id),
        staged_bucket=pl.lit(prefix.bucket),
        staged_key=pl.Series([name.key for name in names], dtype=pl.String),
        reason=pl.Series([reason and str(reason) for reason in refusals], dtype=pl.String),
        size=pl.col("unpacked"),
    )
    run.workspace.write(f"batches/{batch_id}", BATCHES, rows.select(BATCHES.names()).cast(BATCHES))
    sent = rows.filter(pl.col("reason").is_null())
    return Batch(batch_id, str(prefix), sent.height, int(sent["size"].sum()))


def _stage_document(run: Run[CcdaPipeline], row: dict[str, Any], target: S3Uri) -> Reason | None:
    """Write one document below its batch's prefix; return the reason if its object is gone, changed or refused."""
    try:
        if row["is_gzip"]:  # AWS does not document packed input
            run.s3.put(target, b"".join(unpack([read_object(run, row)])), "application/xml")
        else:
            run.s3.copy({"Bucket": row["bucket"], "Key": row["key"]}, row["etag"], row["size"], target)
    except S3Error as error:
        return refusal_of(error)[0]
    return None
