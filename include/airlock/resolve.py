"""Resolve: what a redrive carries on without an import, and what a person wants done with non-primary image sets.

Writes ``carried-verdicts`` and ``carried``: the verdicts and outcomes of the generations before, under the new
arrivals' ids. Promotion is the developer guide's: the grouping elements are made those of the primary image sets
(UpdateImageSetMetadata), the image set is copied with ``promoteToPrimary`` (CopyImageSet), and, beyond the guide, the
copy's source is deleted, so that no instance is kept twice. Each step is in the ledger before it is asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from airlock.ledger import Resolution, ResolutionState
from airlock.reasons import Reason
from airlock.records import ARRIVALS, ATTRIBUTES, OUTCOMES, VERDICTS, Outcome, Verdict
from airlock.s3uri import S3Uri
from airlock.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.ledger import ResolutionRecord
    from airlock.run import Run

CARRIED = "carried"
CARRIED_VERDICTS = "carried-verdicts"
FRAMES_PER_COPY = 1_000  # HealthImaging endpoints and quotas: "Maximum number of image frames per CopyImageSet"
# The service's grouping elements by the level of the metadata document that has them.
_PATIENT = ("PatientID",)
_STUDY = ("StudyDate", "AccessionNumber", "StudyID")
_SERIES = ("SeriesNumber",)
_FAILED = ("COPY_FAILED", "UPDATE_FAILED")
_INSTEAD = "give the run back with airlock ledger release, and redrive with delete"


class ImageSets(Protocol):
    """One data store's image sets; each method waits out throttling."""

    def settled(self, image_set_id: str) -> dict[str, Any] | None:
        """Return the properties of an image set, as soon as it is not LOCKED; None if it is not there any more."""

    def metadata(self, image_set_id: str) -> dict[str, Any]:
        """Return the metadata document of an image set."""

    def primaries(self, study_instance_uid: str) -> list[str]:
        """Return the ids of a study's primary image sets."""

    def update(self, image_set_id: str, version: str, updates: dict[str, bytes], *, force: bool) -> None:
        """Ask for a change of the metadata."""

    def promote(self, image_set_id: str, version: str) -> str:
        """Ask for a copy into the primary hierarchy; return the id of the image set that is to have it."""

    def delete(self, image_set_id: str) -> None:
        """Ask for the deletion."""


class ResolutionError(RuntimeError):
    """A non-primary image set cannot be resolved as it was asked for."""


@dataclass(frozen=True)
class Resolved:
    """What became of a non-primary image set; without a new image set it was deleted."""

    image_set_id: str | None = None
    version: int | None = None
    elements: dict[str, str] | None = None  # the grouping elements that its instances have now


def carry(run: Run, images: ImageSets) -> None:
    """Bring over what the run carries on, and resolve its non-primary image sets; done once, it stands."""
    if run.workspace.is_committed(CARRIED):
        return
    datastore = run.pipeline.healthimaging.datastore_id
    carried = run.ledger.carried(datastore, run.pipeline.name, run.key)
    odd = carried.filter(pl.col("state") == "non_primary")["image_set_id"].unique().sort()
    _need_small(run, images, odd)
    resolved = {str(name): r for name in odd if (r := _resolve(run, images, str(name))) is not None}
    verdicts, outcomes = [VERDICTS.to_frame()], [OUTCOMES.to_frame()]
    for (key,), rows in carried.group_by("run_key", maintain_order=True):
        ids = dict(rows.select("carries", "arrival_id").iter_rows())
        found = _before(run, str(key), ids)
        verdicts.append(_verdicts(*found, resolved))
        outcomes.append(carried_outcomes(found[1], resolved))
    decided = _as_now(run, pl.concat(verdicts))
    _need_all(carried, decided)
    run.workspace.write(CARRIED_VERDICTS, VERDICTS, decided)
    run.workspace.write(CARRIED, OUTCOMES, pl.concat(outcomes))


def carried_ids(run: Run) -> pl.Series:
    """Return the arrivals of a run that are in the data store already and are not to be imported."""
    return run.workspace.find(CARRIED, OUTCOMES)["arrival_id"]


