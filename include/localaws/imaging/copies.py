"""CopyImageSet, and with it the promotion of a non-primary image set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from localaws.errors import AwsError, conflict, invalid
from localaws.imaging.announcements import announce_image_set
from localaws.imaging.datastores import active
from localaws.imaging.documents import frame_ids, grouping_of, instances
from localaws.imaging.hierarchy import disagreeing, primaries
from localaws.imaging.image_sets import settle_later, summary
from localaws.imaging.resources import new_id
from localaws.imaging.versions import (
    Status,
    add_image_set,
    add_version,
    changeable_row,
    document_of,
    set_status,
    share_frames,
    version_row,
)

if TYPE_CHECKING:
    import sqlite3

    from localaws.imaging.documents import Document
    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime


class Copies:
    """Copies instances into a new, a given, or the primary image set."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def copy(self, params: Params) -> Result:
        """Answer CopyImageSet; both image sets are locked until the copy is through."""
        datastore_id, source_id = params["datastoreId"], params["sourceImageSetId"]
        request = params["copyImageSetInformation"]
        with self._runtime.state.write() as connection:
            active(connection, datastore_id)
            source = changeable_row(connection, datastore_id, source_id, request["sourceImageSet"]["latestVersionId"])
            document = self._selected(source, request["sourceImageSet"].get("DICOMCopies", {}))
            target_id = self._write(connection, params, source, document)
            share_frames(connection, source_id, target_id, frame_ids(document))
            set_status(connection, source, "LOCKED", "COPYING_WITH_READ_ONLY_ACCESS")
            rows = [version_row(connection, datastore_id, name) for name in (source_id, target_id)]
            for row in rows:
                settle_later(self._runtime, connection, row)
        self._runtime.schedule.wake()
        for row in rows:
            announce_image_set(self._runtime, row)
        answers = [{**summary(self._runtime.settings, row), "latestVersionId": str(row["version"])} for row in rows]
        return {
            "datastoreId": datastore_id,
            "sourceImageSetProperties": answers[0],
            "destinationImageSetProperties": answers[1],
        }

    def _selected(self, source: sqlite3.Row, copies: dict[str, Any]) -> Document:
        document = document_of(source)
        if "copiableAttributes" in copies:
            _keep_only(document, _read_selection(copies["copiableAttributes"]))
        limit, count = self._runtime.settings.max_frames_per_copy, len(frame_ids(document))
        if count > limit:
            raise AwsError("ServiceQuotaExceededException", f"The copy has {count} image frames; {limit} are allowed.")
        return document

    def _write(self, connection: sqlite3.Connection, params: Params, source: sqlite3.Row, document: Document) -> str:
        """Put the instances where they belong; returns the image set that has them now."""
        target = params["copyImageSetInformation"].get("destinationImageSet")
        if target and params.get("promoteToPrimary"):
            raise invalid("promoteToPrimary chooses the destination itself; leave destinationImageSet out")
        forced = params.get("force", False)
        if target:
            if target["imageSetId"] == source["image_set_id"]:
                raise invalid("$.copyImageSetInformation.destinationImageSet: is the source image set")
            row = changeable_row(connection, source["datastore_id"], target["imageSetId"], target["latestVersionId"])
            if not forced:
                _check_equal(document_of(row), document)
            return _merge(connection, row, document, forced)
        if params.get("promoteToPrimary"):
            return _promote(connection, source, document)
        return _found(connection, document, is_primary=False, forced=forced)


def _read_selection(text: str) -> set[tuple[str, str]]:
    try:
        series = json.loads(text)["Study"]["Series"]
        return {(series_uid, sop_uid) for series_uid, entry in series.items() for sop_uid in entry["Instances"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = "copiableAttributes must be JSON of the form {Study: {Series: {uid: {Instances: {uid: {}}}}}}"
        raise invalid(message) from error


def _keep_only(document: Document, wanted: set[tuple[str, str]]) -> None:
    unknown = wanted - {(series_uid, sop_uid) for series_uid, sop_uid, _ in instances(document)}
    if unknown or not wanted:
        raise invalid("copiableAttributes must name instances of the source image set")
    series = document["Study"]["Series"]
    for series_uid, sop_uid, _ in list(instances(document)):
        if (series_uid, sop_uid) not in wanted:
            del series[series_uid]["Instances"][sop_uid]
    document["Study"]["Series"] = {uid: entry for uid, entry in series.items() if entry["Instances"]}


def _merge(connection: sqlite3.Connection, row: sqlite3.Row, document: Document, forced: bool) -> str:
    target = document_of(row)
    for series_uid, series in document["Study"]["Series"].items():
        target["Study"]["Series"].setdefault(series_uid, {**series, "Instances": {}})
        target["Study"]["Series"][series_uid]["Instances"].update(series["Instances"])
    add_version(connection, row, target, Status("COPYING", "LOCKED", forced))
    return str(row["image_set_id"])


def _check_equal(target: Document, source: Document) -> None:
    different = _differences(target, source)
    if different:
        message = "Source and destination differ at patient, study or series level"
        raise conflict(f"{message} in {', '.join(different)}; make them equal, or use force.")


def _differences(target: Document, source: Document) -> list[str]:
    """Return the keywords whose values differ at patient, study and series level."""
    pairs = [
        (target["Patient"]["DICOM"], source["Patient"]["DICOM"]),
        (target["Study"]["DICOM"], source["Study"]["DICOM"]),
    ]
    known = target["Study"]["Series"]
    pairs += [(known[uid]["DICOM"], entry["DICOM"]) for uid, entry in source["Study"]["Series"].items() if uid in known]
    found = {
        name for ours, theirs in pairs for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    }
    return sorted(found | ({"SeriesInstanceUID"} if set(source["Study"]["Series"]) - set(known) else set()))


def _promote(connection: sqlite3.Connection, source: sqlite3.Row, document: Document) -> str:
    """Join the primary image set of the series, or found it."""
    if source["is_primary"]:
        raise invalid("promoteToPrimary: the source image set is primary already")
    grouping = grouping_of(document)
    others = primaries(connection, source["datastore_id"], [(grouping.study_uid, grouping.series_uid)])
    if disagreeing(grouping, others.values()):
        message = "The image set contradicts the primary image sets of its study or series"
        raise conflict(f"{message}; make its grouping elements equal by UpdateImageSetMetadata first.")
    for image_set_id, other in others.items():
        if other.series_uid == grouping.series_uid:
            row = changeable_row(connection, source["datastore_id"], image_set_id)
            return _merge(connection, row, document, forced=False)
    return _found(connection, document, is_primary=True, forced=False)


def _found(connection: sqlite3.Connection, document: Document, *, is_primary: bool, forced: bool) -> str:
    image_set_id = new_id()
    status = Status("COPYING", "LOCKED", forced)
    add_image_set(connection, {**document, "ImageSetID": image_set_id}, is_primary, status)
    return image_set_id
