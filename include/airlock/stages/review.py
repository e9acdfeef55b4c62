"""Review: what people are asked about held subjects, and how their answers count.

The transaction that settles a run asks: a row of the ledger per study, or one for all holds of a reason and site where
they are many and alike. The run goes on. An approval is a decision about the findings that the person saw. The next
audit of the run applies it (the DAG ``<pipeline>__review`` audits again), unless its findings are others by then.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger import ReviewTakenError
from airlock.ledger.gates import OVERRIDES
from airlock.ledger.reviews import ANSWERS, ASKED, CHOSEN, GROUP, LEAST_OPENED, MOST_BY_ONE
from airlock.ledger.runs import parse_wave
from airlock.pipelines.review import GROUP as GROUP_OF_PEOPLE
from airlock.reasons import Reason
from airlock.records import HOLDS, digest, schema
from airlock.run import RedriveRequest, Run, WaveOf
from airlock.stages.decision_log import decide
from airlock.stages.person_text import find_text_fault, has_letter_or_digit
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from airlock.ledger import Ledger, ReviewAnswer, ReviewRecord
    from airlock.pipelines import Pipeline
    from airlock.storage.s3 import S3
    from airlock.storage.workspace import DatasetWriter

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
MOST_AT_ONCE = 50  # reviews that one answer may be about
MOST_SAMPLES = 5  # holds that a review about many of them links to
SITED_HOLDS = schema(HOLDS, {"site": pl.String})
_HOLD = ["subject", "findings"]
_SCOPE = "asked/run.json"  # what an audit of the run by another DAG run has to know
_Group = tuple[str, str]  # the reason and the site of alike holds


class ReviewError(ValueError):
    """An answer cannot be recorded; the person reads the message."""


@dataclass(frozen=True)
class Review:
    """A person's answer to a question of a run that waits for it: the brake's, or a sweep's."""

    approved: bool
    person: str
    why: str
    answered_at: str  # ISO 8601


def check_answer(review: Review) -> None:
    """Refuse an answer that cannot be recorded.

    Raises
    ------
    ReviewError
        If an approval has no person or no reason, or its text cannot be stored. The message does not repeat the text.
    """
    if review.approved:
        _check_text("An approval", review.person, review.why)


def _check_text(what: str, person: str, why: str) -> None:
    if not (has_letter_or_digit(person) and has_letter_or_digit(why)):
        raise ReviewError(f"{what} needs a person and a reason.")
    fault = find_text_fault(why) or find_text_fault(person)
    if fault:
        raise ReviewError(f"The reason {fault}.")


def keep_scope(run: Run[Pipeline]) -> None:
    """Keep in the workspace what `reopen` needs to audit the run again."""
    if run.pipeline.asks_people:
        run.within("").workspace.write_json(_SCOPE, {"prefix": str(run.prefix)})


def reopen(run: Run[Any]) -> Run[Any]:
    """Return a run, of which only the id is known, as its own tasks had opened it.

    Raises
    ------
    ReviewError
        If the ledger or the workspace does not have the run any more.
    """
    known = run.ledger.run(run.key)
    try:
        kept = json.loads(run.s3.get(run.within("").workspace.root.join(_SCOPE)))
    except FileNotFoundError:
        kept = None
    if known is None or kept is None:
        raise ReviewError("The run's workspace was deleted, so its answers cannot be applied. Redrive what is held.")
    asked = run.ledger.find_redrive(run.key)
    redrive = None if asked is None else RedriveRequest(asked["asked_by"], asked["why"])
    lead, number = parse_wave(known.run_id)
    wave = None if number == 1 else WaveOf(lead, number)
    return Run(
        run.pipeline,
        known.run_id,
        known.window,
        S3Uri.parse(kept["prefix"]),
        run.s3,
        run.ledger,
        run.folder,
        redrive=redrive,
        wave=wave,
    )


