"""Redrive of files that contain resources: the ledger has one reason per file, and each resource has its own.

A file is redriven as a whole. Its released resources are duplicates and stay as they are; its held ones are imported
again; a redrive never overwrites newer content. The reasons of resources are read from the workspaces of earlier runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.columns import OpenState
from airlock.ledger.redrives import CANDIDATES, REDRIVABLE, is_current
from airlock.reasons import Reason
from airlock.records import Disposition
from airlock.stages.resources import CSV_COLUMNS, DISPOSITIONS

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock.run import Run

# In the ledger, a file with one of these reasons stands for resources with several.
SEVERAL_REASONS = (Reason.RESOURCES_SET_ASIDE, Reason.INSTANCE_CLAIMED, Reason.AWAITED_REFERENCE)
_OPEN = [word.value for word in REDRIVABLE]


@dataclass(frozen=True)
class ResourceRules:
    """The `RedriveRules` of pipelines whose files contain resources.

    Parameters
    ----------
    folder
        The folder of the workspace that has the dataset ``dispositions``, with a row per resource.
    """

    folder: str = ""
    csv_columns: tuple[str, ...] = CSV_COLUMNS
    reasons_in_ledger: bool = False

    def filter_by_reasons(self, run: Run[Pipeline], found: pl.DataFrame, reasons: tuple[str, ...]) -> pl.DataFrame:
        """Return the files with one of the reasons or a resource with one of them; all files if no reason is given."""
        if not reasons:
            return found
        several = found.filter(pl.col("reason").is_in([str(reason) for reason in SEVERAL_REASONS]))
        is_open = pl.col("disposition").is_in(_OPEN) & pl.col("reason").is_in(reasons)
        hit = read_units(run, self.folder, several["run_key"], is_open)["arrival_id"]
        return found.filter(pl.col("reason").is_in(reasons) | pl.col("arrival_id").is_in(hit.implode()))

    def find_companions(self, run: Run[Pipeline], selected: pl.DataFrame) -> pl.DataFrame:
        """Return the files, as `CANDIDATES`, of which a run holds resources for those of the selected files.

        They are of a patient in a selected file, in any run, or dangle in the run of one.
        """
        is_selected = pl.col("arrival_id").is_in(selected["arrival_id"].implode())
        is_open = is_selected & pl.col("disposition").is_in(_OPEN)
        patients = read_units(run, self.folder, selected["run_key"], is_open)["patient"].drop_nulls()
        of_patients = (pl.col("reason") == Reason.PATIENT_HELD) & pl.col("patient").is_in(patients.implode())
        dangling = (pl.col("reason") == Reason.UNRESOLVED_REFERENCE) & (pl.col("disposition") == Disposition.HELD)
        waits = (of_patients | dangling) & ~is_selected
        of_runs = read_units(run, self.folder, selected["run_key"], waits)["arrival_id"]
        noted = run.ledger.open_of_patients(run.pipeline.datastore_id, patients)
        of_others = noted.filter((pl.col("state") == OpenState.HELD) & ~is_selected)["arrival_id"].drop_nulls()
        ids = pl.concat([of_runs, of_others]).unique()
        if ids.is_empty():
            return CANDIDATES.to_frame()
        found = run.ledger.find_arrivals(run.pipeline.datastore_id, run.pipeline.name, ids)
        open_ = pl.col("disposition").is_in(_OPEN) & (pl.col("run_state") != "running")
        return found.filter(open_ & is_current())


@dataclass(frozen=True)
class LedgerRules(ResourceRules):
    """The rules of a dry run that asks the ledger only, for a page: nobody waits there for the datasets of many runs.

    It knows one reason per file, and leaves out what comes along.
    """

    reasons_in_ledger: bool = True

    def filter_by_reasons(self, run: Run[Pipeline], found: pl.DataFrame, reasons: tuple[str, ...]) -> pl.DataFrame:  # noqa: ARG002  # of the base
        """Return the files: the ledger has chosen them by their reasons."""
        return found

    def find_companions(self, run: Run[Pipeline], selected: pl.DataFrame) -> pl.DataFrame:  # noqa: ARG002  # of the base
        """Return no file: the ledger does not know whose resources a file has."""
        return selected.clear()


def read_units(run: Run[Pipeline], folder: str, run_keys: pl.Series, matches: pl.Expr) -> pl.DataFrame:
    """Return the matching dispositions of other runs, with their ``run_key``; none from a workspace that is gone.

    Parameters
    ----------
    run
        The redrive.
    folder
        The folder of the other runs' workspaces that has the dataset ``dispositions``.
    run_keys
        The other runs.
    matches
        Selects the dispositions to return.
    """
    frames = [DISPOSITIONS.to_frame().with_columns(run_key=pl.lit(None, pl.String))]
    for key in run_keys.unique().sort():
        parts = run.workspace_of(key, folder).find_parts("dispositions", DISPOSITIONS)
        frames += [part.filter(matches).with_columns(run_key=pl.lit(key)) for part in parts]
    return pl.concat(frames)
