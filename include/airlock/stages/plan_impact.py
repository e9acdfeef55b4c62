"""The impact of a pipeline's rules: how much each would hold of what earlier runs and plans have read.

It reads the ledger and the datasets ``verdicts`` that the workspace still has, and changes nothing. A kind's own rules
are in its module ``impact``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from airlock.pipelines import Pipeline
from airlock.run import PLAN, Run
from airlock.stages.brake import count_stops
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from airlock.ledger import Ledger
    from airlock.pipelines import ClinicalPipeline, ImagingPipeline
    from airlock.storage.s3 import S3
    from airlock.storage.workspace import Workspace

SCHEMA = "airlock.impact/1"
PipelineT = TypeVar("PipelineT", bound=Pipeline)
_ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Rule:
    """How much one rule would hold."""

    rule: str  # a reason code, or the name of a rule
    setting: str  # the setting that changes it, with its present value
    counted: str  # studies, patients, resources or runs
    would_hold: int
    of: int
    note: str = ""


@dataclass(frozen=True)
class PastRun(Generic[PipelineT]):
    """A run or a plan that has left verdicts."""

    run: Run[PipelineT]
    workspace: Workspace


@dataclass
class Impact:
    """How much the rules of a pipeline would hold."""

    pipeline: str
    kind: str
    runs: int  # and plans, whose verdicts were read
    runs_without_verdicts: int  # not validated yet, or their workspace was deleted
    rules: list[Rule] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the impact as commands print it."""
        return {"schema": SCHEMA, **asdict(self)}


def find_past_runs(
    pipeline: PipelineT, s3: S3, ledger: Ledger, folder: str = ""
) -> tuple[list[PastRun[PipelineT]], int]:
    """Return the runs and plans whose verdicts the workspace still has, and how many runs of the ledger have none.

    Parameters
    ----------
    pipeline, s3, ledger
        The pipeline, its S3 and its ledger.
    folder
        The folder in a run's workspace of the chain of stages that is looked at.
    """
    source = S3Uri.parse(pipeline.source.uri)
    found: list[PastRun[PipelineT]] = []
    without = 0
    for key in s3.list_folders(S3Uri.parse(pipeline.workspace).join(pipeline.name, "")):
        known = ledger.run(key)
        run = Run(pipeline, known.run_id if known else key, None, source, s3, ledger)
        spaces = [run.workspace_of(key, name) for name in (folder, PLAN)]
        there = [PastRun(run, space) for space in spaces if space.is_committed("verdicts")]
        without += known is not None and not there
        found += there
    return found, without


def measure_brake(pipeline: ImagingPipeline | ClinicalPipeline, ledger: Ledger) -> list[Rule]:
    """Return how many earlier runs the brake would have stopped; no rule if it is off."""
    brake = pipeline.audit.brake
    if brake == "off":
        return []
    totals = ledger.night_totals(pipeline.name, _ALWAYS, except_run="")
    stops, runs = count_stops(totals, brake)
    setting = f"audit.brake: unread {brake.unread:g}, one_reason {brake.one_reason:g}, held {brake.held:g}"
    return [Rule("brake", setting, "runs", stops, runs, "by the limits alone, counted in files")]


def count_rows(past: Sequence[PastRun[Any]]) -> int:
    """Return how many verdicts all these runs have."""
    return sum(one.workspace.count_rows("verdicts") for one in past)


def count_distinct(rows: pl.DataFrame, column: str) -> int:
    """Return how many values a column has, nulls not counted."""
    return rows[column].drop_nulls().n_unique()
