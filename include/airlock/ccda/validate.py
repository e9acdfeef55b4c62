"""Validate: decide on every document before conversion, by the findings of parse and by equal ClinicalDocument.id.

Writes ``verdicts``, one row per arrival. The converted resources are validated after the conversion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.ccda.records import DOCUMENT, DOCUMENTS, VERDICTS, name_document_store
from airlock.reasons import Reason
from airlock.records import ARRIVALS, Disposition, Verdict, count_parts
from airlock.stages.batches import find_begun_batches
from airlock.stages.buffer import Buffered, find_buffered, find_shards
from airlock.stages.content_order import FileClocks, find_late, find_spare, format_clock, refuse_late
from airlock.stages.resources import claim_resources
from airlock.storage.spool import Partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from airlock.storage.spool import Spool

# Documents without an id are not compared with others, so each may be in any partition.
_BY_DOCUMENT = pl.coalesce("document_id", "arrival_id")
_SAMPLED = 100  # every so many keys, one is sampled to divide their order into ranges of equal size


def validate(run: Run[CcdaPipeline]) -> dict[str, int]:
    """Decide on every document; return the number of documents by verdict.

    Once a conversion was begun, the verdicts do not change.
    """
    if not find_begun_batches(run):
        buffered = find_buffered(run) or Buffered()
        with Partitions(buffered.arrivals) as partitions:
            _write_verdicts(
                run, partitions, partitions.spool(_BY_DOCUMENT, VERDICTS, _compare_documents(run, partitions))
            )
    return count_parts(run.workspace.parts("verdicts", VERDICTS, ["verdict"]), "verdict")


def _write_verdicts(run: Run[CcdaPipeline], partitions: Partitions, documents: Spool) -> None:
    """Claim the accepted documents, and write ``verdicts`` in the order of keys."""
    claims, store = (_make_claims(run, rows) for rows in documents), name_document_store(run.pipeline)
    refused = claim_resources(run, store, claims, lambda contested: refuse_late(run, contested))
    decided = (_stop_refused(rows, refused) for rows in documents)
    sample = [rows["key"].gather_every(_SAMPLED) for rows in documents]
    keys = pl.concat([pl.Series([], dtype=pl.String), *sample])
    with run.workspace.writer("verdicts", VERDICTS) as verdicts:
        for rows in partitions.sorted_spool(pl.col("key"), keys, VERDICTS, decided):
            verdicts.add(rows.sort("key", "arrival_id"))


def _stop_refused(rows: pl.DataFrame, refused: pl.DataFrame) -> pl.DataFrame:
    """Stop documents that another run has claimed, or of which a newer content has come since."""
    reasons = refused.select(document_id="resource_id", why=pl.col("reason").fill_null(str(Reason.INSTANCE_CLAIMED)))
    rows = rows.join(reasons, on="document_id", how="left", maintain_order="left")
    for reason in (Reason.INSTANCE_CLAIMED, Reason.NEWER_CONTENT, Reason.ORDER_UNKNOWN, Reason.FUTURE_TIMESTAMP):
        verdict = Verdict.IGNORE if reason is Reason.NEWER_CONTENT else Verdict.QUARANTINE
        rows = _decide_where(rows, pl.col("why") == reason, verdict, reason, None)
    return rows.drop("why")


def _compare_documents(run: Run[CcdaPipeline], partitions: Partitions) -> Iterator[pl.DataFrame]:
    """Yield documents with verdicts; those of one ClinicalDocument.id are in one partition."""
    for rows in partitions.spool(_BY_DOCUMENT, VERDICTS, _read_documents(run)):
        yield _stop_duplicates(run, rows).select(VERDICTS.names()).cast(VERDICTS)


def _read_documents(run: Run[CcdaPipeline]) -> Iterator[pl.DataFrame]:
    """Yield the documents of each shard with a verdict by the findings of parse."""
    stopped = pl.when(pl.col("reason") == Reason.SIDECAR).then(pl.lit(Verdict.IGNORE.value))
    accepted = pl.when(pl.col("reason").is_null()).then(pl.lit(Verdict.ACCEPT.value))
    verdict = accepted.otherwise(stopped.otherwise(pl.lit(Verdict.QUARANTINE.value)))
    for shard in find_shards(run):
        documents = run.workspace.read(f"documents/{shard}", DOCUMENTS)
        arrivals = run.workspace.read(f"arrivals/{shard}", ARRIVALS)
        rows = arrivals.join(documents, on="arrival_id", how="left", maintain_order="left")
        yield rows.with_columns(verdict=verdict)


def _decide_where(
    rows: pl.DataFrame, where: pl.Expr, verdict: Verdict, reason: Reason, detail: str | None
) -> pl.DataFrame:
    hit = (pl.col("verdict") == Verdict.ACCEPT) & where.fill_null(value=False)
    return rows.with_columns(
        verdict=pl.when(hit).then(pl.lit(verdict.value)).otherwise("verdict"),
        reason=pl.when(hit).then(pl.lit(str(reason))).otherwise("reason"),
        detail=pl.when(hit).then(pl.lit(detail, pl.String)).otherwise("detail"),
    )


def _stop_duplicates(run: Run[CcdaPipeline], rows: pl.DataFrame) -> pl.DataFrame:
    """Stop documents of one id, all but the newest if their contents are equal, and those that came before."""
    twins = rows.filter(pl.col("verdict") == Verdict.ACCEPT).group_by("document_id")
    rows = rows.join(twins.agg(contents=pl.col("content_digest").n_unique()), on="document_id", how="left")
    rows = rows.sort("key", "arrival_id")
    other = "the delivery brings this ClinicalDocument.id with several contents"
    rows = _decide_where(rows, pl.col("contents") > 1, Verdict.QUARANTINE, Reason.DUPLICATE_OTHER_CONTENT, other)
    store, keys = name_document_store(run.pipeline), _make_claims(run, rows)
    spare = find_spare(run, store, keys)
    again = pl.col("arrival_id").is_in(spare["arrival_id"].implode())
    rows = _decide_where(rows, again, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, "within the delivery")
    keys = keys.join(spare, on="arrival_id", how="anti", maintain_order="left")
    known = run.ledger.known_resources(store, keys, except_run=run.holder)
    rows = _stop_late(rows, find_late(run, store, keys))
    if run.redrive is not None:
        held = run.ledger.brought_by(store, keys).filter(pl.col("disposition") == Disposition.HELD)
        known = known.join(held, on="resource_id", how="anti")
    stored = known.select(document_id="resource_id", stored="content_digest")
    rows = rows.join(stored, on="document_id", how="left", maintain_order="left")
    same = pl.col("stored") == pl.col("content_digest")
    return _decide_where(rows, same, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, "by an earlier delivery")


def _stop_late(rows: pl.DataFrame, late: pl.DataFrame) -> pl.DataFrame:
    """Ignore documents of which newer content was converted, and quarantine those that cannot be ordered."""
    rows = rows.join(late, on="arrival_id", how="left", maintain_order="left")
    for verdict in (Verdict.IGNORE, Verdict.QUARANTINE):
        for reason in (Reason.NEWER_CONTENT, Reason.ORDER_UNKNOWN, Reason.FUTURE_TIMESTAMP):
            found = (pl.col("order_verdict") == verdict) & (pl.col("order_reason") == reason)
            rows = _decide_where(rows, found, verdict, reason, None)
    return rows.select(VERDICTS.names())


def _make_claims(run: Run[CcdaPipeline], rows: pl.DataFrame) -> pl.DataFrame:
    """Return the accepted documents as `ledger.resources.CLAIMS`."""
    accepted = rows.filter(pl.col("verdict") == Verdict.ACCEPT)
    none = pl.lit(None, pl.Int64)
    of_files = FileClocks(run).read(accepted).with_columns(last_updated=none)
    clocks = of_files.select("arrival_id", format_clock(run.pipeline.order, run.ledger.database_time()))
    return accepted.join(clocks, on="arrival_id", maintain_order="left").select(
        "arrival_id",
        "content_digest",
        "clock",
        resource_type=pl.lit(DOCUMENT),
        resource_id=pl.col("document_id"),
        patient=pl.lit(None, pl.String),
    )
