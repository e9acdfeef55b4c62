"""The report of a run: report.json with the counts, dispositions.csv with one row per arrival.

Both are written for every run, successful or not. report.json names no key, no identifier and no UID; dispositions.csv
is the list that people fix and resubmit, and stays in the workspace.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.reasons import SENTENCES, Reason
from airlock.records import DISPOSITIONS, Gate, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.run import Run

CSV_COLUMNS = (*(name for name in DISPOSITIONS.names() if name != "arrival_id"), "what_to_do")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def build(run: Run, books: dict[str, pl.DataFrame], jobs: list[dict[str, Any]], problems: list[str]) -> dict[str, Any]:
    """Count a run's books.

    Parameters
    ----------
    run
        Whose report this is.
    books
        The frames ``arrivals``, ``verdicts``, ``outcomes``, ``gates`` and ``dispositions``.
    jobs
        One entry per import job.
    problems
        What keeps the books from balancing; empty when they do.
    """
    dispositions, verdicts, gates = books["dispositions"], books["verdicts"], books["gates"]
    gated = counts(gates["gate"])
    studies = verdicts.filter(pl.col("StudyInstanceUID") != "")["StudyInstanceUID"].n_unique()
    return {
        "schema": "airlock.report/1",
        "pipeline": run.pipeline.name,
        "run_id": run.run_id,
        "run_key": run.key,
        "window": None if run.window is None else [run.window.start.isoformat(), run.window.end.isoformat()],
        "arrivals": books["arrivals"].height,
        "bytes": int(books["arrivals"]["size"].sum()),
        "verdicts": counts(verdicts["verdict"]),
        "outcomes": counts(books["outcomes"]["outcome"]),
        "dispositions": counts(dispositions["disposition"]),
        "reasons": reasons(dispositions),
        "studies": {
            "released": gated.get(Gate.RELEASE.value, 0),
            "held": gated.get(Gate.HOLD.value, 0),
            "stopped": studies - gates.height,  # none of whose files were accepted
        },
        **_publication(run, gates),
        "held": gates.filter(pl.col("gate") == Gate.HOLD).select("study_key", "reason").to_dicts(),
        "jobs": jobs,
        "balanced": not problems,
        "problems": problems,
    }


def _publication(run: Run, gates: pl.DataFrame) -> dict[str, Any]:
    """Count the studies that are proven in HealthLake, and those that wait for it, where the pipeline publishes."""
    if run.pipeline.healthlake is None:
        return {}
    waiting = gates.filter(pl.col("reason") == Reason.NOT_PUBLISHED).height
    return {"publication": {"published": gates.filter(pl.col("gate") == Gate.RELEASE).height, "waiting": waiting}}


def counts(column: pl.Series) -> dict[str, int]:
    """Return how often each value occurs, most frequent first."""
    table = column.drop_nulls().value_counts(sort=True)
    return dict(table.sort(["count", column.name], descending=[True, False]).iter_rows())


def reasons(dispositions: pl.DataFrame, counted: str = "arrivals") -> dict[str, dict[str, Any]]:
    """Return how often each reason occurs, most frequent first, with what to do about it."""
    return {
        code: {counted: number, "sentence": SENTENCES[code]} for code, number in counts(dispositions["reason"]).items()
    }


def to_csv(dispositions: pl.DataFrame, columns: Sequence[str] = CSV_COLUMNS) -> str:
    """Return these columns as CSV (RFC 4180), with cells that a spreadsheet would run as a formula made harmless.

    Such a cell starts with an apostrophe, which is not part of the value.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    advice = pl.col("reason").replace_strict(SENTENCES, default=None, return_dtype=pl.String)
    for row in dispositions.with_columns(what_to_do=advice).select(columns).iter_rows():
        writer.writerow([_harmless(value) for value in row])
    return text.getvalue()


def _harmless(value: str | int | None) -> str | int:
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def imbalances(books: dict[str, pl.DataFrame]) -> list[str]:
    """Hold the books against each other: conservation, arrival by arrival, at each step.

    Returns
    -------
    list of str
        One sentence per imbalance, without identifiers; empty when every arrival is in exactly one place at each step.
    """
    arrivals, verdicts, outcomes = books["arrivals"], books["verdicts"], books["outcomes"]
    accepted = verdicts.filter(pl.col("verdict") == Verdict.ACCEPT)
    found: list[str] = []
    for step, expected, actual in (
        ("arrivals", arrivals, arrivals),
        ("verdicts", arrivals, verdicts),
        ("outcomes", accepted, outcomes),
        ("dispositions", arrivals, books["dispositions"]),
        ("the ledger", arrivals, books["held"]),
    ):
        found += differences(step, expected["arrival_id"], actual["arrival_id"])
    return found


def differences(step: str, expected: pl.Series, actual: pl.Series, counted: str = "arrivals") -> list[str]:
    """Say how what a step has differs from what it must have, as `imbalances` does."""
    missing = expected.len() - expected.is_in(actual.implode()).sum()
    strange = actual.len() - actual.is_in(expected.implode()).sum()
    repeated = actual.len() - actual.n_unique()
    problems = {"are missing": missing, "do not belong there": strange, "occur more than once": repeated}
    return [f"{step}: {number} {counted} {what}" for what, number in problems.items() if number]
