"""Validate: decide on every arrival before import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airlock_tasks.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run


class ValidateOperator(StageOperator):
    """Applies the file, duplicate and study rules."""

    def run_stage(self, run: Run, context: Context) -> dict[str, int]:  # noqa: ARG002
        """Return the number of arrivals by verdict."""
        from airlock.validate import validate

        verdicts = validate(run)
        self.log.info("verdicts: %s", verdicts)
        return verdicts
