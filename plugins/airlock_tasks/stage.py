"""Stage: give one batch of DICOM files a prefix of its own; mapped over the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from airlock.pipelines import ImagingPipeline
from airlock_tasks.run import RunOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airlock.run import Run


PROGRESS_COPIES = 1_000  # between two lines of the log


class StageOperator(RunOperator[ImagingPipeline]):
    """Stages one batch, and returns how many files and bytes its job is to import.

    Parameters
    ----------
    batch_id
        The batch, from normalize. (templated)
    **kwargs
        Of :class:`RunOperator`.
    """

    template_fields: Sequence[str] = ("batch_id",)

    def __init__(self, *, batch_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id

    @override
    def run_stage(self, run: Run, context: Context) -> dict[str, int]:
        from airlock.imaging.stage import stage

        batch = stage(run, self.batch_id, self._log_progress)
        self.log.info("%d files are staged.", batch.files)
        return {"files": batch.files, "bytes": batch.bytes}

    def _log_progress(self, copies: int) -> None:
        if copies % PROGRESS_COPIES == 0:
            self.log.info("%d files are copied so far.", copies)
