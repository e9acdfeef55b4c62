"""Redrive of DICOM files: an arrival has one reason, and the rest of its study comes along."""

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
    reasons_in_ledger = True

    def filter_by_reasons(self, run: Run[Pipeline], found: pl.DataFrame, reasons: tuple[str, ...]) -> pl.DataFrame:  # noqa: ARG002
        """Return the arrivals that have one of the reasons; all arrivals if no reason is given."""
        return found.filter(pl.col("reason").is_in(reasons)) if reasons else found

    def find_companions(self, run: Run[Pipeline], selected: pl.DataFrame) -> pl.DataFrame:
        """Return the arrivals that are held only because of their study."""
        return run.ledger.find_companions(run.pipeline.datastore_id, run.pipeline.name, selected["study_key"])


RULES = StudyRules()
