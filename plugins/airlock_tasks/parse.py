"""Parse: read the headers, resources or documents of one shard; mapped over the shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock_tasks.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run


class ParseOperator(StageOperator):
    """Reads what is needed of each header in a shard, never the pixels.

    Parameters
    ----------
    shard
        The shard's name, from buffer.
    **kwargs
        Of :class:`StageOperator`.
    """

    in_plan = True

    def __init__(self, *, shard: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    def run_stage(self, run: Run, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Return counts of what was read, and of what that has cost."""
        from airlock.imaging.parse import parse_shard

        return parse_shard(run, self.shard, self._progress).counts()

    def _progress(self, done: int) -> None:
        self.log.info("shard %s: %d headers so far", self.shard, done)


class CcdaParseOperator(StageOperator):
    """Reads the headers of a shard's C-CDA documents.

    Parameters
    ----------
    shard
        The shard's name, from buffer.
    **kwargs
        Of :class:`StageOperator`.
    """

    in_plan = True

    def __init__(self, *, shard: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    def run_stage(self, run: Run[Any], context: Context) -> dict[str, int]:  # noqa: ARG002
        """Return counts of what was read."""
        from airlock.ccda.parse import parse

        return parse(run, self.shard, self._progress)

    def _progress(self, done: int, total: int) -> None:
        self.log.info("shard %s: %d of %d documents", self.shard, done, total)


class FhirParseOperator(StageOperator):
    """Takes the files of a shard apart into FHIR resources.

    Parameters
    ----------
    shard
        The shard's name, from buffer.
    **kwargs
        Of :class:`StageOperator`.
    """

    in_plan = True

    def __init__(self, *, shard: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    def run_stage(self, run: Run[Any], context: Context) -> dict[str, int]:  # noqa: ARG002
        """Return counts of what was read."""
        from airlock.clinical.parse import parse

        return parse(run, self.shard, self._progress)

    def _progress(self, done: int, total: int, units: int) -> None:
        self.log.info("shard %s: %d of %d files, %d resources", self.shard, done, total, units)
