"""The report of a sweep: sweep.json with the counts, overdue.csv and vanished.csv with the keys, in the workspace."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.stages.sweep_caution import IN_WORDS, Caution
from airlock.stages.sweep_work import OVERDUE, VANISHED, YOUNG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.sweep_work import Asked, Sweeping

SCHEMA = "airlock.sweep/1"
_OVERDUE = ("key", "site", "size", "last_modified", "taken_in")
_VANISHED = ("key", "site", "arrival_id", "study_key", "disposition")


def describe_caution(work: Sweeping) -> str | None:
    """Return in words why a sweep takes nothing in; None if it does."""
    caution = work.comparison.scope["caution"]
    return None if caution is None else IN_WORDS[Caution(caution)]


def make_report(work: Sweeping, vanished: pl.DataFrame, asked: Asked) -> dict[str, Any]:
    """Write the lists of a sweep whose counts are complete, and return the content of its report.

    *vanished* are the vanished arrivals that are named, as `ledger.sweeps.VANISHED`.
    """
    counts, comparison = work.counts, work.comparison
    overdue = counts.total(OVERDUE)
    return {
        "schema": SCHEMA,
        "pipeline": work.pipeline.name,
        "sweep": comparison.number,
        "source": work.pipeline.source.uri,
        "read_from": work.source.edition,
        "asked_by": comparison.asked_by,
        "began_at": comparison.began_at.isoformat(),
        "ended_at": datetime.now(UTC).isoformat(),
        "dry": describe_caution(work),
        "listed": counts.listed,
        **{kind: counts.total(kind) for kind in (YOUNG, OVERDUE, VANISHED)},
        "owed": counts.owed,
        "taken_in": overdue - asked.number,
        "asks": asked.number,
        "new_folders": list(asked.folders),
        "sites": dict(sorted(counts.sites.items())),
        "vanished_named": vanished.height,
        "requests": counts.requests,
        "overdue_uri": work.files.write_csv("overdue.csv", _list_overdue(work, asked), _OVERDUE),
        "vanished_uri": work.files.write_csv("vanished.csv", [work.sites.add_to(vanished)], _VANISHED),
    }


def _list_overdue(work: Sweeping, asked: Asked) -> Iterator[pl.DataFrame]:
    answer = pl.when(asked.choose(work.prefix)).then(pl.lit("no")).otherwise(pl.lit("yes"))
    for rows in work.overdue():
        yield rows.with_columns(taken_in=answer)


def describe(report: dict[str, Any]) -> list[str]:
    """Return a sweep's report in sentences with counts only, for logs and notifications."""
    counted = f"{report['overdue']} are overdue and {report['young']} young; {report['owed']} are owed"
    lines = [f"Of {report['listed']} objects below the source, {counted}. Vanished: {report['vanished']}."]
    if report["dry"]:
        lines.append(f"Nothing was taken in, because {report['dry']}.")
    elif report["overdue"]:
        lines.append(f"The next run takes {report['taken_in']} of them.")
    if report["asks"]:
        lines.append(
            f"{report['asks']} wait for a person: airlock sweep {report['pipeline']} --take-in {report['sweep']}"
        )
    return lines
