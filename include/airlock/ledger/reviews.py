"""Reviews: questions to people about held subjects, a row each, in a queue that no run waits for.

A row waits until somebody answers it, or an audit finds that it is about something else. *Keep held* closes it. An
approval stays open until the next audit of its run has applied it: the decision counts for the findings that the person
saw, see `gates.Gates.overrides_of`. Questions about whose a study is are rows of the same table, see `identities`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, exists, func, insert, literal, or_, select, update

from airlock.ledger import clock
from airlock.ledger.columns import DecisionKind
from airlock.ledger.database import PartScope, Store
from airlock.ledger.decision_tables import decisions, reviews
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import stage, stage_values
from airlock.ledger.identities import ABOUT_PATIENTS
from airlock.ledger.journal import journaled
from airlock.ledger.runs import need_run
from airlock.ledger.tables import gates, runs
from airlock.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row, Select, Table

SCOPE = "reviews"
ANSWERS = "review answers"  # the lock scope of what people do: they do not wait for an audit that settles
APPROVE, KEEP = "approve", "keep"
MOST_REVIEWS = 200  # that one query returns
LEAST_OPENED = 3  # reviews, or samples of one about many holds, that a person opens before they answer for all
MOST_BY_ONE = 50  # holds that one person may release with one answer; more need a second person
GROUP = "group/"  # how the subject of a question about many holds begins

ASKED = pl.Schema(
    dict.fromkeys(("subject", "subject_key", "site", "reason"), pl.String)  # the reason of the hold
    | {"reasons": pl.String}  # the codes of its findings, separated by commas
    | {"seen": pl.String}  # the digest of the findings
    | {"question": pl.String}  # JSON
)
CHOSEN = pl.Schema(dict.fromkeys(("run_key", "subject", "seen"), pl.String))
_ABOUT = ("pipeline", "datastore_id", "subject", "subject_key", "run_key", "reason", "reasons", "seen")
_FIRST_COLUMNS = {"first_by": "decided_by", "first_why": "why", "first_at": "decided_at"}
_IS_OPEN = reviews.c.answered_at.is_(None)
IS_ASKED = and_(_IS_OPEN, reviews.c.decision_id.is_(None))
_IS_UNAPPLIED = and_(_IS_OPEN, reviews.c.decision_id.is_not(None))
_kept = decisions.alias("kept")
_IS_REVOKED = exists(  # approved, and later asked about again and kept: `stages.review.find_approvals`
    select(decisions.c.id)
    .join(_kept, and_(*(_kept.c[name] == decisions.c[name] for name in ("datastore_id", "subject", "run_key"))))
    .where(decisions.c.id == reviews.c.decision_id, decisions.c.kind == DecisionKind.OVERRIDE.value)
    .where(_kept.c.kind == DecisionKind.KEEP.value, _kept.c.decided_at >= decisions.c.decided_at)
    .correlate(reviews)
)
_IS_UNPUBLISHED = exists(
    select(gates.c.subject).where(
        *(gates.c[name] == reviews.c[name] for name in ("subject", "datastore_id", "run_key")),
        gates.c.reason == str(Reason.NOT_PUBLISHED),
    )
)
_HAS_PERSON = decisions.c.id == reviews.c.decision_id
_SEEN = ("datastore_id", "subject", "run_key", "seen")
_first = decisions.alias("first")
_HAS_FIRST = and_(  # not one of an earlier question about the same, which was closed without an answer
    _first.c.kind == DecisionKind.FIRST.value,
    *(_first.c[name] == reviews.c[name] for name in _SEEN),
    _first.c.decided_at >= reviews.c.asked_at,
    or_(_IS_OPEN, _first.c.decided_at <= reviews.c.answered_at),
)


class ReviewTakenError(LedgerError):
    """A review was answered or closed since the person opened it. Nothing is recorded."""


@dataclass(frozen=True)
class ReviewAnswer:
    """What a person answers to one review or to several."""

    approved: bool  # else it stays held
    decided_by: str
    why: str


@dataclass(frozen=True)
class ReviewRecord:
    """A review; its times are aware."""

    number: int
    pipeline: str
    subject_key: str
    site: str
    run_key: str
    reason: str
    question: dict[str, Any]
    assignee: str | None
    asked_at: datetime
    opened_at: datetime | None  # first, by anybody
    datastore_id: str = ""
    subject: str = ""
    reasons: tuple[str, ...] = ()
    seen: str = ""
    deputy: str | None = None
    decided_by: str | None = None
    why: str | None = None
    decided_at: datetime | None = None
    answer: str | None = None  # APPROVE, KEEP, or the Patient of a question about whose a study is
    closed_at: datetime | None = None
    first_by: str | None = None  # the first of the two people who have to approve it
    first_why: str | None = None
    first_at: datetime | None = None

    @property
    def is_group(self) -> bool:
        """Whether it is about many holds of a run."""
        return self.subject.startswith(GROUP)

    @property
    def is_about_patient(self) -> bool:
        """Whether it asks whose a study is."""
        return self.reason.startswith("patient_")

    @property
    def subjects(self) -> int:
        """How many studies, patients, files or converted resources it is about."""
        return int(self.question.get("subjects") or self.question.get("resources") or 1)

    @property
    def needs_second(self) -> bool:
        """Whether two people have to approve it before it is released."""
        return self.subjects > MOST_BY_ONE

    @property
    def samples(self) -> dict[str, str]:
        """Some of the subjects that it is about, by key: a person opens them before they answer for all of them."""
        return dict(self.question.get("samples") or {})

    @property
    def samples_needed(self) -> int:
        """How many of the samples a person opens before they answer; 0 if it is about one hold."""
        return min(LEAST_OPENED, len(self.samples))

    @property
    def waits(self) -> bool:
        """Whether it waits for an answer."""
        return self.closed_at is None and self.decided_at is None

    @property
    def state(self) -> str:
        """What became of it, in a few words."""
        if self.waits:
            approved = f"approved by one person ({self.first_by}), a second is needed"
            return "waits for an answer" if self.first_by is None else approved
        if self.decided_at is None:
            return "closed without an answer that counts: its findings have changed, or it was released"
        if self.closed_at is None:
            return "approved; the next review run releases it"
        return "answered"


@dataclass(frozen=True)
class ReviewGroup:
    """The waiting reviews of a pipeline with the same reason and site."""

    pipeline: str
    reason: str
    site: str
    reviews: int
    since: datetime
    assignee: str | None
    approved_once: int = 0  # of the reviews, those that one person has approved and a second one has to


def scope(datastore_id: str) -> PartScope:
    """Return the lock scope of writers of the reviews about a data store; see `database.writing`."""
    return PartScope(SCOPE, datastore_id)


class Reviews(Store):
    """The ledger's methods about reviews."""

    @journaled()
    def ask_reviews(
        self,
        pipeline: str,
        datastore_id: str,
        run_key: str,
        asked: pl.DataFrame,
        *,
        decided: pl.Series | None,
        released: pl.Series,
        assignee: str | None,
        deputy: str | None,
    ) -> int:
        """Record what an audit asks people, and return how many reviews are new; the same one is not asked twice.

        An open review of the run that is not asked any more, or about other findings, is closed. The approval of a
        subject that is asked about again stays open: `close_approvals` closes it, and people are told.

        Parameters
        ----------
        pipeline, datastore_id, run_key
            The run, and the data store that it releases from.
        asked
            `ASKED`, a row per subject.
        decided
            The subjects on which the audit has decided; None for all of the run.
        released
            Subjects that are released, or that a redrive has taken over: reviews of other runs about them are closed.
        assignee, deputy
            The users and groups who are to answer, separated by commas.

        Raises
        ------
        LedgerError
            If the ledger has no such run.
        """
        store = reviews.c.datastore_id == datastore_id
        with self._writing(scope(datastore_id)) as connection:
            now = clock.database_time(connection)
            need_run(connection, run_key, pipeline)
            rows = stage(connection, asked, ASKED, ["subject"])
            own = and_(store, reviews.c.run_key == run_key, ~ABOUT_PATIENTS)
            same = and_(own, reviews.c.subject == rows.c.subject, reviews.c.seen == rows.c.seen)
            over: list[ColumnElement[bool]] = [_IS_OPEN, own, ~exists(select(rows.c.subject).where(same))]
            is_asked_again = exists(select(rows.c.subject).where(rows.c.subject == reviews.c.subject))
            over.append(~and_(_IS_UNAPPLIED, is_asked_again, ~reviews.c.subject.startswith(GROUP)))
            if decided is not None:
                looked = stage_values(connection, decided, "subject")
                over.append(reviews.c.subject.in_(select(looked.c.subject)))
            connection.execute(update(reviews).where(*over).values(answered_at=now))
            if released.len():
                free = stage_values(connection, released, "subject")
                about = store, ~ABOUT_PATIENTS, reviews.c.subject.in_(select(free.c.subject))
                others = update(reviews).where(_IS_OPEN, reviews.c.run_key != run_key, *about)
                connection.execute(others.values(answered_at=now))
            known = exists().where(same, or_(IS_ASKED, and_(reviews.c.decision_id.is_not(None), ~_IS_REVOKED)))
            given: dict[str, Any] = {"pipeline": pipeline, "datastore_id": datastore_id, "run_key": run_key}
            given |= {"assignee": assignee, "deputy": deputy, "asked_at": now}
            values: dict[str, Any] = {name: rows.c[name] for name in ASKED}
            values |= {name: literal(value, reviews.c[name].type) for name, value in given.items()}
            fresh = select(*values.values()).where(~known)
            return connection.execute(insert(reviews).from_select(list(values), fresh)).rowcount

    def has_open_reviews(self, datastore_id: str) -> bool:
        """Return whether a review about the hold of a subject of a data store is open."""
        found = select(reviews.c.id).where(_IS_OPEN, reviews.c.datastore_id == datastore_id, ~ABOUT_PATIENTS)
        with self._reading() as connection:
            return connection.scalar(found.limit(1)) is not None

    @journaled()
    def answer_reviews(self, pipeline: str, datastore_id: str, chosen: pl.DataFrame, answer: ReviewAnswer) -> int:
        """Add an answer to the decision log for each chosen review, and return their number.

        Parameters
        ----------
        pipeline, datastore_id
            The pipeline and the data store of the reviews.
        chosen
            `CHOSEN`: the reviews, by what the person saw.
        answer
            The answer.

        Raises
        ------
        ReviewTakenError
            If one of them does not wait for an answer any more: another person was faster, or its findings changed.
        LedgerError
            If person or reason is empty.
        """
        _need_person_and_reason(answer)
        kind = DecisionKind.OVERRIDE if answer.approved else DecisionKind.KEEP
        with self._writing(ANSWERS) as connection:
            rows = stage(connection, chosen, CHOSEN, ["subject"])
            named = and_(*(reviews.c[name] == rows.c[name] for name in CHOSEN), reviews.c.pipeline == pipeline)
            waiting = and_(named, IS_ASKED, reviews.c.datastore_id == datastore_id, ~ABOUT_PATIENTS)
            _log_answers(connection, rows, waiting, kind, answer)
            closed = {} if answer.approved else {"answered_at": clock.database_time(connection)}
            last = {"decision_id": _last_decision(kind)} | closed
            chosen_now = exists(select(rows.c.subject).where(waiting))
            answered = connection.execute(update(reviews).where(chosen_now).values(last)).rowcount
            if answered != chosen.height:  # of two people at once, the second one finds the row changed
                raise ReviewTakenError(
                    f"{chosen.height - answered} of {chosen.height} reviews do not wait for an answer any more"
                )
            return answered

    @journaled()
    def approve_first(self, pipeline: str, datastore_id: str, chosen: pl.DataFrame, answer: ReviewAnswer) -> int:
        """Add to the decision log that the first of two people approves each chosen review; they wait for the second.

        The first approval counts while the review waits: another question, even about the same again, has none.

        Parameters
        ----------
        pipeline, datastore_id, chosen, answer
            As of `answer_reviews`.

        Raises
        ------
        ReviewTakenError
            If one of them does not wait for an answer any more, or has a first approval.
        LedgerError
            If person or reason is empty.
        """
        _need_person_and_reason(answer)
        with self._writing(ANSWERS) as connection:
            rows = stage(connection, chosen, CHOSEN, ["subject"])
            named = and_(*(reviews.c[name] == rows.c[name] for name in CHOSEN), reviews.c.pipeline == pipeline)
            waiting = and_(named, IS_ASKED, reviews.c.datastore_id == datastore_id, ~ABOUT_PATIENTS)
            fresh = and_(waiting, ~exists(select(_first.c.id).where(_HAS_FIRST).correlate(reviews)))
            logged = _log_answers(connection, rows, fresh, DecisionKind.FIRST, answer)
            if logged != chosen.height:
                raise ReviewTakenError(f"{chosen.height - logged} of {chosen.height} reviews need no first approval")
            return logged

    def open_review(self, number: int, person: str) -> None:
        """Add to the decision log that a person has opened a review, once; they have then seen what it asks."""
        found = self.review(number)
        if found is not None and number not in self.opened_by(person, [number]):
            self.note_opened(found.datastore_id, found.run_key, found.subject, found.seen, person=person)

    def open_sample(self, number: int, key: str, person: str) -> None:
        """Add to the decision log that a person has opened one of the samples of a review, once."""
        found = self.review(number)
        if found is not None and key in found.samples and key not in self.samples_opened_by(person, number):
            about = found.datastore_id, found.run_key, found.subject, found.seen
            self.note_opened(*about, person=person, sample=key)

    @journaled()
    def note_opened(
        self, datastore_id: str, run_key: str, subject: str, seen: str, *, person: str, sample: str | None = None
    ) -> None:
        """Add to the decision log that a person has seen what a review asks, or one of its samples."""
        about = {"datastore_id": datastore_id, "run_key": run_key, "subject": subject, "seen": seen}
        of_review = and_(*(reviews.c[name] == value for name, value in about.items()))
        with self._writing(ANSWERS) as connection:
            row = connection.execute(select(reviews).where(of_review).order_by(reviews.c.id.desc())).first()
            if row is None:
                return
            at = clock.database_time(connection)
            values: dict[str, Any] = {name: getattr(row, name) for name in _ABOUT} | {"kind": DecisionKind.OPEN.value}
            values |= {"decided_by": person, "why": "opened the review", "decided_at": at}
            if sample is not None:
                values |= {"subject_key": sample, "why": "opened one of the holds that the review is about"}
            connection.execute(insert(decisions).values(values))
            first = update(reviews).where(of_review, reviews.c.opened_at.is_(None))
            connection.execute(first.values(opened_at=at))

    def opened_by(self, person: str, numbers: Collection[int]) -> set[int]:
        """Return those of these reviews that a person has opened."""
        with self._reading() as connection:
            return set(connection.scalars(_select_opened(person, numbers)))

    def samples_opened_by(self, person: str, number: int) -> set[str]:
        """Return the keys of the samples of a review that a person has opened."""
        opened = _select_opened(person, [number]).with_only_columns(decisions.c.subject_key)
        with self._reading() as connection:
            return set(connection.scalars(opened.where(decisions.c.subject_key != reviews.c.subject_key)))

    def review(self, number: int) -> ReviewRecord | None:
        """Return a review by its number, open or closed."""
        with self._reading() as connection:
            row = connection.execute(_select_reviews().where(reviews.c.id == number)).one_or_none()
        return None if row is None else _record(row)

    def open_reviews(
        self, pipelines: Collection[str], *, reason: str | None = None, site: str | None = None
    ) -> list[ReviewRecord]:
        """Return the reviews of these pipelines that wait for an answer, the oldest first, at most `MOST_REVIEWS`."""
        wanted = {"reason": reason, "site": site}
        chosen = [reviews.c[name] == value for name, value in wanted.items() if value is not None]
        statement = _select_reviews().where(IS_ASKED, reviews.c.pipeline.in_(pipelines), *chosen)
        with self._reading() as connection:
            found = connection.execute(statement.order_by(reviews.c.asked_at, reviews.c.id).limit(MOST_REVIEWS))
            return [_record(row) for row in found]

    def reviews_of(self, pipelines: Collection[str], subject_key: str) -> list[ReviewRecord]:
        """Return the open reviews about a subject, the latest first, at most `MOST_REVIEWS`."""
        about = reviews.c.subject_key == subject_key, reviews.c.pipeline.in_(pipelines)
        statement = _select_reviews().where(_IS_OPEN, *about).order_by(reviews.c.id.desc()).limit(MOST_REVIEWS)
        with self._reading() as connection:
            return [_record(row) for row in connection.execute(statement)]

    def review_groups(self, pipelines: Collection[str]) -> list[ReviewGroup]:
        """Return the groups of waiting reviews, the oldest first."""
        groups = reviews.c.pipeline, reviews.c.reason, reviews.c.site
        since = func.min(reviews.c.asked_at, type_=reviews.c.asked_at.type)
        counted = select(*groups, func.count(), since, func.max(reviews.c.assignee), func.count(_first.c.id))
        joined = counted.outerjoin_from(reviews, _first, _HAS_FIRST)
        statement = joined.where(IS_ASKED, reviews.c.pipeline.in_(pipelines)).group_by(*groups)
        with self._reading() as connection:
            found = [ReviewGroup(*row) for row in connection.execute(statement)]
        return sorted(found, key=lambda one: (one.since, one.pipeline, one.reason, one.site))

    def answered_runs(self, pipeline: str) -> list[tuple[str, str]]:
        """Return the runs with approvals that no audit has applied, each as (run_key, run_id), the oldest first."""
        answered = select(reviews.c.run_key).where(_IS_UNAPPLIED, reviews.c.pipeline == pipeline)
        statement = select(runs.c.run_key, runs.c.run_id).where(runs.c.run_key.in_(answered))
        with self._reading() as connection:
            return [(row[0], row[1]) for row in connection.execute(statement.order_by(runs.c.started_at))]

    def last_approval(self, run_key: str) -> int:
        """Return the number of the last decision on a run that no audit has applied; 0 without any."""
        last = select(func.max(reviews.c.decision_id)).where(_IS_UNAPPLIED, reviews.c.run_key == run_key)
        with self._reading() as connection:
            return connection.scalar(last) or 0

    @journaled()
    def close_approvals(self, run_key: str, until: int, *, with_unpublished: bool = False) -> int:
        """Close the approvals of a run up to a decision that no audit has applied: they did not count, and never will.

        The decision log keeps them; the reviews have no answer then, and what is still found is asked again.

        Parameters
        ----------
        run_key, until
            The run, and the number of the decision.
        with_unpublished
            Whether also those of subjects that wait only for their publication, which the next review run tries again.

        Returns
        -------
        int
            Their number: their subjects stay held.
        """
        with self._writing(ANSWERS) as connection:
            of_run = [reviews.c.run_key == run_key, reviews.c.decision_id <= until]
            if not with_unpublished:
                of_run.append(~_IS_UNPUBLISHED)
            closed = {"answered_at": clock.database_time(connection), "decision_id": None}
            return connection.execute(update(reviews).where(_IS_UNAPPLIED, *of_run).values(closed)).rowcount


