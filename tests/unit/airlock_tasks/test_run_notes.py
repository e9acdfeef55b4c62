"""The note of a DAG run, in Airflow's own tables: its audit's words, never over a person's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.base import Base
from airflow.models.dagrun import DagRun, DagRunNote
from airflow.models.xcom import XComModel
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import airlock_run_notes
from airlock.stages.reporting import describe_briefly
from airlock_tasks.run_notes import KEY, OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)
RUN = {"run_type": DagRunType.MANUAL, "triggered_by": DagRunTriggeredByType.REST_API, "run_after": NOW}


@pytest.fixture
def session() -> Iterator[Session]:
    engine = create_engine("sqlite://")
    tables = [Base.metadata.tables[name] for name in ("log_template", "dag_run", "dag_run_note", "xcom")]
    Base.metadata.create_all(engine, tables)
    with Session(engine) as opened:
        yield opened
    engine.dispose()


@pytest.fixture
def run(session: Session) -> DagRun:
    made = DagRun(dag_id="nightly", run_id="manual__1", **RUN)
    session.add(made)
    session.flush()
    return made


def audited(session: Session, run: DagRun, task: str, value: Any, later: int = 0) -> None:
    about = {"dag_run_id": run.id, "dag_id": run.dag_id, "run_id": run.run_id, "task_id": task, "map_index": -1}
    session.add(XComModel(**about, key=KEY, value=value, timestamp=NOW + timedelta(minutes=later)))
    session.flush()


def note_of(session: Session, run: DagRun) -> str | None:
    session.flush()
    session.expire_all()
    return run.note


@pytest.mark.parametrize("end", [airlock_run_notes.on_dag_run_success, airlock_run_notes.on_dag_run_failed])
def test_a_run_that_ends_gets_the_words_of_its_last_audit(session: Session, run: DagRun, end: Any) -> None:
    audited(session, run, "fhir.audit", "balanced, 3 of 3 released", 5)
    audited(session, run, "audit", "balanced, 0 of 3 released", 1)
    other = DagRun(dag_id="nightly", run_id="manual__2", **RUN)
    session.add(other)
    session.flush()
    audited(session, other, "audit", "of another run", 9)
    end(run)
    assert note_of(session, run) == f"{OURS}balanced, 3 of 3 released"
    audited(session, run, "again", "balanced, 2 of 3 released, 1 held", 7)
    end(run)
    assert note_of(session, run) == f"{OURS}balanced, 2 of 3 released, 1 held", "after a clear"


def test_a_person_s_note_stays(session: Session, run: DagRun) -> None:
    audited(session, run, "audit", "balanced")
    run.dag_run_note = DagRunNote("asked the sender", "ada")
    airlock_run_notes.on_dag_run_success(run)
    assert note_of(session, run) == "asked the sender"


@pytest.mark.parametrize("value", [None, {"balanced": True}])
def test_a_run_without_an_audit_of_ours_has_no_note(session: Session, run: DagRun, value: Any) -> None:
    if value is not None:
        audited(session, run, "audit", value)
    airlock_run_notes.on_dag_run_success(run)
    assert note_of(session, run) is None


def test_a_long_note_fits_into_airflow_s_table(session: Session, run: DagRun) -> None:
    audited(session, run, "audit", "x" * 2000)
    airlock_run_notes.on_dag_run_success(run)
    assert len(note_of(session, run) or "") == 1000


def test_the_plugin_registers_both_ends() -> None:
    (listener,) = airlock_run_notes.RunNotesPlugin.listeners
    assert {"on_dag_run_success", "on_dag_run_failed"} <= set(dir(listener))


def test_the_words_are_books_first_then_what_was_released_and_what_was_not() -> None:
    counts = {"released": 369, "quarantined": 104, "held": 19, "ignored": 15, "duplicate": 2}
    assert describe_briefly({"balanced": True, "dispositions": counts}) == (
        "balanced, 369 of 509 released, 19 held, 104 rejected"
    )
    waiting = {"held": 1, "awaiting_publication": 3}
    assert describe_briefly({"balanced": False, "dispositions": waiting}) == (
        "NOT BALANCED, 0 of 4 released, 1 held, 3 waiting for their publication"
    )
