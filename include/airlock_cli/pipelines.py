"""``airlock pipelines check``: the problems of each pipeline file, found before Airflow reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.pipelines import ClinicalPipeline, ImagingPipeline, PipelineError, load_pipelines
from airlock_cli.airflow_users import count_reviewers
from airlock_cli.errors import RequestError
from airlock_cli.show import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock.pipelines import Pipeline

SCHEMA = "airlock.pipelines/1"
_WITH_NOTIFY = (ImagingPipeline, ClinicalPipeline)  # a ccda pipeline is a clinical one
_COLUMNS = ("name", "kind", "source", "schedule", "connections", "routes")


def check(folder: Path) -> dict[str, Any]:
    """Return the valid pipelines of a folder and the problems of its other files, schema `SCHEMA`.

    Raises
    ------
    RequestError
        If the folder cannot be read.
    """
    try:
        good, problems = load_pipelines(folder)
    except PipelineError as error:
        raise RequestError(str(error)) from None
    unassigned = [name for name, pipeline in sorted(good.items()) if pipeline.review and not pipeline.review.assignees]
    reviewers = count_reviewers() if unassigned else None
    found = [
        {
            "name": name,
            "kind": pipeline.kind,
            "source": pipeline.source.uri,
            "schedule": pipeline.schedule.cron,
            "connections": sorted(pipeline.connections() | _notified_by(pipeline)),
            "routes": [route.name for route in pipeline.routes],
        }
        for name, pipeline in sorted(good.items())
    ]
    return {
        "schema": SCHEMA,
        "folder": str(folder),
        "pipelines": found,
        "problems": [str(item) for item in problems],
        "warnings": [_warn_of_open_reviews(name, reviewers) for name in unassigned] if reviewers != 1 else [],
    }


def _notified_by(pipeline: Pipeline) -> set[str]:
    """Return the connections by which a pipeline's notifications go."""
    return {one.connection for one in pipeline.notify} if isinstance(pipeline, _WITH_NOTIFY) else set()


def _warn_of_open_reviews(name: str, reviewers: int | None) -> str:
    """Return the warning for a pipeline whose reviews name no users."""
    who = (
        f"each of Airflow's {reviewers} users who may change runs" if reviewers else "everybody who may change its runs"
    )
    unknown = "" if reviewers else " Airflow's configuration here does not say how many users these are."
    return f"Pipeline {name!r} has no review.assignees, so {who} may answer its reviews.{unknown} Name them."


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a result of `check`."""
    rows = [[row[name] for name in _COLUMNS] for row in found["pipelines"]]
    yield Table(f"pipelines in {found['folder']}", _COLUMNS, rows)
    yield Table("problems", ("",), [(line,) for problem in found["problems"] for line in problem.splitlines()])
    yield Table("warnings", ("",), [(warning,) for warning in found["warnings"]])