def _select_reviews() -> Select[Any]:
    """Return the query of reviews with their answers and first approvals."""
    person = decisions.c.decided_by, decisions.c.why, decisions.c.decided_at, decisions.c.answer
    first = (_first.c[other].label(name) for name, other in _FIRST_COLUMNS.items())
    answered = select(reviews, *person, *first).outerjoin_from(reviews, decisions, _HAS_PERSON)
    return answered.outerjoin(_first, _HAS_FIRST)


def _record(row: Row[Any]) -> ReviewRecord:
    names = ("pipeline", "subject_key", "site", "run_key", "reason", "assignee", "asked_at", "opened_at")
    more = ("datastore_id", "subject", "seen", "deputy", "decided_by", "why", "decided_at", "answer", *_FIRST_COLUMNS)
    return ReviewRecord(
        number=row.id,
        question=json.loads(row.question),
        reasons=tuple(row.reasons.split(",")) if row.reasons else (),
        closed_at=row.answered_at,
        **{name: getattr(row, name) for name in (*names, *more)},
    )


def _need_person_and_reason(answer: ReviewAnswer) -> None:
    if not answer.decided_by.strip() or not answer.why.strip():
        raise LedgerError("an answer needs a person and a reason: give both")


def _select_opened(person: str, numbers: Collection[int]) -> Select[tuple[int]]:
    same = (decisions.c[name] == reviews.c[name] for name in _SEEN)
    opened = decisions.c.kind == DecisionKind.OPEN.value, decisions.c.decided_by == person
    return select(reviews.c.id).join(decisions, and_(*same, *opened)).where(reviews.c.id.in_(numbers))


def _log_answers(
    connection: Connection, rows: Table, waiting: ColumnElement[bool], kind: DecisionKind, answer: ReviewAnswer
) -> int:
    """Add a decision for each row's waiting review, and return their number."""
    given = {"kind": kind.value, "answer": APPROVE if answer.approved else KEEP, "decided_by": answer.decided_by}
    given |= {"why": answer.why}
    values: dict[str, Any] = {name: reviews.c[name] for name in _ABOUT}
    values |= {name: literal(value, decisions.c[name].type) for name, value in given.items()}
    values["decided_at"] = literal(clock.database_time(connection), decisions.c.decided_at.type)
    chosen = select(*values.values()).select_from(reviews).join(rows, waiting)
    return connection.execute(insert(decisions).from_select(list(values), chosen)).rowcount


def _last_decision(kind: DecisionKind) -> Any:
    """Return the number of the last decision on what a review asks, for an update of reviews."""
    same = (decisions.c[name] == reviews.c[name] for name in _SEEN)
    found = select(func.max(decisions.c.id)).where(decisions.c.kind == kind.value, *same)
    return found.correlate(reviews).scalar_subquery()
