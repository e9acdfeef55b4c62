"""Environment first: Airflow reads its settings when it is imported."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from sqlalchemy import Engine, event

from tests.servers.kept_connections import KeptConnections

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _pytest.terminal import TerminalReporter

# A test says nothing about a machine's speed: a busy one would fail what has no fault.
hypothesis.settings.register_profile("airlock", deadline=None)
hypothesis.settings.load_profile("airlock")

# With Python's own numbers a seventh of the time went into the garbage collector: the imports are large.
gc.set_threshold(50_000, 20, 100)

ROOT = Path(__file__).parents[1]
HOME = tempfile.mkdtemp(prefix="airlock-airflow-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

os.environ.update(
    AIRFLOW_HOME=HOME,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
    AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",
    AWS_DEFAULT_REGION="us-east-1",
)
os.environ.setdefault("POLARS_MAX_THREADS", "1")  # the frames have a few rows; a thread for each core only costs


@event.listens_for(Engine, "connect")
def do_not_wait_for_the_disk(connection: object, _: object) -> None:
    """Let SQLite leave it to the system when a commit is on the disk: tests kill processes, not machines."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session", autouse=True)
def keep_connections() -> Iterator[None]:
    from airlock.ledger import database

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "NullPool", KeptConnections)
        yield


def pytest_collection_finish() -> None:
    """Take what the imports made out of what the garbage collector looks through again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a worker of pytest-xdist look through what its tests made before it says that it is done.

    Afterwards execnet gives it five seconds to end and sends it SIGINT. pytest's own collection took longer on a busy
    machine, and printed a KeyboardInterrupt of whatever function ran in it.
    """
    if hasattr(session.config, "workerinput"):
        gc.collect()
        gc.freeze()


def group_of(nodeid: str) -> str:
    """Return the group of a test: its folder below tests, of unit tests with the package."""
    folders = Path(nodeid.partition("::")[0]).parts[1:-1]
    return "/".join(folders[: 2 if folders[:1] == ("unit",) else 1]) or "tests"


def seconds_by_group(reports: Iterable[pytest.TestReport]) -> dict[str, tuple[int, float]]:
    """Return the tests of each group and their seconds, set-up and tear-down included, the longest group first."""
    tests, seconds = Counter[str](), Counter[str]()
    for report in reports:
        group = group_of(report.nodeid)
        tests[group] += report.when == "call"
        seconds[group] += report.duration
    return {group: (tests[group], total) for group, total in seconds.most_common()}


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the seconds of each group; groups run side by side, so that their sum is more than the whole run's."""
    reports = [
        item for items in terminalreporter.stats.values() for item in items if isinstance(item, pytest.TestReport)
    ]
    terminalreporter.section("seconds per group")
    for group, (tests, seconds) in seconds_by_group(reports).items():
        terminalreporter.line(f"{seconds:8.1f} s  {tests:5} tests  {group}")
