"""Audit: account for every document's conversion, and hand the converted resources to the stages of the folder fhir.

Writes ``conversions`` and ``conversion.json`` and, in the workspace's folder ``fhir``, the datasets of a delivery: each
converted NDJSON file has the arrival id of its document, and a document without resources has its reason. So the run's
books include every document. The stages of that folder start only after every conversion has ended, since their
decisions do not change once the import of resources was begun.
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

STOPPED_SHARD = "aside"  # the shard of the documents without resources
_REASONS = schema(dict.fromkeys(("arrival_id", "reason", "detail"), pl.String))


def audit(run: Run[CcdaPipeline]) -> list[str]:
    """Write the outcome of every document's conversion; once the import of resources was begun, it does not change.

    Returns
    -------
    list of str
        The shards of the folder ``fhir`` with converted files, for parse.
    """
    leg = run.within(FOLDER)
    if find_begun_batches(leg):
        return [shard for shard in find_shards(leg) if shard != STOPPED_SHARD]
    summary = _Summary()
    with run.workspace.writer("conversions", CONVERSIONS) as writer:
        for batch in find_batches(run):
            conversions = account_batch(run, batch)
            writer.add(conversions)
            summary.add(conversions)
    buffered = find_buffered(run) or Buffered()
    run.workspace.write_json("conversion.json", summary.build(run, buffered.arrivals))
    # While a conversion is open, no file is passed on: decisions on resources must include those of every document.
    converted = () if summary.is_open else _read_converted(run)
    shards = write_shards(leg, summary.converted, converted)
    _write_stopped(run, buffered, shards)
    leg.workspace.write_json(INDEX, vars(replace(buffered, shards=[*shards, STOPPED_SHARD])))
    return shards


@dataclass
class _Summary:
    """The counts of a run's conversions, added batch by batch."""

    sent: int = 0
    converted: int = 0
    is_open: bool = False
    coverage: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.Float64))

    def add(self, conversions: pl.DataFrame) -> None:
        """Add the conversions of a batch."""
        self.sent += conversions.height
        self.converted += conversions["reason"].null_count()
        self.is_open |= conversions.select(is_open().any()).item()
        self.coverage.append(conversions["coverage"].drop_nulls())

    def build(self, run: Run[CcdaPipeline], documents: int) -> dict[str, Any]:
        """Return the section of the report about the conversion."""
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


def _read_converted(run: Run[CcdaPipeline]) -> Iterator[pl.DataFrame]:
    """Yield the converted files as arrivals with the ids of their documents."""
    none = pl.lit(None, pl.String).alias("version_id")
    for rows in run.workspace.parts("conversions", CONVERSIONS):
        converted = rows.filter(pl.col("reason").is_null()).with_columns(none)
        yield converted.select(ARRIVALS.names()).cast(ARRIVALS)


def _write_stopped(run: Run[CcdaPipeline], buffered: Buffered, shards: list[str]) -> None:
    """Write the shard of the documents without a converted file, each with its reason."""
    workspace, file = run.within(FOLDER).workspace, pl.col("arrival_id")
    with (
        Partitions(buffered.arrivals) as partitions,
        workspace.writer(f"arrivals/{STOPPED_SHARD}", ARRIVALS) as arrivals,
        workspace.writer(f"files/{STOPPED_SHARD}", FILES) as files,
    ):
        documents = partitions.spool(file, ARRIVALS, read_arrivals(run))
        reasons = partitions.spool(file, _REASONS, _read_reasons(run))
        converted = (rows for shard in shards for rows in workspace.parts(f"arrivals/{shard}", ARRIVALS))
        for rows, known, converted_files in zip_partitions(
            documents, reasons, partitions.spool(file, ARRIVALS, converted)
        ):
            stopped = rows.join(converted_files, on="arrival_id", how="anti", maintain_order="left")
            arrivals.add(stopped)
            files.add(_make_file_rows(stopped, known))
    workspace.write_json(name_chunks_index(STOPPED_SHARD), {"chunks": []})


def _read_reasons(run: Run[CcdaPipeline]) -> Iterator[pl.DataFrame]:
    """Yield the reason of every document that validate did not accept or that was not converted."""
    for rows in run.workspace.find_parts("verdicts", VERDICTS):
        yield rows.filter(pl.col("verdict") != Verdict.ACCEPT)
    for rows in run.workspace.parts("conversions", CONVERSIONS):
        yield rows.filter(pl.col("reason").is_not_null())


def _make_file_rows(stopped: pl.DataFrame, reasons: pl.DataFrame) -> pl.DataFrame:
    """Return documents without a converted file as rows of the dataset ``files``, each with its reason."""
    known = stopped.select("arrival_id").join(reasons, on="arrival_id", how="left", maintain_order="left")
    undecided = pl.col("reason").fill_null(str(Reason.UNDECIDED))
    counted = known.with_columns(reason=undecided, units=pl.lit(0, pl.Int64), bytes_read=pl.lit(0, pl.Int64))
    return counted.select(FILES.names()).cast(FILES)
