"""Redrive of files that hold resources: their resources have reasons of their own, and the ledger knows the file only.

A file goes through again as a whole, and only what is released stays as it is: that is a duplicate. What the data store
holds and no one may see is brought anew, and nothing is written over what a newer file has brought.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.redrives import CANDIDATES, REDRIVABLE, is_current
from airlock.reasons import Reason

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock.run import Run

# A file with one of these has resources with reasons of their own.
_OF_SEVERAL = (Reason.RESOURCES_SET_ASIDE, Reason.INSTANCE_CLAIMED)
_RESOURCE = ["resource_type", "resource_id"]
_OPEN = [word.value for word in REDRIVABLE]


@dataclass(frozen=True)
class ResourceRules:
    """The `RedriveRules` of pipelines whose files hold resources.

    Parameters
    ----------
    csv_columns
        The columns of a dispositions.csv.
    dispositions
        Those of the dataset ``dispositions``, which has a row per resource.
    folder
        Of the workspace, which has that dataset.
    """

    csv_columns: tuple[str, ...]
    dispositions: pl.Schema
    folder: str = ""
    one_reason_each: bool = False

    def with_reasons(self, run: Run[Pipeline], files: pl.DataFrame, reasons: tuple[str, ...]) -> pl.DataFrame:
        """Return those of the files that were set aside for one of these reasons, or have a resource that was.

        Parameters
        ----------
        run
            The redrive.
        files
            `ledger.redrives.CANDIDATES`.
        reasons
            Reason codes; none for all files.
        """
        if not reasons:
            return files
        several = files.filter(pl.col("reason").is_in([str(reason) for reason in _OF_SEVERAL]))
        units = self._units(run, several["run_key"])
        hit = units.filter(pl.col("disposition").is_in(_OPEN) & pl.col("reason").is_in(reasons))["arrival_id"]
        return files.filter(pl.col("reason").is_in(reasons) | pl.col("arrival_id").is_in(hit.implode()))

    def companions(self, run: Run[Pipeline], chosen: pl.DataFrame) -> pl.DataFrame:
        """Return the current files, as `ledger.redrives.CANDIDATES`, with sound resources that wait for a chosen one.

        They are those which the same runs hold for the sake of a patient of whom a chosen file has something.
        """
        units = self._units(run, chosen["run_key"])
        is_chosen = pl.col("arrival_id").is_in(chosen["arrival_id"].implode())
        patients = units.filter(is_chosen & pl.col("disposition").is_in(_OPEN))["patient"].drop_nulls()
        waits = (pl.col("reason") == Reason.PATIENT_HELD) & pl.col("patient").is_in(patients.implode()) & ~is_chosen
        ids = units.filter(waits)["arrival_id"]
        if ids.is_empty():
            return CANDIDATES.to_frame()
        found = run.ledger.find_arrivals(run.pipeline.datastore_id, run.pipeline.name, ids)
        open_ = pl.col("disposition").is_in(_OPEN) & (pl.col("run_state") != "running")
        return found.filter(open_ & is_current())

    def _units(self, run: Run[Pipeline], run_keys: pl.Series) -> pl.DataFrame:
        return units_of(run, self.folder, self.dispositions, run_keys)


def units_of(run: Run[Pipeline], folder: str, dispositions: pl.Schema, run_keys: pl.Series) -> pl.DataFrame:
    """Return the dispositions of other runs' units, with their ``run_key``; none of a run whose workspace is gone.

    Parameters
    ----------
    run
        The redrive.
    folder
        Of the other runs' workspaces, which has the dataset ``dispositions``.
    dispositions
        Its columns.
    run_keys
        The other runs.
    """
    frames = [dispositions.to_frame().with_columns(run_key=pl.lit(None, pl.String))]
    for key in run_keys.unique().sort():
        found = run.workspace_of(key, folder).find("dispositions", dispositions)
        frames.append(found.with_columns(run_key=pl.lit(key)))
    return pl.concat(frames)


def overtaken(run: Run[Pipeline], datastore_id: str, claims: pl.DataFrame) -> pl.DataFrame:
    """Return those resources of which another file, no older than their own, has brought other content.

    Parameters
    ----------
    run
        The redrive.
    datastore_id
        The data store, or what stands for it in the ledger.
    claims
        `ledger.resources.CLAIMS`.

    Returns
    -------
    polars.DataFrame
        Columns ``arrival_id``, ``resource_type``, ``resource_id``.
    """
    place = ["bucket", "key", "last_modified"]
    own = run.ledger.held_by(run.pipeline.name, run.key).select("arrival_id", *place)
    brought = run.ledger.brought_by(datastore_id, claims).rename({"content_digest": "known"})
    both = claims.join(own, on="arrival_id").join(brought, on=_RESOURCE, suffix="_known")
    elsewhere = (pl.col("bucket") != pl.col("bucket_known")) | (pl.col("key") != pl.col("key_known"))
    newer = elsewhere & (pl.col("last_modified_known") >= pl.col("last_modified"))
    return both.filter(newer & (pl.col("known") != pl.col("content_digest"))).select("arrival_id", *_RESOURCE).unique()
