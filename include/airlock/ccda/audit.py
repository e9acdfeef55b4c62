"""Audit: account for every document's conversion, and hand the converted resources to the stages of the folder fhir.

Writes ``conversions`` and ``conversion.json`` and, in the workspace's folder ``fhir``, the datasets that buffer would
have frozen: each converted NDJSON file takes its document's place under the document's arrival id, and a document
without resources has its reason there. So the run's books close over every document. Nothing goes on before every
conversion has ended, since the decisions in that folder stand once its import was begun.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ccda.outcomes import account_batch
from airlock.ccda.records import CONVERSIONS, FOLDER, VERDICTS
from airlock.reasons import Reason
from airlock.records import ARRIVALS, Verdict
from airlock.stages.auditing import is_open
from airlock.stages.batches import find_batches, find_begun_batches
from airlock.stages.buffer import INDEX, Buffered, find_buffered, find_shards, read_arrivals
from airlock.stages.resources import FILES, chunks_index

if TYPE_CHECKING:
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run

ASIDE = "aside"  # the shard of the documents without resources


def audit(run: Run[CcdaPipeline]) -> list[str]:
    """Account for every document of a run; the result stands once the import of its resources was begun.

    Returns
    -------
    list of str
        The shards of the folder ``fhir`` that are to be parsed.
    """
    leg = run.within(FOLDER)
    if find_begun_batches(leg):
        return [shard for shard in find_shards(leg) if shard != ASIDE]
    arrivals = read_arrivals(run)
    conversions = pl.concat([CONVERSIONS.to_frame(), *(account_batch(run, batch) for batch in find_batches(run))])
    verdicts = run.workspace.find("verdicts", VERDICTS)
    run.workspace.write("conversions", CONVERSIONS, conversions)
    run.workspace.write_json("conversion.json", _summarize(run, arrivals, conversions))
    return _freeze(run, arrivals, verdicts, conversions)


def _summarize(run: Run[CcdaPipeline], arrivals: pl.DataFrame, conversions: pl.DataFrame) -> dict[str, Any]:
    converted = conversions.filter(pl.col("reason").is_null())
    coverage = conversions["coverage"].drop_nulls()
    return {
        "preview": True,
        "profile_id": run.pipeline.transformation.profile_id,
        "profile_version": run.pipeline.transformation.profile_version,
        "documents": arrivals.height,
        "sent": conversions.height,
        "converted": converted.height,
        "lowest_coverage": coverage.min(),
        "mean_coverage": coverage.mean(),
    }


def _freeze(
    run: Run[CcdaPipeline], arrivals: pl.DataFrame, verdicts: pl.DataFrame, conversions: pl.DataFrame
) -> list[str]:
    """Write what the stages of the folder ``fhir`` read instead of a delivery; return the shards to be parsed."""
    leg = run.within(FOLDER)
    files = _select_converted(conversions)
    size = run.pipeline.parse.shard_size
    shards = [f"{number:04}" for number in range(-(-files.height // size))]
    for number, shard in enumerate(shards):
        leg.workspace.write(f"arrivals/{shard}", ARRIVALS, files.slice(number * size, size))
    aside = arrivals.join(files, on="arrival_id", how="anti", maintain_order="left")
    leg.workspace.write(f"arrivals/{ASIDE}", ARRIVALS, aside)
    leg.workspace.write(f"files/{ASIDE}", FILES, _explain_aside(aside, verdicts, conversions))
    leg.workspace.write_json(chunks_index(ASIDE), {"chunks": []})
    buffered = replace(find_buffered(run) or Buffered(), shards=[*shards, ASIDE])
    leg.workspace.write_json(INDEX, vars(buffered))
    return shards


def _select_converted(conversions: pl.DataFrame) -> pl.DataFrame:
    """Return the converted files as arrivals; none while any conversion of the run is open."""
    waits = conversions.select(is_open().any()).item()
    converted = conversions.clear() if waits else conversions.filter(pl.col("reason").is_null())
    return converted.with_columns(version_id=pl.lit(None, pl.String)).select(ARRIVALS.names()).cast(ARRIVALS)


def _explain_aside(aside: pl.DataFrame, verdicts: pl.DataFrame, conversions: pl.DataFrame) -> pl.DataFrame:
    """Return the reason of every document without resources, as rows of the files dataset."""
    before = verdicts.filter(pl.col("verdict") != Verdict.ACCEPT).select("arrival_id", "reason", "detail")
    after = conversions.filter(pl.col("reason").is_not_null()).select("arrival_id", "reason", "detail")
    known = aside.select("arrival_id").join(
        pl.concat([before, after]), on="arrival_id", how="left", maintain_order="left"
    )
    undecided = pl.col("reason").fill_null(str(Reason.UNDECIDED))
    counted = known.with_columns(reason=undecided, units=pl.lit(0, pl.Int64), bytes_read=pl.lit(0, pl.Int64))
    return counted.select(FILES.names()).cast(FILES)
