"""Audit, for all kinds: open arrivals, the entries of jobs in the report, and the result of an audit."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.reasons import Reason
from airlock.stages.brake import describe
from airlock.stages.buffer import find_buffered
from airlock.stages.pages import report_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock.ledger import Job, Ledger
    from airlock.ledger.database import Scope
    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.brake import AnyRun, Finding
    from airlock.stages.jobs import EndedJob

# The run has not decided on arrivals with these reasons: it keeps its claims on them until the failed task is cleared.
OPEN_REASONS = (Reason.UNDECIDED, Reason.JOB_NOT_STARTED, Reason.JOB_UNFINISHED)

_UNFROZEN = "buffer has not frozen a delivery: fix the cause in buffer or receive, and clear that task"
_UNCLAIMED = (
    "buffer has not claimed the arrivals of the redrive, so none was redriven: see buffer's log. If the choice is "
    "wrong, start a corrected redrive; otherwise fix the cause and clear buffer"
)
_GIVEN_BACK = "{} arrivals of the run were given back: clear its buffer task with its downstream"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Addition:
    """What the transaction that settles also records, and what it locks for that."""

    record: Callable[[Ledger], None]
    scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class Audited:
    """The result of an audit."""

    report: dict[str, Any]
    report_uri: str
    dispositions_uri: str
    open_arrivals: int  # arrivals on which the run has not decided yet
    stopped_by: Finding | None = None  # the brake's finding; nothing is settled then

    @property
    def balanced(self) -> bool:
        """Whether every arrival is counted exactly once in each step."""
        return bool(self.report["balanced"])


def leave_open(run: AnyRun, audited: Audited, stopped_by: Finding) -> Audited:
    """Write the brake's finding into the report of an audit that settles nothing, here and in the ledger."""
    audited.report["brake"] = describe(run, stopped_by)
    write_report(run, audited.report)
    run.ledger.close_run(run.key, "open", audited.report)
    return replace(audited, stopped_by=stopped_by)


def write_report(run: Run[Pipeline], report: dict[str, Any]) -> str:
    """Write report.json and the same as a page, report.html; return the address of report.json."""
    workspace = run.within("").workspace
    page = _make_page(report)
    if page is not None:
        run.s3.put(workspace.root.join(f"audit/{report_file.NAME}"), page, "text/html; charset=utf-8")
    return workspace.write_json("audit/report.json", report)


def _make_page(report: dict[str, Any]) -> bytes | None:
    try:
        return report_file.make_page(report).encode()
    except Exception as error:  # noqa: BLE001  # the page is to be read only: no run may fail for it
        _log.warning("%s was not written: %s", report_file.NAME, type(error).__name__)
        return None


def explain_problems(run: Run[Pipeline], problems: list[str]) -> list[str]:
    """Return the problems of a run's books, after their cause and its remedy where the run's delivery is the cause."""
    buffered = find_buffered(run.within(""))
    if buffered is None:
        return [_UNFROZEN if run.redrive is None else _UNCLAIMED, *problems]
    lost = buffered.arrivals - run.ledger.held_total(run.pipeline.name, run.key)[0] if problems else 0
    return [_GIVEN_BACK.format(lost), *problems] if lost > 0 else problems


def is_open() -> pl.Expr:
    """Return whether the run has not decided on a row yet, from the column ``reason``."""
    return pl.col("reason").is_in([str(reason) for reason in OPEN_REASONS]).fill_null(value=False)


def missing_job_reason(known: Job | None) -> Reason:
    """Return the reason of a batch without an ended job, from its job in the ledger."""
    return Reason.JOB_NOT_STARTED if known is None or known.job_id is None else Reason.JOB_UNFINISHED


def build_job_entry(batch: Batch, job: EndedJob | Job, discrepancies: list[str], **counts: int) -> dict[str, Any]:
    """Return a job's entry in the report.

    Parameters
    ----------
    batch
        The job's batch.
    job
        The job, ended or not.
    discrepancies
        The differences between its counts, lines and the batch's list, in sentences without identifiers.
    **counts
        The counts of the kind besides files and bytes.
    """
    return {
        "batch_id": batch.batch_id,
        "files": batch.files,
        **counts,
        "bytes": batch.bytes,
        "job_id": job.job_id,
        "generation": job.generation,
        "status": job.status,
        "discrepancies": discrepancies,
    }