def select_asked(holds: pl.DataFrame, sites: pl.DataFrame) -> pl.DataFrame:
    """Return the holds that a person may override as questions, `ledger.reviews.ASKED`.

    Parameters
    ----------
    holds
        Rows of the dataset ``holds``.
    sites
        ``subject`` and ``site``.
    """
    waiting = holds.filter(can_override()).join(sites, on="subject", how="left", maintain_order="left")
    return waiting.select(
        *("subject", "subject_key", "reason"),
        site=pl.col("site").fill_null(""),
        reasons=pl.col("reasons").list.join(","),
        seen="findings",
        question=pl.lit(json.dumps({"subjects": 1})),
    ).select(ASKED.names())


def can_override() -> pl.Expr:
    """Return the condition that a person may override all findings of a hold."""
    others = pl.col("reasons").list.set_difference([str(reason) for reason in OVERRIDABLE]).list.len()
    return (pl.col("reasons").list.len() > 0) & (others == 0)


def ask(
    run: Run[Pipeline],
    ledger: Ledger,
    asked: pl.DataFrame,
    *,
    decided: pl.Series | None = None,
    released: pl.Series | None = None,
) -> None:
    """Record what people are asked, in the transaction that settles; nothing if the pipeline asks nobody.

    Parameters
    ----------
    run, ledger
        The run, and the ledger in the transaction.
    asked
        `ledger.reviews.ASKED`.
    decided
        The subjects on which the transaction decides; None for all of the run.
    released
        Those that it releases or takes over from other runs.
    """
    store, people = run.pipeline.datastore_id, run.pipeline.review
    if not run.pipeline.asks_people or people is None:
        return
    if asked.is_empty() and not ledger.has_open_reviews(store):
        return
    free = pl.Series([], dtype=pl.String) if released is None else released
    ledger.ask_reviews(
        *(run.pipeline.name, store, run.key, asked),
        decided=decided,
        released=free,
        assignee=",".join(people.assignees) or people.by,
        deputy=",".join(people.deputies) or None,
    )


