"""Buffer: claim and freeze the run's delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowFailException

from airlock.pipelines import ClinicalPipeline, ImagingPipeline
from airlock_tasks.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import RedriveRequest, Run
    from airlock.stages.redrive import RedriveRules


class BufferOperator(StageOperator[ImagingPipeline | ClinicalPipeline]):
    """Lists the window, subtracts settled arrivals, claims the rest; returns the names of the shards."""

    in_plan = True

    def run_stage(self, run: Run[ImagingPipeline | ClinicalPipeline], context: Context) -> list[str]:  # noqa: ARG002
        """Return the shards that parse is mapped over."""
        from airlock.stages.buffer import LostClaimsError, buffer

        if run.redrive is not None:
            self._redrive(run, run.redrive)
        try:
            buffered = buffer(run)
        except LostClaimsError as error:
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
        return buffered.shards

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
    """Buffers FHIR files."""

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
