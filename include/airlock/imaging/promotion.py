"""Promotion: copy a non-primary image set into the primary hierarchy, and prove that the copy is complete.

The steps are the developer guide's: UpdateImageSetMetadata gives the image set the grouping elements of the primary
image sets, and CopyImageSet with ``promoteToPrimary`` copies it. The ledger records each step before the request. An
accepted copy may fail later, and even then its destination has one version more (AWS's example of
list-image-set-versions). So only the result is proof: both image sets are COPIED, the destination has a version above
the recorded one, and it has each instance with the frames of the source.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from airlock.ledger import ResolutionState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.ledger import Ledger, ResolutionRecord

FRAMES_PER_COPY = 1_000  # HealthImaging endpoints and quotas: "Maximum number of image frames per CopyImageSet"
# The service's grouping elements by the level of the metadata document that has them.
_PATIENT = ("PatientID",)
_STUDY = ("StudyDate", "AccessionNumber", "StudyID")
_SERIES = ("SeriesNumber",)
_COPIED, _COPY_FAILED, _UPDATE_FAILED = "COPIED", "COPY_FAILED", "UPDATE_FAILED"
INSTEAD = "give the run back with airlock ledger release, and redrive with delete"


class ImageSets(Protocol):
    """One data store's image sets; each method waits out throttling."""

    def settled(self, image_set_id: str) -> dict[str, Any] | None:
        """Return the properties of an image set as soon as it is not LOCKED; None if it does not exist any more."""

    def metadata(self, image_set_id: str) -> dict[str, Any]:
        """Return the metadata document of an image set."""

    def versions(self, image_set_id: str) -> dict[int, str]:
        """Return the workflow status of each version of an image set."""

    def primaries(self, study_instance_uid: str, shown: str) -> list[str]:
        """Return the ids of a study's primary image sets, as soon as the search shows its image set `shown`."""

    def update(self, image_set_id: str, version: str, updates: dict[str, bytes], *, force: bool) -> None:
        """Request a change of the metadata."""

    def promote(self, image_set_id: str, version: str) -> str:
        """Request a copy into the primary hierarchy; return the id of the destination."""

    def delete(self, image_set_id: str) -> None:
        """Request the deletion."""


class ResolutionError(RuntimeError):
    """A non-primary image set cannot be resolved as the redrive asks."""


def find_existing(images: ImageSets, image_set_id: str) -> dict[str, Any] | None:
    """Wait until an image set is not LOCKED and return its properties; None if it was deleted."""
    found = images.settled(image_set_id)
    return None if found is None or found["imageSetState"] == "DELETED" else found


def check_promotable(images: ImageSets, image_set_id: str) -> None:
    """Raise an error if an image set cannot be promoted; change nothing.

    Raises
    ------
    ResolutionError
        If it was deleted, has too many frames for one copy, or shares SOP Instance UIDs with a primary image set.
    """
    if find_existing(images, image_set_id) is None:
        raise _deleted_error(image_set_id)
    document = images.metadata(image_set_id)
    frames = sum(len(one.get("ImageFrames") or ()) for one in _list_instances(document).values())
    if frames > FRAMES_PER_COPY:
        raise ResolutionError(
            f"image set {image_set_id} has {frames} frames, and CopyImageSet takes {FRAMES_PER_COPY}: {INSTEAD}"
        )
    _read_primaries(images, image_set_id, document)


def promote(ledger: Ledger, images: ImageSets, record: ResolutionRecord) -> ResolutionRecord:
    """Copy an image set into the primary hierarchy, or find the copy of an earlier try, and prove the copy.

    Returns
    -------
    ResolutionRecord
        The record in state DELETING, with the image set that has the instances now: the source can be deleted.

    Raises
    ------
    ResolutionError
        If there is no proof. If no copy is under way any more, the record is BEGUN again, so the run can be released.
    """
    source = find_existing(images, record.image_set_id)
    if source is None and record.state is ResolutionState.DELETING:
        return record  # an earlier try had the proof and deleted the source
    if source is None:
        ledger.advance_resolution(record, ResolutionState.BEGUN)
        raise _deleted_error(record.image_set_id)
    promoted_id = record.promoted_id
    if record.state is ResolutionState.BEGUN:
        record, promoted_id = _request_copy(ledger, images, record, source)
    return _prove(ledger, images, record, promoted_id)


