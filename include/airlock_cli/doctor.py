"""``airlock doctor``: whether everything that pipelines need is there, reachable and set up safely."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from airlock.stages.doctor.attempts import CheckUnableError
from airlock.stages.doctor.examination import SCHEMA, describe, examine
from airlock.stages.doctor.findings import Result
from airlock.stages.doctor.pipeline_files import TITLE, find_wrong_files
from airlock.stages.doctor.rights import IamSimulator
from airlock.stages.doctor.world import World
from airlock_cli import settings, workspaces
from airlock_cli.airflow_connections import ConnectionTextError, read_connection
from airlock_cli.airflow_deployment import Deployment
from airlock_cli.aws_access import ConnectionAccess
from airlock_cli.errors import Status
from airlock_cli.show import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import Pipeline
    from airlock.stages.doctor.world import AwsAccess

_LEDGER = "airlock_ledger"
_COLUMNS = ("result", "check", "about", "found", "fix")
_LEFT = ("check", "about", "found")
_ORDER = {Result.FAIL.value: 0, Result.WARN.value: 1, Result.PASS.value: 2}


def open_world(pipeline: Pipeline) -> World:
    """Return what the doctor looks at for a pipeline, by this process's environment."""

    @cache
    def connect(name: str) -> AwsAccess:
        try:
            return ConnectionAccess(read_connection(name, os.environ))
        except ConnectionTextError as error:
            raise CheckUnableError(str(error).replace(". ", ".\n", 1)) from None

    ledger_url, problem = None, ""
    try:
        ledger_url = find_ledger_url()
    except ConnectionTextError as error:
        problem = str(error)
    return World(pipeline, connect, IamSimulator, Deployment(), ledger_url, problem)


def find_ledger_url() -> str | None:
    """Return the ledger's address as workers find it; None if the environment does not say it.

    Raises
    ------
    ConnectionTextError
        If the connection is written wrongly.
    """
    given = read_connection(_LEDGER, os.environ)
    return given.database_url() if given is not None else os.environ.get(settings.LEDGER_URL)


def check(name: str | None, seconds: float) -> dict[str, Any]:
    """Return the findings on a pipeline, or on all and on the wrong pipeline files, as JSON.

    Raises
    ------
    RequestError
        If there is no such pipeline, or the folder of the pipeline files cannot be read.
    """
    if name:
        chosen, wrong = [workspaces.load_named_pipeline(name)], []
    else:
        known, problems = workspaces.read_pipeline_files()
        chosen, wrong = list(known.values()), list(find_wrong_files(problems, len(known)))
    found = [describe(one.name, examine(open_world(one), seconds)) for one in chosen]
    return {"schema": SCHEMA, "pipelines": ([describe(TITLE, wrong)] if wrong else []) + found}


def status(found: dict[str, Any]) -> Status:
    """Return the exit status: 1 if a check has failed."""
    return Status.WRONG if any(one["counts"][Result.FAIL.value] for one in found["pipelines"]) else Status.OK


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield a table of findings for each pipeline, the gravest first, and what was not checked."""
    for one in found["pipelines"]:
        made = [row for row in one["checks"] if row["result"] in _ORDER]
        made.sort(key=lambda row: _ORDER[row["result"]])
        counts = ", ".join(f"{number} {result}" for result, number in one["counts"].items())
        yield Table(f"{one['pipeline']}: {counts}", _COLUMNS, [[row[name] for name in _COLUMNS] for row in made])
        others = [row for row in one["checks"] if row["result"] not in _ORDER]
        yield Table(
            "not checked", ("check", "about", "why"), [(row["check"], row["about"], row["found"]) for row in others]
        )
