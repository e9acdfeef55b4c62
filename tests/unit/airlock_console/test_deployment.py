"""The console's ties to Airflow: rights by role, the ledger's address, and which pipelines there are."""

from __future__ import annotations

import ast
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.exceptions import AirflowNotFoundException
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

from airlock.ledger.errors import LedgerUnreachableError
from airlock.stages.pages.tonight import DagState, FailedRuns
from airlock_console import deployment
from airlock_local.sample.history import ARCHIVE, NIGHTLY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger.console import Console

PLUGINS = Path(__file__).parents[3] / "plugins"
NOW = datetime.now(UTC)
DAG = {
    "bundle_name": "dags-folder",
    "max_active_tasks": 16,
    "max_consecutive_failed_dag_runs": 0,
    "has_task_concurrency_limits": False,
}
RUN = {"dag_id": NIGHTLY, "run_type": "scheduled", "log_template_id": None}


class TestRights:
    @pytest.fixture(autouse=True)
    def simple(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(deployment, "get_auth_manager", SimpleAuthManager)
        monkeypatch.setattr(deployment.DagModel, "get_team_name", lambda dag_id: None)

    @pytest.mark.parametrize(("role", "may"), [("viewer", False), ("user", True), ("op", True), ("admin", True)])
    def test_a_viewer_of_the_simple_manager_neither_changes_nor_sees_identifiers(self, role: str, may: bool) -> None:
        user = SimpleAuthManagerUser(username="kim", role=role)
        rights = deployment.AirflowRights()
        assert rights.may_change(user, NIGHTLY) is may
        assert rights.may_reveal(user, NIGHTLY) is may

    def test_who_lacks_the_right_on_identifiers_does_not_see_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        def refuse(_: object, *, method: str, resource_name: str, user: object) -> bool:
            asked.append(resource_name)
            return False

        monkeypatch.setattr(SimpleAuthManager, "is_authorized_custom_view", refuse)
        admin = SimpleAuthManagerUser(username="kim", role="admin")
        assert not deployment.AirflowRights().may_reveal(admin, NIGHTLY)
        assert asked == ["Airlock identifiers"]

    def test_nobody_is_a_group_by_their_own_name(self) -> None:
        user = SimpleAuthManagerUser(username="group:radiology", role="user")
        assert deployment.AirflowRights().names_of(user) == {"group:user"}
        ada = SimpleAuthManagerUser(username="ada", role="user")
        assert deployment.AirflowRights().names_of(ada) == {"ada", "group:user"}


class TestDags:
    @pytest.fixture
    def airflow(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
        """Give Airflow's tables of DAGs, with one DAG that the console asks about."""
        engine = create_engine("sqlite://")
        tables = [deployment.DagModel.__table__, deployment.DagRun.__table__]
        deployment.DagRun.metadata.create_all(engine, tables=tables)
        with Session(engine) as session:
            values = {"dag_id": NIGHTLY, "is_paused": False, "is_stale": True, "next_dagrun_create_after": NOW}
            session.execute(insert(deployment.DagModel.__table__).values(values | DAG))
            monkeypatch.setattr(deployment, "create_session", lambda: nullcontext(session))
            yield session

    def test_runs_that_failed_before_the_last_one_are_counted(self, airflow: Session) -> None:
        for days, state in ((40, "failed"), (3, "failed"), (2, "success"), (1, "failed"), (0, "running")):
            at = NOW - timedelta(days=days)
            values = {"run_id": f"before {days} days", "state": state, "queued_at": at, "end_date": at, "run_after": at}
            airflow.execute(insert(deployment.DagRun.__table__).values(values | RUN))
        found = deployment.find_dags({NIGHTLY})[NIGHTLY]
        assert (found.last_state, found.last_run_id, found.last_since) == ("running", "before 0 days", NOW)
        assert found.failed == FailedRuns(2, NOW - timedelta(days=3), "before 3 days", NOW - timedelta(days=1))
        assert (found.is_gone, found.next_run) == (True, NOW)

    def test_a_dag_has_not_run_yet(self, airflow: Session) -> None:
        assert deployment.find_dags({NIGHTLY, "another"}) == {NIGHTLY: DagState(next_run=NOW, is_gone=True)}


class TestLedger:
    @pytest.fixture(autouse=True)
    def without_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: str) -> None:
            raise AirflowNotFoundException("none")

        monkeypatch.setattr(deployment.Connection, "get_connection_from_secrets", refuse)
        monkeypatch.delenv("AIRLOCK_LEDGER_URL", raising=False)

    def test_its_address_is_that_of_the_tasks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", "sqlite:////a/ledger.db")
        assert deployment._ledger_url() == "sqlite:////a/ledger.db"

    def test_without_an_address_the_page_says_that_no_ledger_answers(self) -> None:
        with pytest.raises(LedgerUnreachableError, match="no ledger is set"):
            deployment._ledger_url()


class TestPipelines:
    @pytest.fixture
    def ledger(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> Console:
        monkeypatch.setattr(deployment, "_ledger", lambda: console)
        return console

    def test_those_of_files_and_those_that_have_run_are_known(self, ledger: Console) -> None:
        known = deployment._Pipelines()
        assert {NIGHTLY, ARCHIVE, "sample", "clinical"} <= known.names()
        assert "sample" in known.files()
        assert ARCHIVE not in known.files()

    def test_a_server_without_files_knows_those_that_have_run(
        self, ledger: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(deployment, "PIPELINES", tmp_path / "none")
        assert deployment._Pipelines().names() == {NIGHTLY, ARCHIVE}


def test_the_plugin_s_file_imports_no_page_before_the_first_request() -> None:
    tree = ast.parse((PLUGINS / "airlock_console_plugin.py").read_text())
    imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "functools", "typing", "urllib.parse", "airflow.configuration"} | {
        "airflow.sdk.plugins_manager"
    }
