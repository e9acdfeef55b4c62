"""A person's answer about the objects that a sweep named: take them in, or leave them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airlock.ledger.columns import ComparisonKind
from airlock.ledger.sweeps import SCOPE, SweepAnswer
from airlock.stages.decision_log import decide, open_log
from airlock.stages.person_text import find_text_fault, has_letter_or_digit
from airlock.stages.sweep import files_of
from airlock.stages.sweep_work import OVERDUE, Asked, read_asked
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.ledger import Ledger
    from airlock.ledger.comparisons import Comparison
    from airlock.pipelines import Pipeline
    from airlock.storage.s3 import S3


class SweepAnswerError(ValueError):
    """An answer about a sweep cannot be recorded; the text has the cause and the fix."""


def answer(
    pipeline: Pipeline, s3: S3, ledger: Ledger, number: int, *, take_in: bool, person: str, why: str
) -> tuple[int, int]:
    """Record an answer, and make exactly the named objects owed if they are to be taken in.

    Those that a run has claimed meanwhile stay as they are.

    Parameters
    ----------
    pipeline, s3, ledger
        The pipeline, with the S3 of its workspace.
    number
        Of the sweep.
    take_in
        Whether the objects are taken in.
    person, why
        Who decides, and the reason.

    Returns
    -------
    named
        The number of objects that the sweep named.
    owed
        How many of them are owed now.

    Raises
    ------
    SweepAnswerError
        If the pipeline has no such sweep, it named nothing, or the reason cannot be stored.
    """
    comparison, asked = _find_asked(pipeline, ledger, number)
    _check_text("The name", person)
    _check_text("The reason", why)
    files = files_of(s3, pipeline, comparison)
    answer = SweepAnswer(files.name, asked.number, take_in, person, why, datetime.now(UTC))
    decide(s3, pipeline, ledger, lambda inner: inner.answer_sweep(pipeline.name, answer), SCOPE)
    if not take_in:
        return asked.number, 0
    chosen = asked.choose(S3Uri.parse(pipeline.source.uri))
    kept = ledger.journaled_in(open_log(s3, pipeline))
    owed = (kept.owe_strays(pipeline.name, files.name, rows.filter(chosen)) for rows in files.read(OVERDUE))
    return asked.number, sum(owed)


def _find_asked(pipeline: Pipeline, ledger: Ledger, number: int) -> tuple[Comparison, Asked]:
    """Return a sweep that has ended and named objects, and which.

    Raises
    ------
    SweepAnswerError
        If there is none.
    """
    found = ledger.comparison(number)
    if found is None or found.kind != ComparisonKind.SWEEP or found.pipeline != pipeline.name:
        raise SweepAnswerError(f"Pipeline {pipeline.name} has no sweep {number}. Give the number that a sweep printed.")
    if found.ended_at is None:
        raise SweepAnswerError(f"Sweep {number} has not ended. Sweep again: it goes on where it was interrupted.")
    if found.scope["uri"] != pipeline.source.uri:
        raise SweepAnswerError(f"Sweep {number} is of another source.uri. Sweep again.")
    asked = read_asked((found.counts or {}).get("asked"))
    if not asked.number:
        raise SweepAnswerError(f"Sweep {number} named no objects, so there is nothing to take in.")
    return found, asked


def _check_text(what: str, text: str) -> None:
    fault = None if has_letter_or_digit(text) else "is empty: give one"
    fault = fault or find_text_fault(text)
    if fault:
        raise SweepAnswerError(f"{what} {fault}.")
