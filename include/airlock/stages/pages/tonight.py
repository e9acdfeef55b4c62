"""Tonight: one line per pipeline, the worst first, and what a person does now, the gravest for patients first.

The same lines go to the page and, as text, into a mail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING

from airlock.ledger.columns import MessageState
from airlock.pipelines import REVIEW_SUFFIX, SAFETY_TYPES
from airlock.stages.pages.known_studies import KnownStudies, describe_known
from airlock.stages.pages.medians import Night, count_nights, last_nights, median_arrivals, median_reject_share
from airlock.stages.pages.numbers import age, count, moment, plural, share

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airlock.ledger.nights import HeldNow, NightTotal, Owed, ParkedNow
    from airlock.ledger.queues import OpenMessages, SweepFinding
    from airlock.ledger.reviews import ReviewGroup
    from airlock.ledger.runs import RunRecord

MOST_CARDS = 7
HELD_LONG = timedelta(hours=24)
STUCK = timedelta(hours=24)  # a run without an audit
DELAYED = timedelta(hours=1)  # a message that waits, and a run that did not start
LITTLE, MUCH = 0.01, 0.05  # shares of rejects that are worth a look: with and without nights to compare with
LOOK_BACK = timedelta(days=30)  # for what is usual
DEAD_LETTERS = "dead letters"
_OVERDUE = "overdue"
_BY_SCHEDULE = "scheduled"  # how the ids and keys of scheduled runs begin
_GO_ON = {"queued", "running"}  # states of a DAG run that has not ended


class Grade(IntEnum):
    """How bad a state is; the worst of several counts."""

    GOOD = 0
    ATTENTION = 1
    BAD = 2

    @property
    def colour(self) -> str:
        """The class of the style sheet."""
        return self.name.lower()


@dataclass(frozen=True)
class FailedRuns:
    """The DAG runs of a DAG that have failed in the last `LOOK_BACK` and that nobody has cleared."""

    number: int
    since: datetime  # when the first of them ended
    run_id: str  # its id
    last: datetime  # when the last of them ended


@dataclass(frozen=True)
class DagState:
    """What Airflow knows of a pipeline's DAG."""

    is_paused: bool = False
    next_run: datetime | None = None
    last_state: str | None = None  # of the last DAG run
    last_run_id: str | None = None
    last_since: datetime | None = None  # when the last DAG run was made
    failed: FailedRuns | None = None  # not the last one
    is_gone: bool = False  # Airflow finds it in no file any more

    def stays_for(self, now: datetime) -> str | None:
        """Return for how long its last DAG run runs, or waits to; None unless that is longer than `STUCK`."""
        if self.last_state not in _GO_ON or self.last_since is None or now - self.last_since <= STUCK:
            return None
        return age(self.last_since, now)


@dataclass(frozen=True)
class QueueDepth:
    """How many messages a queue of a pipeline has; an error's code instead if it cannot be asked."""

    pipeline: str
    kind: str  # arrivals, or `DEAD_LETTERS`
    waiting: int | None
    in_flight: int | None
    error: str | None


@dataclass(frozen=True)
class Facts:
    """What Tonight is made of, of the pipelines that a person may read."""

    pipelines: Sequence[str]
    runs: Sequence[RunRecord]
    totals: Sequence[NightTotal]
    held: Sequence[HeldNow] = ()
    messages: Sequence[OpenMessages] = ()
    owed: Sequence[Owed] = ()
    findings: Sequence[SweepFinding] = ()
    reviews: Sequence[ReviewGroup] = ()
    parked: Sequence[ParkedNow] = ()
    queues: Sequence[QueueDepth] = ()
    dags: Mapping[str, DagState] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """Something that a person does now: a sentence, and where the one button leads."""

    grade: Grade
    pipeline: str
    text: str
    action: str
    page: str  # run, triage, parked, reviews, reviews_dag, destinations, migration or airflow
    run_id: str | None = None


@dataclass(frozen=True)
class Line:
    """The state of a pipeline in one line."""

    pipeline: str
    grade: Grade
    run: RunRecord | None  # the last one with a report
    running: RunRecord | None
    headline: str
    released: str
    held: str
    rejected: str
    parked: str  # resources
    waiting: str  # messages

    def as_text(self) -> str:
        """Return the line for a mail."""
        parts = [self.headline, self.released, self.held, self.rejected, self.parked, self.waiting]
        return f"{self.pipeline}  {self.grade.name}  " + " | ".join(part for part in parts if part)


