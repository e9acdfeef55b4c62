"""Validate: decide on every arrival, or every resource, before import."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from typing_extensions import override

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline
from airlock_tasks.datastores import fhir_store, image_sets
from airlock_tasks.stage import PipelineT, StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run


class _ValidateOperator(StageOperator[PipelineT]):
    """An operator that returns how many arrivals, resources or documents have each verdict."""

    in_plan = True

    @abstractmethod
    def decide(self, run: Run[PipelineT]) -> dict[str, int]:
        """Decide on everything that parse has read, and return the number of each verdict."""

    @override
    def run_stage(self, run: Run[PipelineT], context: Context) -> dict[str, int]:
        verdicts = self.decide(run)
        self.log.info("Verdicts: %s.", ", ".join(f"{name} {number}" for name, number in verdicts.items()) or "none")
        return verdicts


class ValidateOperator(_ValidateOperator[ImagingPipeline]):
    """Applies the file, duplicate and study rules; a redrive first resolves the non-primary image sets."""

    @override
    def decide(self, run: Run) -> dict[str, int]:
        from airlock.imaging.resolve import carry_arrivals
        from airlock.imaging.validate import validate

        if run.redrive is not None:
            carry_arrivals(run, image_sets(run.pipeline.healthimaging))
        return validate(run)


class FhirValidateOperator(_ValidateOperator[ClinicalPipeline]):
    """Applies the rules of lines, structure, twins and references, and calls $validate as often as the policy says."""

    @override
    def decide(self, run: Run[ClinicalPipeline]) -> dict[str, int]:
        from airlock.clinical.plan import foresee_verdicts
        from airlock.clinical.validate import validate

        decide = foresee_verdicts if run.plan_only else validate
        return decide(run, fhir_store(run.pipeline.healthlake))


class CcdaValidateOperator(_ValidateOperator[CcdaPipeline]):
    """Decides on every C-CDA document before it is converted."""

    @override
    def decide(self, run: Run[CcdaPipeline]) -> dict[str, int]:
        from airlock.ccda.validate import validate

        return validate(run)
