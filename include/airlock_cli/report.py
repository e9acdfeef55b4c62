"""``airlock report``: the report of a run, from the ledger, or from the workspace where there is no ledger to ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airlock.run import run_key
from airlock_cli import settings, workspaces
from airlock_cli.errors import RequestError, Status, UndecidedError, WrongError
from airlock_cli.show import Table, size

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTED = ("verdicts", "outcomes", "dispositions", "studies", "publication", "patients", "files")


def report(pipeline: str, run: str | None) -> dict[str, Any]:
    """Return a run's report, as report.json has it.

    Parameters
    ----------
    pipeline
        Whose run it is.
    run
        Airflow's run id or the run's key; None for the newest, which only the ledger knows.

    Raises
    ------
    WrongError
        If there is no such run.
    UndecidedError
        If the run has not come to write one.
    """
    return _from_ledger(pipeline, run) if settings.has_ledger() else _from_workspace(pipeline, run)


def need_place() -> None:
    """Refuse a request whose report could not be read in the end: neither ledger nor pipelines are set."""
    if not settings.has_ledger():
        settings.pipelines()


def _from_ledger(pipeline: str, run: str | None) -> dict[str, Any]:
    from airlock_cli.ledgers import has_run, opened  # noqa: PLC0415  # not where the workspace is asked

    with opened() as ledger:
        if not has_run(ledger, pipeline):
            raise WrongError(f"{pipeline} has not run yet")
        found = ledger.find_run(pipeline, run)
    if found is None:
        raise WrongError(f"{pipeline} has no run {run!r}: give its run id, as Airflow's UI shows it, or its run key")
    if found.report is None:
        raise UndecidedError(f"run {found.run_id!r} is {found.state} and has no report yet: its audit writes it")
    return found.report


def _from_workspace(pipeline: str, run: str | None) -> dict[str, Any]:
    if run is None:
        raise RequestError(f"which run is the newest is in the ledger: set {settings.LEDGER_URL}, or name the RUN")
    known = workspaces.pipeline_named(pipeline)
    for key in (run_key(pipeline, run), run):
        content = workspaces.read(known, key, "audit/report.json")
        if content is not None:
            found: dict[str, Any] = json.loads(content)
            return found
    raise WrongError(f"the workspace {known.workspace} has no report of run {run!r}: its audit writes it")


def status(found: dict[str, Any]) -> Status:
    """Return the exit status: books that do not balance are wrong, held studies are not."""
    return Status.OK if found["balanced"] else Status.WRONG


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a report."""
    window = " to ".join(found["window"]) if found.get("window") else "all below the prefix"
    head = [
        ("pipeline", found["pipeline"]),
        ("run", found["run_id"]),
        ("run key", found["run_key"]),
        ("window", window),
    ]
    head += [(name, found[name]) for name in ("resources", "arrivals", "validation_level") if name in found]
    head += [("size", size(found["bytes"]))] if "bytes" in found else []
    head += [("books", "balance" if found["balanced"] else "DO NOT BALANCE: nothing is released")]
    yield Table("report", ("", ""), head)
    yield Table("problems", ("",), [(problem,) for problem in found["problems"]])
    counts = [(step, number, word) for step in _COUNTED for word, number in found.get(step, {}).items() if number]
    yield Table("counts", ("step", "number", "word"), counts)
    reasons = [
        (item.get("arrivals", item.get("units")), code, item["sentence"]) for code, item in found["reasons"].items()
    ]
    yield Table("reasons", ("number", "reason", "what_to_do"), reasons)
    yield _jobs(found["jobs"])


def _jobs(jobs: list[dict[str, Any]]) -> Table:
    columns = [
        name
        for name in ("batch_id", "generation", "job_id", "status", "message")
        if any(job.get(name) is not None for job in jobs)
    ]
    return Table(f"import jobs: {len(jobs)}", columns, [[job.get(name) for name in columns] for job in jobs])
