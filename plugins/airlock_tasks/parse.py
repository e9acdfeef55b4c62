"""Parse: read the headers, resources or documents of one shard; mapped over the shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline
from airlock_tasks.run import PipelineT, RunOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run


class _ParseOperator(RunOperator[PipelineT]):
    """An operator that reads one shard, and returns how many objects it has read and what that has cost.

    Parameters
    ----------
    shard
        The shard's name, from buffer.
    **kwargs
        Of :class:`RunOperator`.
    """

    in_plan = True
    progress: ClassVar[str]  # the log line: the shard, then counts

    def __init__(self, *, shard: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    def _log_progress(self, *counts: int) -> None:
        self.log.info(self.progress, self.shard, *counts)


class ParseOperator(_ParseOperator[ImagingPipeline]):
    """Reads the headers of a shard's DICOM files, never the pixels."""

    progress = "Shard %s: %d headers read so far."

    @override
    def run_stage(self, run: Run, context: Context) -> dict[str, Any]:
        from airlock.imaging.parse import parse_shard

        return parse_shard(run, self.shard, self._log_progress).counts()


class CcdaParseOperator(_ParseOperator[CcdaPipeline]):
    """Reads the headers of a shard's C-CDA documents."""

    progress = "Shard %s: %d of %d documents read."

    @override
    def run_stage(self, run: Run[CcdaPipeline], context: Context) -> dict[str, int]:
        from airlock.ccda.parse import parse

        return parse(run, self.shard, self._log_progress)


class FhirParseOperator(_ParseOperator[ClinicalPipeline]):
    """Splits the files of a shard into FHIR resources."""

    progress = "Shard %s: %d of %d files read, %d resources."

    @override
    def run_stage(self, run: Run[ClinicalPipeline], context: Context) -> dict[str, int]:
        from airlock.clinical.parse import parse

        return parse(run, self.shard, self._log_progress)