def _deleted_error(image_set_id: str) -> ResolutionError:
    return ResolutionError(f"image set {image_set_id} was deleted outside Airlock: {INSTEAD}")


def _request_copy(
    ledger: Ledger, images: ImageSets, record: ResolutionRecord, source: dict[str, Any]
) -> tuple[ResolutionRecord, str]:
    """Request the copy; return the record of the request, and the id of the destination."""
    document = images.metadata(record.image_set_id)
    primaries = _read_primaries(images, record.image_set_id, document)
    source = _align_elements(images, source, document, [primary for _, primary in primaries.values()])
    noted = {name: version for name, (version, _) in primaries.items()}
    record = ledger.advance_resolution(record, ResolutionState.COPYING, versions_before=noted)
    try:
        return record, images.promote(record.image_set_id, source["versionId"])
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) >= 500:
            raise  # the service may have made the copy
        code = error.response["Error"]["Code"]
        raise _give_up(ledger, record, f"was refused by CopyImageSet with {code}") from None


def _read_primaries(
    images: ImageSets, image_set_id: str, document: dict[str, Any]
) -> dict[str, tuple[int, dict[str, Any]]]:
    """Return version and document of the study's primary image sets, by their ids.

    Raises
    ------
    ResolutionError
        If one has an instance that the image set has too: which of the two a copy leaves is not known.
    """
    found = {}
    for name in images.primaries(document["Study"]["DICOM"]["StudyInstanceUID"], image_set_id):
        properties = find_existing(images, name)
        if properties is None:
            continue
        primary = images.metadata(name)
        shared = len(_list_instances(primary).keys() & _list_instances(document).keys())
        if shared:
            raise ResolutionError(
                f"image set {image_set_id} and the primary image set {name} share {shared} SOP Instance UIDs: a "
                f"promotion could lose either's instances. Compare both in AWS. To keep those of {name}, {INSTEAD}. To "
                f"keep those of {image_set_id}, remove these instances from {name} in AWS, then clear validate"
            )
        found[name] = int(properties["versionId"]), primary
    return found


def _prove(ledger: Ledger, images: ImageSets, record: ResolutionRecord, promoted_id: str | None) -> ResolutionRecord:
    """Record the image set that is proven to have the instances now; search it if its id is not known."""
    name = record.image_set_id
    source, document = find_existing(images, name), images.metadata(name)
    is_copied = source is not None and source["imageSetWorkflowStatus"] == _COPIED
    noted = record.versions_before
    primaries = () if promoted_id else images.primaries(document["Study"]["DICOM"]["StudyInstanceUID"], name)
    failed = False
    for candidate in (promoted_id,) if promoted_id else dict.fromkeys((*noted, *primaries)):
        found = find_existing(images, candidate)
        if found is None:
            continue
        since = noted.get(candidate, 0)
        new = {status for version, status in images.versions(candidate).items() if version > since}
        failed |= _COPY_FAILED in new
        if (
            is_copied
            and _COPIED in new
            and found.get("isPrimary")
            and _has_all_instances(images.metadata(candidate), document)
        ):
            return ledger.advance_resolution(record, ResolutionState.DELETING, candidate, int(found["versionId"]))
    if is_copied and not failed and record.state is ResolutionState.COPYING:
        raise ResolutionError(
            f"image set {name} is COPIED, but no primary image set of its study is proven to hold all of it: a later "
            f"try looks again. If it stays so, look for its instances in AWS"
        )
    raise _give_up(ledger, record, "was not copied")


def _give_up(ledger: Ledger, record: ResolutionRecord, problem: str) -> ResolutionError:
    """Record that no copy is under way; return the error to raise."""
    ledger.advance_resolution(record, ResolutionState.BEGUN)
    return ResolutionError(
        f"image set {record.image_set_id} {problem}, and still exists: check it and its message in AWS, then clear "
        f"validate, or {INSTEAD}"
    )


