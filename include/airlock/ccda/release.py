"""Release: what a person was asked and said of a run's converted resources, kept in the workspace and the ledger.

``asked`` is what the question is about, ``approved`` what an approval is worth: these resources with this content. What
comes in after it waits for another.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import polars as pl

from airlock.ccda.records import DOCUMENT, FOLDER, VERDICTS, converted_by
from airlock.reasons import Reason
from airlock.records import Disposition, Gate, Verdict, schema
from airlock.stages.auditing import is_open
from airlock.stages.resources import DISPOSITIONS, IDENTITY, OUTCOMES, sent_contents
from airlock.stages.review import Review, ReviewError, check_answer

if TYPE_CHECKING:
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run

REVIEWED = schema(IDENTITY, {"content_digest": pl.String})
_REVIEW = "review.json"
_IN_STORE = (Disposition.RELEASED, Disposition.HELD, Disposition.DUPLICATE)


def record_question(run: Run[CcdaPipeline]) -> int:
    """Keep what a person is asked about, and return how many resources wait for the answer."""
    waiting = _waiting(run)
    run.workspace.write("asked", REVIEWED, waiting)
    return waiting.height


def record_review(run: Run[CcdaPipeline], review: Review) -> None:
    """Keep an answer; an approval is written to the ledger as an override of every hold that waited for it.

    Raises
    ------
    ReviewError
        If an approval names no person or no reason, if more waits now than it was asked for, or if a redrive takes
        some of it through again.
    """
    if review.approved:
        _approve(run, review)
    run.workspace.write_json(_REVIEW, asdict(review))


def _approve(run: Run[CcdaPipeline], review: Review) -> None:
    check_answer(review)
    asked = run.workspace.find("asked", REVIEWED)
    unseen = _waiting(run).join(asked, on=asked.columns, how="anti").height
    if unseen:
        raise ReviewError(f"{unseen} resources have come in since review asked: clear review and answer it again")
    redriven = run.ledger.count_redriven(run.pipeline.name, run.key)
    if redriven:
        raise ReviewError(
            f"{redriven} of the run's documents are taken through again by a redrive, whose own review counts: answer "
            f"that one, and redrive what else is held here"
        )
    run.workspace.write("approved", REVIEWED, asked)
    datastore = run.pipeline.datastore_id
    gates = run.ledger.gates_of(datastore, run.key)
    held = gates.filter((pl.col("gate") == Gate.HOLD) & (pl.col("reason") == Reason.AWAITING_REVIEW))
    run.ledger.override_holds(datastore, run.key, held["subject"], review.person, review.why)


def _waiting(run: Run[CcdaPipeline]) -> pl.DataFrame:
    """Return the resources that a review would release, as the last audit saw them."""
    workspace = run.within(FOLDER).workspace
    units = workspace.find("dispositions", DISPOSITIONS).filter(pl.col("reason") == Reason.AWAITING_REVIEW)
    return sent_contents(units, workspace.find("outcomes", OUTCOMES))


def find_review(run: Run[CcdaPipeline]) -> Review | None:
    """Return the answer that was kept, None before there is one."""
    try:
        return Review(**json.loads(run.s3.get(run.within("").workspace.root.join(_REVIEW))))
    except FileNotFoundError:
        return None


def find_approved(run: Run[CcdaPipeline]) -> pl.DataFrame | None:
    """Return the resources that the last answer approved, `REVIEWED`; None if it approved none."""
    review = find_review(run)
    if review is None or not review.approved:
        return None
    return run.within("").workspace.find("approved", REVIEWED)


def record_documents(run: Run[CcdaPipeline]) -> None:
    """Tell the ledger which documents are in the data store as resources, and give up the claims on the others.

    A document on which the run has not decided stays claimed.
    """
    units = run.within(FOLDER).workspace.find("dispositions", DISPOSITIONS)
    there = pl.col("disposition").is_in([str(word) for word in _IN_STORE])
    whole = units.group_by("arrival_id").agg(
        brought=there.all() & pl.col("line").is_not_null().all(), undecided=is_open().any()
    )
    documents = run.workspace.find("verdicts", VERDICTS).filter(pl.col("verdict") == Verdict.ACCEPT)
    rows = documents.join(whole, on="arrival_id", how="left").select(
        "arrival_id",
        "content_digest",
        pl.col("brought", "undecided").fill_null(value=False),
        resource_type=pl.lit(DOCUMENT),
        resource_id=pl.col("document_id"),
        batch_id=pl.lit(None, pl.String),
    )
    store = converted_by(run.pipeline)
    run.ledger.record_imported_resources(store, run.key, rows.filter("brought"))
    run.ledger.drop_resource_claims(store, run.key, rows.filter(~pl.col("brought") & ~pl.col("undecided")))
