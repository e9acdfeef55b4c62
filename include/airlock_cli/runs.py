"""``airlock plan``, ``run`` and ``redrive``: start a run over REST, follow it, and fetch its result."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airlock.run import PLAN, PrefixOutsideSourceError, run_key, source_prefix
from airlock.suggestions import suggest_name
from airlock_cli import settings, workspaces
from airlock_cli.airflow_api import AirflowApi, ApiError, ApiUnreachableError
from airlock_cli.errors import RequestError, UndecidedError, UnreachableError, WrongError
from airlock_cli.report import find_report
from airlock_cli.show import Table, say
from airlock_cli.watch import WAITS, describe_failures, follow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMA = "airlock.run/1"


@dataclass(frozen=True)
class Started:
    """A run that was started, with the state in which following it ended."""

    pipeline: str
    run_id: str
    state: str  # Airflow's state, or `WAITS`
    page: str  # its address in Airflow's UI

    def as_json(self) -> dict[str, Any]:
        """Return the run's part of the JSON result, schema `SCHEMA`."""
        key = run_key(self.pipeline, self.run_id)
        own = {"pipeline": self.pipeline, "run_id": self.run_id, "run_key": key, "state": self.state, "page": self.page}
        return {"schema": SCHEMA} | own

    def table(self) -> Table:
        """Return the run as a table."""
        rows = [(name, value) for name, value in self.as_json().items() if name != "schema"]
        return Table("run", ("", ""), rows)


def build_run_conf(
    pipeline: str, prefix: str | None, window_start: str | None, window_end: str | None
) -> dict[str, Any]:
    """Return the conf of a run that imports a prefix and a window.

    Raises
    ------
    RequestError
        If the prefix does not end in a slash or, if the pipeline file can be read, is outside the source; if only one
        end of the window is given, or an end is not a time with a zone.
    """
    _require_valid_prefix(pipeline, prefix)
    if bool(window_start) != bool(window_end):
        raise RequestError("--window-start and --window-end belong together. Give both or neither.")
    given = {"prefix": prefix, "window_start": window_start, "window_end": window_end}
    for name in ("window_start", "window_end"):
        _require_moment(f"--{name.replace('_', '-')}", given[name])
    return {name: value for name, value in given.items() if value}


def _require_valid_prefix(pipeline: str, prefix: str | None) -> None:
    """Refuse a prefix at which the run's first task would fail."""
    if prefix and not prefix.endswith("/"):
        raise RequestError("--prefix must end in '/'. Add it: without it the prefix of one folder matches others too.")
    if prefix and settings.has_pipelines():
        try:
            source_prefix(workspaces.load_named_pipeline(pipeline), prefix)
        except PrefixOutsideSourceError as error:
            raise RequestError(f"--prefix: {error}") from None


def _require_moment(option: str, text: str | None) -> None:
    if not text:
        return
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise RequestError(f"{option} is not a date and time with a zone. Write it as 2026-11-24T00:00:00+00:00.")


@contextmanager
def airflow() -> Iterator[AirflowApi]:
    """Open Airflow's REST API and log in; its errors become errors of a command."""
    try:
        with AirflowApi(settings.api_url(), **settings.api_login()) as api:
            api.log_in()
            yield api
    except ApiUnreachableError as error:
        raise UnreachableError(f"{error}\nCheck {settings.API_URL} and the login.") from None
    except ApiError as error:
        raise RequestError(str(error)) from None


def start(pipeline: str, conf: dict[str, Any], *, wait: bool, minutes: float | None) -> Started:
    """Start a run, and follow it if ``wait`` is set.

    Parameters
    ----------
    pipeline
        The run's pipeline.
    conf
        The run's params.
    wait
        Whether to follow the run to its end.
    minutes
        How long to follow the run; None for no limit.

    Raises
    ------
    RequestError
        If Airflow does not know the pipeline, or the pipeline is paused.
    UndecidedError
        If the run takes longer than ``minutes``.
    """
    with airflow() as api:
        _require_startable(api, pipeline)
        run_id = api.trigger(pipeline, conf)
        page = api.run_page(pipeline, run_id)
        say(f"Run {run_id} of pipeline {pipeline}: {page}")
        if not wait:
            return Started(pipeline, run_id, "queued", page)
        state, tasks = follow(api, pipeline, run_id, say, _time_limit(run_id, minutes))
        for cause in describe_failures(api, tasks):
            say(cause)
    return Started(pipeline, run_id, state, page)


def _require_startable(api: AirflowApi, pipeline: str) -> None:
    dag = api.dag(pipeline)
    if dag is None:
        errors = "".join(f"; {error}" for error in api.import_errors())
        meant = suggest_name(pipeline, api.dags(), "run airlock pipelines check")
        raise RequestError(f"Airflow does not know the pipeline {pipeline!r}: {meant}{errors}")
    if dag["is_paused"]:
        raise RequestError(
            f"Pipeline {pipeline!r} is paused in Airflow, so no run starts. Switch it on in the UI, or with: "
            f"airflow dags unpause {pipeline}"
        )


def _time_limit(run_id: str, minutes: float | None) -> Callable[[], None]:
    until = None if minutes is None else time.monotonic() + 60 * minutes

    def check() -> None:
        if until is not None and time.monotonic() > until:
            raise UndecidedError(f"Run {run_id} has not ended within {minutes:g} minutes. It continues in Airflow.")

    return check


def require_success(started: Started) -> None:
    """Refuse a run that did not succeed.

    Raises
    ------
    WrongError
        If the run failed.
    UndecidedError
        If the run waits for a person.
    """
    if started.state == WAITS:
        raise UndecidedError(f"Run {started.run_id} waits for a person. Answer it in the UI, under Required Actions.")
    if started.state != "success":
        raise WrongError(f"Run {started.run_id} ended as {started.state}. See {started.page}")


def report_of(started: Started) -> dict[str, Any] | None:
    """Return the report of an ended run; print a message and return None if the run wrote none."""
    try:
        return find_report(started.pipeline, started.run_id)
    except (WrongError, UndecidedError) as error:
        say(str(error))
        return None


def plan_of(started: Started) -> dict[str, Any]:
    """Return the plan that a run wrote, schema ``airlock.plan/1``.

    Raises
    ------
    WrongError
        If the run wrote none.
    """
    pipeline = workspaces.load_named_pipeline(started.pipeline)
    content = workspaces.read_run_file(pipeline, run_key(started.pipeline, started.run_id), f"{PLAN}/plan.json")
    if content is None:
        raise WrongError(f"Run {started.run_id} wrote no plan into {pipeline.workspace}. See {started.page}")
    plan: dict[str, Any] = json.loads(content)
    return plan
