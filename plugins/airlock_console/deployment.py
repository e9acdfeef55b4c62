"""The console of this API server: Airflow's auth manager and DAGs, the ledger, and pipeline files if there are any."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.models.connection import Connection
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import func, inspect, select

from airlock.ledger.console import Console
from airlock.ledger.errors import LedgerUnreachableError
from airlock.ledger.schema import LEDGER_URL
from airlock.pipelines import PipelineError, load_pipelines
from airlock.pipelines.review import GROUP
from airlock.stages.pages.progress import TaskProgress, count_tasks
from airlock.stages.pages.tonight import LOOK_BACK, DagState, FailedRuns
from airlock_console.account import AirflowAccount, open_s3
from airlock_console.app import build
from airlock_console.roles import IDENTIFIERS
from airlock_console.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fastapi import FastAPI
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from airlock.pipelines import Pipeline

LEDGER_CONNECTION = "airlock_ledger"  # as tasks name it
PIPELINES = Path(os.environ.get("AIRLOCK_PIPELINES", Path(__file__).parents[2] / "include/pipelines"))
_SECONDS = 30.0  # between two looks at the pipeline files, and at which pipelines have run


class AirflowRights:
    """The rights that Airflow's auth manager gives."""

    def readable_dags(self, user: Any) -> set[str]:
        """Return the DAGs that the user may read."""
        return set(get_auth_manager().get_authorized_dag_ids(user=user, method="GET"))

    def may_change(self, user: Any, dag_id: str) -> bool:
        """Return whether the user may change a DAG's runs."""
        return self._may(user, dag_id, DagAccessEntity.RUN)

    def may_reveal(self, user: Any, dag_id: str) -> bool:
        """Return whether the user may see identifiers.

        It takes the right on the view `IDENTIFIERS`, and the right to answer questions of the DAG: Airflow's simple
        auth manager gives the first one to every viewer.
        """
        named = get_auth_manager().is_authorized_custom_view(method="GET", resource_name=IDENTIFIERS, user=user)
        return bool(named) and self._may(user, dag_id, DagAccessEntity.HITL_DETAIL)

    def may_review(self, user: Any, dag_id: str) -> bool:
        """Return whether the user may answer questions of the DAG."""
        return self._may(user, dag_id, DagAccessEntity.HITL_DETAIL)

    def names_of(self, user: Any) -> set[str]:
        """Return the user's id and name, and ``group:name`` for each of their roles and groups.

        Airflow's interface has no groups: the simple auth manager's users have a role, those of FAB roles. A name that
        is written like a group's is left out: people choose their own names where they may register.
        """
        own = (name for name in (str(user.get_id()), str(user.get_name())) if not name.startswith(GROUP))
        return {*own, *(f"{GROUP}{name}" for name in _list_groups(user))}

    def _may(self, user: Any, dag_id: str, entity: DagAccessEntity) -> bool:
        details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
        return bool(
            get_auth_manager().is_authorized_dag(method="PUT", access_entity=entity, details=details, user=user)
        )


def _list_groups(user: Any) -> set[str]:
    """Return the names of a user's roles and groups, and of their groups' roles."""
    row = inspect(user, raiseerr=False)
    if row is None:
        return _name_groups(user)
    with create_session() as session:  # a user of FAB has no session any more, and what is not loaded yet cannot be
        found = session.get(type(user), row.identity)
        return set() if found is None else _name_groups(found)


def _name_groups(user: Any) -> set[str]:
    groups = getattr(user, "groups", None) or ()
    of_groups = (role for group in groups for role in getattr(group, "roles", None) or ())
    named = getattr(user, "role", None), *(getattr(user, "roles", None) or ()), *groups, *of_groups
    return {str(getattr(one, "name", one)) for one in named if one}


@cache
def _ledger() -> Console:
    return Console.connect(_ledger_url())


def _ledger_url() -> str:
    try:
        return str(Connection.get_connection_from_secrets(LEDGER_CONNECTION).get_uri())
    except AirflowNotFoundException:
        url = os.environ.get(LEDGER_URL)
    if not url:
        raise LedgerUnreachableError(f"no ledger is set: define the connection {LEDGER_CONNECTION} or {LEDGER_URL}")
    return url


