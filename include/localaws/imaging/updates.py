"""UpdateImageSetMetadata."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from localaws.errors import AwsError, conflict, invalid
from localaws.imaging.announcements import announce_image_set
from localaws.imaging.datastores import find_active_datastore
from localaws.imaging.documents import grouping_of
from localaws.imaging.hierarchy import contradicts, find_primaries
from localaws.imaging.image_sets import schedule_end, summarise_version
from localaws.imaging.store import Status, add_version, changeable_row, document_of, version_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from localaws.imaging.documents import Document
    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime

UIDS = frozenset({"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"})
NEED_FORCE = UIDS | {"StudyID"}
LARGEST_UPDATE = 10 * 1024
PRIVATE = re.compile("[0-9A-Fa-f]{3}[13579BDFbdf][0-9A-Fa-f]{4}")
"""Key of a private element: eight hexadecimal digits with an odd group."""


class Updates:
    """Changes, removes and reverts attributes; every change is a new version."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def update(self, params: Params) -> Result:
        """Answer UpdateImageSetMetadata; the image set is locked until the change is complete."""
        datastore_id = params["datastoreId"]
        with self._runtime.state.write() as connection:
            find_active_datastore(connection, datastore_id)
            row = changeable_row(connection, datastore_id, params["imageSetId"], params["latestVersionId"])
            changed = {row["image_set_id"]: self._change_document(connection, row, params)}
            if params.get("includeStudyImageSets"):
                changed |= self._change_rest_of_study(connection, row, params)
            self._check_hierarchy(connection, row, changed)
            fails = self._runtime.faults.strikes_change(connection, "update_failed")
            rows = [
                self._write_version(connection, row, name, None if fails else document, params)
                for name, document in changed.items()
            ]
        self._runtime.schedule.wake()
        for changed_row in rows:
            announce_image_set(self._runtime, changed_row)
        answer = summarise_version(self._runtime.settings, rows[0])
        del answer["imageSetArn"]
        return {**answer, "datastoreId": datastore_id, "latestVersionId": str(rows[0]["version"])}

    @staticmethod
    def _change_document(connection: sqlite3.Connection, row: sqlite3.Row, params: Params) -> Document:
        updates = params["updateImageSetMetadataUpdates"]
        if "revertToVersionId" in updates:
            version = int(updates["revertToVersionId"])
            if version >= row["version"]:
                raise invalid("revertToVersionId: must be a version before the latest one")
            return document_of(version_row(connection, row["datastore_id"], row["image_set_id"], version))
        document = document_of(row)
        apply(document, updates["DICOMUpdates"], force=params.get("force", False))
        return document

    @staticmethod
    def _change_rest_of_study(connection: sqlite3.Connection, row: sqlite3.Row, params: Params) -> dict[str, Document]:
        """Apply the patient and study level part of the change to the other primary image sets of the study."""
        grouping = grouping_of(document_of(row))
        found = find_primaries(connection, row["datastore_id"], [(grouping.study_uid, grouping.series_uid)])
        updates = params["updateImageSetMetadataUpdates"].get("DICOMUpdates", {})
        changed = {}
        for image_set_id in found.keys() - {row["image_set_id"]}:
            document = document_of(changeable_row(connection, row["datastore_id"], image_set_id))
            apply(document, updates, force=params.get("force", False), study_only=True)
            changed[image_set_id] = document
        return changed

    @staticmethod
    def _check_hierarchy(connection: sqlite3.Connection, row: sqlite3.Row, changed: dict[str, Document]) -> None:
        if not row["is_primary"]:
            return
        grouping = grouping_of(changed[row["image_set_id"]])
        others = find_primaries(connection, row["datastore_id"], [(grouping.study_uid, grouping.series_uid)])
        if contradicts(grouping, (other for name, other in others.items() if name not in changed)):
            message = "The change would contradict other primary image sets of the study"
            raise conflict(f"{message}; use includeStudyImageSets to change them all.")

    def _write_version(
        self,
        connection: sqlite3.Connection,
        row: sqlite3.Row,
        image_set_id: str,
        document: Document | None,
        params: Params,
    ) -> sqlite3.Row:
        """Add a version; without a document it equals the version before, and the change fails."""
        latest = version_row(connection, row["datastore_id"], image_set_id)
        asked_for = image_set_id == row["image_set_id"]
        workflow_status = "UPDATING" if asked_for else "UPDATING_FOR_STUDY_CONSISTENCY"
        status = Status(workflow_status, "LOCKED", params.get("force", False))
        add_version(connection, latest, document_of(latest) if document is None else document, status)
        latest = version_row(connection, row["datastore_id"], image_set_id)
        schedule_end(self._runtime, connection, latest, fails=document is None)
        return latest


