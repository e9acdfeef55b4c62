"""Resolve: carry arrivals of a redrive on without an import, and promote or delete non-primary image sets.

Writes ``carried-verdicts`` and ``carried``: the verdicts and outcomes of the earlier generations, under the new
arrivals' ids. A promoted image set (`airlock.imaging.promotion`) is deleted after its copy is proven.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.promotion import ResolutionError, check_promotable, find_existing, grouping_elements, promote
from airlock.ledger import Resolution, ResolutionState
from airlock.reasons import Reason
from airlock.records import ARRIVALS, ATTRIBUTES, OUTCOMES, VERDICTS, Outcome, Verdict
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.imaging.promotion import ImageSets
    from airlock.ledger import ResolutionRecord
    from airlock.run import Run

CARRIED = "carried"
CARRIED_VERDICTS = "carried-verdicts"


@dataclass(frozen=True)
class Resolved:
    """The result for a non-primary image set: the image set of its copy, or none if it was deleted."""

    image_set_id: str | None = None
    version: int | None = None
    elements: dict[str, str] | None = None  # the grouping elements that its instances have now


def carry_arrivals(run: Run, images: ImageSets) -> None:
    """Write the carried verdicts and outcomes, and resolve the non-primary image sets; a second call does nothing."""
    if run.workspace.is_committed(CARRIED):
        return
    datastore = run.pipeline.healthimaging.datastore_id
    carried = run.ledger.find_carried(datastore, run.pipeline.name, run.key)
    odd = carried.filter(pl.col("state") == "non_primary")["image_set_id"].unique().sort()
    _check_promotable(run, images, odd)
    resolved = {str(name): r for name in odd if (r := _resolve(run, images, str(name))) is not None}
    verdicts, outcomes = [VERDICTS.to_frame()], [OUTCOMES.to_frame()]
    for (key,), rows in carried.group_by("run_key", maintain_order=True):
        ids = dict(rows.select("carries", "arrival_id").iter_rows())
        found = _read_earlier_run(run, str(key), ids)
        verdicts.append(_renew_verdicts(*found, resolved))
        outcomes.append(renew_outcomes(found[1], resolved))
    decided = _update_arrivals(run, pl.concat(verdicts))
    _check_complete(carried, decided)
    run.workspace.write(CARRIED_VERDICTS, VERDICTS, decided)
    run.workspace.write(CARRIED, OUTCOMES, pl.concat(outcomes))


def find_carried_ids(run: Run) -> pl.Series:
    """Return the ids of a run's arrivals that are in the data store and are not imported again."""
    return run.workspace.find(CARRIED, OUTCOMES)["arrival_id"]


