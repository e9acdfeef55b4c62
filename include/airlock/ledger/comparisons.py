"""Sweeps and reconciliations: where each one is, what it has counted, and the differences that it has found.

A comparison that is interrupted goes on at its position, which is written in the same transaction as what was found up
to there. Its position changes only under the caller that read it last: of two processes that go on with one comparison,
the second is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, exists, func, insert, or_, select, update

from airlock.ledger import clock
from airlock.ledger.columns import ComparisonKind, FindingKind
from airlock.ledger.comparison_tables import comparisons, findings
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import fetch, fetch_frames, insert_missing, select_schema, stage, stage_values
from airlock.ledger.journal import journaled
from airlock.records import TIMESTAMP, digest, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Table

SCOPE = "comparisons"
UNDECIDED = "a difference that this comparison could not judge"  # what a loss was found to be: it is not forgotten
_FACTS = schema(dict.fromkeys(("study_key", "arrival_id", "image_set_id", "expected", "found"), pl.String))
FOUND = schema(
    {"kind": pl.String, "subject": pl.String}, _FACTS
)  # a difference; the comparison names pipeline and store
FINDINGS = schema(
    {"id": pl.Int64, "comparison_id": pl.Int64, "pipeline": pl.String, "datastore_id": pl.String},
    FOUND,
    {"found_at": TIMESTAMP, "closed_at": TIMESTAMP, "closed_by": pl.String},
)
_LOSS = ("subject_key", "pipeline", "datastore_id", "found_at")  # identify a loss, also in a rebuilt ledger
LOSSES = schema(
    dict.fromkeys(("pipeline", "datastore_id", "subject", "subject_key"), pl.String), _FACTS, {"found_at": TIMESTAMP}
)
OPEN_FINDINGS = schema({"kind": pl.String, "findings": pl.Int64, "since": TIMESTAMP})
_STAGED = schema(FOUND, {"subject_key": pl.String})
_IS_OPEN = findings.c.closed_at.is_(None)
_IS_LOSS = findings.c.kind == FindingKind.MISSING_IN_STORE.value
_ELSEWHERE = 0  # the number of a comparison of a ledger that was lost; those of this ledger begin at 1


@dataclass(frozen=True)
class Comparison:
    """A sweep or reconciliation in the ledger; its times are aware."""

    number: int
    kind: ComparisonKind
    pipeline: str | None
    datastore_id: str | None
    scope: dict[str, Any]  # what is compared
    is_dry: bool
    asked_by: str
    began_at: datetime
    ended_at: datetime | None = None
    position: Any = None  # where it goes on; None at the beginning
    counts: dict[str, Any] | None = None  # up to the position


def _record(row: Row[Any]) -> Comparison:
    return Comparison(
        number=row.id,
        kind=ComparisonKind(row.kind),
        pipeline=row.pipeline,
        datastore_id=row.datastore_id,
        scope=json.loads(row.scope),
        is_dry=row.is_dry,
        asked_by=row.asked_by,
        began_at=row.began_at,
        ended_at=row.ended_at,
        position=None if row.position is None else json.loads(row.position),
        counts=None if row.counts is None else json.loads(row.counts),
    )


def _to_json(content: Any) -> str | None:
    return None if content is None else json.dumps(content, sort_keys=True)


class Comparisons(Store):
    """The ledger's methods about comparisons and their findings."""

    def begin_comparison(
        self,
        kind: ComparisonKind,
        scope: dict[str, Any],
        *,
        pipeline: str | None = None,
        datastore_id: str | None = None,
        is_dry: bool,
        asked_by: str,
    ) -> Comparison:
        """Record that a comparison begins, which is about a pipeline, a data store, or both.

        *scope* is what belongs to it, as JSON: a comparison of another scope does not go on with it. A dry one only
        counts and names.
        """
        values = {
            "kind": kind.value,
            "pipeline": pipeline,
            "datastore_id": datastore_id,
            "scope": _to_json(scope),
            "is_dry": is_dry,
            "began_at": datetime.now(UTC),
            "asked_by": asked_by,
        }
        with self._writing(SCOPE) as connection:
            created = connection.execute(insert(comparisons).values(values)).inserted_primary_key
            assert created is not None  # noqa: S101  # for mypy: one row was inserted
            return _need(connection, int(created[0]))

    def advance_comparison(
        self, comparison: Comparison, position: Any, counts: dict[str, Any], found: pl.DataFrame | None = None
    ) -> Comparison:
        """Record how far a comparison is, with what it has counted and found up to there.

        A difference that is open already, of the same kind, subject, pipeline and data store, is the same row. Of
        `FOUND`, the columns after ``subject`` may be left out.

        Raises
        ------
        LedgerError
            If it has ended, or another process has gone on with it. Nothing is recorded.
        """
        return self._write(comparison, {"position": _to_json(position), "counts": _to_json(counts)}, found)

    def end_comparison(
        self, comparison: Comparison, counts: dict[str, Any], found: pl.DataFrame | None = None
    ) -> Comparison:
        """Record the end of a comparison, with what it has counted and found; as `advance_comparison`."""
        return self._write(comparison, {"counts": _to_json(counts), "ended_at": datetime.now(UTC)}, found)

    def _write(self, comparison: Comparison, values: dict[str, Any], found: pl.DataFrame | None) -> Comparison:
        own = (
            comparisons.c.id == comparison.number,
            comparisons.c.ended_at.is_(None),
            comparisons.c.position == _to_json(comparison.position),
        )
        with self._writing(SCOPE) as connection:
            if not connection.execute(update(comparisons).where(*own).values(values)).rowcount:
                raise LedgerError(
                    f"comparison {comparison.number} has ended, or another process has gone on with it: let it end"
                )
            if found is not None and not found.is_empty():
                _write_findings(connection, comparison, found)
            return _need(connection, comparison.number)

    def comparison(self, number: int) -> Comparison | None:
        """Return a comparison by its number; None if there is none."""
        with self._reading() as connection:
            return _find(connection, comparisons.c.id == number)

    def last_comparison(
        self,
        kind: ComparisonKind,
        *,
        pipeline: str | None = None,
        datastore_id: str | None = None,
        has_ended: bool | None = None,
        scope: dict[str, Any] | None = None,
    ) -> Comparison | None:
        """Return the newest comparison of a kind, and of what else is given; None if there is none."""
        named = {"kind": kind.value, "pipeline": pipeline, "datastore_id": datastore_id, "scope": _to_json(scope)}
        conditions = [comparisons.c[name] == value for name, value in named.items() if value is not None]
        if has_ended is not None:
            ended = comparisons.c.ended_at
            conditions.append(ended.is_not(None) if has_ended else ended.is_(None))
        with self._reading() as connection:
            return _find(connection, *conditions)

    def find_findings(
        self,
        *kinds: FindingKind,
        pipeline: str | None = None,
        datastore_id: str | None = None,
        comparison: int | None = None,
        closed_since: datetime | None = None,
    ) -> Iterator[pl.DataFrame]:
        """Yield open findings as `FINDINGS`, frame by frame, by number: of all kinds if none is given.

        With *comparison*, only what the comparison of this number was the last to find; with *closed_since*, those that
        were closed since then, instead of the open ones.
        """
        conditions = _about(kinds, pipeline, datastore_id)
        if comparison is not None:
            conditions.append(findings.c.comparison_id == comparison)
        conditions.append(_IS_OPEN if closed_since is None else findings.c.closed_at >= closed_since)
        statement = select(*(findings.c[name] for name in FINDINGS)).where(*conditions).order_by(findings.c.id)
        with self._reading() as connection:
            yield from fetch_frames(connection, statement, FINDINGS)

    def count_findings(self, *, pipeline: str | None = None, datastore_id: str | None = None) -> pl.DataFrame:
        """Count the open findings about a pipeline, a data store, or all, as `OPEN_FINDINGS`."""
        counted = select(findings.c.kind, func.count(), func.min(findings.c.found_at))
        statement = counted.where(*_about((), pipeline, datastore_id), _IS_OPEN).group_by(findings.c.kind)
        with self._reading() as connection:
            return fetch(connection, statement, OPEN_FINDINGS).sort("kind")

    def close_unseen(
        self, comparison: Comparison, *kinds: FindingKind, closed_by: str, study_keys: Sequence[str] | None = None
    ) -> int:
        """Close what earlier comparisons have found and this one has not; return the number of findings.

        *kinds* and *study_keys* are what it has compared; None stands for everything. Findings about another pipeline
        or data store stay, and so do those that another comparison has added since this one began.
        """
        earlier = findings.c.comparison_id < comparison.number, findings.c.found_at < comparison.began_at
        conditions = [*_about_comparison(comparison), _among(kinds), *earlier]
        if study_keys is not None:
            conditions.append(findings.c.study_key.in_(study_keys))
        with self.at_once(SCOPE) as inner:
            return inner.close_chosen(closed_by, lambda _: conditions)

    def keep_findings(
        self,
        comparison: Comparison,
        *kinds: FindingKind,
        study_keys: Sequence[str] = (),
        subjects: Sequence[str] = (),
    ) -> None:
        """Keep the open findings of these kinds about what a reconciliation had to leave out.

        *study_keys* are of studies or patients, *subjects* those of single findings.
        """
        keys = pl.Series([digest(subject) for subject in subjects], dtype=pl.String)
        with self._writing(SCOPE) as connection:
            rows = stage_values(connection, keys, "subject_key")
            is_named = findings.c.subject_key.in_(select(rows.c.subject_key))
            about = *_about_comparison(comparison), _among(kinds), or_(findings.c.study_key.in_(study_keys), is_named)
            kept = update(findings).where(_IS_OPEN, *about).values(comparison_id=comparison.number)
            connection.execute(kept)

    def close_findings(
        self, subjects: pl.Series, *kinds: FindingKind, pipeline: str | None, datastore_id: str | None, closed_by: str
    ) -> int:
        """Close the open findings of these kinds about these subjects; return their number.

        *pipeline* and *datastore_id* are those of their comparison.
        """
        keys = subjects.map_elements(digest, pl.String)
        about = findings.c.pipeline == pipeline, findings.c.datastore_id == datastore_id

        def choose(connection: Connection) -> list[ColumnElement[bool]]:
            rows = stage_values(connection, keys, "subject_key")
            return [findings.c.subject_key.in_(select(rows.c.subject_key)), _among(kinds), *about]

        with self.at_once(SCOPE) as inner:
            return inner.close_chosen(closed_by, choose)

    def close_chosen(self, closed_by: str, choose: Callable[[Connection], list[ColumnElement[bool]]]) -> int:
        """Close the open findings for which conditions hold, and have the journal keep the losses among them.

        Returns
        -------
        int
            The number of findings.
        """
        with self._writing(SCOPE) as connection:
            chosen = _IS_OPEN, *choose(connection)
            lost = fetch(connection, select(*(findings.c[name] for name in LOSSES)).where(_IS_LOSS, *chosen), LOSSES)
            closed = self.close_losses(lost, closed_by) if lost.height else 0
            values = {"closed_at": datetime.now(UTC), "closed_by": closed_by}
            return closed + connection.execute(update(findings).where(*chosen).values(values)).rowcount

    def keep_losses(self, comparison: int) -> None:
        """Keep in the journal what a reconciliation has found to be missing; the ledger has it."""
        lost = select(*(findings.c[name] for name in LOSSES)).where(
            findings.c.comparison_id == comparison, _IS_LOSS, _IS_OPEN
        )
        with self._reading() as connection:
            found = fetch(connection, lost, LOSSES)
        self.record_losses(found)

    @journaled()
    def record_losses(self, losses: pl.DataFrame) -> None:
        """Record what a data store is known to have lost, `LOSSES`, and bring the same findings up to date.

        What was lost again, from the image set of a later import, is the same finding with other facts.
        """
        with self._writing(SCOPE) as connection:
            rows = stage(connection, losses, LOSSES, ["subject_key"])
            known = and_(_IS_LOSS, *(findings.c[name] == rows.c[name] for name in _LOSS))
            connection.execute(update(findings).where(known).values({name: rows.c[name] for name in _FACTS}))
            new = select(*(rows.c[name] for name in LOSSES)).where(~exists().where(known)).subquery()
            kind = FindingKind.MISSING_IN_STORE.value
            insert_missing(connection, findings, new, ["id"], kind=kind, comparison_id=_ELSEWHERE)

    @journaled()
    def close_losses(self, losses: pl.DataFrame, closed_by: str) -> int:
        """Close these open findings, `LOSSES`; return their number."""
        with self._writing(SCOPE) as connection:
            rows = stage(connection, losses, LOSSES, ["subject_key"])
            same = exists(select(rows.c.subject_key).where(*(findings.c[name] == rows.c[name] for name in _LOSS)))
            named = findings.c.subject_key.in_(select(rows.c.subject_key))
            closing = update(findings).where(_IS_LOSS, _IS_OPEN, named, same)
            return connection.execute(closing.values(closed_at=clock.now(), closed_by=closed_by)).rowcount


