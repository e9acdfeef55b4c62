"""``airlock sweep``: compare everything below a source with the ledger, or take in what a sweep has named."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airlock.stages.decision_log import DecisionNotKeptError
from airlock.stages.inventory import InventoryError
from airlock.stages.sweep import sweep
from airlock.stages.sweep_answer import SweepAnswerError, answer
from airlock_cli import workspaces
from airlock_cli.caller import find_caller
from airlock_cli.errors import RequestError, Status, UnreachableError, WrongError
from airlock_cli.ledgers import open_ledger
from airlock_cli.show import Table, say

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_SCHEMA = "airlock.sweep-answer/1"
_COUNTS = ("young", "overdue", "vanished")


class _Progress(logging.Handler):
    """Shows the library's log lines about a sweep to the caller."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line."""
        say(record.getMessage())


@contextmanager
def _shown_progress() -> Iterator[None]:
    log, handler = logging.getLogger("airlock.stages.sweep"), _Progress()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def start(pipeline: str, *, dry_run: bool) -> dict[str, Any]:
    """Sweep a pipeline's source, or go on with an interrupted sweep; return the report, schema ``airlock.sweep/1``.

    Raises
    ------
    WrongError
        If the inventory cannot be used.
    """
    known = workspaces.load_named_pipeline(pipeline)
    with _shown_progress(), open_ledger() as ledger, workspaces.open_s3(known) as s3:
        try:
            return sweep(known, s3, ledger, find_caller(), dry_run=dry_run).report
        except InventoryError as error:
            raise WrongError(str(error)) from None


def take_in(pipeline: str, number: int, why: str) -> dict[str, Any]:
    """Make owed what a sweep has named, and return the counts, schema `ANSWER_SCHEMA`.

    Raises
    ------
    RequestError
        If there is no such sweep, it named nothing, or no reason is given.
    UnreachableError
        If the decision cannot be copied to the workspace.
    """
    known = workspaces.load_named_pipeline(pipeline)
    with open_ledger() as ledger, workspaces.open_s3(known) as s3:
        try:
            named, owed = answer(known, s3, ledger, number, take_in=True, person=find_caller(), why=why.strip())
        except SweepAnswerError as error:
            raise RequestError(str(error)) from None
        except DecisionNotKeptError as error:
            raise UnreachableError(str(error)) from None
    return {"schema": ANSWER_SCHEMA, "pipeline": pipeline, "sweep": number, "named": named, "owed": owed}


def describe_answer(found: dict[str, Any]) -> str:
    """Return the message for a result of `take_in`."""
    known = found["named"] - found["owed"]
    others = f" The other {known} are arrivals or owed already." if known else ""
    return f"{found['owed']} of {found['named']} objects are owed: the next run without a prefix takes them.{others}"


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a sweep's report."""
    head = [
        ("source", report["source"]),
        ("read from", report["read_from"]),
        ("objects listed", report["listed"]),
        *((name, report[name]) for name in (*_COUNTS, "owed")),
        ("taken in by the next run", report["taken_in"]),
        ("named for a person", report["asks"]),
        ("new folders", report["new_folders"]),
        ("dry, because", report["dry"]),
        ("requests", sum(report["requests"].values())),
        ("overdue objects", report["overdue_uri"]),
        ("vanished arrivals", report["vanished_uri"]),
    ]
    yield Table(f"sweep {report['sweep']} of pipeline {report['pipeline']}", ("", ""), head)
    sites = [(name, *(counts[kind] for kind in _COUNTS)) for name, counts in report["sites"].items()]
    yield Table("by site", ("site", *_COUNTS), sites)
    if report["asks"]:
        say(f"To take in what is named: airlock sweep {report['pipeline']} --take-in {report['sweep']} --why REASON")


def status(report: dict[str, Any]) -> Status:
    """Return the exit status of a sweep: an overdue object is a problem."""
    return Status.WRONG if report["overdue"] else Status.OK
