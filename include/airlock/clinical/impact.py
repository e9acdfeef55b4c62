"""The impact of the rules of a pipeline of FHIR resources on what earlier runs and plans have read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.records import VERDICTS
from airlock.reasons import Reason
from airlock.records import schema
from airlock.stages.plan_impact import Impact, Rule, count_rows, find_past_runs, measure_brake
from airlock.stages.resources import BY_RESOURCE, IDENTITY
from airlock.storage.spool import Partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import ClinicalPipeline
    from airlock.stages.plan_impact import PastRun
    from airlock.storage.s3 import S3

_DECIDED = schema(IDENTITY, {"reason": pl.String})


def measure_impact(pipeline: ClinicalPipeline, s3: S3, ledger: Ledger) -> Impact:
    """Return how many patients and resources each rule would hold, of what earlier runs and plans have read."""
    past, without = find_past_runs(pipeline, s3, ledger, pipeline.resources_folder)
    rules = [_measure_incomplete(pipeline, ledger), _measure_order(past), *measure_brake(pipeline, ledger)]
    return Impact(pipeline.name, pipeline.kind, len(past), without, rules)


def _measure_incomplete(pipeline: ClinicalPipeline, ledger: Ledger) -> Rule:
    """Return how many patients lack a resource of the types that hold a patient."""
    types = pipeline.audit.hold_types
    missing, patients = ledger.count_incomplete_patients(pipeline.datastore_id, types)
    on = str(pipeline.audit.hold_incomplete_patients).lower()
    setting = f"audit.hold_incomplete_patients: {on}, hold_types: {', '.join(types)}"
    return Rule("hold_types", setting, "patients", missing, patients)


def _measure_order(past: list[PastRun[ClinicalPipeline]]) -> Rule:
    """Return how many resources have contents that the declared order does not order."""
    unknown = resources = 0
    with Partitions(count_rows(past)) as partitions:
        for rows in partitions.spool(BY_RESOURCE, _DECIDED, _read_resources(past)):
            resources += rows.select(*IDENTITY).n_unique()
            unknown += rows.filter(pl.col("reason") == Reason.ORDER_UNKNOWN).select(*IDENTITY).n_unique()
    note = "in runs and plans since Airlock knows the order; make a plan first"
    return Rule(str(Reason.ORDER_UNKNOWN), "source.order", "resources", unknown, resources, note)


def _read_resources(past: list[PastRun[ClinicalPipeline]]) -> Iterator[pl.DataFrame]:
    for one in past:
        for rows in one.workspace.parts("verdicts", VERDICTS, _DECIDED.names()):
            yield rows.drop_nulls([*IDENTITY]).select(_DECIDED.names())
