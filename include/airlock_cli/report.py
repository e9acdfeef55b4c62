"""``airlock report``: a run's report, from the ledger, or from the workspace if no ledger is set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airlock.run import run_key
from airlock_cli import settings, workspaces
from airlock_cli.errors import RequestError, Status, UndecidedError, WrongError
from airlock_cli.show import Table, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTED = ("verdicts", "outcomes", "dispositions", "studies", "publication", "patients", "files")


def find_report(pipeline: str, run: str | None) -> dict[str, Any]:
    """Return a run's report, equal to its report.json.

    Parameters
    ----------
    pipeline
        The run's pipeline.
    run
        Airflow's run id or the run's key; None for the newest run, which only the ledger knows.

    Raises
    ------
    WrongError
        If the run does not exist.
    UndecidedError
        If the run has not written its report yet.
    """
    return _from_ledger(pipeline, run) if settings.has_ledger() else _from_workspace(pipeline, run)


def require_report_source() -> None:
    """Refuse to start a run whose report could not be read, since neither the ledger nor the pipelines are set."""
    if not settings.has_ledger():
        settings.pipelines()


def _from_ledger(pipeline: str, run: str | None) -> dict[str, Any]:
    from airlock_cli.ledgers import has_run, no_such_run, open_ledger  # noqa: PLC0415  # the workspace needs none

    with open_ledger() as ledger:
        if not has_run(ledger, pipeline):
            raise WrongError(f"{pipeline} has not run yet.")
        found = ledger.find_run(pipeline, run)
    if found is None:
        raise WrongError(no_such_run(pipeline, run))
    if found.report is None:
        raise UndecidedError(
            f"Run {found.run_id!r} is {found.state} and has no report yet. Its task audit writes the report."
        )
    return found.report


def _from_workspace(pipeline: str, run: str | None) -> dict[str, Any]:
    if run is None:
        raise RequestError(f"Only the ledger knows the newest run. Set {settings.LEDGER_URL}, or name the RUN.")
    known = workspaces.load_named_pipeline(pipeline)
    for key in (run_key(pipeline, run), run):
        content = workspaces.read_run_file(known, key, "audit/report.json")
        if content is not None:
            found: dict[str, Any] = json.loads(content)
            return found
    raise WrongError(f"The workspace {known.workspace} has no report of run {run!r}. The run's task audit writes it.")


def status(found: dict[str, Any]) -> Status:
    """Return the exit status: `WRONG` if the books do not balance; held studies do not change it."""
    return Status.OK if found["balanced"] else Status.WRONG


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a report."""
    window = " to ".join(found["window"]) if found.get("window") else "everything below the prefix"
    head = [
        ("pipeline", found["pipeline"]),
        ("run", found["run_id"]),
        ("run key", found["run_key"]),
        ("window", window),
    ]
    head += [(name, found[name]) for name in ("resources", "arrivals", "validation_level") if name in found]
    head += [("size", format_size(found["bytes"]))] if "bytes" in found else []
    head += [("brake", found["brake"])] if "brake" in found else []
    head += [("books", "balance" if found["balanced"] else "DO NOT BALANCE: nothing is released")]
    yield Table("report", ("", ""), head)
    yield Table("problems", ("",), [(problem,) for problem in found["problems"]])
    counts = [(step, number, name) for step in _COUNTED for name, number in found.get(step, {}).items() if number]
    yield Table("counts", ("step", "number", "result"), counts)
    reasons = [
        (item.get("arrivals", item.get("units")), code, item["sentence"]) for code, item in found["reasons"].items()
    ]
    yield Table("reasons", ("number", "reason", "what_to_do"), reasons)
    owed = found.get("owed", {}).get("reasons", {})
    rows = [(item["objects"], item["overdue"], code, item["sentence"]) for code, item in owed.items()]
    yield Table("objects that are tried again", ("number", "overdue", "reason", "what_to_do"), rows)
    yield _jobs_table(found["jobs"])


def _jobs_table(jobs: list[dict[str, Any]]) -> Table:
    columns = [
        name
        for name in ("batch_id", "generation", "job_id", "status", "message", "notes")
        if any(job.get(name) is not None for job in jobs)
    ]
    return Table(f"import jobs: {len(jobs)}", columns, [[job.get(name) for name in columns] for job in jobs])
