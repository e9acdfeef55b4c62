"""Review: ask a person about held subjects, and record the answer as overrides that later audits apply.

An audit writes the dataset ``holds``: the held subjects, each with a digest of its findings. The dataset ``asked`` has
the holds that the question was about. An answer that releases them is an override in the ledger. Every later audit of
the run applies it, as long as a subject's findings are those that the person saw.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger import gates
from airlock.reasons import Reason
from airlock.records import HOLDS
from airlock.stages.decision_log import decide
from airlock.stages.person_text import find_text_fault, has_letter_or_digit

if TYPE_CHECKING:
    from collections.abc import Collection

    from airlock.pipelines import Pipeline
    from airlock.run import Run

# The reasons that a person may override. Nobody may override a file without an outcome (it may not be in the data
# store), a study that is not published yet (the next audit decides), books that do not balance, or a file in a
# non-primary image set (a reader of the contract would not find it: resolve the conflict).
OVERRIDABLE = (
    Reason.SERVICE_WARNING,
    Reason.PRIMARY_UNKNOWN,
    Reason.VERSION_ABOVE_ONE,
    Reason.IDENTITY_CHANGED,
    Reason.HEADER_CHANGED,
    Reason.READ_BACK_MISMATCH,
    Reason.JOB_COUNTS_DISAGREE,
    Reason.STUDY_INCOMPLETE,
    Reason.SIBLING_UNREAD,
    Reason.WAITING_FOR_FILE,
    Reason.FEWER_THAN_DECLARED,
    Reason.STORED_WITH_ISSUES,
)
OVERRIDE = ("reason", "reasons", "overridden_by", "override_reason", "overridden_at")
_HOLD = ["subject", "findings"]


class ReviewError(ValueError):
    """An answer cannot be recorded; the person reads the message."""


@dataclass(frozen=True)
class Review:
    """A person's answer."""

    approved: bool
    person: str
    why: str
    answered_at: str  # ISO 8601


def check_answer(review: Review, reasons: Collection[str] = ()) -> None:
    """Refuse an answer that cannot be recorded.

    Raises
    ------
    ReviewError
        If an approval has no person or no reason, if its text cannot be stored, or if a reason code cannot be
        overridden. The message does not repeat the person's text.
    """
    unknown = sorted(set(reasons) - {str(reason) for reason in OVERRIDABLE})
    if unknown:
        known = ", ".join(str(reason) for reason in OVERRIDABLE)
        raise ReviewError(f"{len(unknown)} of the given reason codes cannot be released: use {known}, or none for all.")
    if not review.approved:
        return
    if not (has_letter_or_digit(review.person) and has_letter_or_digit(review.why)):
        raise ReviewError("An approval needs a person and a reason.")
    fault = find_text_fault(review.why) or find_text_fault(review.person)
    if fault:
        raise ReviewError(f"The reason {fault}.")


def record_question(run: Run[Pipeline]) -> dict[str, int]:
    """Write the holds that a person is asked about; return the number of subjects by reason code."""
    waiting = _find_overridable(run)
    run.workspace.write("asked", HOLDS, waiting)
    return dict(Counter(code for codes in waiting["reasons"] for code in codes).most_common())


def record_review(run: Run[Pipeline], review: Review, reasons: Collection[str] = ()) -> int:
    """Record an answer in the ledger; return how many subjects it releases unless the next audit finds more.

    Parameters
    ----------
    run
        The run.
    review
        The answer.
    reasons
        Release only subjects that are held by these reasons and no others; without reasons, all that were asked about.

    Raises
    ------
    ReviewError
        As `check_answer`, or if a hold is new since the question. Nothing is recorded then.
    """
    check_answer(review, reasons)
    if not review.approved:
        return 0
    asked = run.workspace.find("asked", HOLDS)
    unseen = _find_overridable(run).join(asked, on=_HOLD, how="anti").height
    if unseen:
        raise ReviewError(f"{unseen} holds are new since review asked. Clear review and answer it again.")
    chosen = asked.filter(_held_only_by(reasons)) if reasons else asked
    when = datetime.fromisoformat(review.answered_at)
    store, by = run.pipeline.datastore_id, {"person": review.person, "why": review.why}
    decide(
        *(run.s3, run.pipeline, run.ledger),
        lambda ledger: ledger.override_findings(store, run.key, chosen, **by, at=when),
        gates.scope(store),
    )
    return chosen.height


def _find_overridable(run: Run[Pipeline]) -> pl.DataFrame:
    """Return the holds of the last audit that a person may override."""
    return run.workspace.find("holds", HOLDS).filter(_held_only_by([str(reason) for reason in OVERRIDABLE]))


def _held_only_by(reasons: Collection[str]) -> pl.Expr:
    """Return the condition that a subject is held by these reasons and no others."""
    others = pl.col("reasons").list.set_difference(list(reasons)).list.len()
    return (pl.col("reasons").list.len() > 0) & (others == 0)


def find_overridden(holds: pl.DataFrame, overrides: pl.DataFrame) -> pl.DataFrame:
    """Return the holds that have an override, each with the latest one.

    Parameters
    ----------
    holds
        Rows of the dataset ``holds``.
    overrides
        The run's overrides, the earliest first.
    """
    latest = overrides.drop("reason", "reasons").unique(_HOLD, keep="last", maintain_order=True)
    return holds.join(latest, on=_HOLD, how="inner", maintain_order="left")


def overrides_by_key(overridden: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the overrides by subject_key, in the form of reports and contracts.

    Parameters
    ----------
    overridden
        The result of `find_overridden`.
    """
    rows = overridden.with_columns(pl.col("overridden_at").dt.to_string("iso:strict"))
    return {row["subject_key"]: {name: row[name] for name in OVERRIDE} for row in rows.iter_rows(named=True)}