def is_decided() -> ColumnElement[bool]:
    """Return the condition that a comparison could judge what it has found."""
    return func.coalesce(findings.c.found, "") != UNDECIDED


def _find(connection: Connection, *conditions: ColumnElement[bool]) -> Comparison | None:
    statement = select(comparisons).where(*conditions).order_by(comparisons.c.id.desc()).limit(1)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _record(row)


def _need(connection: Connection, number: int) -> Comparison:
    return _record(connection.execute(select(comparisons).where(comparisons.c.id == number)).one())


def _among(kinds: Collection[FindingKind]) -> ColumnElement[bool]:
    return findings.c.kind.in_([kind.value for kind in kinds])


def _about(kinds: Collection[FindingKind], pipeline: str | None, datastore_id: str | None) -> list[ColumnElement[bool]]:
    named = {"pipeline": pipeline, "datastore_id": datastore_id}
    conditions = [findings.c[name] == value for name, value in named.items() if value is not None]
    return [*conditions, _among(kinds)] if kinds else conditions


def _about_comparison(comparison: Comparison) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return findings.c.pipeline == comparison.pipeline, findings.c.datastore_id == comparison.datastore_id


def _write_findings(connection: Connection, comparison: Comparison, found: pl.DataFrame) -> None:
    """Insert what is found for the first time, and bring open findings up to date."""
    rows = _stage_found(connection, found)
    same = and_(
        findings.c.subject_key == rows.c.subject_key,
        findings.c.kind == rows.c.kind,
        *_about_comparison(comparison),
        _IS_OPEN,
    )
    seen: dict[str, Any] = {name: rows.c[name] for name in _FACTS} | {"comparison_id": comparison.number}
    connection.execute(update(findings).where(same).values(seen))
    new = select(*(rows.c[name] for name in _STAGED)).where(~select(findings.c.id).where(same).exists()).subquery()
    about: dict[str, Any] = {"pipeline": comparison.pipeline, "datastore_id": comparison.datastore_id}
    about |= {"comparison_id": comparison.number, "found_at": datetime.now(UTC)}
    insert_missing(connection, findings, new, ["id"], **about)


def _stage_found(connection: Connection, found: pl.DataFrame) -> Table:
    absent = [pl.lit(None, pl.String).alias(name) for name in FOUND if name not in found.columns]
    rows = select_schema(found.with_columns(absent), FOUND).with_columns(
        pl.col("subject").map_elements(digest, pl.String).alias("subject_key")
    )
    return stage(
        connection, rows.unique(["kind", "subject"], keep="last", maintain_order=True), _STAGED, ["subject_key"]
    )
