"""Normalize: build contracts and batches."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline
from airlock_tasks.datastores import fhir_store, require_known_datastores
from airlock_tasks.notify import notify_once
from airlock_tasks.run import PipelineT, RunOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.plan import Plan


class _BatchOperator(RunOperator[PipelineT]):
    """An operator that makes batches and returns their ids; import is mapped over them.

    The batches' prefixes may hold names, so they stay in the workspace.
    """

    noun: ClassVar[str]  # what a batch holds, in the singular

    @abstractmethod
    def make_batches(self, run: Run[PipelineT]) -> list[Batch]:
        """Make the run's batches and return them."""

    @override
    def run_stage(self, run: Run[PipelineT], context: Context) -> list[str]:
        require_known_datastores(run.pipeline, run.ledger)  # receive may have looked before the ledger was lost
        batches = self.make_batches(run)
        files = sum(batch.files for batch in batches)
        self.log.info("%s in %s.", _in_words(files, self.noun), _in_words(len(batches), "batch", "batches"))
        # A batch whose objects are all gone or changed has nothing to import; audit accounts for its files.
        return [batch.batch_id for batch in batches if batch.files]


class _NormalizeOperator(_BatchOperator[PipelineT]):
    """An operator that a plan ends with: the plan is in the log, and its address in the XCom ``plan``."""

    in_plan = True

    @abstractmethod
    def write_plan(self, run: Run[PipelineT]) -> tuple[Plan, str]:
        """Write what the run would do, and return it with its address."""

    @override
    def run_stage(self, run: Run[PipelineT], context: Context) -> list[str]:
        if not run.plan_only:
            return super().run_stage(run, context)
        from airlock.stages.plan_table import format_plan

        plan, uri = self.write_plan(run)
        self.log.info("%s", format_plan(plan))
        context["ti"].xcom_push(
            key="plan", value={"plan_uri": uri, "arrivals": plan.arrivals, "batches": plan.batches.jobs}
        )
        return []  # no batches, so nothing is imported


class NormalizeOperator(_NormalizeOperator[ImagingPipeline]):
    """Writes study contracts, and plans batches of whole series; stage is mapped over them, and then import."""

    noun = "file"

    @override
    def make_batches(self, run: Run) -> list[Batch]:
        from airlock.imaging.normalize import normalize

        return normalize(run)

    @override
    def write_plan(self, run: Run) -> tuple[Plan, str]:
        from airlock.imaging.plan import write_plan

        return write_plan(run)


class FhirNormalizeOperator(_NormalizeOperator[ClinicalPipeline]):
    """Writes import files of one resource type each, with every reference as it must be."""

    noun = "import file"

    @override
    def make_batches(self, run: Run[ClinicalPipeline]) -> list[Batch]:
        from airlock.clinical.normalize import normalize

        return normalize(run, run.pipeline.healthlake)

    @override
    def write_plan(self, run: Run[ClinicalPipeline]) -> tuple[Plan, str]:
        from airlock.clinical.plan import write_plan

        return write_plan(run)


class CcdaNormalizeOperator(_NormalizeOperator[CcdaPipeline]):
    """Stages the documents that are to be converted."""

    noun = "document"

    @override
    def make_batches(self, run: Run[CcdaPipeline]) -> list[Batch]:
        from airlock.ccda.normalize import normalize

        return normalize(run)

    @override
    def write_plan(self, run: Run[CcdaPipeline]) -> tuple[Plan, str]:
        from airlock.ccda.plan import write_plan

        return write_plan(run)


class PublicationNormalizeOperator(_BatchOperator[ImagingPipeline]):
    """Writes the import files of released studies as FHIR."""

    noun = "import file"

    @override
    def run_stage(self, run: Run, context: Context) -> list[str]:
        from airlock.imaging.repoint import read_look

        batches = super().run_stage(run, context)
        alarms = read_look(run).get("alarms", 0)
        if alarms:
            what = f"The orders of {alarms} released studies are another patient's. Find out whose: airlock patient."
            self.log.error("%s", what)
            notify_once(self.pipeline, "patient", context, what)
        return batches

    @override
    def make_batches(self, run: Run) -> list[Batch]:
        from airlock.imaging.publication import normalize

        store = None if run.pipeline.healthlake is None else fhir_store(run.pipeline.healthlake)
        return normalize(run, store, store)


def _in_words(number: int, singular: str, plural: str = "") -> str:
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"