@dataclass(frozen=True)
class Overview:
    """The page."""

    lines: tuple[Line, ...]
    cards: tuple[Card, ...]
    more: int  # cards that are left out
    at: datetime
    known: tuple[KnownStudies, ...]  # of the last run with a report of each pipeline that counts studies

    def as_text(self) -> str:
        """Return the page for a mail; it names no study and no file."""
        todo = [f"- {card.pipeline}: {card.text}" for card in self.cards]
        head = f"Airlock, {moment(self.at)}", ""
        return "\n".join([*head, *(line.as_text() for line in self.lines), *(["", "To do:", *todo] if todo else [])])


def overview(facts: Facts, now: datetime) -> Overview:
    """Return what Tonight shows at a moment."""
    nights = count_nights(facts.totals)
    cards = sorted(_find_cards(facts, nights, now), key=lambda one: one[0])
    by_pipeline: dict[str, Grade] = {}
    for _, card in cards:
        by_pipeline[card.pipeline] = max(by_pipeline.get(card.pipeline, Grade.GOOD), card.grade)
    lines = [_describe(facts, name, nights, by_pipeline.get(name, Grade.GOOD), now) for name in facts.pipelines]
    shown = tuple(card for _, card in cards[:MOST_CARDS])
    lines.sort(key=lambda line: (-line.grade, line.pipeline))
    known = tuple(one for line in lines if line.run is not None and (one := describe_known(line.run)) is not None)
    return Overview(tuple(lines), shown, len(cards) - len(shown), now, known)


def _last_reported(facts: Facts, pipeline: str) -> RunRecord | None:
    return next((run for run in facts.runs if run.pipeline == pipeline and run.report is not None), None)


def _running(facts: Facts, pipeline: str) -> RunRecord | None:
    return next((run for run in facts.runs if run.pipeline == pipeline and run.ended_at is None), None)


def _describe(facts: Facts, pipeline: str, nights: Sequence[Night], grade: Grade, now: datetime) -> Line:
    run, running = _last_reported(facts, pipeline), _running(facts, pipeline)
    held = next((one for one in facts.held if one.pipeline == pipeline), None)
    waits = sum(one.messages for one in facts.messages if one.pipeline == pipeline)
    parked = sum(one.resources for one in facts.parked if one.pipeline == pipeline)
    return Line(
        pipeline=pipeline,
        grade=grade,
        run=run,
        running=running,
        headline=_describe_run(run, running, now),
        released="" if run is None else f"released {count(_dispositions(run).get('released', 0))}",
        held="" if held is None else f"held {plural(held.subjects, 'study or patient', 'studies or patients')}",
        rejected="" if run is None else _describe_rejects(run, nights),
        parked=f"parked {plural(parked, 'resource')}" if parked else "",
        waiting=f"{plural(waits, 'message waits', 'messages wait')}" if waits else "",
    )


def _dispositions(run: RunRecord) -> dict[str, int]:
    return dict((run.report or {}).get("dispositions", {}))


def _describe_run(run: RunRecord | None, running: RunRecord | None, now: datetime) -> str:
    if running is not None:
        since = f"runs since {age(running.started_at, now)}"
        return since if run is None else f"{since}; before: {_describe_end(run)}"
    return "has not run yet" if run is None else _describe_end(run)


def _describe_end(run: RunRecord) -> str:
    report = run.report or {}
    books = "balanced" if report.get("balanced") else "NOT BALANCED"
    return f"ended {moment(run.ended_at)}, {plural(report.get('arrivals', 0), 'arrival')}, {books}"


def _describe_rejects(run: RunRecord, nights: Sequence[Night]) -> str:
    counts = _dispositions(run)
    rejected, whole = counts.get("quarantined", 0) + counts.get("failed", 0), sum(counts.values())
    usual = median_reject_share(last_nights(nights, run.pipeline, run.started_at))
    compared = "" if usual is None else f", usually {share(usual, 1)}"
    return f"rejected {count(rejected)}" + (f" ({share(rejected, whole)}{compared})" if whole else "")


def _find_cards(facts: Facts, nights: Sequence[Night], now: datetime) -> Iterator[tuple[int, Card]]:
    """Yield what a person does, each with its place in the order of patients' risk."""
    for name in facts.pipelines:
        run = _last_reported(facts, name)
        if run is not None:
            yield from _judge_books(run)
        yield from _judge_dag(facts, name, now)
        yield from _judge_review_dag(facts.dags.get(f"{name}{REVIEW_SUFFIX}", DagState()), name, now)
        if run is not None:
            yield from _judge_rejects(run, nights)
            yield from _judge_arrivals(run, nights)
    yield from _judge_holds(facts, now)
    yield from _judge_reviews(facts.reviews, now)
    yield from _judge_parked(facts.parked, now)
    yield from _judge_messages(facts.messages, now)
    unused = {name for name, dag in facts.dags.items() if dag.is_paused} - {run.pipeline for run in facts.runs}
    yield from _judge_queues(one for one in facts.queues if one.pipeline not in unused)
    yield from _judge_objects(facts, now)


