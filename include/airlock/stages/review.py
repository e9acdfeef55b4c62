"""Review: what of a run waits for a person, what the person said of it, and what an audit makes of that.

An audit writes the dataset ``holds``: which subjects it holds, and a digest of the findings of each. ``asked`` is what
the question was about. An answer that releases is an override in the ledger; every later audit of the run finds it
there, and it counts as long as the subject is held by just what the person saw.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.reasons import Reason
from airlock.records import HOLDS
from airlock.stages.person_text import find_text_fault, has_letter_or_digit

if TYPE_CHECKING:
    from collections.abc import Collection

    from airlock.pipelines import Pipeline
    from airlock.run import Run

# What a person may decide on. Nobody can: what is not accounted for (it may not be in the data store at all), what is
# not published yet (the next audit tells), a run whose books do not balance, and a file that went into a non-primary
# image set (resolve the conflict: whoever reads the contract would not find it).
OVERRIDABLE = (
    Reason.SERVICE_WARNING,
    Reason.VERSION_ABOVE_ONE,
    Reason.READ_BACK_MISMATCH,
    Reason.JOB_COUNTS_DISAGREE,
    Reason.STUDY_INCOMPLETE,
    Reason.STORED_WITH_ISSUES,
)
WORD = ("reason", "reasons", "overridden_by", "override_reason", "overridden_at")
_HOLD = ["subject", "findings"]


class ReviewError(ValueError):
    """An answer that does not say enough; the message is what the person reads."""


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
        If an approval names no person or no reason, a reason that cannot be kept, or a reason code that no review is
        about. What the person wrote is not repeated.
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
    """Keep what a person is asked about; return how many subjects wait for the answer, by reason code."""
    waiting = _waiting(run)
    run.workspace.write("asked", HOLDS, waiting)
    return dict(Counter(code for codes in waiting["reasons"] for code in codes).most_common())


def record_review(run: Run[Pipeline], review: Review, reasons: Collection[str] = ()) -> int:
    """Keep an answer in the ledger; return how many subjects it releases, as far as the next audit finds no more.

    Parameters
    ----------
    run
        The run.
    review
        The answer.
    reasons
        Only what is held by these and by nothing else; all that was asked about where it is empty.

    Raises
    ------
    ReviewError
        As `check_answer`; or if something waits now that review has not asked about. Nothing is recorded then.
    """
    check_answer(review, reasons)
    if not review.approved:
        return 0
    asked = run.workspace.find("asked", HOLDS)
    unseen = _waiting(run).join(asked, on=_HOLD, how="anti").height
    if unseen:
        raise ReviewError(f"{unseen} holds have come up since review asked: clear review and answer it again")
    chosen = asked.filter(_only(reasons)) if reasons else asked
    when = datetime.fromisoformat(review.answered_at)
    run.ledger.override_findings(
        run.pipeline.datastore_id, run.key, chosen, person=review.person, why=review.why, at=when
    )
    return chosen.height


def _waiting(run: Run[Pipeline]) -> pl.DataFrame:
    """Return what the last audit holds and a person may release."""
    return run.workspace.find("holds", HOLDS).filter(_only([str(reason) for reason in OVERRIDABLE]))


def _only(reasons: Collection[str]) -> pl.Expr:
    """Find what is held by these reasons and no others."""
    others = pl.col("reasons").list.set_difference(list(reasons)).list.len()
    return (pl.col("reasons").list.len() > 0) & (others == 0)


def overridden_among(holds: pl.DataFrame, overrides: pl.DataFrame) -> pl.DataFrame:
    """Return the holds on which a person's word counts, each with the latest one.

    Parameters
    ----------
    holds
        Rows of the holds dataset.
    overrides
        The run's, the earliest first, as the ledger returns them.
    """
    words = overrides.drop("reason", "reasons").unique(_HOLD, keep="last", maintain_order=True)
    return holds.join(words, on=_HOLD, how="inner", maintain_order="left")


def words_by_key(overridden: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Return a person's word on each hold by its subject_key, as reports and contracts say it.

    Parameters
    ----------
    overridden
        Of `overridden_among`.
    """
    rows = overridden.with_columns(pl.col("overridden_at").dt.to_string("iso:strict"))
    return {row["subject_key"]: {name: row[name] for name in WORD} for row in rows.iter_rows(named=True)}