def apply(document: Document, updates: dict[str, bytes], *, force: bool, study_only: bool = False) -> None:
    """Apply ``DICOMUpdates`` to a document, in place.

    Parameters
    ----------
    document : dict
        A metadata document.
    updates : dict
        ``updatableAttributes`` and ``removableAttributes``: JSON in the form of the document itself.
    force : bool
        Allow UIDs, StudyID and private elements of an instance to be changed.
    study_only : bool
        Leave out levels below the study.

    Raises
    ------
    AwsError
        ValidationException: not JSON of that form, an attribute that needs `force`, a UID to be removed, a series or
        instance that the document does not have. ServiceQuotaExceededException: more than 10 KB.
    """
    for name in ("removableAttributes", "updatableAttributes"):
        if name in updates:
            for level, attributes in _pair_levels(document, _read_change(name, updates[name]), study_only):
                _check_attributes(attributes, force=force, removes=name == "removableAttributes")
                if name == "removableAttributes":
                    for keyword in attributes:
                        level.pop(keyword, None)
                else:
                    level.update(attributes)
    _rename_keys(document)


def _read_change(name: str, body: bytes) -> Document:
    if len(body) > LARGEST_UPDATE:
        raise AwsError("ServiceQuotaExceededException", f"{name} has more than {LARGEST_UPDATE} bytes.")
    try:
        change = json.loads(body)
    except ValueError as error:
        raise invalid(f"{name}: must be JSON") from error
    if not isinstance(change, dict):
        raise invalid(f"{name}: must be a JSON object")
    return change


def _pair_levels(
    document: Document, change: Document, study_only: bool
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each level of the document that the change touches, with the change's attributes."""
    study = _require_object(change.get("Study", {}))
    yield document["Patient"]["DICOM"], _require_object(_require_object(change.get("Patient", {})).get("DICOM", {}))
    yield document["Study"]["DICOM"], _require_object(study.get("DICOM", {}))
    if study_only:
        return
    for series, series_change in _pair_parts(document["Study"]["Series"], study.get("Series", {})):
        yield series["DICOM"], _require_object(series_change.get("DICOM", {}))
        for instance, instance_change in _pair_parts(series["Instances"], series_change.get("Instances", {})):
            yield instance["DICOM"], _require_object(instance_change.get("DICOM", {}))


def _pair_parts(parts: dict[str, Any], change: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for uid, part in _require_object(change).items():
        if uid not in parts:
            raise invalid("DICOMUpdates: names a series or instance that the image set does not have")
        yield parts[uid], _require_object(part)


def _require_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid("DICOMUpdates: must have the form of the metadata document")
    return value


def _check_attributes(attributes: dict[str, Any], *, force: bool, removes: bool) -> None:
    for keyword in attributes:
        if removes and keyword in UIDS:
            raise invalid(f"removableAttributes: {keyword} cannot be removed")
        if not force and (keyword in NEED_FORCE or PRIVATE.fullmatch(keyword)):
            raise invalid(f"DICOMUpdates: {keyword} can only be changed with force")


def _rename_keys(document: Document) -> None:
    """File series and instances under the UIDs that they have now."""
    study = document["Study"]
    for series in study["Series"].values():
        entries = series["Instances"].items()
        series["Instances"] = {entry["DICOM"].get("SOPInstanceUID", uid): entry for uid, entry in entries}
    study["Series"] = {entry["DICOM"].get("SeriesInstanceUID", uid): entry for uid, entry in study["Series"].items()}
