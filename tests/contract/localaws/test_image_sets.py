"""The operations on image sets: search, read, change, copy, promote, delete."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from airlock_local.sample.part10 import SLICE_SIDE
from tests.contract.localaws.dicom_files import new_uid, part10, series
from tests.contract.localaws.endpoint import until

if TYPE_CHECKING:
    from tests.contract.localaws.endpoint import Endpoint


def metadata(endpoint: Endpoint, image_set_id: str, **arguments: Any) -> dict[str, Any]:
    answer = endpoint.imaging.get_image_set_metadata(
        datastoreId=endpoint.datastore_id, imageSetId=image_set_id, **arguments
    )
    body = answer["imageSetMetadataBlob"].read()
    document: dict[str, Any] = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
    return document


def settled(endpoint: Endpoint, image_set_id: str) -> dict[str, Any]:
    """Wait until an image set is not locked any more."""
    where = {"datastoreId": endpoint.datastore_id, "imageSetId": image_set_id}
    image_set: dict[str, Any] = until(
        lambda: endpoint.imaging.get_image_set(**where), lambda seen: seen["imageSetState"] != "LOCKED"
    )
    return image_set


def update(endpoint: Endpoint, image_set_id: str, version: str, **arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = endpoint.imaging.update_image_set_metadata(
        datastoreId=endpoint.datastore_id, imageSetId=image_set_id, latestVersionId=version, **arguments
    )
    return answer


def updatable(change: dict[str, Any]) -> dict[str, Any]:
    return {"DICOMUpdates": {"updatableAttributes": json.dumps({"SchemaVersion": 1.1, **change}).encode()}}


def search(endpoint: Endpoint, *filters: dict[str, Any], **arguments: Any) -> list[dict[str, Any]]:
    pages = endpoint.imaging.get_paginator("search_image_sets").paginate(
        datastoreId=endpoint.datastore_id,
        searchCriteria={"filters": list(filters), **arguments},
        PaginationConfig={"PageSize": 1},
    )
    return [item for page in pages for item in page["imageSetsMetadataSummaries"]]


def equal(**value: Any) -> dict[str, Any]:
    return {"operator": "EQUAL", "values": [value]}


@pytest.fixture(scope="module")
def study() -> str:
    return new_uid()


@pytest.fixture(scope="module")
def image_sets(endpoint: Endpoint, study: str) -> list[str]:
    """Two series of one study, of two instances each."""
    common = {
        "StudyInstanceUID": study,
        "PatientID": study[-40:],
        "AccessionNumber": study[-16:],
        "StudyID": study[-9:],
    }
    files = [*series(2, **common), *series(2, **common, SeriesNumber=2)]
    job = endpoint.import_files({f"{number}.dcm": body for number, body in enumerate(files)})
    until(lambda: search(endpoint, equal(DICOMStudyInstanceUID=study)), lambda found: len(found) == 2)
    return job.image_set_ids


def test_a_search_by_each_attribute_finds_the_image_sets(endpoint: Endpoint, image_sets: list[str], study: str) -> None:
    document = metadata(endpoint, image_sets[0])
    (series_uid,) = document["Study"]["Series"]
    for value, expected in (
        ({"DICOMStudyInstanceUID": study}, set(image_sets)),
        ({"DICOMPatientId": study[-40:]}, set(image_sets)),
        ({"DICOMAccessionNumber": study[-16:]}, set(image_sets)),
        ({"DICOMStudyId": study[-9:]}, set(image_sets)),
        ({"DICOMSeriesInstanceUID": series_uid}, {image_sets[0]}),
    ):
        assert {item["imageSetId"] for item in search(endpoint, equal(**value))} == expected, value


def test_a_found_image_set_shows_its_tags(endpoint: Endpoint, image_sets: list[str], study: str) -> None:
    found = {item["imageSetId"]: item for item in search(endpoint, equal(DICOMStudyInstanceUID=study))}
    item = found[image_sets[1]]
    tags = item["DICOMTags"]
    assert (item["version"], item["isPrimary"], tags["DICOMSeriesModality"]) == (1, True, "CT")
    assert (tags["DICOMStudyDate"], tags["DICOMSeriesNumber"], tags["DICOMPatientSex"]) == ("20260301", 2, "O")


def test_a_search_takes_ranges_and_sorts(endpoint: Endpoint, image_sets: list[str], study: str) -> None:
    now = datetime.now(UTC)
    span = [{"updatedAt": now - timedelta(hours=1)}, {"updatedAt": now + timedelta(hours=1)}]
    recent = {"operator": "BETWEEN", "values": span}
    sort = {"sortField": "createdAt", "sortOrder": "ASC"}
    found = search(endpoint, equal(DICOMStudyInstanceUID=study), recent, sort=sort)
    assert {item["imageSetId"] for item in found} == set(image_sets)
    assert [item["createdAt"] for item in found] == sorted(item["createdAt"] for item in found)
    long_ago = [{"updatedAt": now - timedelta(days=9)}, {"updatedAt": now - timedelta(days=8)}]
    past = {"operator": "BETWEEN", "values": long_ago}
    assert search(endpoint, equal(DICOMStudyInstanceUID=study), past) == []


def test_a_search_by_study_date_and_time(endpoint: Endpoint) -> None:
    job = endpoint.import_files({"a.dcm": part10(StudyDate="19010203", StudyTime="040506")})
    moments = [{"DICOMStudyDate": "19010203", "DICOMStudyTime": time} for time in ("040000", "050000")]
    values = [{"DICOMStudyDateAndTime": moment} for moment in moments]
    found = search(endpoint, {"operator": "BETWEEN", "values": values})
    assert job.image_set_ids[0] in {item["imageSetId"] for item in found}


def test_the_metadata_document_has_the_documented_form(endpoint: Endpoint, image_sets: list[str], study: str) -> None:
    document = metadata(endpoint, image_sets[0])
    assert document["SchemaVersion"] == "1.1"
    assert (document["DatastoreID"], document["ImageSetID"]) == (endpoint.datastore_id, image_sets[0])
    assert document["Patient"]["DICOM"]["PatientID"] == study[-40:]
    assert document["Study"]["DICOM"]["StudyInstanceUID"] == study
    ((series_uid, entry),) = document["Study"]["Series"].items()
    assert entry["DICOM"]["SeriesInstanceUID"] == series_uid
    assert len(entry["Instances"]) == 2
    for sop_uid, instance in entry["Instances"].items():
        assert instance["DICOM"]["SOPInstanceUID"] == sop_uid
        (frame,) = instance["ImageFrames"]
        assert frame["FrameSizeInBytes"] > 0
        checksum = frame["PixelDataChecksumFromBaseToFullResolution"][-1]
        assert (checksum["Width"], checksum["Height"]) == (SLICE_SIDE, SLICE_SIDE)


def test_a_frame_is_read_by_its_id(endpoint: Endpoint, image_sets: list[str]) -> None:
    document = metadata(endpoint, image_sets[0])
    ((_, entry),) = document["Study"]["Series"].items()
    instance = next(iter(entry["Instances"].values()))
    answer = endpoint.imaging.get_image_frame(
        datastoreId=endpoint.datastore_id,
        imageSetId=image_sets[0],
        imageFrameInformation={"imageFrameId": instance["ImageFrames"][0]["ID"]},
    )
    body = answer["imageFrameBlob"].read()
    assert len(body) == instance["ImageFrames"][0]["FrameSizeInBytes"]
    stored = instance["StoredTransferSyntaxUID"]
    assert answer["contentType"] == ("application/octet-stream" if stored == "1.2.840.10008.1.2.1" else "image/jph")


def test_an_unknown_frame_or_image_set_is_not_found(endpoint: Endpoint, image_sets: list[str]) -> None:
    where = {"datastoreId": endpoint.datastore_id}
    not_found = endpoint.imaging.exceptions.ResourceNotFoundException
    with pytest.raises(not_found):
        endpoint.imaging.get_image_frame(
            **where, imageSetId=image_sets[0], imageFrameInformation={"imageFrameId": "0" * 32}
        )
    with pytest.raises(not_found):
        endpoint.imaging.get_image_set(**where, imageSetId="0" * 32)


def test_an_update_makes_a_version_and_a_revert_another(endpoint: Endpoint) -> None:
    (image_set_id,) = endpoint.import_files({"a.dcm": part10()}).image_set_ids
    change = updatable({"Study": {"DICOM": {"StudyDescription": "CHANGED"}}})
    answer = update(endpoint, image_set_id, "1", updateImageSetMetadataUpdates=change)
    assert (answer["latestVersionId"], answer["imageSetState"]) == ("2", "LOCKED")
    assert settled(endpoint, image_set_id)["imageSetWorkflowStatus"] == "UPDATED"
    assert metadata(endpoint, image_set_id)["Study"]["DICOM"]["StudyDescription"] == "CHANGED"
    assert metadata(endpoint, image_set_id, versionId="1")["Study"]["DICOM"]["StudyDescription"] == "CT CHEST"

    update(endpoint, image_set_id, "2", updateImageSetMetadataUpdates={"revertToVersionId": "1"})
    assert settled(endpoint, image_set_id)["versionId"] == "3"
    assert metadata(endpoint, image_set_id)["Study"]["DICOM"]["StudyDescription"] == "CT CHEST"
    first = endpoint.imaging.get_image_set(datastoreId=endpoint.datastore_id, imageSetId=image_set_id, versionId="1")
    assert first["versionId"] == "1"


def test_an_update_of_an_older_version_is_a_conflict(endpoint: Endpoint, image_sets: list[str]) -> None:
    change = updatable({"Study": {"DICOM": {"StudyDescription": "X"}}})
    with pytest.raises(endpoint.imaging.exceptions.ConflictException) as caught:
        update(endpoint, image_sets[0], "99", updateImageSetMetadataUpdates=change)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409


def test_uids_change_only_by_force(endpoint: Endpoint, image_sets: list[str]) -> None:
    change = updatable({"Study": {"DICOM": {"StudyInstanceUID": new_uid()}}})
    with pytest.raises(ClientError) as caught:
        update(endpoint, image_sets[0], "1", updateImageSetMetadataUpdates=change)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_a_copy_is_a_new_image_set_with_the_same_instances(endpoint: Endpoint) -> None:
    job = endpoint.import_files({f"{number}.dcm": body for number, body in enumerate(series(2))})
    (source_id,) = job.image_set_ids
    answer = endpoint.imaging.copy_image_set(
        datastoreId=endpoint.datastore_id,
        sourceImageSetId=source_id,
        copyImageSetInformation={"sourceImageSet": {"latestVersionId": "1"}},
    )
    target = answer["destinationImageSetProperties"]
    assert target["imageSetWorkflowStatus"] == "COPYING"
    assert settled(endpoint, target["imageSetId"])["imageSetWorkflowStatus"] == "COPIED"
    assert settled(endpoint, source_id)["versionId"] == "1"
    copied, original = metadata(endpoint, target["imageSetId"]), metadata(endpoint, source_id)
    assert copied["Study"]["Series"].keys() == original["Study"]["Series"].keys()
    assert copied["ImageSetID"] == target["imageSetId"]


def test_a_copy_can_take_some_instances_into_a_given_image_set(endpoint: Endpoint) -> None:
    common = {name: new_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    (target_id,) = endpoint.import_files({"a.dcm": part10(**common)}).image_set_ids
    wanted, left = new_uid(), new_uid()
    odd = {name: part10(**common, SOPInstanceUID=name, PatientID="OTHER") for name in (wanted, left)}
    (source_id,) = endpoint.import_files(odd).image_set_ids
    selection: dict[str, Any] = {"Study": {"Series": {common["SeriesInstanceUID"]: {"Instances": {wanted: {}}}}}}
    endpoint.imaging.copy_image_set(
        datastoreId=endpoint.datastore_id,
        sourceImageSetId=source_id,
        force=True,
        copyImageSetInformation={
            "sourceImageSet": {
                "latestVersionId": "1",
                "DICOMCopies": {"copiableAttributes": json.dumps({"SchemaVersion": "1.1", **selection})},
            },
            "destinationImageSet": {"imageSetId": target_id, "latestVersionId": "1"},
        },
    )
    image_set = settled(endpoint, target_id)
    assert (image_set["versionId"], image_set["overrides"]) == ("2", {"forced": True})
    (entry,) = metadata(endpoint, target_id)["Study"]["Series"].values()
    assert wanted in entry["Instances"]
    assert left not in entry["Instances"]


def test_a_non_primary_image_set_is_mended_and_promoted(endpoint: Endpoint) -> None:
    common = {name: new_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    endpoint.import_files({"a.dcm": part10(**common)})
    (odd_id,) = endpoint.import_files({"b.dcm": part10(**common, PatientID="WRONG")}).image_set_ids
    change = updatable({"Patient": {"DICOM": {"PatientID": "PAT-1"}}})
    update(endpoint, odd_id, "1", updateImageSetMetadataUpdates=change)
    version = settled(endpoint, odd_id)["versionId"]
    answer = endpoint.imaging.copy_image_set(
        datastoreId=endpoint.datastore_id,
        sourceImageSetId=odd_id,
        promoteToPrimary=True,
        copyImageSetInformation={"sourceImageSet": {"latestVersionId": version}},
    )
    promoted = answer["destinationImageSetProperties"]["imageSetId"]
    assert promoted != odd_id
    assert settled(endpoint, promoted)["isPrimary"] is True


def promote(endpoint: Endpoint, image_set_id: str, version: str) -> dict[str, Any]:
    answer: dict[str, Any] = endpoint.imaging.copy_image_set(
        datastoreId=endpoint.datastore_id,
        sourceImageSetId=image_set_id,
        promoteToPrimary=True,
        copyImageSetInformation={"sourceImageSet": {"latestVersionId": version}},
    )
    return answer


def test_a_promotion_that_would_contradict_the_primary_image_sets_is_a_conflict(endpoint: Endpoint) -> None:
    common = {name: new_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    endpoint.import_files({"a.dcm": part10(**common)})
    (odd_id,) = endpoint.import_files({"b.dcm": part10(**common, StudyID="77")}).image_set_ids
    with pytest.raises(endpoint.imaging.exceptions.ConflictException):
        promote(endpoint, odd_id, "1")
    assert settled(endpoint, odd_id)["imageSetWorkflowStatus"] != "COPIED"


def test_a_promotion_leaves_its_source_copied_and_a_copy_of_it_locked(endpoint: Endpoint) -> None:
    common = {name: new_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    endpoint.import_files({"a.dcm": part10(**common)})
    (odd_id,) = endpoint.import_files({"b.dcm": part10(**common, PatientID="WRONG")}).image_set_ids
    change = updatable({"Patient": {"DICOM": {"PatientID": "PAT-1"}}})
    update(endpoint, odd_id, "1", updateImageSetMetadataUpdates=change)
    with pytest.raises(endpoint.imaging.exceptions.ConflictException):
        promote(endpoint, odd_id, "1")  # LOCKED, or not the latest version any more
    answer = promote(endpoint, odd_id, settled(endpoint, odd_id)["versionId"])
    assert answer["destinationImageSetProperties"]["imageSetState"] == "LOCKED"
    source = settled(endpoint, odd_id)
    assert (source["imageSetWorkflowStatus"], source["isPrimary"]) == ("COPIED", False)
    found = search(endpoint, equal(DICOMStudyInstanceUID=common["StudyInstanceUID"]))
    primary = [item["imageSetId"] for item in found if item["isPrimary"]]
    assert primary == [answer["destinationImageSetProperties"]["imageSetId"]]


def frames(endpoint: Endpoint, image_set_id: str) -> dict[str, list[str]]:
    """Return the frame IDs of each instance."""
    series = metadata(endpoint, image_set_id)["Study"]["Series"].values()
    entries = [item for entry in series for item in entry["Instances"].items()]
    return {sop_uid: [frame["ID"] for frame in entry["ImageFrames"]] for sop_uid, entry in entries}


def conflicting(endpoint: Endpoint, **instance: str) -> tuple[str, str]:
    """Import a primary image set, and a non-primary one that is then made to agree with it; return both ids."""
    common = {name: new_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID")} | instance
    (primary_id,) = endpoint.import_files({"a.dcm": part10(**common)}).image_set_ids
    (odd_id,) = endpoint.import_files({"b.dcm": part10(**common, PatientID="WRONG")}).image_set_ids
    update(
        endpoint, odd_id, "1", updateImageSetMetadataUpdates=updatable({"Patient": {"DICOM": {"PatientID": "PAT-1"}}})
    )
    settled(endpoint, odd_id)
    return primary_id, odd_id


@pytest.mark.parametrize("joins", [True, False], ids=["a given image set", "a new image set"])
def test_a_copy_that_fails_moves_nothing_though_a_version_is_added(
    endpoint: Endpoint, faulty: Endpoint, joins: bool
) -> None:
    primary_id, odd_id = conflicting(endpoint)
    before = frames(endpoint, primary_id), frames(endpoint, odd_id)
    faulty.faults({"kind": "copy_failed", "times": 1})
    if joins:
        target = promote(endpoint, odd_id, "2")["destinationImageSetProperties"]["imageSetId"]
        assert target == primary_id
    else:
        request = {"sourceImageSet": {"latestVersionId": "2"}}
        answer = endpoint.imaging.copy_image_set(
            datastoreId=endpoint.datastore_id, sourceImageSetId=odd_id, copyImageSetInformation=request
        )
        target = answer["destinationImageSetProperties"]["imageSetId"]
        assert frames(endpoint, target) == {}
    there = settled(endpoint, target)
    assert (there["imageSetState"], there["imageSetWorkflowStatus"]) == ("ACTIVE", "COPY_FAILED")
    assert (there["versionId"], "message" in there) == ("2" if joins else "1", True)
    assert settled(endpoint, odd_id)["imageSetWorkflowStatus"] == "COPY_FAILED"
    assert (frames(endpoint, primary_id), frames(endpoint, odd_id)) == before
    assert promote(endpoint, odd_id, "2")["destinationImageSetProperties"]["imageSetId"] == primary_id
    assert settled(endpoint, primary_id)["imageSetWorkflowStatus"] == "COPIED"
    assert frames(endpoint, primary_id) == before[0] | before[1]


def test_a_copy_of_an_instance_that_the_destination_has_fails_after_it_was_accepted(
    endpoint: Endpoint, faulty: Endpoint
) -> None:
    primary_id, odd_id = conflicting(endpoint, SOPInstanceUID=new_uid())
    before = frames(endpoint, primary_id)
    promote(endpoint, odd_id, "2")
    assert settled(endpoint, primary_id)["imageSetWorkflowStatus"] == "COPY_FAILED"
    assert frames(endpoint, primary_id) == before


def test_an_update_that_fails_changes_nothing_though_a_version_is_added(endpoint: Endpoint, faulty: Endpoint) -> None:
    (image_set_id,) = endpoint.import_files({"a.dcm": part10()}).image_set_ids
    faulty.faults({"kind": "update_failed", "times": 1})
    change = updatable({"Study": {"DICOM": {"StudyDescription": "CHANGED"}}})
    update(endpoint, image_set_id, "1", updateImageSetMetadataUpdates=change)
    there = settled(endpoint, image_set_id)
    assert (there["versionId"], there["imageSetWorkflowStatus"]) == ("2", "UPDATE_FAILED")
    assert metadata(endpoint, image_set_id)["Study"]["DICOM"]["StudyDescription"] == "CT CHEST"


def test_a_deleted_image_set_is_gone(endpoint: Endpoint) -> None:
    job = endpoint.import_files({"a.dcm": part10()})
    (image_set_id,) = job.image_set_ids
    where = {"datastoreId": endpoint.datastore_id, "imageSetId": image_set_id}
    answer = endpoint.imaging.delete_image_set(**where)
    assert (answer["imageSetState"], answer["imageSetWorkflowStatus"]) == ("LOCKED", "DELETING")
    assert settled(endpoint, image_set_id)["imageSetState"] == "DELETED"
    with pytest.raises(endpoint.imaging.exceptions.ResourceNotFoundException):
        endpoint.imaging.get_image_set_metadata(**where)


def test_tags_of_an_image_set(endpoint: Endpoint, image_sets: list[str]) -> None:
    image_set = endpoint.imaging.get_image_set(datastoreId=endpoint.datastore_id, imageSetId=image_sets[0])
    endpoint.imaging.tag_resource(resourceArn=image_set["imageSetArn"], tags={"kind": "test"})
    answer = endpoint.imaging.list_tags_for_resource(resourceArn=image_set["imageSetArn"])
    assert answer["tags"] == {"kind": "test"}
    endpoint.imaging.untag_resource(resourceArn=image_set["imageSetArn"], tagKeys=["kind"])
