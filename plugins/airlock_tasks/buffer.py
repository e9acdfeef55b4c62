"""Buffer: claim and freeze the run's delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowFailException

from airlock_tasks.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run


class BufferOperator(StageOperator):
    """Lists the window, subtracts what the ledger has settled, claims the rest; returns the names of the shards."""

    in_plan = True

    def run_stage(self, run: Run, context: Context) -> list[str]:  # noqa: ARG002
        """Return the shards that parse is mapped over."""
        from airlock.buffer import buffer
        from airlock.redrive_request import RedriveError

        try:
            buffered = buffer(run)
        except RedriveError as error:
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
        self._tell_redrive(run)
        return buffered.shards

    def _tell_redrive(self, run: Run) -> None:
        redrive = run.ledger.redrive_of(run.key)
        if redrive is not None:
            self.log.info("redrive by %r, since %r: %s", redrive["asked_by"], redrive["why"], redrive["counts"])
