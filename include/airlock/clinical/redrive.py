"""Redrive of FHIR files and C-CDA documents: what the resources of a file say, of which the ledger knows the file only.

A file goes through again as a whole, and only what is released stays as it is: that is a duplicate. What the data store
holds and no one may see is brought anew, and nothing is written over what a newer file has brought.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ccda.records import FOLDER
from airlock.clinical.records import DISPOSITIONS
from airlock.ledger.redrives import CANDIDATES, REDRIVABLE, is_current
from airlock.pipelines import CcdaPipeline
from airlock.reasons import Reason
from airlock.records import Disposition
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import Workspace

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run

# A file with one of these has resources with reasons of their own.
_OF_SEVERAL = (Reason.RESOURCES_SET_ASIDE, Reason.INSTANCE_CLAIMED)
_RESOURCE = ["resource_type", "resource_id"]
_OPEN = [word.value for word in REDRIVABLE]


def _units(run: Run[Any], run_keys: pl.Series) -> pl.DataFrame:
    """Return the dispositions of other runs' units, with their ``run_key``; none of a run whose workspace is gone."""
    frames = [DISPOSITIONS.to_frame().with_columns(run_key=pl.lit(None, pl.String))]
    folder = [FOLDER] if isinstance(run.pipeline, CcdaPipeline) else []
    for key in run_keys.unique().sort():
        place = S3Uri.parse(run.pipeline.workspace).join(run.pipeline.name, key, *folder, "")
        found = Workspace(run.s3, place).find("dispositions", DISPOSITIONS)
        frames.append(found.with_columns(run_key=pl.lit(key)))
    return pl.concat(frames)


def with_reasons(run: Run[Any], files: pl.DataFrame, reasons: tuple[str, ...]) -> pl.DataFrame:
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
    units = _units(run, several["run_key"])
    hit = units.filter(pl.col("disposition").is_in(_OPEN) & pl.col("reason").is_in(reasons))["arrival_id"]
    return files.filter(pl.col("reason").is_in(reasons) | pl.col("arrival_id").is_in(hit.implode()))


def companions(run: Run[Any], chosen: pl.DataFrame) -> pl.DataFrame:
    """Return the current files, as `ledger.redrives.CANDIDATES`, with sound resources that wait for a chosen one.

    They are those which the same runs hold for the sake of a patient of whom a chosen file has something.
    """
    units = _units(run, chosen["run_key"])
    is_chosen = pl.col("arrival_id").is_in(chosen["arrival_id"].implode())
    patients = units.filter(is_chosen & pl.col("disposition").is_in(_OPEN))["patient"].drop_nulls()
    waits = (pl.col("reason") == Reason.PATIENT_HELD) & pl.col("patient").is_in(patients.implode()) & ~is_chosen
    ids = units.filter(waits)["arrival_id"]
    if ids.is_empty():
        return CANDIDATES.to_frame()
    found = run.ledger.find_arrivals(run.pipeline.datastore_id, run.pipeline.name, ids)
    open_ = pl.col("disposition").is_in(_OPEN) & (pl.col("run_state") != "running")
    return found.filter(open_ & is_current())


def without_held(run: Run[ClinicalPipeline], known: pl.DataFrame) -> pl.DataFrame:
    """Return what the data store has without that which the run that brought it holds.

    Parameters
    ----------
    run
        The redrive.
    known
        `ledger.resources.KNOWN`.
    """
    units = _units(run, known["run_key"])
    held = units.filter(pl.col("disposition") == Disposition.HELD).select("run_key", *_RESOURCE)
    return known.join(held, on=["run_key", *_RESOURCE], how="anti")


def overtaken(run: Run[Any], datastore_id: str, claims: pl.DataFrame) -> pl.DataFrame:
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
