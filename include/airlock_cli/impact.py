"""``airlock plan --impact``: how much each rule of a pipeline would hold of what earlier runs and plans have read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.pipelines import ClinicalPipeline, ImagingPipeline
from airlock_cli import workspaces
from airlock_cli.ledgers import open_ledger
from airlock_cli.show import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import Pipeline
    from airlock.stages.plan_impact import Impact
    from airlock.storage.s3 import S3


def measure(name: str) -> dict[str, Any]:
    """Return the impact of a pipeline's rules, in the form of ``--json``."""
    pipeline = workspaces.load_named_pipeline(name)
    with workspaces.open_s3(pipeline) as s3, open_ledger() as ledger:
        return _measure(pipeline, s3, ledger).as_json()


def _measure(pipeline: Pipeline, s3: S3, ledger: Ledger) -> Impact:
    if isinstance(pipeline, ImagingPipeline):
        from airlock.imaging.impact import measure_impact  # noqa: PLC0415

        return measure_impact(pipeline, s3, ledger)
    from airlock.clinical.impact import measure_impact as measure_resources  # noqa: PLC0415

    if not isinstance(pipeline, ClinicalPipeline):
        raise TypeError(f"the impact of kind {type(pipeline).__name__} cannot be measured")
    return measure_resources(pipeline, s3, ledger)


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of an impact."""
    head = [
        ("runs and plans read", found["runs"]),
        ("runs without verdicts", found["runs_without_verdicts"]),
    ]
    yield Table(f"impact of the rules of pipeline {found['pipeline']}; nothing was changed", ("", ""), head)
    rows = [
        (rule["would_hold"], rule["of"], rule["counted"], rule["rule"], rule["setting"], rule["note"])
        for rule in found["rules"]
    ]
    yield Table("would be held", ("number", "of", "", "rule", "setting", "note"), rows)
