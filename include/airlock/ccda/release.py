"""Release: what a person said of a run's converted resources, kept in the workspace and the ledger."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from airlock.ccda.records import DOCUMENT, FOLDER, VERDICTS, converted_by
from airlock.clinical.records import DISPOSITIONS
from airlock.reasons import Reason
from airlock.records import Disposition, Gate, Verdict

if TYPE_CHECKING:
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run

_REVIEW = "review.json"
_IN_STORE = (Disposition.RELEASED, Disposition.HELD, Disposition.DUPLICATE)


class ReviewError(ValueError):
    """An answer that does not say enough; the message is what the person reads."""


@dataclass(frozen=True)
class Review:
    """A person's answer."""

    approved: bool
    person: str
    why: str
    answered_at: str  # ISO 8601


def record_review(run: Run[CcdaPipeline], review: Review) -> None:
    """Keep an answer; an approval is written to the ledger as an override of every hold that waited for it.

    Raises
    ------
    ReviewError
        If an approval names no person or no reason.
    """
    if review.approved and not (review.person.strip() and review.why.strip()):
        raise ReviewError("an approval needs a person and a reason: clear review and answer it again with both")
    if review.approved:
        gates = run.ledger.gates_of(run.pipeline.datastore_id, run.key)
        waiting = gates.filter((pl.col("gate") == Gate.HOLD) & (pl.col("reason") == Reason.AWAITING_REVIEW))
        for subject in waiting["subject"]:
            run.ledger.override_hold(run.pipeline.datastore_id, run.key, subject, review.person, review.why)
    run.workspace.write_json(_REVIEW, asdict(review))


def find_review(run: Run[CcdaPipeline]) -> Review | None:
    """Return the answer that was kept, None before there is one."""
    try:
        return Review(**json.loads(run.s3.get(run.within("").workspace.root.join(_REVIEW))))
    except FileNotFoundError:
        return None


def record_documents(run: Run[CcdaPipeline]) -> None:
    """Tell the ledger which documents are in the data store as resources, and give up the claims on the others."""
    units = run.within(FOLDER).workspace.find("dispositions", DISPOSITIONS)
    there = pl.col("disposition").is_in([str(word) for word in _IN_STORE])
    whole = units.group_by("arrival_id").agg(brought=there.all() & pl.col("line").is_not_null().all())
    documents = run.workspace.find("verdicts", VERDICTS).filter(pl.col("verdict") == Verdict.ACCEPT)
    rows = documents.join(whole, on="arrival_id", how="left").select(
        "arrival_id",
        "content_digest",
        pl.col("brought").fill_null(value=False),
        resource_type=pl.lit(DOCUMENT),
        resource_id=pl.col("document_id"),
        batch_id=pl.lit(None, pl.String),
    )
    store = converted_by(run.pipeline)
    run.ledger.record_imported_resources(store, run.key, rows.filter("brought"))
    run.ledger.drop_resource_claims(store, run.key, rows.filter(~pl.col("brought")))