def _has_all_instances(primary: dict[str, Any], document: dict[str, Any]) -> bool:
    """Return whether an image set has each instance of another one, with the same frames."""
    theirs = _list_instances(primary)
    return all(uid in theirs and _have_same_frames(theirs[uid], one) for uid, one in _list_instances(document).items())


def _have_same_frames(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two instances have the same frames: by their ids, else by their sizes and checksums.

    AWS does not document whether the frames of a copy keep their ids. Instances without frames, such as reports, are
    compared by all their attributes.
    """
    if not (one.get("ImageFrames") or other.get("ImageFrames")):
        return one.get("DICOM") == other.get("DICOM")
    by = (("ID",), ("FrameSizeInBytes", "PixelDataChecksumFromBaseToFullResolution"))
    return any(
        frames == _describe_frames(other, *names) and all(map(all, frames))
        for names in by
        if (frames := _describe_frames(one, *names))
    )


def _describe_frames(instance: dict[str, Any], *names: str) -> list[list[Any]]:
    return [[frame.get(name) for name in names] for frame in instance.get("ImageFrames") or ()]


def _align_elements(
    images: ImageSets, source: dict[str, Any], document: dict[str, Any], primaries: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Give the image set the grouping elements of the primary image sets; return its properties afterwards."""
    updates, force = find_changes(document, primaries)
    if not updates:
        return source
    name = source["imageSetId"]
    images.update(name, source["versionId"], updates, force=force)
    found = find_existing(images, name)
    if found is None or found["imageSetWorkflowStatus"] == _UPDATE_FAILED:
        raise ResolutionError(f"image set {name} was not changed: check it in AWS, then clear validate, or {INSTEAD}")
    return found


def find_changes(document: dict[str, Any], primaries: Iterable[dict[str, Any]]) -> tuple[dict[str, bytes], bool]:
    """Return the changes with which an image set's metadata agrees with the primary image sets of its study.

    Parameters
    ----------
    document
        The metadata document of the non-primary image set.
    primaries
        The metadata documents of the primary image sets.

    Returns
    -------
    tuple
        ``DICOMUpdates``, empty if no element differs, and whether ``force`` is needed, which is for StudyID.
    """
    wanted, unwanted, force = _empty_change(), _empty_change(), False
    for primary in primaries:
        shared = primary["Study"]["Series"].keys() & document["Study"]["Series"].keys()
        series = [(("Study", "Series", uid), _SERIES) for uid in sorted(shared)]
        for path, keywords in [(("Patient",), _PATIENT), (("Study",), _STUDY), *series]:
            ours, theirs = _find_level(document, path), _find_level(primary, path)
            for keyword in keywords:
                if _read_value(ours, keyword) == _read_value(theirs, keyword):
                    continue
                force |= keyword == "StudyID"
                change = wanted if _read_value(theirs, keyword) else unwanted
                _set_value(change, path, keyword, theirs.get(keyword, ""))
    named = {"updatableAttributes": wanted, "removableAttributes": unwanted}
    return {name: json.dumps(change).encode() for name, change in named.items() if len(change) > 1}, force


def _empty_change() -> dict[str, Any]:
    return {"SchemaVersion": 1.1}


def _find_level(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        document = document[name]
    return document["DICOM"]  # type: ignore[no-any-return]


def _set_value(change: dict[str, Any], path: tuple[str, ...], keyword: str, value: Any) -> None:
    for name in path:
        change = change.setdefault(name, {})
    change.setdefault("DICOM", {})[keyword] = value


def _read_value(level: dict[str, Any], keyword: str) -> str:
    """Return a value as the service compares it: absent equals empty, and padding does not count."""
    value = level.get(keyword)
    return "" if value is None else str(value).strip()


def grouping_elements(document: dict[str, Any]) -> dict[str, str]:
    """Return the grouping elements of an image set as parse would read them from a file."""
    series = next(iter(document["Study"]["Series"].values()))["DICOM"]
    levels = ((document["Patient"]["DICOM"], _PATIENT), (document["Study"]["DICOM"], _STUDY), (series, _SERIES))
    return {keyword: _read_value(level, keyword) for level, keywords in levels for keyword in keywords}


def _list_instances(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    series = document["Study"]["Series"].values()
    return {uid: one for item in series for uid, one in item["Instances"].items()}
