"""Airlock's metrics, written through Airflow's own: StatsD, OpenTelemetry or nothing, as ``[metrics]`` says.

A tag is the name of a pipeline, a stage, a route, a resource type, a disposition, a reason or a kind of run: never a
key, an identifier or a site. docs/telemetry.md lists every metric.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.sdk.observability.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airlock.ledger import Job
    from airlock.ledger.console import Console

DURATION, JOB = "airlock.stage.duration", "airlock.job.duration"  # milliseconds
NOT_NOTIFIED = "airlock.notify.failed"  # seconds since 1970
_SWITCHES = "statsd_on", "statsd_datadog_enabled", "otel_on"
_RUN, _HELD, _OWED, _PARKED = "airlock.run", "airlock.held", "airlock.owed", "airlock.parked"
_OUTBOX, _EDGE, _JOBS = "airlock.outbox", "airlock.edge", "airlock.jobs"
_log = logging.getLogger(__name__)


def is_on() -> bool:
    """Return whether Airflow sends metrics anywhere."""
    return any(conf.getboolean("metrics", switch, fallback=False) for switch in _SWITCHES)


@contextmanager
def timed(pipeline: str, stage: str) -> Iterator[None]:
    """Write how long a stage has worked, also if it fails; the time in which it waits for a job does not count."""
    begin = monotonic()
    try:
        yield
    finally:
        Stats.timing(DURATION, timedelta(seconds=monotonic() - begin), tags={"pipeline": pipeline, "stage": stage})


def note_failed_notification(pipeline: str, kind: str) -> None:
    """Write when a notifier of this kind failed. Each task is a process, so that a counter would stay at 1."""
    Stats.gauge(NOT_NOTIFIED, datetime.now(UTC).timestamp(), tags={"pipeline": pipeline, "kind": kind})


def note_job(pipeline: str, job: Job | None) -> None:
    """Write how long a job has taken, from its submission to its end by the service's clock."""
    if job is not None and job.submitted_at is not None and job.ended_at is not None:
        Stats.timing(JOB, job.ended_at - job.submitted_at, tags={"pipeline": pipeline, "status": str(job.status)})


def note_run(report: Mapping[str, Any]) -> None:
    """Write the numbers of a run's last audit.

    A redrive repeats what earlier runs held: by the tag ``run`` its numbers do not take the place of a delivery's.
    Every disposition and reason is written, also with 0: a gauge keeps what it was told last.

    Parameters
    ----------
    report
        The report, as it is in the workspace.
    """
    from airlock.reasons import Reason
    from airlock.records import Disposition

    if not is_on():
        return
    tags = {"pipeline": str(report["pipeline"]), "run": "redrive" if "redrive" in report else "delivery"}
    for name in ("arrivals", "bytes"):
        Stats.gauge(f"{_RUN}.{name}", report[name], tags=tags)
    Stats.gauge(f"{_RUN}.balanced", int(report["balanced"]), tags=tags)
    Stats.gauge(f"{_RUN}.ended", datetime.now(UTC).timestamp(), tags=tags)  # for alarms: how long ago
    if "reading" in report:
        Stats.gauge(f"{_RUN}.requests", report["reading"]["requests"], tags=tags)
    for disposition in Disposition:
        number = report["dispositions"].get(disposition.value, 0)
        Stats.gauge(f"{_RUN}.dispositions", number, tags=tags | {"disposition": disposition.value})
    for reason in Reason:
        Stats.gauge(
            f"{_RUN}.reasons", _count(report["reasons"].get(reason.value)), tags=tags | {"reason": reason.value}
        )


def _count(explained: Mapping[str, Any] | None) -> int:
    """Return the number of files or units beside a reason's sentence."""
    return 0 if explained is None else next(number for number in explained.values() if isinstance(number, int))


def note_ledger(pipeline: str) -> None:
    """Write what a pipeline has open: holds, owed objects, parked resources, messages, jobs.

    The ledger is asked only if somebody listens. What it cannot answer within a page's time is left out, with a line in
    the log: metrics fail no run.
    """
    from airlock.ledger.console import Console
    from airlock.ledger.errors import LedgerError
    from airlock_tasks.run import ledger_url  # which times its stages by this module

    if not is_on():
        return
    try:
        with Console.connect(ledger_url()) as console, console.page() as ledger:
            _note_holds(ledger, pipeline)
            _note_owed(ledger, pipeline)
            _note_parked(ledger, pipeline)
            _note_messages(ledger, pipeline)
            _note_edge(ledger, pipeline)
            _note_jobs(ledger, pipeline)
    except LedgerError as error:
        _log.warning("The metrics of what is open are not written: the ledger refuses them (%s).", type(error).__name__)


def _note_holds(ledger: Console, pipeline: str) -> None:
    held = next(iter(ledger.held_now([pipeline])), None)
    _note_open(_HELD, "subjects", held.subjects if held else 0, held.since if held else None, {"pipeline": pipeline})


def _note_owed(ledger: Console, pipeline: str) -> None:
    owed = next(iter(ledger.owed_now([pipeline])), None)
    _note_open(_OWED, "objects", owed.objects if owed else 0, owed.since if owed else None, {"pipeline": pipeline})


def _note_parked(ledger: Console, pipeline: str) -> None:
    parked = ledger.parked_now([pipeline])
    since = min((one.since for one in parked), default=None)
    number = sum(one.resources for one in parked)
    _note_open(_PARKED, "resources", number, since, {"pipeline": pipeline})


def _note_messages(ledger: Console, pipeline: str) -> None:
    from airlock.ledger.columns import MessageState

    messages = ledger.open_by_destination([pipeline])
    for name, state in (("waiting", MessageState.PENDING), ("given_up", MessageState.FAILED)):
        ours = [one for one in messages if one.state is state]
        number, since = sum(one.messages for one in ours), min((one.since for one in ours), default=None)
        _note_open(f"{_OUTBOX}.{name}", "messages", number, since, {"pipeline": pipeline})


def _note_edge(ledger: Console, pipeline: str) -> None:
    untold = ledger.count_untold(pipeline)
    _note_open(_EDGE, "untold", untold.objects, untold.since, {"pipeline": pipeline})


def _note_jobs(ledger: Console, pipeline: str) -> None:
    number, since = ledger.count_open_jobs(pipeline)
    _note_open(_JOBS, "open", number, since, {"pipeline": pipeline})


def _note_open(name: str, what: str, number: int, since: datetime | None, tags: dict[str, str]) -> None:
    """Write how many are open and the age of the oldest, in hours; 0 if none is."""
    Stats.gauge(f"{name}.{what}", number, tags=tags)
    Stats.gauge(f"{name}.oldest_hours", 0 if since is None else _hours_since(since), tags=tags)


def _hours_since(moment: datetime) -> float:
    return (datetime.now(UTC) - moment) / timedelta(hours=1)
