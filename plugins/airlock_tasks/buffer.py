"""Buffer: claim and freeze the run's delivery."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.observability.stats import Stats

from airlock.pipelines import ClinicalPipeline, ImagingPipeline
from airlock_tasks.arrivals import read_announced
from airlock_tasks.findings import note_findings
from airlock_tasks.run import RunOperator
from airlock_tasks.sweep import note_age

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import RedriveRequest, Run
    from airlock.stages.buffer import TakenIn
    from airlock.stages.redrive import RedriveRules

GONE = "airlock.arrivals.gone"  # the metric


class BufferOperator(RunOperator[ImagingPipeline | ClinicalPipeline]):
    """Lists the window, subtracts settled arrivals, claims the rest; returns the names of the shards."""

    in_plan = True

    def run_stage(self, run: Run[ImagingPipeline | ClinicalPipeline], context: Context) -> list[str]:
        """Return the shards that parse is mapped over."""
        from airlock.stages.buffer import LostClaimsError, buffer
        from airlock.stages.waves import WaveError

        if run.redrive is not None:
            self._redrive(run, run.redrive)
        try:
            buffered = buffer(run, partial(self.take_in, run))
        except (LostClaimsError, WaveError) as error:
            raise AirflowFailException(str(error)) from None
        self.log.info(
            "%d arrivals (%d bytes) in %d shards; %d were settled by earlier runs, %d are held by other runs, "
            "%d have no date in their key",
            buffered.arrivals,
            buffered.bytes,
            len(buffered.shards),
            buffered.settled,
            buffered.claimed_elsewhere,
            buffered.undated,
        )
        if buffered.undated:
            self.log.warning(
                "%d objects have no valid date in their key, so no run with a window takes them. Correct the keys or "
                "source.key_date_pattern; or start a run without a window, which takes them whatever their key.",
                buffered.undated,
            )
        note_age(run.pipeline, run.ledger)
        note_findings(run.pipeline, run.ledger)
        self._count_gone(run, read_announced(context))
        return buffered.shards

    def take_in(self, run: Run[ImagingPipeline | ClinicalPipeline]) -> TakenIn | None:  # noqa: ARG002
        """Return what the run takes besides its listing; None if there is nothing."""
        return None

    def _count_gone(self, run: Run[ImagingPipeline | ClinicalPipeline], announced: list[str]) -> None:
        """Count the objects that messages announced and no run has found: deleted or replaced before a listing."""
        gone = run.ledger.count_unknown(run.pipeline.name, announced) if announced and not run.plan_only else 0
        if gone:
            Stats.incr(GONE, gone, tags={"pipeline": run.pipeline.name})
            self.log.warning(
                "%d of %d announced objects were deleted or replaced before a run listed them: no run can take them.",
                gone,
                len(announced),
            )

    def _redrive(self, run: Run[ImagingPipeline | ClinicalPipeline], request: RedriveRequest) -> None:
        from airlock.stages.redrive import redrive
        from airlock.stages.redrive_request import RedriveError

        try:
            counts = redrive(run, request, self.redrive_rules())
        except RedriveError as error:
            raise AirflowFailException(str(error)) from None
        self.log.info("Redriven arrivals: %s. The ledger and the report say who requested it and why.", counts)

    def redrive_rules(self) -> RedriveRules:
        """Return the rules by which a redrive of DICOM files selects arrivals."""
        from airlock.imaging.redrive import RULES

        return RULES


class FhirBufferOperator(BufferOperator):
    """Buffers FHIR files, and takes in parked resources of which nothing is missing any more."""

    def take_in(self, run: Run[ImagingPipeline | ClinicalPipeline]) -> TakenIn | None:
        """Return the objects of parked resources that are due."""
        from airlock.clinical.parked import take_in

        return take_in(cast("Run[ClinicalPipeline]", run))

    def redrive_rules(self) -> RedriveRules:
        """Return the rules by which a redrive of FHIR files selects arrivals."""
        from airlock.clinical.redrive import RULES

        return RULES


class CcdaBufferOperator(BufferOperator):
    """Buffers C-CDA documents."""

    def redrive_rules(self) -> RedriveRules:
        """Return the rules by which a redrive of documents selects arrivals."""
        from airlock.ccda.redrive import RULES

        return RULES
