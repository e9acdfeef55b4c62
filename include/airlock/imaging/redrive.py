"""Redrive of DICOM files: an arrival has one reason, and the rest of its study goes along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.report import CSV_COLUMNS

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock.run import Run


class StudyRules:
    """The `RedriveRules` of imaging pipelines."""

    csv_columns = CSV_COLUMNS
    one_reason_each = True

    def with_reasons(self, run: Run[Pipeline], found: pl.DataFrame, reasons: tuple[str, ...]) -> pl.DataFrame:  # noqa: ARG002
        """Return the arrivals whose reason in the ledger is one of these."""
        return found.filter(pl.col("reason").is_in(reasons)) if reasons else found

    def companions(self, run: Run[Pipeline], chosen: pl.DataFrame) -> pl.DataFrame:
        """Return the arrivals that are held only because others of their study are."""
        return run.ledger.companions(run.pipeline.datastore_id, run.pipeline.name, chosen["study_key"])


RULES = StudyRules()
