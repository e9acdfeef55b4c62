"""What ``airflow db clean`` takes, on tables of Airflow's own models: the runbook on retention says when to call it."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.utils.db_cleanup import run_cleanup
from sqlalchemy import StaticPool, create_engine, event, insert, select
from sqlalchemy.orm import Session

from tests.markdown import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 9, 1, tzinfo=UTC)
WAITING = NOW - timedelta(days=120)  # the start of a run whose job is still in a queue


@pytest.fixture
def airflow() -> Iterator[Session]:
    """A metadata database with the runs of a nightly DAG: an old one, one that waits since then, and newer ones."""
    import_all_models()
    engine = create_engine("sqlite://", poolclass=StaticPool)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        add_run(session, 1, "old", WAITING - timedelta(days=10), "success")
        add_run(session, 2, "waiting", WAITING, "running")
        add_run(session, 3, "after", WAITING + timedelta(days=10), "success")
        add_run(session, 4, "last", NOW - timedelta(days=1), "success")
        session.commit()
        yield session
    engine.dispose()


def add_run(session: Session, number: int, name: str, start: datetime, state: str) -> None:
    """Add a run with one task, which has a result and a state; in a run that goes on it waits for a trigger."""
    of = {"dag_id": "nightly", "run_id": name}
    task = of | {"task_id": "import", "map_index": -1}
    waits = state == "running"
    rows: dict[str, dict[str, Any]] = {
        "dag_run": of
        | {"id": number, "run_type": "scheduled", "start_date": start, "state": state, "run_after": start},
        "trigger": {"id": number, "classpath": "x.Trigger", "kwargs": "{}", "created_date": start},
        "task_instance": task
        | {
            "id": UUID(int=number),
            "pool": "default_pool",
            "start_date": start,
            "trigger_id": number if waits else None,
        },
        "xcom": task | {"dag_run_id": number, "key": "return_value", "timestamp": start},
        "task_state_store": task
        | {"id": number, "dag_run_id": number, "key": "job", "value": "{}", "expires_at": start + timedelta(days=30)},
    }
    for table, row in rows.items():
        session.execute(insert(Base.metadata.tables[table]).values(**row))


def clean(session: Session, before: datetime) -> None:
    """Do what the runbook's command does."""
    lines = [line.strip() for block in blocks("docs/runbooks/retention.md") for line in block.text.splitlines()]
    (command,) = (shlex.split(line) for line in lines if re.match(r"airflow db clean .* --yes", line))
    tables = command[command.index("--tables") + 1].split(",")
    run_cleanup(
        clean_before_timestamp=before,  # type: ignore[arg-type]
        table_names=tables,
        confirm=False,
        error_on_cleanup_failure=False,
        session=session,
    )


def left(session: Session, table: str) -> set[str]:
    found = Base.metadata.tables[table]
    return set(session.scalars(select(found.c.run_id)))


def test_by_age_alone_a_run_that_waits_is_deleted_with_its_task_and_its_job(airflow: Session) -> None:
    clean(airflow, NOW - timedelta(days=90))
    for table in ("dag_run", "task_instance", "xcom", "task_state_store"):
        assert left(airflow, table) == {"last"}


def test_the_ledgers_start_of_a_run_is_too_late_a_time_since_receive_comes_after_airflows(airflow: Session) -> None:
    clean(airflow, WAITING + timedelta(seconds=10))
    assert "waiting" not in left(airflow, "dag_run")


def test_before_the_start_of_the_oldest_run_that_waits_it_keeps_all_that_is_its(airflow: Session) -> None:
    clean(airflow, WAITING)
    for table in ("dag_run", "task_instance", "xcom", "task_state_store"):
        assert left(airflow, table) == {"waiting", "after", "last"}
    triggers = set(airflow.scalars(select(Base.metadata.tables["trigger"].c.id)))
    assert 2 in triggers


def test_the_last_scheduled_run_stays_whatever_its_age(airflow: Session) -> None:
    clean(airflow, NOW + timedelta(days=400))
    assert left(airflow, "dag_run") == {"last"}