def find_dags(dag_ids: Collection[str]) -> dict[str, DagState]:
    """Return what Airflow knows of these DAGs."""
    facts = select(DagModel.dag_id, DagModel.is_paused, DagModel.is_stale, DagModel.next_dagrun_create_after)
    with create_session() as session:
        last = {row.dag_id: row for row in session.execute(_select_last_runs(dag_ids))}
        failed = _find_failed(session, dag_ids, {row.id for row in last.values()})
        return {
            row.dag_id: DagState(
                is_paused=bool(row.is_paused),
                next_run=row.next_dagrun_create_after,
                last_state=str(last[row.dag_id].state) if row.dag_id in last else None,
                last_run_id=last[row.dag_id].run_id if row.dag_id in last else None,
                last_since=last[row.dag_id].queued_at if row.dag_id in last else None,
                failed=failed.get(row.dag_id),
                is_gone=bool(row.is_stale),
            )
            for row in session.execute(facts.where(DagModel.dag_id.in_(dag_ids)))
        }


def _select_last_runs(dag_ids: Collection[str]) -> Select[Any]:
    newest = select(func.max(DagRun.id)).where(DagRun.dag_id.in_(dag_ids)).group_by(DagRun.dag_id)
    return select(DagRun.id, DagRun.dag_id, DagRun.state, DagRun.run_id, DagRun.queued_at).where(DagRun.id.in_(newest))


def _find_failed(session: Session, dag_ids: Collection[str], last: Collection[int]) -> dict[str, FailedRuns]:
    """Return the DAG runs that have failed and are not the last ones, by DAG."""
    of_dags = DagRun.dag_id.in_(dag_ids), DagRun.state == DagRunState.FAILED, DagRun.id.not_in(last)
    recent = DagRun.end_date > datetime.now(UTC) - LOOK_BACK
    found: dict[str, FailedRuns] = {}
    rows = select(DagRun.dag_id, DagRun.end_date, DagRun.run_id).where(*of_dags, recent).order_by(DagRun.end_date)
    for dag_id, end, run_id in session.execute(rows):
        at = end or datetime.now(UTC)
        first = found.get(dag_id, FailedRuns(0, at, run_id, at))
        found[dag_id] = replace(first, number=first.number + 1, last=at)
    return found


def find_tasks(dag_id: str, run_id: str) -> list[TaskProgress]:
    """Return how far the tasks of a DAG run are."""
    groups = TaskInstance.task_id, TaskInstance.state
    of_run = TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id
    counted = select(*groups, func.count()).where(*of_run).group_by(*groups)
    with create_session() as session:
        rows = [
            (task, None if state is None else str(state), number) for task, state, number in session.execute(counted)
        ]
    return count_tasks(rows)


class _Pipelines:
    """The pipelines of this deployment, looked at again when they may have changed."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._files: Mapping[str, Pipeline] = {}
        self._names: frozenset[str] = frozenset()

    def files(self) -> Mapping[str, Pipeline]:
        """Return the valid pipeline files by name; none where this server has no files."""
        self._read()
        return self._files

    def names(self) -> frozenset[str]:
        """Return the names of all pipelines: of files, and of runs in the ledger."""
        self._read()
        return self._names

    def _read(self) -> None:
        if monotonic() - self._read_at < _SECONDS:
            return
        try:
            self._files = load_pipelines(PIPELINES)[0]
        except PipelineError:
            self._files = {}
        with _ledger().page() as ledger:
            self._names = frozenset({*self._files, *ledger.pipelines()})
        self._read_at = monotonic()


@cache
def console() -> FastAPI:
    """Return the console of this process."""
    known = _Pipelines()
    now = partial(datetime.now, UTC)
    places = known.names, known.files, open_s3, now
    return build(Sources(AirflowRights(), _ledger, find_dags, find_tasks, *places, account=AirflowAccount()))