def _read_earlier_run(run: Run, run_key: str, ids: dict[str, str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the verdicts and outcomes of an earlier run under the new ids."""
    earlier = Workspace(run.s3, S3Uri.parse(run.pipeline.workspace).join(run.pipeline.name, run_key, ""))
    renamed = pl.col("arrival_id").replace_strict(ids, default=None, return_dtype=pl.String)
    named = pl.col("arrival_id").is_in(list(ids))
    found = (
        pl.concat(part.filter(named).with_columns(renamed) for part in earlier.find_parts(dataset, schema))
        for dataset, schema in (("verdicts", VERDICTS), ("outcomes", OUTCOMES))
    )
    verdicts, outcomes = found
    return verdicts, outcomes


def _renew_verdicts(verdicts: pl.DataFrame, outcomes: pl.DataFrame, resolved: dict[str, Resolved]) -> pl.DataFrame:
    """Return the verdicts with the grouping elements that the data store has now; deleted instances are ignored."""
    sets = outcomes.select("arrival_id", "image_set_id")
    rows = verdicts.join(sets, on="arrival_id", how="inner", maintain_order="left")
    here = pl.col("image_set_id")
    deleted = here.is_in([name for name, one in resolved.items() if one.image_set_id is None])
    noted = ~here.is_in(list(resolved))  # a resolved image set has no finding any more
    rows = rows.with_columns(
        verdict=pl.when(deleted).then(pl.lit(Verdict.IGNORE.value)).otherwise(pl.lit(Verdict.ACCEPT.value)),
        reason=pl.when(deleted).then(pl.lit(str(Reason.IMAGE_SET_DELETED))).when(noted).then("reason"),
        detail=pl.when(noted).then("detail"),
        duplicate_of=pl.lit(None, pl.String),
    )
    for name, one in resolved.items():
        values = {key: pl.lit(value, pl.String) for key, value in (one.elements or {}).items()}
        mended = {key: pl.when(here == name).then(value).otherwise(key) for key, value in values.items()}
        rows = rows.with_columns(**mended)
    return rows.select(VERDICTS.names())


def renew_outcomes(outcomes: pl.DataFrame, resolved: dict[str, Resolved]) -> pl.DataFrame:
    """Return the outcomes of earlier runs after the resolution, without the findings of audit, which adds them again.

    Parameters
    ----------
    outcomes
        Rows of the outcomes datasets of the earlier runs.
    resolved
        The results for non-primary image sets by their ids; the instances of a deleted image set have no outcome.
    """
    frame = pl.DataFrame(
        [(name, one.image_set_id, one.version) for name, one in resolved.items()],
        schema={"image_set_id": pl.String, "promoted_id": pl.String, "promoted_version": pl.Int64},
        orient="row",
    )
    rows = outcomes.join(frame.with_columns(known=True), on="image_set_id", how="left", maintain_order="left")
    promoted = pl.col("promoted_id").is_not_null()
    outcome = pl.when(promoted).then(pl.lit(Outcome.IMPORTED.value)).otherwise("outcome")
    reasons = {
        Outcome.IMPORTED_WITH_WARNING.value: str(Reason.SERVICE_WARNING),
        Outcome.NON_PRIMARY.value: str(Reason.NON_PRIMARY),
    }
    rows = rows.filter(pl.col("known").is_null() | promoted).with_columns(
        outcome=outcome,
        reason=outcome.replace_strict(reasons, default=None, return_dtype=pl.String),
        image_set_id=pl.coalesce("promoted_id", "image_set_id"),
        image_set_version=pl.coalesce("promoted_version", "image_set_version"),
    )
    return rows.select(OUTCOMES.names())


def _update_arrivals(run: Run, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Return the verdicts with the arrivals' columns from the ledger."""
    held = pl.concat([ARRIVALS.to_frame(), *run.ledger.held_frames(run.pipeline.name, run.key, carried=True)])
    rows = held.join(verdicts.drop(*(set(ARRIVALS) - {"arrival_id"})), on="arrival_id", how="inner", validate="1:1")
    return rows.select(VERDICTS.names()).cast(VERDICTS)


def _check_complete(carried: pl.DataFrame, verdicts: pl.DataFrame) -> None:
    lost = carried.height - verdicts.height
    if lost:
        raise ResolutionError(
            f"the workspaces of {', '.join(carried['run_key'].unique().sort())} no longer have the verdict and outcome "
            f"of {lost} carried arrivals: restore these datasets, or release this run's claims"
        )


def _find_resolution(run: Run) -> Resolution | None:
    asked = run.ledger.find_redrive(run.key)
    resolution = asked and asked["choice"].get("non_primary")
    return Resolution(resolution) if resolution else None


def _check_promotable(run: Run, images: ImageSets, image_set_ids: Iterable[str]) -> None:
    """Raise an error if an image set cannot be promoted, before any of them is changed."""
    begun = {one.image_set_id for one in run.ledger.resolutions_of(run.key)}
    for name in set(image_set_ids) - begun if _find_resolution(run) is Resolution.PROMOTE else ():
        check_promotable(images, name)


def _resolve(run: Run, images: ImageSets, image_set_id: str) -> Resolved | None:
    """Promote or delete a non-primary image set as the redrive asks; continue where an earlier try ended."""
    resolution = _find_resolution(run)
    if resolution is None:
        return None
    datastore = run.pipeline.healthimaging.datastore_id
    record = run.ledger.begin_resolution(datastore, run.key, image_set_id, resolution)
    if record.resolution is Resolution.DELETE:
        if record.state is not ResolutionState.DONE:
            _delete(run, images, record)
        return Resolved()
    return _promote(run, images, record)


def _delete(run: Run, images: ImageSets, record: ResolutionRecord) -> None:
    """Delete an image set if it still exists."""
    run.ledger.advance_resolution(record, ResolutionState.DELETING)
    if find_existing(images, record.image_set_id):
        images.delete(record.image_set_id)
        if find_existing(images, record.image_set_id):
            raise ResolutionError(f"image set {record.image_set_id} was not deleted: clear validate to try again")
    run.ledger.advance_resolution(record, ResolutionState.DONE)


def _promote(run: Run, images: ImageSets, record: ResolutionRecord) -> Resolved:
    if record.state is not ResolutionState.DONE:
        record = promote(run.ledger, images, record)
        _delete(run, images, record)
    promoted_id = str(record.promoted_id)
    return Resolved(promoted_id, record.promoted_version, grouping_elements(images.metadata(promoted_id)))


def read_carried_verdicts(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the verdicts on the carried arrivals, with all attributes of each header."""
    for part in run.workspace.find_parts(CARRIED_VERDICTS, VERDICTS):
        yield part.select(*ARRIVALS, *ATTRIBUTES, "verdict", "reason", "detail", "duplicate_of")