def _judge_books(run: RunRecord) -> Iterator[tuple[int, Card]]:
    report = run.report or {}
    if report.get("brake"):
        text = f"The brake stopped a run: {report['brake']}"
        yield 0, Card(Grade.BAD, run.pipeline, text, "Open the run", "run", run.run_id)
    elif not report.get("balanced"):
        text = "The books of the last run do not balance, so everything in it is held."
        yield 0, Card(Grade.BAD, run.pipeline, text, "Open the run", "run", run.run_id)


def _judge_dag(facts: Facts, name: str, now: datetime) -> Iterator[tuple[int, Card]]:
    dag = facts.dags.get(name, DagState())
    has_run = any(run.pipeline == name for run in facts.runs)  # else nobody has switched it on yet
    yield from _judge_dag_runs(dag, _running(facts, name), name, now)
    if dag.is_gone:
        text = "Airflow finds its DAG in no file: the pipeline file is wrong or gone, and nothing is taken in."
        yield 1, Card(Grade.BAD, name, text, "Open the DAG", "airflow")
    elif dag.is_paused and has_run:
        yield 6, Card(Grade.BAD, name, "The DAG is paused: nothing is taken in.", "Open the DAG", "airflow")
    elif dag.next_run is not None and now - dag.next_run > DELAYED and dag.last_state not in _GO_ON:
        text = f"A run was due {age(dag.next_run, now)} ago and has not started."
        yield 6, Card(Grade.BAD, name, text, "Open the DAG", "airflow")


def _judge_dag_runs(dag: DagState, running: RunRecord | None, name: str, now: datetime) -> Iterator[tuple[int, Card]]:
    if dag.last_state == "failed":
        text = "The last DAG run failed. Fix the cause, then clear its failed task."
        yield 1, Card(Grade.BAD, name, text, "Open the run in Airflow", "airflow", dag.last_run_id)
    elif running is not None and now - running.started_at > STUCK:
        text = f"A run has not been audited for {age(running.started_at, now)}."
        yield 1, Card(Grade.ATTENTION, name, text, "Open the run in Airflow", "airflow", running.run_id)
    elif stays := dag.stays_for(now):
        text = f"The last DAG run is {dag.last_state} for {stays} and has taken in nothing."
        yield 1, Card(Grade.BAD, name, text, "Open the run in Airflow", "airflow", dag.last_run_id)
    if dag.failed is not None:
        failed = plural(dag.failed.number, "earlier DAG run has", "earlier DAG runs have")
        first = "" if dag.failed.number == 1 else "the first of them "
        text = (
            f"{failed} failed, {first}{age(dag.failed.since, now)} ago. Clear the failed task: what was taken in waits."
        )
        yield 1, Card(Grade.BAD, name, text, "Open the run in Airflow", "airflow", dag.failed.run_id)


def _judge_review_dag(dag: DagState, name: str, now: datetime) -> Iterator[tuple[int, Card]]:
    run_id = None
    if dag.is_gone:
        text = "Airflow finds the DAG of its reviews in no file: nothing that people approve is released."
    elif dag.is_paused:
        text = "The DAG of its reviews is paused: nothing that people approve is released, and nobody is reminded."
    elif dag.last_state == "failed":
        text = "What people have approved could not be released: the last DAG run of its reviews failed."
        run_id = dag.last_run_id
    elif stays := dag.stays_for(now):
        text = f"What people approve is not released: the DAG run of its reviews does not end for {stays}."
        run_id = dag.last_run_id
    elif dag.failed is not None and now - dag.failed.last <= STUCK:
        text = f"A DAG run of its reviews failed {age(dag.failed.last, now)} ago: what people approve may stay held."
    else:
        return
    yield 3, Card(Grade.BAD, name, text, "Open the DAG of reviews", "reviews_dag", run_id)


def _judge_parked(parked: Iterable[ParkedNow], now: datetime) -> Iterator[tuple[int, Card]]:
    late = [one for one in parked if one.resource_type in SAFETY_TYPES and now - one.since > HELD_LONG]
    for name in sorted({one.pipeline for one in late}):
        of_name = [one for one in late if one.pipeline == name]
        types = ", ".join(f"{one.resource_type} {count(one.resources)}" for one in of_name)
        oldest = age(min(one.since for one in of_name), now)
        text = f"Resources on which safety depends wait for others, the oldest for {oldest}: {types}."
        yield 3, Card(Grade.ATTENTION, name, text, "Open triage", "parked")