def write_groups(run: Run[Pipeline], holds: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Keep the holds of each reason and site in the workspace, and return a question about each such group.

    Parameters
    ----------
    run
        The run.
    holds
        `SITED_HOLDS`, frame by frame; they are read twice.
    """
    sums: dict[_Group, list[int]] = {}
    samples: dict[_Group, dict[str, str]] = {}
    for rows in holds:
        for key, part in _cut_groups(rows):
            before = sums.setdefault(key, [0, 0])
            before[0] += part.height
            before[1] += sum_digests(part.select(_HOLD))
            subjects = dict(part.select("subject_key", "subject").iter_rows())
            samples[key] = choose_samples(run, samples.get(key, {}) | subjects)
    seen = {key: name_sum(total) for key, (_, total) in sums.items()}
    with ExitStack() as stack:
        writers: dict[_Group, DatasetWriter] = {
            key: stack.enter_context(run.workspace.writer(name_asked(name), SITED_HOLDS)) for key, name in seen.items()
        }
        for rows in holds:
            for key, part in _cut_groups(rows):
                writers[key].add(part.select(SITED_HOLDS.names()))
    asked = [_ask_about_group(run, key, seen[key], {"subjects": sums[key][0], "samples": samples[key]}) for key in sums]
    return pl.DataFrame(asked, schema=ASKED, orient="row")


def _cut_groups(rows: pl.DataFrame) -> Iterator[tuple[_Group, pl.DataFrame]]:
    for (reason, site), part in rows.partition_by("reason", "site", as_dict=True).items():
        yield (str(reason), str(site)), part


def choose_samples(run: Run[Any], subjects: Mapping[str, str]) -> dict[str, str]:
    """Return some of the subjects by their keys, from all over the list: the same ones however it is cut."""
    keys = nsmallest(MOST_SAMPLES, subjects, key=lambda key: digest(run.key, key))
    return {key: subjects[key] for key in keys}


def _ask_about_group(run: Run[Pipeline], group: _Group, seen: str, question: dict[str, Any]) -> tuple[str, ...]:
    reason, site = group
    subject = f"{GROUP}{reason}/{site}"
    return subject, digest(run.key, subject, length=16), site, reason, reason, seen, json.dumps(question)


def sum_digests(rows: pl.DataFrame) -> int:
    """Return the sum of the digests of rows, which does not depend on their order or on how they are cut."""
    return sum(int(digest(*row, length=64), 16) for row in rows.iter_rows())


def name_sum(total: int) -> str:
    """Return a sum of digests as a digest."""
    return f"{total % 2**256:064x}"


def name_asked(seen: str) -> str:
    """Return the name of the dataset with what a person was asked about in one question, by its digest."""
    return f"asked/{seen[:16]}"


def find_approvals(run: Run[Pipeline]) -> pl.DataFrame:
    """Return people's approvals of a run's holds, `ledger.gates.OVERRIDES`, one for each hold, the earliest first.

    An approval does not count any more if its subject was asked about again and a person has answered that it stays.
    """
    store, later = run.pipeline.datastore_id, pl.col("overridden_at").max().alias("kept_at")
    given = _expand_groups(run, run.ledger.overrides_of(store, run.key))
    kept = _expand_groups(run, run.ledger.keeps_of(store, run.key)).group_by("subject").agg(later)
    found = given.join(kept, on="subject", how="left", maintain_order="left")
    counts = pl.col("kept_at").is_null() | (pl.col("overridden_at") > pl.col("kept_at"))
    return found.filter(counts).drop("kept_at")


def _expand_groups(run: Run[Pipeline], decided: pl.DataFrame) -> pl.DataFrame:
    """Return people's decisions on a run, with one for each hold of a group that they decided on."""
    of_group = pl.col("subject").str.starts_with(GROUP)
    parts = [decided.filter(~of_group)]
    for row in decided.filter(of_group).iter_rows(named=True):
        person = {name: pl.lit(row[name], OVERRIDES[name]) for name in OVERRIDE[2:]}
        holds = run.workspace.find_parts(name_asked(row["findings"]), SITED_HOLDS)
        parts += [rows.with_columns(**person).select(OVERRIDES.names()).cast(OVERRIDES) for rows in holds]
    return pl.concat(parts)


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


def answer(
    s3: S3,
    pipeline: Pipeline,
    ledger: Ledger,
    chosen: Sequence[ReviewRecord],
    given: ReviewAnswer,
    *,
    names: Collection[str] = (),
) -> int:
    """Record a person's answer to reviews of a pipeline, an event of the decision log each; return their number.

    The first approval of a review about more than `MOST_BY_ONE` holds releases nothing: the review waits for a second
    person's.

    Parameters
    ----------
    s3, pipeline, ledger
        The S3 account of the pipeline's workspace, the pipeline and the ledger.
    chosen
        The reviews as the person has seen them.
    given
        The answer.
    names
        Further names of the person, as the pipeline's assignees may be written: ids, and ``group:name``.

    Raises
    ------
    ReviewError
        If the answer has no person or no reason, the person is not to answer, the answer is about too many reviews or
        about several reviews or holds of which the person has not opened enough, or one of them does not wait for an
        answer any more, or needs the approval of another person. Nothing is recorded then.
    DecisionNotKeptError
        If the copy of the decision cannot be written.
    """
    _check_text("An answer", given.decided_by, given.why)
    if not 0 < len(chosen) <= MOST_AT_ONCE:
        raise ReviewError(f"An answer is about 1 to {MOST_AT_ONCE} reviews, not about {len(chosen)}.")
    people = pipeline.review
    own = set() if given.decided_by.startswith(GROUP_OF_PEOPLE) else {given.decided_by}
    if people is not None and not people.lets_answer({*own, *names}):
        raise ReviewError(f"Only these may answer reviews of {pipeline.name}: {', '.join(people.assignees)}.")
    for one in chosen:
        _need_waiting(one)
        _need_samples(ledger, one, given.decided_by)
    if len(chosen) > 1:
        _need_opened(ledger, chosen, given.decided_by)
        _need_few_holds(chosen, given)
    rows = [(one.run_key, one.subject, one.seen) for one in chosen]
    about = pipeline.name, chosen[0].datastore_id, pl.DataFrame(rows, schema=CHOSEN, orient="row")

    def record(inner: Ledger) -> int:
        if given.approved and _waits_for_first(inner, chosen[0], {given.decided_by, *names}):
            return inner.approve_first(*about, given)
        return inner.answer_reviews(*about, given)

    try:
        return decide(s3, pipeline, ledger, record, ANSWERS)
    except ReviewTakenError:
        for one in chosen:  # somebody was faster: say who
            _need_waiting(ledger.review(one.number) or one)
        raise ReviewError("One of these reviews has changed just now. Open them again.") from None


def _waits_for_first(ledger: Ledger, review: ReviewRecord, person: Collection[str]) -> bool:
    """Return whether an approval of a review is the first of two; refuse the second one by the same person."""
    now = ledger.review(review.number)
    if now is None or not now.needs_second:
        return False
    if now.first_by is not None and now.first_by.casefold() in {name.casefold() for name in person}:
        raise ReviewError(
            f"You have approved review {now.number} at {now.first_at:%Y-%m-%d %H:%M}Z. It is about {now.subjects} "
            f"patients, files or resources, so another person has to approve it too."
        )
    return now.first_by is None


def _need_few_holds(chosen: Sequence[ReviewRecord], given: ReviewAnswer) -> None:
    """Refuse one approval of several reviews that are about more holds than one person may release."""
    holds = sum(one.subjects for one in chosen)
    if given.approved and holds > MOST_BY_ONE:
        raise ReviewError(
            f"These reviews are about {holds} patients, files or resources, and one answer releases at most "
            f"{MOST_BY_ONE}. Approve each by itself."
        )


def _need_samples(ledger: Ledger, review: ReviewRecord, person: str) -> None:
    """Refuse an answer about many holds of which the person has opened too few."""
    needed = review.samples_needed
    opened = len(ledger.samples_opened_by(person, review.number)) if needed else 0
    if opened < needed:
        raise ReviewError(
            f"Review {review.number} is about {review.subjects} patients, files or resources, and you have opened "
            f"{opened} of its samples. Open at least {needed} before you answer for all."
        )


def _need_opened(ledger: Ledger, chosen: Sequence[ReviewRecord], person: str) -> None:
    """Refuse one answer to several reviews that are not alike, or of which the person has opened too few."""
    first = chosen[0]
    if any((one.pipeline, one.reason, one.site) != (first.pipeline, first.reason, first.site) for one in chosen):
        raise ReviewError(
            "One answer to several reviews needs the same pipeline, reason and site. Answer each by itself."
        )
    group = ledger.open_reviews({first.pipeline}, reason=first.reason, site=first.site)
    opened, needed = ledger.opened_by(person, [one.number for one in group]), min(LEAST_OPENED, len(group))
    if len(opened) < needed:
        raise ReviewError(
            f"You have opened {len(opened)} reviews of this reason and site. Open at least {needed} before you answer "
            f"several at once."
        )


def _need_waiting(review: ReviewRecord) -> None:
    """Refuse an answer to a review that does not wait for one, or that another command answers."""
    if review.is_about_patient:
        raise ReviewError(
            f"Review {review.number} asks whose a study is: see airlock patient show {review.number}, and answer it "
            f"with airlock patient answer."
        )
    if review.waits:
        return
    if review.decided_at is not None:
        raise ReviewError(
            f"Review {review.number} was answered by {review.decided_by} at {review.decided_at:%Y-%m-%d %H:%M}Z. Your "
            f"answer is not recorded."
        )
    raise ReviewError(
        f"The findings of review {review.number} have changed since it was asked, or it was released. Your answer is "
        f"not recorded: look for its new review in the queue."
    )
