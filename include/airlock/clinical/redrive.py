"""Redrive of FHIR files: the rules of their selection, and the held resources that are imported again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.records import Disposition
from airlock.stages.redrive_resources import ResourceRules, read_units
from airlock.stages.resources import IDENTITY

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run

RULES = ResourceRules()


def drop_held(run: Run[ClinicalPipeline], known: pl.DataFrame) -> pl.DataFrame:
    """Return what the data store has without that which the run that brought it holds.

    Parameters
    ----------
    run
        The redrive.
    known
        `ledger.resources.KNOWN`.
    """
    ids = known["resource_id"].unique()
    is_held = (pl.col("disposition") == Disposition.HELD) & pl.col("resource_id").is_in(ids.implode())
    held = read_units(run, run.folder, known["run_key"], is_held).select("run_key", *IDENTITY)
    return known.join(held, on=["run_key", *IDENTITY], how="anti")
