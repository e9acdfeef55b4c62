"""Audit: account for every document's conversion, and hand the converted resources to the stages of the folder fhir.

Writes ``conversions`` and ``conversion.json`` and, in the workspace's folder ``fhir``, the datasets that buffer would
have frozen: each converted NDJSON file takes its document's place under the document's arrival id, and a document
without resources has its reason there. So the run's books close over every document. Nothing goes on before every
conversion has ended, since the decisions in that folder stand once its import was begun.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ccda.outcomes import account_batch
from airlock.ccda.records import CONVERSIONS, FOLDER, VERDICTS
from airlock.reasons import Reason
from airlock.records import ARRIVALS, Verdict, schema
from airlock.stages.auditing import is_open
from airlock.stages.batches import find_batches, find_begun_batches
from airlock.stages.buffer import INDEX, Buffered, find_buffered, find_shards, read_arrivals, write_shards
from airlock.stages.resources import FILES, name_chunks_index
from airlock.storage.spool import Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run

ASIDE = "aside"  # the shard of the documents without resources
_REASONS = schema(dict.fromkeys(("arrival_id", "reason", "detail"), pl.String))


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
    summary = _Summary()
    with run.workspace.writer("conversions", CONVERSIONS) as writer:
        for batch in find_batches(run):
            conversions = account_batch(run, batch)
            writer.add(conversions)
            summary.add(conversions)
    buffered = find_buffered(run) or Buffered()
    run.workspace.write_json("conversion.json", summary.build(run, buffered.arrivals))
    # Nothing goes on while a conversion is open, so that those that ended wait for it.
    converted = () if summary.is_open else _converted(run)
    shards = write_shards(leg, summary.converted, converted)
    _write_aside(run, buffered, shards)
    leg.workspace.write_json(INDEX, vars(replace(buffered, shards=[*shards, ASIDE])))
    return shards


@dataclass
class _Summary:
    """The conversions of a run as counted, batch by batch."""

    sent: int = 0
    converted: int = 0
    is_open: bool = False
    coverage: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.Float64))

    def add(self, conversions: pl.DataFrame) -> None:
        """Count a batch."""
        self.sent += conversions.height
        self.converted += conversions["reason"].null_count()
        self.is_open |= conversions.select(is_open().any()).item()
        self.coverage.append(conversions["coverage"].drop_nulls())

    def build(self, run: Run[CcdaPipeline], documents: int) -> dict[str, Any]:
        """Return what the report says of the conversion."""
        return {
            "preview": True,
            "profile_id": run.pipeline.transformation.profile_id,
            "profile_version": run.pipeline.transformation.profile_version,
            "documents": documents,
            "sent": self.sent,
            "converted": self.converted,
            "lowest_coverage": self.coverage.min(),
            "mean_coverage": self.coverage.mean(),
        }


def _converted(run: Run[CcdaPipeline]) -> Iterator[pl.DataFrame]:
    """Yield the converted files as arrivals, which stand for their documents."""
    none = pl.lit(None, pl.String).alias("version_id")
    for rows in run.workspace.parts("conversions", CONVERSIONS):
        converted = rows.filter(pl.col("reason").is_null()).with_columns(none)
        yield converted.select(ARRIVALS.names()).cast(ARRIVALS)


def _write_aside(run: Run[CcdaPipeline], buffered: Buffered, shards: list[str]) -> None:
    """Write the shard of the documents from which nothing goes on, each with its reason."""
    workspace, file = run.within(FOLDER).workspace, pl.col("arrival_id")
    with (
        Partitions(buffered.arrivals) as partitions,
        workspace.writer(f"arrivals/{ASIDE}", ARRIVALS) as arrivals,
        workspace.writer(f"files/{ASIDE}", FILES) as files,
    ):
        documents = partitions.spool(file, ARRIVALS, read_arrivals(run))
        reasons = partitions.spool(file, _REASONS, _reasons(run))
        going_on = (rows for shard in shards for rows in workspace.parts(f"arrivals/{shard}", ARRIVALS))
        for rows, known, others in zip_partitions(documents, reasons, partitions.spool(file, ARRIVALS, going_on)):
            aside = rows.join(others, on="arrival_id", how="anti", maintain_order="left")
            arrivals.add(aside)
            files.add(_set_aside(aside, known))
    workspace.write_json(name_chunks_index(ASIDE), {"chunks": []})


def _reasons(run: Run[CcdaPipeline]) -> Iterator[pl.DataFrame]:
    """Yield the reason of every document that validate or the conversion has stopped."""
    for rows in run.workspace.find_parts("verdicts", VERDICTS):
        yield rows.filter(pl.col("verdict") != Verdict.ACCEPT)
    for rows in run.workspace.parts("conversions", CONVERSIONS):
        yield rows.filter(pl.col("reason").is_not_null())


def _set_aside(aside: pl.DataFrame, reasons: pl.DataFrame) -> pl.DataFrame:
    """Return the reason of every document from which nothing goes on, as parse would."""
    known = aside.select("arrival_id").join(reasons, on="arrival_id", how="left", maintain_order="left")
    undecided = pl.col("reason").fill_null(str(Reason.UNDECIDED))
    counted = known.with_columns(reason=undecided, units=pl.lit(0, pl.Int64), bytes_read=pl.lit(0, pl.Int64))
    return counted.select(FILES.names()).cast(FILES)
