"""Validate: decide on every arrival, or every resource, before import."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from typing_extensions import override

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline
from airlock_tasks.brake import BrakedOperator, BrakedT
from airlock_tasks.datastores import fhir_store, image_sets

if TYPE_CHECKING:
    import polars as pl
    from airflow.sdk import Context

    from airlock.run import Run
    from airlock.stages.brake import Finding


class _ValidateOperator(BrakedOperator[BrakedT]):
    """An operator that returns how many arrivals, resources or documents have each verdict.

    If these numbers are absurd, it asks a person before anything is imported.
    """

    in_plan = True

    @abstractmethod
    def decide(self, run: Run[BrakedT]) -> dict[str, int]:
        """Decide on everything that parse has read, and return the number of each verdict."""

    @abstractmethod
    def schema(self) -> pl.Schema:
        """Return the columns of the dataset ``verdicts``."""

    def measure(self, run: Run[BrakedT], verdicts: dict[str, int]) -> Finding | None:
        """Return what is absurd about the numbers, if anything."""
        from airlock.stages.brake import check_verdicts

        return check_verdicts(run, self.schema(), verdicts)

    @override
    def run_stage(self, run: Run[BrakedT], context: Context) -> dict[str, int]:
        verdicts = self.decide(run)
        self.log.info("Verdicts: %s.", ", ".join(f"{name} {number}" for name, number in verdicts.items()) or "none")
        finding = self.measure(run, verdicts)
        if finding is not None:
            self.ask(run, context, finding, verdicts)
        return verdicts

    @override
    def go_on(self, run: Run[BrakedT], context: Context, result: dict[str, int]) -> dict[str, int]:
        return result


class ValidateOperator(_ValidateOperator[ImagingPipeline]):
    """Applies the file, duplicate and study rules; a redrive first resolves the non-primary image sets."""

    @override
    def decide(self, run: Run) -> dict[str, int]:
        from airlock.imaging.resolve import carry_arrivals
        from airlock.imaging.validate import validate

        if run.redrive is not None:
            carry_arrivals(run, image_sets(run.pipeline.healthimaging))
        return validate(run)

    @override
    def schema(self) -> pl.Schema:
        from airlock.records import VERDICTS

        return VERDICTS


class FhirValidateOperator(_ValidateOperator[ClinicalPipeline]):
    """Applies the rules of lines, structure, twins and references, and calls $validate as often as the policy says."""

    @override
    def decide(self, run: Run[ClinicalPipeline]) -> dict[str, int]:
        from airlock.clinical.plan import foresee_verdicts
        from airlock.clinical.validate import validate

        decide = foresee_verdicts if run.plan_only else validate
        return decide(run, fhir_store(run.pipeline.healthlake))

    @override
    def measure(self, run: Run[ClinicalPipeline], verdicts: dict[str, int]) -> Finding | None:
        """Measure the delivery, without the parked resources that the run has taken in."""
        from airlock.clinical.parked import read_taken
        from airlock.stages.brake import check_verdicts

        return check_verdicts(run, self.schema(), verdicts, read_taken(run)["arrival_id"].unique())

    @override
    def schema(self) -> pl.Schema:
        from airlock.clinical.records import VERDICTS

        return VERDICTS


class CcdaValidateOperator(_ValidateOperator[CcdaPipeline]):
    """Decides on every C-CDA document before it is converted."""

    @override
    def decide(self, run: Run[CcdaPipeline]) -> dict[str, int]:
        from airlock.ccda.validate import validate

        return validate(run)

    @override
    def schema(self) -> pl.Schema:
        from airlock.ccda.records import VERDICTS

        return VERDICTS
