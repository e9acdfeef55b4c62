"""CopyImageSet, and with it the promotion of a non-primary image set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from localaws.errors import AwsError, conflict, invalid
from localaws.imaging.announcements import announce_image_set
from localaws.imaging.datastores import find_active_datastore
from localaws.imaging.documents import grouping_of, list_frame_ids, list_instances
from localaws.imaging.hierarchy import contradicts, find_primaries
from localaws.imaging.image_sets import schedule_end, summarise_version
from localaws.imaging.store import (
    Status,
    add_image_set,
    add_version,
    changeable_row,
    document_of,
    set_status,
    share_frames,
    version_row,
)
from localaws.resources import new_id

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
        """Answer CopyImageSet; both image sets are locked until the copy is complete."""
        datastore_id, source_id = params["datastoreId"], params["sourceImageSetId"]
        request = params["copyImageSetInformation"]
        with self._runtime.state.write() as connection:
            find_active_datastore(connection, datastore_id)
            source = changeable_row(connection, datastore_id, source_id, request["sourceImageSet"]["latestVersionId"])
            document = self._select_instances(source, request["sourceImageSet"].get("DICOMCopies", {}))
            destination = self._find_destination(connection, params, source, document)
            fails = self._decide_failure(connection, destination, document)
            if fails:
                document = _without_instances(document)
            target_id = _write_copy(connection, params, destination, document)
            share_frames(connection, source_id, target_id, list_frame_ids(document))
            set_status(connection, source, "LOCKED", "COPYING_WITH_READ_ONLY_ACCESS")
            rows = [version_row(connection, datastore_id, name) for name in (source_id, target_id)]
            for row in rows:
                schedule_end(self._runtime, connection, row, fails=fails)
        self._runtime.schedule.wake()
        for row in rows:
            announce_image_set(self._runtime, row)
        answers = [
            {**summarise_version(self._runtime.settings, row), "latestVersionId": str(row["version"])} for row in rows
        ]
        return {
            "datastoreId": datastore_id,
            "sourceImageSetProperties": answers[0],
            "destinationImageSetProperties": answers[1],
        }

    def _select_instances(self, source: sqlite3.Row, copies: dict[str, Any]) -> Document:
        document = document_of(source)
        if "copiableAttributes" in copies:
            _drop_other_instances(document, _read_selection(copies["copiableAttributes"]))
        limit, count = self._runtime.settings.max_frames_per_copy, len(list_frame_ids(document))
        if count > limit:
            raise AwsError("ServiceQuotaExceededException", f"The copy has {count} image frames; {limit} are allowed.")
        return document

    def _decide_failure(
        self, connection: sqlite3.Connection, destination: sqlite3.Row | None, document: Document
    ) -> bool:
        """Return whether the copy is accepted and then fails; raise ConflictException if it is refused."""
        overlaps = destination is not None and not _sop_uids(document_of(destination)).isdisjoint(_sop_uids(document))
        answer = self._runtime.settings.choice("overlapping_copy")
        if overlaps and answer == "conflict":
            raise conflict("Source and destination share SOP Instance UIDs, which an image set can have once only.")
        return self._runtime.faults.strikes_change(connection, "copy_failed") or (overlaps and answer == "fail")

    @staticmethod
    def _find_destination(
        connection: sqlite3.Connection, params: Params, source: sqlite3.Row, document: Document
    ) -> sqlite3.Row | None:
        """Return the image set that receives the instances; None for a new one."""
        target = params["copyImageSetInformation"].get("destinationImageSet")
        if target and params.get("promoteToPrimary"):
            raise invalid("promoteToPrimary chooses the destination itself; leave destinationImageSet out")
        if target:
            if target["imageSetId"] == source["image_set_id"]:
                raise invalid("$.copyImageSetInformation.destinationImageSet: is the source image set")
            row = changeable_row(connection, source["datastore_id"], target["imageSetId"], target["latestVersionId"])
            if not params.get("force", False):
                _check_equal(document_of(row), document)
            return row
        return _find_primary(connection, source, document) if params.get("promoteToPrimary") else None


def _read_selection(text: str) -> set[tuple[str, str]]:
    try:
        series = json.loads(text)["Study"]["Series"]
        return {(series_uid, sop_uid) for series_uid, entry in series.items() for sop_uid in entry["Instances"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = "copiableAttributes must be JSON of the form {Study: {Series: {uid: {Instances: {uid: {}}}}}}"
        raise invalid(message) from error


def _drop_other_instances(document: Document, wanted: set[tuple[str, str]]) -> None:
    unknown = wanted - {(series_uid, sop_uid) for series_uid, sop_uid, _ in list_instances(document)}
    if unknown or not wanted:
        raise invalid("copiableAttributes must name instances of the source image set")
    series = document["Study"]["Series"]
    for series_uid, sop_uid, _ in list(list_instances(document)):
        if (series_uid, sop_uid) not in wanted:
            del series[series_uid]["Instances"][sop_uid]
    document["Study"]["Series"] = {uid: entry for uid, entry in series.items() if entry["Instances"]}


def _sop_uids(document: Document) -> set[str]:
    return {sop_uid for _, sop_uid, _ in list_instances(document)}


def _without_instances(document: Document) -> Document:
    series = {uid: {**entry, "Instances": {}} for uid, entry in document["Study"]["Series"].items()}
    return {**document, "Study": {**document["Study"], "Series": series}}


def _write_copy(
    connection: sqlite3.Connection, params: Params, destination: sqlite3.Row | None, document: Document
) -> str:
    """Put the instances into the destination, or into a new image set; return its id."""
    promoted = bool(params.get("promoteToPrimary"))
    status = Status("COPYING", "LOCKED", params.get("force", False) and not promoted)
    if destination is None:
        image_set_id = new_id()
        add_image_set(connection, {**document, "ImageSetID": image_set_id}, promoted, status)
        return image_set_id
    target = document_of(destination)
    for series_uid, series in document["Study"]["Series"].items():
        if series["Instances"]:
            target["Study"]["Series"].setdefault(series_uid, {**series, "Instances": {}})
            target["Study"]["Series"][series_uid]["Instances"].update(series["Instances"])
    add_version(connection, destination, target, status)
    return str(destination["image_set_id"])


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


def _find_primary(connection: sqlite3.Connection, source: sqlite3.Row, document: Document) -> sqlite3.Row | None:
    """Return the primary image set of the series, which a promotion joins; None if there is none yet."""
    if source["is_primary"]:
        raise invalid("promoteToPrimary: the source image set is primary already")
    grouping = grouping_of(document)
    others = find_primaries(connection, source["datastore_id"], [(grouping.study_uid, grouping.series_uid)])
    if contradicts(grouping, others.values()):
        message = "The image set contradicts the primary image sets of its study or series"
        raise conflict(f"{message}; make its grouping elements equal by UpdateImageSetMetadata first.")
    for image_set_id, other in others.items():
        if other.series_uid == grouping.series_uid:
            return changeable_row(connection, source["datastore_id"], image_set_id)
    return None
