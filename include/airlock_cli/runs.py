"""``airlock plan``, ``run`` and ``redrive``: start a run over REST, follow it, and fetch what it leaves."""

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
from airlock_cli.report import report
from airlock_cli.show import Table, say
from airlock_cli.watch import WAITS, causes, follow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMA = "airlock.run/1"


@dataclass(frozen=True)
class Started:
    """A run that was started, as far as it was followed."""

    pipeline: str
    run_id: str
    state: str  # Airflow's word, or `WAITS`
    page: str  # of the UI

    def as_json(self) -> dict[str, Any]:
        """Return the beginning of what ``--json`` prints, schema `SCHEMA`."""
        key = run_key(self.pipeline, self.run_id)
        own = {"pipeline": self.pipeline, "run_id": self.run_id, "run_key": key, "state": self.state, "page": self.page}
        return {"schema": SCHEMA} | own

    def table(self) -> Table:
        """Return the same for people."""
        rows = [(name, value) for name, value in self.as_json().items() if name != "schema"]
        return Table("run", ("", ""), rows)


def conf_of(pipeline: str, prefix: str | None, window_start: str | None, window_end: str | None) -> dict[str, Any]:
    """Return the conf of a pipeline's run that takes in a prefix and a window.

    Raises
    ------
    RequestError
        If the prefix does not end in a slash or, where the pipeline file is at hand, is not below the source; if only
        one end of the window is given, or one is no time with a zone.
    """
    _check_prefix(pipeline, prefix)
    if bool(window_start) != bool(window_end):
        raise RequestError("--window-start and --window-end go together: give both or neither")
    given = {"prefix": prefix, "window_start": window_start, "window_end": window_end}
    for name in ("window_start", "window_end"):
        _check_moment(f"--{name.replace('_', '-')}", given[name])
    return {name: value for name, value in given.items() if value}


def _check_prefix(pipeline: str, prefix: str | None) -> None:
    """Refuse what would fail in the run's first task."""
    if prefix and not prefix.endswith("/"):
        raise RequestError("--prefix must end in '/': add it, so that nothing else begins with the same letters")
    if prefix and settings.has_pipelines():
        try:
            source_prefix(workspaces.pipeline_named(pipeline), prefix)
        except PrefixOutsideSourceError as error:
            raise RequestError(f"--prefix: {error}") from None


def _check_moment(option: str, text: str | None) -> None:
    if not text:
        return
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise RequestError(f"{option} is no date and time with its zone: write it as 2026-11-24T00:00:00+00:00")


@contextmanager
def airflow() -> Iterator[AirflowApi]:
    """Open Airflow's REST API, logged in; its errors become those of a command."""
    try:
        with AirflowApi(settings.api_url(), **settings.api_login()) as api:
            api.log_in()
            yield api
    except ApiUnreachableError as error:
        raise UnreachableError(f"{error}: check {settings.API_URL} and the login") from None
    except ApiError as error:
        raise RequestError(str(error)) from None


def start(pipeline: str, conf: dict[str, Any], *, wait: bool, minutes: float | None) -> Started:
    """Start a run, and follow it where that is wanted.

    Parameters
    ----------
    pipeline
        Whose run.
    conf
        Its params.
    wait
        Whether it is followed to its end.
    minutes
        How long it is followed; None for as long as it takes.

    Raises
    ------
    RequestError
        If Airflow knows no such pipeline, or it is paused.
    UndecidedError
        If the run takes longer, or the person no longer waits.
    """
    with airflow() as api:
        _need_ready(api, pipeline)
        run_id = api.trigger(pipeline, conf)
        page = api.run_page(pipeline, run_id)
        say(f"run {run_id} of pipeline {pipeline}: {page}")
        if not wait:
            return Started(pipeline, run_id, "queued", page)
        state, tasks = follow(api, pipeline, run_id, say, _limit(run_id, minutes))
        for cause in causes(api, tasks):
            say(cause)
    return Started(pipeline, run_id, state, page)


def _need_ready(api: AirflowApi, pipeline: str) -> None:
    dag = api.dag(pipeline)
    if dag is None:
        errors = "".join(f"; {error}" for error in api.import_errors())
        meant = suggest_name(pipeline, api.dags(), "see airlock pipelines check")
        raise RequestError(f"Airflow knows no pipeline {pipeline!r}: {meant}{errors}")
    if dag["is_paused"]:
        raise RequestError(
            f"pipeline {pipeline!r} is paused in Airflow, and a paused one starts no run: switch it on in the UI, or "
            f"with airflow dags unpause {pipeline}"
        )


def _limit(run_id: str, minutes: float | None) -> Callable[[], None]:
    until = None if minutes is None else time.monotonic() + 60 * minutes

    def check() -> None:
        if until is not None and time.monotonic() > until:
            raise UndecidedError(f"run {run_id} has not ended within {minutes:g} minutes; it goes on in Airflow")

    return check


def need_success(started: Started) -> None:
    """Refuse to go on with a run that failed or waits for a person.

    Raises
    ------
    WrongError, UndecidedError
        As the run's state is.
    """
    if started.state == WAITS:
        raise UndecidedError(f"run {started.run_id} waits for a person: answer it in the UI, under Required Actions")
    if started.state != "success":
        raise WrongError(f"run {started.run_id} has {started.state}: see {started.page}")


def report_of(started: Started) -> dict[str, Any] | None:
    """Return the report of a run that has ended; None, with a message, where it did not come to write one."""
    try:
        return report(started.pipeline, started.run_id)
    except (WrongError, UndecidedError) as error:
        say(str(error))
        return None


def plan_of(started: Started) -> dict[str, Any]:
    """Return the plan that a run has left, schema ``airlock.plan/1``.

    Raises
    ------
    WrongError
        If it has left none.
    """
    pipeline = workspaces.pipeline_named(started.pipeline)
    content = workspaces.read(pipeline, run_key(started.pipeline, started.run_id), f"{PLAN}/plan.json")
    if content is None:
        raise WrongError(f"run {started.run_id} has left no plan in {pipeline.workspace}: see {started.page}")
    plan: dict[str, Any] = json.loads(content)
    return plan
