"""Normalize: build study contracts and batches, and stage the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock_tasks.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run
    from airlock.stages.plan import Plan


class _NormalizeOperator(StageOperator):
    """An operator that a plan ends with: what there would be is in the log, its address in the XCom ``plan``."""

    in_plan = True

    def tell(self, planned: tuple[Plan, str], context: Context) -> list[str]:
        """Tell of a plan and return its batches: none, so nothing is imported."""
        from airlock.stages.plan_table import table

        plan, uri = planned
        self.log.info("%s", table(plan))
        context["ti"].xcom_push(
            key="plan", value={"plan_uri": uri, "arrivals": plan.arrivals, "batches": plan.batches.jobs}
        )
        return []


class NormalizeOperator(_NormalizeOperator):
    """Plans batches of whole series and gives each a prefix of its own; returns the batches' ids."""

    def run_stage(self, run: Run, context: Context) -> list[str]:
        """Return the batches that import is mapped over; their prefixes may hold names and stay in the workspace."""
        from airlock.imaging.normalize import normalize
        from airlock.imaging.plan import write_plan

        if run.plan_only:
            return self.tell(write_plan(run), context)

        batches = normalize(run)
        self.log.info("%d files in %d batches", sum(batch.files for batch in batches), len(batches))
        # A batch all of whose objects are gone or changed by now has nothing to import; audit accounts for its files.
        return [batch.batch_id for batch in batches if batch.files]


class FhirNormalizeOperator(_NormalizeOperator):
    """Writes import files of one resource type each, every reference as it must be; returns the batches' ids."""

    def run_stage(self, run: Run[Any], context: Context) -> list[str]:
        """Return the batches that import is mapped over."""
        from airlock.clinical.normalize import normalize
        from airlock.clinical.plan import write_plan

        if run.plan_only:
            return self.tell(write_plan(run), context)
        batches = normalize(run, run.pipeline.healthlake)
        self.log.info("%d import files in %d batches", sum(batch.files for batch in batches), len(batches))
        return [batch.batch_id for batch in batches]


class PublicationNormalizeOperator(StageOperator):
    """Writes the import files of released studies as FHIR; returns the batches' ids."""

    def run_stage(self, run: Run, context: Context) -> list[str]:  # noqa: ARG002
        """Return the batches that import is mapped over."""
        from airlock.imaging.publication import normalize

        batches = normalize(run)
        self.log.info("%d import files in %d batches", sum(batch.files for batch in batches), len(batches))
        return [batch.batch_id for batch in batches]


class CcdaNormalizeOperator(_NormalizeOperator):
    """Stages the documents that are to be converted; returns the batches' ids."""

    def run_stage(self, run: Run[Any], context: Context) -> list[str]:
        """Return the batches that import is mapped over."""
        from airlock.ccda.normalize import normalize
        from airlock.ccda.plan import write_plan

        if run.plan_only:
            return self.tell(write_plan(run), context)
        batches = normalize(run)
        self.log.info("%d documents in %d batches", sum(batch.files for batch in batches), len(batches))
        return [batch.batch_id for batch in batches if batch.files]