def _judge_queues(queues: Iterable[QueueDepth]) -> Iterator[tuple[int, Card]]:
    for one in queues:
        if one.kind == DEAD_LETTERS and one.waiting:
            letters = plural(one.waiting, "message is", "messages are")
            text = (
                f"{letters} in the dead-letter queue. Such messages are not S3 notifications. Find out who sends them."
            )
            yield 7, Card(Grade.ATTENTION, one.pipeline, text, "Open destinations", "destinations")
        elif one.error is not None:
            text = f"The queue of {one.kind} cannot be read ({one.error})."
            yield 7, Card(Grade.ATTENTION, one.pipeline, text, "Open destinations", "destinations")


def _judge_holds(facts: Facts, now: datetime) -> Iterator[tuple[int, Card]]:
    """Yield what is held; where people are asked about it, only what is held for long."""
    asked = {one.pipeline for one in facts.reviews}
    for one in facts.held:
        if one.subjects and (now - one.since > HELD_LONG or one.pipeline not in asked):
            subjects = plural(one.subjects, "study or patient is", "studies or patients are")
            text = f"{subjects} held, the oldest for {age(one.since, now)}."
            yield 2, Card(Grade.ATTENTION, one.pipeline, text, "Open triage", "triage")


def _judge_reviews(reviews: Sequence[ReviewGroup], now: datetime) -> Iterator[tuple[int, Card]]:
    for name in sorted({one.pipeline for one in reviews}):
        waiting = [one for one in reviews if one.pipeline == name]
        counted = plural(sum(one.reviews for one in waiting), "review waits", "reviews wait")
        text = f"{counted} for an answer, the oldest for {age(min(one.since for one in waiting), now)}."
        once = sum(one.approved_once for one in waiting)
        text += f" {once} approved by one person, a second is needed." if once else ""
        yield 3, Card(Grade.ATTENTION, name, text, "Open the reviews", "reviews")


def _judge_rejects(run: RunRecord, nights: Sequence[Night]) -> Iterator[tuple[int, Card]]:
    counts = _dispositions(run)
    whole = sum(counts.values())
    rejected = (counts.get("quarantined", 0) + counts.get("failed", 0)) / whole if whole else 0
    usual = median_reject_share(last_nights(nights, run.pipeline, run.started_at))
    if rejected >= MUCH if usual is None else rejected >= LITTLE and rejected > 3 * usual:
        compared = "" if usual is None else f"; usually it is {share(usual, 1)}"
        text = f"{share(rejected, 1)} of the last run was rejected{compared}."
        yield 4, Card(Grade.ATTENTION, run.pipeline, text, "See the reasons", "run", run.run_id)


def _judge_arrivals(run: RunRecord, nights: Sequence[Night]) -> Iterator[tuple[int, Card]]:
    """Yield a night with hardly an arrival: the sender's export may be broken.

    Redrives and waves do not count as nights.
    """
    if not run.run_id.startswith(_BY_SCHEDULE):
        return
    before = last_nights(nights, run.pipeline, run.started_at)
    usual = median_arrivals([night for night in before if night.run_key.startswith(_BY_SCHEDULE)])
    arrivals = sum(_dispositions(run).values())
    if usual is not None and arrivals < usual / 10:
        text = f"The last night had {plural(arrivals, 'arrival')}; usually there are {count(round(usual))}."
        yield 4, Card(Grade.ATTENTION, run.pipeline, text, "Open the run", "run", run.run_id)


def _judge_messages(messages: Sequence[OpenMessages], now: datetime) -> Iterator[tuple[int, Card]]:
    for name in sorted({one.pipeline for one in messages}):
        failed = sum(one.messages for one in messages if one.pipeline == name and one.state is MessageState.FAILED)
        late = [one for one in messages if one.pipeline == name and now - one.next_attempt_at > DELAYED]
        late = [one for one in late if one.state is MessageState.PENDING]
        if failed:
            counted = plural(failed, "message was", "messages were")
            text = f"{counted} given up. Repair the destination, then queue them again."
            yield 5, Card(Grade.BAD, name, text, "Open destinations", "destinations")
        if late:
            counted = plural(sum(one.messages for one in late), "message is", "messages are")
            text = f"{counted} due since {age(min(one.next_attempt_at for one in late), now)}."
            yield 5, Card(Grade.ATTENTION, name, text, "Open destinations", "destinations")


def _judge_objects(facts: Facts, now: datetime) -> Iterator[tuple[int, Card]]:
    for one in facts.findings:
        if one.kind == _OVERDUE:
            text = f"A sweep found {plural(one.findings, 'object')} that no run has taken."
            yield 7, Card(Grade.ATTENTION, one.pipeline, text, "Open the migration", "migration")
    for owed in facts.owed:
        if now - owed.since > DELAYED:
            text = f"{plural(owed.objects, 'object')} could not be read for {age(owed.since, now)}; runs try again."
            yield 7, Card(Grade.ATTENTION, owed.pipeline, text, "Open the last run", "run")
