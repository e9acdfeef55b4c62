"""The console on a history of twenty nights, with users who may do different things."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI, Header, HTTPException
from fastapi.testclient import TestClient

from airlock.ledger.console import Console
from airlock.stages.pages.progress import TaskProgress, count_tasks
from airlock.stages.pages.tonight import DagState
from airlock_console.app import build
from airlock_console.sources import Sources
from airlock_local.sample.history import ARCHIVE, NIGHTLY, write_history

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

NOW = datetime(2026, 11, 30, 6, 5, tzinfo=UTC)
PIPELINES = {NIGHTLY, ARCHIVE}
NAMES = {*PIPELINES, "clinical"}
ANONYMOUS, OUTSIDER, VIEWER, OPERATOR, REVIEWER, ADMIN = (
    "anonymous",
    "outsider",
    "viewer",
    "operator",
    "reviewer",
    "admin",
)
USERS = (ANONYMOUS, OUTSIDER, VIEWER, OPERATOR, REVIEWER, ADMIN)
PREFIX = "/airlock"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class User:
    name: str

    def get_name(self) -> str:
        return self.name


class TableRights:
    """Rights by name: an outsider has another pipeline only."""

    def readable_dags(self, user: User) -> set[str]:
        return {"clinical"} if user.name == OUTSIDER else set(PIPELINES)

    def may_change(self, user: User, dag_id: str) -> bool:
        return dag_id in self.readable_dags(user) and user.name in {OPERATOR, ADMIN}

    def may_reveal(self, user: User, dag_id: str) -> bool:
        return dag_id in self.readable_dags(user) and user.name in {REVIEWER, ADMIN}

    def may_review(self, user: User, dag_id: str) -> bool:
        return dag_id in self.readable_dags(user) and user.name in {REVIEWER, ADMIN}

    def names_of(self, user: User) -> set[str]:
        return {user.name}


def user_of(x_user: Annotated[str, Header()] = ANONYMOUS) -> User:
    if x_user == ANONYMOUS:
        raise HTTPException(401, "Not authenticated")
    return User(x_user)


@dataclass(frozen=True)
class Browser:
    """A client of the console as one user."""

    client: TestClient
    user: str

    def get(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.get(PREFIX + path, headers={"x-user": self.user, **named}, follow_redirects=False)

    def post(self, path: str, form: dict[str, str], headers: dict[str, str] | None = None) -> httpx.Response:
        sent = {"x-user": self.user} | (OWN_PAGE if headers is None else headers)
        return self.client.post(PREFIX + path, data=form, headers=sent, follow_redirects=False)

    def as_(self, user: str) -> Browser:
        return replace(self, user=user)


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A SQLite ledger with a history."""
    file = tmp_path_factory.mktemp("history") / "ledger.db"
    write_history(f"sqlite:///{file}", NOW, nights=20)
    return file.read_bytes()


@pytest.fixture
def url(history: bytes, tmp_path: Path) -> str:
    file = tmp_path / "ledger.db"
    file.write_bytes(history)
    return f"sqlite:///{file}"


@pytest.fixture
def console(url: str) -> Iterator[Console]:
    opened = Console.connect(url)
    yield opened
    opened.dispose()


def find_dags(dag_ids: Any) -> dict[str, DagState]:
    return {name: DagState(next_run=NOW + timedelta(hours=20), last_state="success") for name in dag_ids}


def find_tasks(dag_id: str, run_id: str) -> list[TaskProgress]:
    return count_tasks([("parse", "success", 3), ("parse", "running", 1), ("validate", None, 1)])


def no_s3(pipeline: Any) -> NoReturn:
    raise AssertionError(f"{pipeline} has no workspace here")


@pytest.fixture
def app(console: Console) -> FastAPI:
    names, files, now = lambda: NAMES, dict, lambda: NOW
    return build(Sources(TableRights(), lambda: console, find_dags, find_tasks, names, files, no_s3, now))


@pytest.fixture
def browser(app: FastAPI) -> Browser:
    """The console as an operator sees it, mounted as Airflow mounts it."""
    app.dependency_overrides[get_user] = user_of
    server = FastAPI()
    server.mount(PREFIX, app)
    return Browser(TestClient(server, raise_server_exceptions=False), OPERATOR)
