"""``airlock review``: the questions to people about held studies, patients and files, and their answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airlock.reasons import SENTENCES
from airlock_cli import settings, workspaces
from airlock_cli.caller import find_caller, list_groups
from airlock_cli.errors import CommandError, RequestError, UnreachableError, WrongError
from airlock_cli.ledgers import has_run, open_ledger
from airlock_cli.show import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger, ReviewRecord

SCHEMA = "airlock.reviews/1"
_COLUMNS = (
    "number",
    "since",
    "pipeline",
    "subject_key",
    "site",
    "reason",
    "subjects",
    "for",
    "opened",
    "first_approval",
)
_ADVICE = "Look at it with airlock where {key}, then answer it with airlock review answer {number}."
_OF_GROUP = (
    "Open at least {needed} of its samples with airlock review show {number} SAMPLE, then answer it with airlock "
    "review answer {number}."
)
_OF_PATIENTS = "Look at it with airlock patient show {number}, then answer it with airlock patient answer {number}."


@dataclass(frozen=True)
class Choice:
    """The reviews that an answer is about: by their numbers, or by pipeline, reason and site."""

    numbers: tuple[int, ...] = ()
    pipeline: str | None = None
    reason: str | None = None
    site: str | None = None


def find_reviews(pipeline: str | None, reason: str | None, site: str | None) -> dict[str, Any]:
    """Return the reviews that wait for an answer, the oldest first, schema `SCHEMA`; without identifiers.

    Raises
    ------
    RequestError
        If there is no such pipeline.
    """
    with open_ledger() as ledger:
        found = ledger.open_reviews(_pipelines_of(ledger, pipeline), reason=reason, site=site)
    return {"schema": SCHEMA, "reviews": [_describe(one) for one in found]}


def _pipelines_of(ledger: Ledger, pipeline: str | None) -> set[str]:
    if pipeline is None:
        return ledger.pipelines()
    has_run(ledger, pipeline)
    return {pipeline}


def _describe(one: ReviewRecord) -> dict[str, Any]:
    advice = _OF_PATIENTS if one.is_about_patient else _OF_GROUP if one.is_group else _ADVICE
    told = {"key": one.subject_key, "number": one.number, "needed": one.samples_needed}
    return {
        "number": one.number,
        "since": one.asked_at,
        "pipeline": one.pipeline,
        "run_key": one.run_key,
        "subject_key": one.subject_key,
        "site": one.site,
        "reason": one.reason,
        "reasons": list(one.reasons),
        "what_it_means": SENTENCES.get(one.reason),
        "subjects": one.subjects,
        "samples": list(one.samples),
        "for": one.assignee,
        "deputies": one.deputy,
        "opened": one.opened_at,
        "needs_second_person": one.needs_second,
        "first_approval": one.first_by,
        "first_approval_at": one.first_at,
        "first_approval_why": one.first_why,
        "state": one.state,
        "answered_by": one.decided_by,
        "answered_at": one.decided_at,
        "why": one.why,
        "what_to_do": advice.format(**told) if one.waits else None,
    }


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of a result of `find_reviews`."""
    rows = [[row[name] for name in _COLUMNS] for row in found["reviews"]]
    yield Table(f"reviews: {len(rows)}", _COLUMNS, rows)


def show(number: int) -> dict[str, Any]:
    """Return a review, schema `SCHEMA`; the decision log keeps that this person has opened it.

    Raises
    ------
    WrongError
        If there is no review of this number.
    """
    with open_ledger() as ledger:
        found = _need_review(ledger, number)
        ledger.open_review(number, find_caller())
    return {"schema": SCHEMA, "reviews": [_describe(found)]}


def open_sample(number: int, key: str) -> dict[str, Any]:
    """Return what `airlock where` says of a hold that a review is about, after the decision log has who opened it.

    Raises
    ------
    WrongError
        If there is no such review, or it does not name this hold.
    """
    from airlock_cli import where  # noqa: PLC0415  # polars is slow to import

    with open_ledger() as ledger:
        review = _need_review(ledger, number)
        subject = review.samples.get(key)
        if subject is None:
            raise WrongError(f"Review {number} names no hold {key}. See its samples: airlock review show {number}")
        ledger.open_sample(number, key, find_caller())
    return where.find(subject, review.datastore_id)


