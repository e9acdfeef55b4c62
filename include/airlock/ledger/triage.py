"""What waits for a person: the held and rejected arrivals of a group, study by study."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, func, literal_column, select

from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.database import Store
from airlock.ledger.tables import arrivals, runs, successors, words

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement

PAGE = 100  # rows of a page
MOST_LISTED = 10_000  # files of a list for a sender
_IS_ITS_WORD = and_(arrivals.c.arrival_id == words.c.arrival_id, arrivals.c.pipeline == words.c.pipeline)
_IS_UNRELEASED = words.c.disposition != literal_column("'released'")  # as in the conditions of the indexes


@dataclass(frozen=True)
class Group:
    """Held or rejected arrivals of one pipeline with the same disposition and reason; of one site, if it is given."""

    pipeline: str
    disposition: str
    reason: str
    site: str | None = None


@dataclass(frozen=True)
class StudyFiles:
    """The files of a study, or of no known study, in a group."""

    study_key: str | None
    files: int
    bytes: int
    since: datetime


@dataclass(frozen=True)
class File:
    """A held or rejected file; key and detail may name a patient."""

    arrival_id: str
    run_id: str
    key: str
    size: int
    last_modified: datetime
    settled_at: datetime
    detail: str | None


@dataclass(frozen=True)
class Listed:
    """A held or rejected file by facts that identify it to its sender, without its key."""

    arrival_id: str
    site: str
    etag: str
    size: int
    last_modified: datetime
    settled_at: datetime


class Triage(Store):
    """The ledger's methods about what waits for a person."""

    def studies_of(self, group: Group, after: str | None = None) -> list[StudyFiles]:
        """Return the studies with files in a group, by study key; one more than `PAGE` if there are more.

        Parameters
        ----------
        group
            The group.
        after
            The last study key of the page before. Files of no known study are on the first page only.
        """
        sums = func.count(), func.sum(arrivals.c.size), func.min(words.c.settled_at)
        with self._reading() as connection:
            conditions = _is_open_of(group)
            of_group = select(words.c.study_key, *sums).join(arrivals, _IS_ITS_WORD).group_by(words.c.study_key)
            alone = of_group.where(*conditions, words.c.study_key.is_(None))
            known = of_group.where(*conditions, words.c.study_key > (after or ""))
            rows = [*connection.execute(alone)] if after is None else []
            rows += connection.execute(known.order_by(words.c.study_key).limit(PAGE + 1 - len(rows)))
        return [StudyFiles(row[0], row[1], int(row[2]), row[3]) for row in rows]

    def files_of(self, group: Group, after: str | None = None) -> list[File]:
        """Return a group's files of no known study, by arrival; one more than `PAGE` if there are more.

        Parameters
        ----------
        group
            The group.
        after
            The last arrival of the page before.
        """
        page = (
            select(words.c.arrival_id)
            .join(arrivals, _IS_ITS_WORD)
            .where(*_is_open_of(group), words.c.study_key.is_(None), words.c.arrival_id > (after or ""))
            .order_by(words.c.arrival_id)
            .limit(PAGE + 1)
            .subquery("page")
        )
        columns = (states.c[name] for name in ("arrival_id", "key", "size", "last_modified", "settled_at", "detail"))
        statement = (
            select(*columns, runs.c.run_id)
            .join(page, and_(page.c.arrival_id == states.c.arrival_id, states.c.pipeline == group.pipeline))
            .join(runs, runs.c.run_key == states.c.run_key)
            .order_by(states.c.arrival_id)
        )
        with self._reading() as connection:
            return [File(**row._mapping) for row in connection.execute(statement)]  # noqa: SLF001  # its public name

    def list_of(self, group: Group) -> list[Listed]:
        """Return the files of a group, by study and arrival; one more than `MOST_LISTED` if there are more."""
        known = {**arrivals.c, "settled_at": words.c.settled_at}
        chosen = select(*(known[field.name] for field in fields(Listed))).join(words, _IS_ITS_WORD)
        ordered = chosen.where(*_is_open_of(group)).order_by(words.c.study_key, words.c.arrival_id)
        with self._reading() as connection:
            return [Listed(*row) for row in connection.execute(ordered.limit(MOST_LISTED + 1))]


def _is_open_of(group: Group) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a word is the last one of an arrival of a group which has not been replaced.

    ``ix_words_group`` has a group in the order of its studies, so that it is read up to the end of a page only.
    """
    later = words.alias("later")
    same = (later.c[name] == words.c[name] for name in ("arrival_id", "pipeline"))
    replaced = (successors.c[name] == words.c[name] for name in ("arrival_id", "pipeline"))
    at_site = () if group.site is None else (arrivals.c.site == group.site,)
    return (
        _IS_UNRELEASED,
        words.c.disposition == group.disposition,
        words.c.reason == group.reason,
        words.c.pipeline == group.pipeline,
        ~exists().where(*same, later.c.number > literal_column("1"), later.c.number > words.c.number),
        ~exists().where(*replaced, successors.c.superseded_by.is_not(None)),
        *at_site,
    )