def _before(run: Run, run_key: str, ids: dict[str, str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the verdicts and outcomes that an earlier run has written, under the new ids."""
    earlier = Workspace(run.s3, S3Uri.parse(run.pipeline.workspace).join(run.pipeline.name, run_key, ""))
    renamed = pl.col("arrival_id").replace_strict(ids, default=None, return_dtype=pl.String)
    named = pl.col("arrival_id").is_in(list(ids))
    found = (
        pl.concat(part.filter(named).with_columns(renamed) for part in earlier.find_parts(dataset, schema))
        for dataset, schema in (("verdicts", VERDICTS), ("outcomes", OUTCOMES))
    )
    verdicts, outcomes = found
    return verdicts, outcomes


def _verdicts(verdicts: pl.DataFrame, outcomes: pl.DataFrame, resolved: dict[str, Resolved]) -> pl.DataFrame:
    """Accept what is in the data store, with the grouping elements it has there now; ignore what was deleted."""
    sets = outcomes.select("arrival_id", "image_set_id")
    rows = verdicts.join(sets, on="arrival_id", how="inner", maintain_order="left")
    here = pl.col("image_set_id")
    deleted = here.is_in([name for name, one in resolved.items() if one.image_set_id is None])
    noted = ~here.is_in(list(resolved))  # of an image set that was resolved nothing is to be said any more
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


def carried_outcomes(outcomes: pl.DataFrame, resolved: dict[str, Resolved]) -> pl.DataFrame:
    """Return the facts of the import as they are now; what an audit made of them beyond that it says anew.

    Parameters
    ----------
    outcomes
        Rows of the outcomes dataset of the runs before.
    resolved
        What became of non-primary image sets, by their ids; of a deleted one there is no outcome any more.
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


def _as_now(run: Run, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Give the verdicts what the ledger says of the arrivals themselves."""
    held = pl.concat([ARRIVALS.to_frame(), *run.ledger.held_frames(run.pipeline.name, run.key, carried=True)])
    rows = held.join(verdicts.drop(*(set(ARRIVALS) - {"arrival_id"})), on="arrival_id", how="inner", validate="1:1")
    return rows.select(VERDICTS.names()).cast(VERDICTS)


def _need_all(carried: pl.DataFrame, verdicts: pl.DataFrame) -> None:
    lost = carried.height - verdicts.height
    if lost:
        raise ResolutionError(
            f"the workspaces of {', '.join(carried['run_key'].unique().sort())} do not say any more how {lost} of the "
            f"carried arrivals were imported: put their verdicts and outcomes back, or release this run's claims"
        )


def _asked(run: Run) -> Resolution | None:
    asked = run.ledger.redrive_of(run.key)
    word = asked and asked["choice"].get("non_primary")
    return Resolution(word) if word else None


def _need_small(run: Run, images: ImageSets, image_set_ids: Iterable[str]) -> None:
    """Refuse image sets that cannot be copied as a whole before anything is done with one of them.

    Raises
    ------
    ResolutionError
        If one has too many frames, or is not there. The redrive can be given back then, and another one choose delete.
    """
    begun = {one.image_set_id for one in run.ledger.resolutions_of(run.key)}
    for name in [] if _asked(run) is not Resolution.PROMOTE else set(image_set_ids) - begun:
        if _there(images, name) is None:
            raise ResolutionError(f"image set {name} was deleted by others: {_INSTEAD}")
        frames = sum(len(one.get("ImageFrames") or ()) for one in _each(images.metadata(name)).values())
        if frames > FRAMES_PER_COPY:
            raise ResolutionError(
                f"image set {name} has {frames} frames, and CopyImageSet takes {FRAMES_PER_COPY}: {_INSTEAD}"
            )


def _resolve(run: Run, images: ImageSets, image_set_id: str) -> Resolved | None:
    """Do what a person wants done with a non-primary image set, from where an earlier try has left it."""
    word = _asked(run)
    if word is None:
        return None
    datastore = run.pipeline.healthimaging.datastore_id
    record = run.ledger.begin_resolution(datastore, run.key, image_set_id, word)
    if record.resolution is Resolution.DELETE:
        if record.state is not ResolutionState.DONE:
            _delete(run, images, record)
        return Resolved()
    return _promote(run, images, record)


def _delete(run: Run, images: ImageSets, record: ResolutionRecord) -> None:
    """Delete an image set, if it is still there."""
    run.ledger.advance_resolution(record, ResolutionState.DELETING)
    if _there(images, record.image_set_id):
        images.delete(record.image_set_id)
        if _there(images, record.image_set_id):
            raise ResolutionError(f"image set {record.image_set_id} was not deleted: clear validate, it tries again")
    run.ledger.advance_resolution(record, ResolutionState.DONE)


def _there(images: ImageSets, image_set_id: str) -> dict[str, Any] | None:
    found = images.settled(image_set_id)
    return None if found is None or found["imageSetState"] == "DELETED" else found


def _promote(run: Run, images: ImageSets, record: ResolutionRecord) -> Resolved:
    promoted_id = record.promoted_id
    if promoted_id is None:
        promoted_id = _copied(run, images, record)
        found = _there(images, promoted_id)
        if found is None or not _instances(images.metadata(promoted_id)) >= _instances(
            images.metadata(record.image_set_id)
        ):
            raise ResolutionError(
                f"image set {promoted_id} does not hold all of {record.image_set_id}: look at both, then clear validate"
            )
        record = run.ledger.advance_resolution(
            record, ResolutionState.DELETING, promoted_id=promoted_id, promoted_version=int(found["versionId"])
        )
    if record.state is not ResolutionState.DONE:
        _delete(run, images, record)
    return Resolved(promoted_id, record.promoted_version, _elements(images.metadata(promoted_id)))


def _copied(run: Run, images: ImageSets, record: ResolutionRecord) -> str:
    """Return the image set that the instances were copied into; a copy that an earlier try began is not repeated."""
    source = _there(images, record.image_set_id)
    if source is None:
        raise ResolutionError(f"image set {record.image_set_id} was deleted by others: {_INSTEAD}")
    document = images.metadata(record.image_set_id)
    if record.state is ResolutionState.COPYING:
        there = _holder(images, document)
        if there is not None:
            return there
        if source["imageSetWorkflowStatus"] == "COPIED":
            raise ResolutionError(f"the copy of image set {record.image_set_id} is not found yet: a later try finds it")
    source = _mended(images, source, document)
    run.ledger.advance_resolution(record, ResolutionState.COPYING)
    return images.promote(record.image_set_id, source["versionId"])


def _mended(images: ImageSets, source: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Make the grouping elements those of the study's primary image sets; return the properties afterwards."""
    updates, force = changes(document, map(images.metadata, images.primaries(document["Study"]["DICOM"][_UID])))
    if not updates:
        return source
    name = source["imageSetId"]
    images.update(name, source["versionId"], updates, force=force)
    found = _there(images, name)
    if found is None or found["imageSetWorkflowStatus"] in _FAILED:
        raise ResolutionError(
            f"image set {name} was not changed: look at it in AWS, then clear validate, or {_INSTEAD}"
        )
    return found


_UID = "StudyInstanceUID"


def changes(document: dict[str, Any], primaries: Iterable[dict[str, Any]]) -> tuple[dict[str, bytes], bool]:
    """Say how an image set's metadata must change to agree with the primary image sets of its study.

    Parameters
    ----------
    document
        Of the non-primary image set.
    primaries
        The documents of the primary ones.

    Returns
    -------
    tuple
        ``DICOMUpdates`` (empty where nothing differs), and whether ``force`` is needed: for StudyID.
    """
    wanted, unwanted, force = _empty(), _empty(), False
    for primary in primaries:
        shared = primary["Study"]["Series"].keys() & document["Study"]["Series"].keys()
        series = [(("Study", "Series", uid), _SERIES) for uid in sorted(shared)]
        for path, keywords in [(("Patient",), _PATIENT), (("Study",), _STUDY), *series]:
            ours, theirs = _level(document, path), _level(primary, path)
            for keyword in keywords:
                if _value(ours, keyword) == _value(theirs, keyword):
                    continue
                force |= keyword == "StudyID"
                change = wanted if _value(theirs, keyword) else unwanted
                _put(change, path, keyword, theirs.get(keyword, ""))
    named = {"updatableAttributes": wanted, "removableAttributes": unwanted}
    return {name: json.dumps(change).encode() for name, change in named.items() if len(change) > 1}, force


def _empty() -> dict[str, Any]:
    return {"SchemaVersion": 1.1}


def _level(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        document = document[name]
    return document["DICOM"]  # type: ignore[no-any-return]


def _put(change: dict[str, Any], path: tuple[str, ...], keyword: str, value: Any) -> None:
    for name in path:
        change = change.setdefault(name, {})
    change.setdefault("DICOM", {})[keyword] = value


def _value(level: dict[str, Any], keyword: str) -> str:
    """Return a value as the service compares it: absent and empty are one, padding does not count."""
    value = level.get(keyword)
    return "" if value is None else str(value).strip()


def _elements(document: dict[str, Any]) -> dict[str, str]:
    """Return the grouping elements of an image set, as parse would have read them."""
    series = next(iter(document["Study"]["Series"].values()))["DICOM"]
    levels = ((document["Patient"]["DICOM"], _PATIENT), (document["Study"]["DICOM"], _STUDY), (series, _SERIES))
    return {keyword: _value(level, keyword) for level, keywords in levels for keyword in keywords}


def _each(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    series = document["Study"]["Series"].values()
    return {uid: one for item in series for uid, one in item["Instances"].items()}


def _instances(document: dict[str, Any]) -> set[str]:
    return set(_each(document))


def _holder(images: ImageSets, document: dict[str, Any]) -> str | None:
    """Find the primary image set that holds all of an image set's instances."""
    names: Iterator[str] = iter(images.primaries(document["Study"]["DICOM"][_UID]))
    return next((name for name in names if _instances(images.metadata(name)) >= _instances(document)), None)


def carried_verdicts(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the verdicts on what the run carries on, with all attributes of each header."""
    for part in run.workspace.find_parts(CARRIED_VERDICTS, VERDICTS):
        yield part.select(*ARRIVALS, *ATTRIBUTES, "verdict", "reason", "detail", "duplicate_of")
