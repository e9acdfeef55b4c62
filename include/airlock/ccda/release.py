"""Release: the question and the answer about a run's converted resources.

The transaction that settles asks about all resources of the run that wait, by their content: the dataset ``asked/...``
has them. Only resources that a person was asked about, and approved, are released; what is imported later waits for
another approval.
"""

from __future__ import annotations

import json
from itertools import chain, starmap
from typing import TYPE_CHECKING

import polars as pl

from airlock.ccda.records import DOCUMENT, FOLDER, VERDICTS, name_document_store
from airlock.ledger import open_resources, reviews
from airlock.ledger.reviews import ASKED, GROUP
from airlock.reasons import Reason
from airlock.records import Disposition, Verdict, digest, schema
from airlock.stages.auditing import Addition, is_open
from airlock.stages.resources import BY_RESOURCE, BY_UNIT, DISPOSITIONS, IDENTITY, OUTCOMES, UNIT
from airlock.stages.review import ask, choose_samples, name_asked, name_sum, sum_digests
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from airlock.storage.spool import Partitions, Spool

SUBJECT = f"{GROUP}{Reason.AWAITING_REVIEW}/"  # of the question about a run
REVIEWED = schema(IDENTITY, {"content_digest": pl.String})
_FATES = schema({"arrival_id": pl.String}, dict.fromkeys(("brought", "undecided"), pl.Boolean))
_EARLIER_ANSWER = "review.json"  # of versions that asked in the run
_IN_STORE = (Disposition.RELEASED, Disposition.HELD, Disposition.DUPLICATE)


def _ask_about(run: Run[CcdaPipeline], partitions: Partitions) -> pl.DataFrame:
    """Keep the resources that wait for an approval, and return the question about them, `ledger.reviews.ASKED`.

    There is none if nothing waits, or if a redrive has taken over some of the run's documents: then its own question
    counts, and what else is held here has to be redriven.
    """
    waiting = _find_waiting(run, partitions)
    if not waiting.rows or run.ledger.count_redriven(run.pipeline.name, run.key):
        return ASKED.to_frame()
    seen = name_sum(sum(map(sum_digests, waiting)))
    with run.workspace.writer(name_asked(seen), REVIEWED) as asked:
        for rows in waiting:
            asked.add(rows)
    reason, key = str(Reason.AWAITING_REVIEW), digest(run.key, SUBJECT, length=16)
    question = json.dumps({"resources": waiting.rows, "samples": _choose_documents(run)})
    row = (SUBJECT, key, "", reason, reason, seen, question)
    return pl.DataFrame([row], schema=ASKED, orient="row")


def _choose_documents(run: Run[CcdaPipeline]) -> dict[str, str]:
    """Return the arrival ids of some documents with resources that wait for an approval, by themselves."""
    chosen: dict[str, str] = {}
    for rows in run.within(FOLDER).workspace.find_parts("dispositions", DISPOSITIONS):
        waiting = rows.filter(pl.col("reason") == Reason.AWAITING_REVIEW)
        chosen = choose_samples(run, chosen | {name: name for name in waiting["arrival_id"]})
    return chosen


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


def find_approved(run: Run[CcdaPipeline]) -> Iterator[pl.DataFrame] | None:
    """Return the resources that people have approved, `REVIEWED` frame by frame; None if nobody has approved any.

    An approval that came after a redrive of some documents does not count, nor one before the last answer that the run
    stays held: both are about the run, whatever else was imported in between.
    """
    workspace = run.within("").workspace
    store, about_run = run.pipeline.datastore_id, pl.col("subject") == SUBJECT
    given = run.ledger.overrides_of(store, run.key).filter(about_run)
    kept = run.ledger.keeps_of(store, run.key).filter(about_run)
    if not kept.is_empty():
        given = given.filter(pl.col("overridden_at") > kept["overridden_at"].max())
    redriven = run.ledger.find_redriven_arrivals(run.pipeline.name, run.key)
    if not redriven.is_empty():
        given = given.filter(pl.col("overridden_at") <= redriven["asked_at"].min())
    earlier = ["approved"] if kept.is_empty() and _was_approved(run) else []
    names = [name_asked(seen) for seen in given["findings"]] + earlier
    return chain.from_iterable(workspace.find_parts(name, REVIEWED) for name in names) if names else None


def _was_approved(run: Run[CcdaPipeline]) -> bool:
    """Return whether a person has answered in the run, which asked so in earlier versions, and approved."""
    try:
        return bool(json.loads(run.s3.get(run.within("").workspace.root.join(_EARLIER_ANSWER)))["approved"])
    except FileNotFoundError:
        return False


def prepare_documents(run: Run[CcdaPipeline], partitions: Partitions) -> Addition:
    """Read whose resources are all in the data store; return what records these documents, and asks about the run.

    It ends the claims on the other documents. One on which the run has not decided stays claimed.
    """
    workspace, file = run.within(FOLDER).workspace, pl.col("arrival_id")
    verdicts = run.workspace.find_parts("verdicts", VERDICTS)
    accepted = (rows.filter(pl.col("verdict") == Verdict.ACCEPT) for rows in verdicts)
    documents = partitions.spool(file, VERDICTS, accepted)
    fates = partitions.spool(file, _FATES, map(_sum_by_document, workspace.find_parts("dispositions", DISPOSITIONS)))

    store, asked = name_document_store(run.pipeline), _ask_about(run, partitions)

    def record(ledger: Ledger) -> None:
        for decided in starmap(_join_documents, zip_partitions(documents, fates)):
            ledger.record_imported_resources(store, run.key, decided.filter("brought"))
            ledger.drop_resource_claims(store, run.key, decided.filter(~pl.col("brought") & ~pl.col("undecided")))
        ask(run, ledger, asked)

    return Addition(record, (open_resources.scope(store), reviews.scope(run.pipeline.datastore_id)))


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
