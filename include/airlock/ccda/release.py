"""Release: the question and the answer about a run's converted resources, in the workspace and the ledger.

``asked`` lists the resources of the question with their content, ``approved`` those of an approval. Resources that are
imported after an approval wait for another one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import starmap
from typing import TYPE_CHECKING

import polars as pl

from airlock.ccda.records import DOCUMENT, FOLDER, VERDICTS, name_document_store
from airlock.ledger import open_resources
from airlock.ledger.gates import scope
from airlock.reasons import Reason
from airlock.records import Disposition, Gate, Verdict, schema
from airlock.stages.auditing import Addition, is_open
from airlock.stages.decision_log import decide
from airlock.stages.resources import BY_RESOURCE, BY_UNIT, DISPOSITIONS, IDENTITY, OUTCOMES, UNIT
from airlock.stages.review import Review, ReviewError, check_answer
from airlock.storage.spool import Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from airlock.storage.spool import Spool

REVIEWED = schema(IDENTITY, {"content_digest": pl.String})
_FATES = schema({"arrival_id": pl.String}, dict.fromkeys(("brought", "undecided"), pl.Boolean))
_REVIEW = "review.json"
_IN_STORE = (Disposition.RELEASED, Disposition.HELD, Disposition.DUPLICATE)


def record_question(run: Run[CcdaPipeline]) -> int:
    """Write the resources that wait for an approval to ``asked``; return their number."""
    with _open_partitions(run) as partitions, run.workspace.writer("asked", REVIEWED) as asked:
        waiting = _find_waiting(run, partitions)
        for rows in waiting:
            asked.add(rows)
        return waiting.rows


def record_review(run: Run[CcdaPipeline], review: Review) -> None:
    """Write an answer to the workspace, and an approval to the ledger as an override of every hold that waited for it.

    Raises
    ------
    ReviewError
        If an approval names no person or no reason, if resources have come in since the question, or if a redrive
        has taken over some of the documents.
    """
    if review.approved:
        _record_approval(run, review)
    run.workspace.write_json(_REVIEW, asdict(review))


def _record_approval(run: Run[CcdaPipeline], review: Review) -> None:
    check_answer(review)
    with _open_partitions(run) as partitions:
        asked = partitions.spool(BY_RESOURCE, REVIEWED, run.workspace.find_parts("asked", REVIEWED))
        both = zip_partitions(_find_waiting(run, partitions), asked)
        unseen = sum(rows.join(seen, on=rows.columns, how="anti").height for rows, seen in both)
    if unseen:
        raise ReviewError(f"{unseen} resources have come in since review asked: clear review and answer it again")
    redriven = run.ledger.count_redriven(run.pipeline.name, run.key)
    if redriven:
        raise ReviewError(
            f"{redriven} of the run's documents are taken through again by a redrive, whose own review counts: answer "
            f"that one, and redrive what else is held here"
        )
    with run.workspace.writer("approved", REVIEWED) as approved:
        for rows in run.workspace.find_parts("asked", REVIEWED):
            approved.add(rows)
    datastore = run.pipeline.datastore_id
    gates = run.ledger.gates_of(datastore, run.key)
    held = gates.filter((pl.col("gate") == Gate.HOLD) & (pl.col("reason") == Reason.AWAITING_REVIEW))
    subjects, by = held["subject"], (review.person, review.why)
    decide(
        *(run.s3, run.pipeline, run.ledger),
        lambda ledger: ledger.override_holds(datastore, run.key, subjects, *by),
        scope(datastore),
    )


def _open_partitions(run: Run[CcdaPipeline]) -> Partitions:
    workspace = run.within(FOLDER).workspace
    return Partitions(max(map(workspace.count_rows, ("dispositions", "outcomes"))))


def _find_waiting(run: Run[CcdaPipeline], partitions: Partitions) -> Spool:
    """Return the resources that an approval would release, by the last audit: `REVIEWED`, partitioned by resource."""
    workspace, waits = run.within(FOLDER).workspace, pl.col("reason") == Reason.AWAITING_REVIEW
    waiting = (rows.filter(waits) for rows in workspace.find_parts("dispositions", DISPOSITIONS))
    units = partitions.spool(BY_UNIT, schema(UNIT, IDENTITY), waiting)
    sent = schema(UNIT, {"content_digest": pl.String})
    outcomes = partitions.spool(BY_UNIT, sent, workspace.find_parts("outcomes", OUTCOMES))
    found = (
        rows.join(digests, on=list(UNIT), how="left", nulls_equal=True)
        for rows, digests in zip_partitions(units, outcomes)
    )
    return partitions.spool(BY_RESOURCE, REVIEWED, found)


def find_review(run: Run[CcdaPipeline]) -> Review | None:
    """Return the last answer; None before the first one."""
    try:
        return Review(**json.loads(run.s3.get(run.within("").workspace.root.join(_REVIEW))))
    except FileNotFoundError:
        return None


def find_approved(run: Run[CcdaPipeline]) -> Iterator[pl.DataFrame] | None:
    """Return the resources that the last answer approved, `REVIEWED` frame by frame; None if it approved none."""
    review = find_review(run)
    if review is None or not review.approved:
        return None
    return run.within("").workspace.find_parts("approved", REVIEWED)


def prepare_documents(run: Run[CcdaPipeline], partitions: Partitions) -> Addition:
    """Read whose resources are all in the data store; return what records these documents in the ledger.

    It ends the claims on the other documents. One on which the run has not decided stays claimed.
    """
    workspace, file = run.within(FOLDER).workspace, pl.col("arrival_id")
    verdicts = run.workspace.find_parts("verdicts", VERDICTS)
    accepted = (rows.filter(pl.col("verdict") == Verdict.ACCEPT) for rows in verdicts)
    documents = partitions.spool(file, VERDICTS, accepted)
    fates = partitions.spool(file, _FATES, map(_sum_by_document, workspace.find_parts("dispositions", DISPOSITIONS)))

    store = name_document_store(run.pipeline)

    def record(ledger: Ledger) -> None:
        for decided in starmap(_join_documents, zip_partitions(documents, fates)):
            ledger.record_imported_resources(store, run.key, decided.filter("brought"))
            ledger.drop_resource_claims(store, run.key, decided.filter(~pl.col("brought") & ~pl.col("undecided")))

    return Addition(record, (open_resources.scope(store),))


def _sum_by_document(units: pl.DataFrame) -> pl.DataFrame:
    """Return one row per document: whether all its units here are in the data store, and whether any is undecided."""
    is_stored = pl.col("disposition").is_in([str(word) for word in _IN_STORE]) & pl.col("line").is_not_null()
    return units.group_by("arrival_id").agg(brought=is_stored.all(), undecided=is_open().any())


def _join_documents(documents: pl.DataFrame, fates: pl.DataFrame) -> pl.DataFrame:
    whole = fates.group_by("arrival_id").agg(pl.col("brought").all(), pl.col("undecided").any())
    return documents.join(whole, on="arrival_id", how="left").select(
        "arrival_id",
        "content_digest",
        pl.col("brought", "undecided").fill_null(value=False),
        resource_type=pl.lit(DOCUMENT),
        resource_id=pl.col("document_id"),
        batch_id=pl.lit(None, pl.String),
    )
