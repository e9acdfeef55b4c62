"""The console on an invented history, served on loopback without Airflow: for browsers, tests and pictures."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import uvicorn
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI

from airlock.ledger.console import Console
from airlock.stages.pages.progress import TaskProgress, count_tasks
from airlock.stages.pages.tonight import DagState
from airlock_console.app import build
from airlock_console.sources import Sources
from airlock_local.sample.history import ARCHIVE, NIGHTLY, write_history
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime
    from pathlib import Path

PIPELINES = {NIGHTLY, ARCHIVE}
PREFIX = "/airlock"


@dataclass(frozen=True)
class Admin:
    """A user who may do everything."""

    def get_name(self) -> str:
        """Return the name."""
        return "admin"


class EveryRight:
    """Rights that allow everything about some pipelines."""

    def __init__(self, pipelines: Collection[str]) -> None:
        self._pipelines = set(pipelines)

    def readable_dags(self, _: Any) -> set[str]:
        """Return the pipelines."""
        return self._pipelines

    def may_change(self, _: Any, __: str) -> bool:
        """Return that the user may."""
        return True

    def may_reveal(self, _: Any, __: str) -> bool:
        """Return that the user may."""
        return True

    def may_review(self, _: Any, __: str) -> bool:
        """Return that the user may."""
        return True

    def names_of(self, user: Any) -> set[str]:
        """Return the name of the user."""
        return {user.get_name()}


def _no_s3(_: Any) -> NoReturn:
    raise AssertionError("the history has no workspace")


def _find_tasks(_: str, __: str) -> list[TaskProgress]:
    rows = [("receive", "success", 1), ("buffer", "success", 1), ("parse", "success", 31), ("parse", "running", 4)]
    return count_tasks([*rows, ("parse", None, 12), ("validate", None, 1), ("audit", None, 1), ("route", None, 1)])


@contextmanager
def history_console(folder: Path, now: datetime, nights: int) -> Iterator[str]:
    """Write a history into a ledger in this folder and yield the address of the console on it."""
    url = f"sqlite:///{folder}/ledger.db"
    write_history(url, now, nights=nights)
    console = Console.connect(url)
    try:
        with served(console, PIPELINES, now) as address:
            yield address
    finally:
        console.dispose()


@contextmanager
def served(console: Console, pipelines: Collection[str], now: datetime) -> Iterator[str]:
    """Yield the address of the pages on a ledger, for a person who may do everything about these pipelines."""
    dags = {NIGHTLY: DagState(last_state="success"), ARCHIVE: DagState(last_state="running")}
    rights, names = EveryRight(pipelines), partial(set, pipelines)
    app = build(Sources(rights, lambda: console, lambda _: dags, _find_tasks, names, dict, _no_s3, lambda: now))
    app.dependency_overrides[get_user] = Admin
    outer = FastAPI()
    outer.mount(PREFIX, app)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(outer, log_level="warning", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        until("the console listens", lambda: server.started, 30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{PREFIX}"
    finally:
        server.should_exit = True
        thread.join()
