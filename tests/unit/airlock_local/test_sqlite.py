"""Two processes write to Airflow's database: a savepoint, as backfills begin with, waits for its turn and keeps it."""

from __future__ import annotations

import sqlite3
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, text

from airlock_local.components import API_SERVER, plan
from airlock_local.environment import airflow_variables, read_secrets
from airlock_local.settings import read_settings
from airlock_local.sqlite import BACKFILL_ARGUMENTS, CONNECT_ARGUMENTS

if TYPE_CHECKING:
    from pathlib import Path

OPTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "airflow.db"
    with sqlite3.connect(file) as made:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("CREATE TABLE runs (number INTEGER)")
    return file


def engine_of(file: Path, arguments: dict[str, Any]) -> Engine:
    return create_engine(f"sqlite:///{file}", connect_args=arguments)


def make_runs(engine: Engine, file: Path) -> None:
    """Make runs as a backfill does, while another process tries to write."""
    with engine.connect() as connection, sqlite3.connect(file, timeout=0) as other:
        for number in range(2):
            with connection.begin_nested():
                connection.execute(text("SELECT max(number) FROM runs")).all()
                try:
                    other.execute("INSERT INTO runs VALUES (100)")
                    other.commit()
                except sqlite3.OperationalError:
                    other.rollback()
                connection.execute(text("INSERT INTO runs VALUES (:number)"), {"number": number})
        connection.commit()
    engine.dispose()


def numbers(file: Path) -> list[int]:
    with sqlite3.connect(file) as connection:
        return [row[0] for row in connection.execute("SELECT number FROM runs ORDER BY number")]


def test_a_backfill_is_not_refused_because_another_process_writes(file: Path) -> None:
    make_runs(engine_of(file, dict(BACKFILL_ARGUMENTS)), file)
    assert numbers(file) == [0, 1]


def test_without_it_sqlite_refuses_the_first_write(file: Path) -> None:
    with pytest.raises(Exception, match="database is locked"):
        make_runs(engine_of(file, {"timeout": 30.0}), file)


def test_a_rolled_back_savepoint_leaves_nothing(file: Path) -> None:
    engine = engine_of(file, dict(BACKFILL_ARGUMENTS))
    with engine.connect() as connection:
        with connection.begin_nested() as nested:
            connection.execute(text("INSERT INTO runs VALUES (1)"))
            nested.rollback()
        connection.execute(text("INSERT INTO runs VALUES (2)"))
        connection.commit()
    engine.dispose()
    assert numbers(file) == [2]


@pytest.mark.parametrize(("url", "is_set"), [("", True), ("postgresql+psycopg2://airflow@db/airflow", False)])
def test_only_a_stack_on_sqlite_has_it(tmp_path: Path, url: str, is_set: bool) -> None:
    settings = read_settings({"AIRLOCK_VAR": str(tmp_path), "AIRLOCK_METADATA_URL": url})
    variables = airflow_variables(settings, read_secrets(settings))
    parts = plan(settings, variables, (), local=True, account=False).services
    for part in (part for part in parts if "airflow" in part.argv):
        value = part.environment.get(OPTION)
        expected = BACKFILL_ARGUMENTS if part.name == API_SERVER else CONNECT_ARGUMENTS
        assert value is not None if is_set else value is None, part.name
        if value is not None:
            module, _, name = value.rpartition(".")
            assert getattr(import_module(module), name) is expected, part.name


def test_a_process_waits_for_longer_than_sqlite_by_itself() -> None:
    assert CONNECT_ARGUMENTS["timeout"] > 5