def tables_of_one(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of a result of `show`."""
    (row,) = found["reviews"]
    rows = [(name.replace("_", " "), value) for name, value in row.items() if value is not None]
    yield Table(f"review {row['number']}", ("", ""), rows)


def _need_review(ledger: Ledger, number: int) -> ReviewRecord:
    found = ledger.review(number)
    if found is None:
        raise WrongError(f"There is no review {number}. List them: airlock review list")
    return found


def answer(choice: Choice, *, approved: bool, why: str, dry_run: bool) -> dict[str, Any]:
    """Answer reviews, and return those that were, or would be, answered, schema `SCHEMA`.

    Raises
    ------
    RequestError
        If there is no reason, or the choice names nothing or reviews of several pipelines.
    WrongError
        If nothing waits for an answer, or the answer does not count.
    UnreachableError
        If the copy of the decision cannot be written.
    """
    from airlock.ledger import ReviewAnswer  # noqa: PLC0415  # polars is slow to import
    from airlock.stages import review as stage  # noqa: PLC0415
    from airlock.stages.decision_log import DecisionNotKeptError  # noqa: PLC0415

    if not why.strip():
        raise RequestError("--why is empty. Give a reason: the decision log keeps it.")
    with open_ledger() as ledger:
        chosen = _choose(ledger, choice, stage.MOST_AT_ONCE)
        if dry_run:
            return {"schema": SCHEMA, "answered": 0, "reviews": [_describe(one) for one in chosen]}
        pipeline = workspaces.load_named_pipeline(chosen[0].pipeline)
        given = ReviewAnswer(approved, find_caller(), why.strip())
        with workspaces.open_s3(pipeline) as s3:
            try:
                answered = stage.answer(s3, pipeline, ledger, chosen, given, names=list_groups())
            except stage.ReviewError as error:
                raise WrongError(str(error)) from None
            except DecisionNotKeptError as error:
                raise UnreachableError(str(error)) from None
        rows = [_describe(_need_review(ledger, one.number)) for one in chosen]
    return {"schema": SCHEMA, "answered": answered, "reviews": rows}


def _choose(ledger: Ledger, choice: Choice, most: int) -> list[ReviewRecord]:
    if choice.numbers:
        found = [_need_review(ledger, number) for number in dict.fromkeys(choice.numbers)]
    elif choice.pipeline is None or choice.reason is None:
        raise RequestError("Name the reviews: by their numbers, or by --pipeline, --reason and --site.")
    else:
        has_run(ledger, choice.pipeline)
        found = ledger.open_reviews({choice.pipeline}, reason=choice.reason, site=choice.site or "")[:most]
    if not found:
        raise WrongError("No review waits with this pipeline, reason and site. List them: airlock review list")
    if len({one.pipeline for one in found}) > 1:
        raise RequestError("These reviews are of several pipelines. Answer those of each pipeline by themselves.")
    return found


def describe_answer(found: dict[str, Any], *, approved: bool) -> str:
    """Return the message about a result of `answer`, after it has started the run that releases, if it can."""
    name = found["reviews"][0]["pipeline"]
    counted = f"{found['answered']} reviews are" if found["answered"] != 1 else "1 review is"
    if not found["answered"]:
        return f"{len(found['reviews'])} reviews would be answered. Nothing is recorded."
    if not approved:
        return f"{counted} answered: what they are about stays held."
    (row, *more) = found["reviews"]
    if not more and row["answered_by"] is None:
        return (
            f"Your approval of review {row['number']} is recorded. It is about {row['subjects']} patients, files or "
            f"resources, so it stays held until another person approves it too."
        )
    return f"{counted} approved. {_start_release(name)}"


def _start_release(pipeline: str) -> str:
    from airlock.pipelines import REVIEW_SUFFIX  # noqa: PLC0415  # only an approval needs them
    from airlock_cli import runs  # noqa: PLC0415

    dag = f"{pipeline}{REVIEW_SUFFIX}"
    later = f"The next run of {dag}, within an hour by default, releases what they are about."
    try:
        settings.api_url()
        with runs.airflow() as api:
            run = api.trigger(dag, {})
    except CommandError:
        return later
    return f"Run {run} of {dag} releases what they are about."
