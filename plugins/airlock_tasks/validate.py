"""Validate: decide on every arrival, or every resource, before import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock_tasks.datastores import fhir_store, image_sets
from airlock_tasks.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run


class ValidateOperator(StageOperator):
    """Applies the file, duplicate and study rules; of a redrive, resolves the non-primary image sets before."""

    in_plan = True

    def run_stage(self, run: Run, context: Context) -> dict[str, int]:  # noqa: ARG002
        """Return the number of arrivals by verdict."""
        from airlock.imaging.resolve import carry
        from airlock.imaging.validate import validate

        if run.redrive is not None:
            carry(run, image_sets(run.pipeline.healthimaging))
        verdicts = validate(run)
        self.log.info("verdicts: %s", verdicts)
        return verdicts


class FhirValidateOperator(StageOperator):
    """Applies the rules of lines, structure, twins and references, and asks $validate as far as the policy says."""

    in_plan = True

    def run_stage(self, run: Run[Any], context: Context) -> dict[str, int]:  # noqa: ARG002
        """Return the number of resources and lines by verdict."""
        from airlock.clinical.plan import foresee_verdicts
        from airlock.clinical.validate import validate

        decide = foresee_verdicts if run.plan_only else validate
        verdicts = decide(run, fhir_store(run.pipeline.healthlake))
        self.log.info("verdicts: %s", verdicts)
        return verdicts


class CcdaValidateOperator(StageOperator):
    """Decides on every C-CDA document before it is converted."""

    in_plan = True

    def run_stage(self, run: Run[Any], context: Context) -> dict[str, int]:  # noqa: ARG002
        """Return the number of documents by verdict."""
        from airlock.ccda.validate import validate

        verdicts = validate(run)
        self.log.info("verdicts: %s", verdicts)
        return verdicts
