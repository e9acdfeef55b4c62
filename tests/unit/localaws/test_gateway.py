"""The process as a whole, over HTTP: settings, quotas, throttles, choices of our own, and what it logs."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from localaws.imaging.datastores import Datastores
from localaws.throttles import Rate
from tests.contract.localaws.dicom_files import new_uid, part10
from tests.contract.localaws.endpoint import DATASTORE, Endpoint, local_endpoint, until
from tests.contract.localaws.test_image_sets import conflicting, equal, frames, promote, search, settled

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    limits = {"max_files_per_job": 3, "max_bytes_per_job": 100_000, "max_folders_per_job": 3, "max_file_bytes": 20_000}
    with local_endpoint(
        throttles={"ListDatastores": Rate(0.001, 2)},
        length_limits={"StudyID": 16},
        max_jobs_per_datastore=2,
        max_datastores=2,
        max_frames_per_copy=1,
        choices={
            "warned_in_success": "yes",
            "output_uri": "as_given",
            "overlapping_copy": "conflict",
            "search_image_sets_filters": "one",
        },
        **limits,
    ) as found:
        yield found


def refused(caught: pytest.ExceptionInfo[ClientError]) -> Any:
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_it_says_when_it_is_ready(endpoint: Endpoint) -> None:
    assert endpoint.control("GET", "health") == {"status": "ready", "services": ["medical-imaging", "healthlake"]}


def test_an_unsigned_request_is_refused(endpoint: Endpoint) -> None:
    config = Config(signature_version=UNSIGNED, inject_host_prefix=False)
    client = boto3.client("medical-imaging", region_name="us-east-1", endpoint_url=endpoint.url, config=config)
    with pytest.raises(ClientError) as caught:
        client.list_datastores()
    assert refused(caught) == ("MissingAuthenticationTokenException", 403)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 403), ("/datastore", 403), (f"/datastore/{DATASTORE}", 403), (f"/datastore/{DATASTORE}/r4/Patient/p0", 401)],
)
def test_an_unsigned_request_to_the_fhir_rest_plane_is_401(endpoint: Endpoint, path: str, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{endpoint.url}{path}", timeout=10)
    assert caught.value.code == status


def test_a_request_beyond_the_rate_is_throttled_and_counted(endpoint: Endpoint) -> None:
    endpoint.imaging.list_datastores()
    endpoint.imaging.list_datastores()
    with pytest.raises(ClientError) as caught:
        endpoint.imaging.list_datastores()
    assert refused(caught) == ("ThrottlingException", 429)
    assert endpoint.calls()["operations"]["ListDatastores"] == {"200": 2, "429": 1}
    endpoint.control("DELETE", "calls")
    assert endpoint.calls()["operations"] == {}


def test_more_unfinished_jobs_than_allowed_are_refused_with_402(endpoint: Endpoint) -> None:
    endpoint.faults({"kind": "stuck_in_progress"})
    uri = endpoint.upload({"a.dcm": part10()})
    jobs = [endpoint.start(uri) for _ in range(2)]
    with pytest.raises(ClientError) as caught:
        endpoint.start(uri)
    assert refused(caught) == ("ServiceQuotaExceededException", 402)
    endpoint.faults()
    for job_id in jobs:
        endpoint.ended(job_id)
    endpoint.ended(endpoint.start(uri))


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({f"{number}.txt": b"x" for number in range(4)}, "4 files and 3"),
        ({f"{number}.bin": b"x" * 40_000 for number in range(3)}, "120000 bytes and 100000"),
        ({"a/b/c/d/e.txt": b"x"}, "4 nested folders and 3"),
    ],
)
def test_a_job_beyond_a_limit_fails_without_output(endpoint: Endpoint, files: dict[str, bytes], what: str) -> None:
    job = endpoint.ended(endpoint.start(endpoint.upload(files)))
    assert job["jobStatus"] == "FAILED"
    assert what in job["message"]
    folder = f"{endpoint.output_uri}{DATASTORE}-DicomImport-{job['jobId']}/"
    assert endpoint.read(f"{folder}job-output-manifest.json") is None


def test_a_file_beyond_the_limit_is_rejected(endpoint: Endpoint) -> None:
    job = endpoint.import_files({"big.dcm": part10() + b"\0" * 30_000})
    assert job.of("big.dcm")["exception"]["message"] == "The file is larger than 20000 bytes"


def test_settings_of_the_output_are_kept(endpoint: Endpoint) -> None:
    job = endpoint.import_files({"odd.dcm": part10(NumberOfFrames=9), "long.dcm": part10(StudyID="1" * 17)})
    assert job.properties["outputS3Uri"] == endpoint.output_uri
    assert [line["inputFile"][-7:] for line in job.success] == ["odd.dcm"]
    assert [line["inputFile"][-7:] for line in job.warning] == ["odd.dcm"]
    assert job.of("long.dcm")["exception"]["message"] == "DICOM attribute StudyID is longer than 16 characters"


@pytest.mark.parametrize("place", ["inputS3Uri", "outputS3Uri"])
def test_a_bucket_that_does_not_exist_fails_the_job(endpoint: Endpoint, place: str) -> None:
    request = {"inputS3Uri": endpoint.upload({"a.dcm": part10()}), "outputS3Uri": endpoint.output_uri}
    request[place] = "s3://no-such-bucket/a/"
    job = endpoint.ended(endpoint.start(request.pop("inputS3Uri"), **request))
    assert (job["jobStatus"], job["message"]) == ("FAILED", "Amazon S3 could not be used - NoSuchBucket")


def test_an_empty_prefix_completes_with_nothing(endpoint: Endpoint) -> None:
    job = endpoint.output(endpoint.ended(endpoint.start(f"{endpoint.input_uri}nothing-here/")))
    assert (job.summary["numberOfScannedFiles"], job.summary["imageSetsSummary"]) == (0, [])


def test_folder_markers_are_no_files_and_content_encoding_gzip_is_refused(endpoint: Endpoint) -> None:
    uri = endpoint.upload({"sub/": b""})
    endpoint.put(f"{uri}sub/a.dcm", part10(), ContentEncoding="gzip")
    job = endpoint.output(endpoint.ended(endpoint.start(uri)))
    assert [line["exception"]["message"] for line in job.failure] == ["The object has the Content-Encoding gzip"]


def test_a_client_token_with_other_parameters_is_a_conflict(endpoint: Endpoint) -> None:
    uri, token = endpoint.upload({"a.dcm": part10()}), uuid.uuid4().hex
    endpoint.ended(endpoint.start(uri, clientToken=token))
    with pytest.raises(ClientError) as caught:
        endpoint.start(uri, clientToken=token, jobName="other")
    assert refused(caught) == ("ConflictException", 409)


def test_json_metadata_import_is_not_emulated_and_says_so(endpoint: Endpoint) -> None:
    mapping = {"studyInstanceUID": "1.2", "metadataFilePath": "a.json"}
    configuration = {"dicomJsonMetadataImportConfiguration": {"dicomMetadataMappings": [mapping]}}
    with pytest.raises(ClientError) as caught:
        endpoint.start(endpoint.input_uri, importConfiguration=configuration)
    assert refused(caught) == ("NotImplementedException", 501)


def test_data_stores_have_a_quota_and_only_empty_ones_are_deleted(endpoint: Endpoint) -> None:
    imaging, token = endpoint.imaging, uuid.uuid4().hex
    made = imaging.create_datastore(clientToken=token)["datastoreId"]
    assert imaging.create_datastore(clientToken=token)["datastoreId"] == made
    with pytest.raises(ClientError) as caught:
        imaging.create_datastore(clientToken=uuid.uuid4().hex)
    assert refused(caught) == ("ServiceQuotaExceededException", 402)
    until(
        lambda: imaging.get_datastore(datastoreId=made)["datastoreProperties"]["datastoreStatus"],
        lambda status: status == "ACTIVE",
    )
    imaging.delete_datastore(datastoreId=made)
    until(
        lambda: imaging.get_datastore(datastoreId=made)["datastoreProperties"]["datastoreStatus"],
        lambda status: status == "DELETED",
    )
    endpoint.import_files({"a.dcm": part10()})
    with pytest.raises(ClientError) as caught:
        imaging.delete_datastore(datastoreId=DATASTORE)
    assert refused(caught) == ("ConflictException", 409)


def test_a_copy_beyond_the_limit_of_frames_is_refused(endpoint: Endpoint) -> None:
    pixels: dict[str, Any] = {"Rows": 2, "Columns": 2, "NumberOfFrames": 2, "PixelData": b"\0" * 16}
    (image_set_id,) = endpoint.import_files({"a.dcm": part10(**pixels)}).image_set_ids
    with pytest.raises(ClientError) as caught:
        endpoint.imaging.copy_image_set(
            datastoreId=DATASTORE,
            sourceImageSetId=image_set_id,
            copyImageSetInformation={"sourceImageSet": {"latestVersionId": "1"}},
        )
    assert refused(caught) == ("ServiceQuotaExceededException", 402)


def test_a_promotion_joins_the_primary_of_the_series(endpoint: Endpoint) -> None:
    common = {name: new_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    (primary,) = endpoint.import_files({"a.dcm": part10(**common)}).image_set_ids
    (odd,) = endpoint.import_files({"b.dcm": part10(**common, PatientID="WRONG")}).image_set_ids
    promote = {
        "datastoreId": DATASTORE,
        "sourceImageSetId": odd,
        "promoteToPrimary": True,
        "copyImageSetInformation": {"sourceImageSet": {"latestVersionId": "1"}},
    }
    with pytest.raises(ClientError) as caught:
        endpoint.imaging.copy_image_set(**promote)
    assert refused(caught) == ("ConflictException", 409)
    change = {"updatableAttributes": json.dumps({"Patient": {"DICOM": {"PatientID": "PAT-1"}}}).encode()}
    where = {"datastoreId": DATASTORE, "imageSetId": odd}
    endpoint.imaging.update_image_set_metadata(
        **where, latestVersionId="1", updateImageSetMetadataUpdates={"DICOMUpdates": change}
    )
    until(lambda: endpoint.imaging.get_image_set(**where), lambda seen: seen["imageSetState"] == "ACTIVE")
    promote["copyImageSetInformation"] = {"sourceImageSet": {"latestVersionId": "2"}}
    answer = endpoint.imaging.copy_image_set(**promote)["destinationImageSetProperties"]
    assert (answer["imageSetId"], answer["latestVersionId"]) == (primary, "2")


def test_a_study_is_kept_consistent_when_one_of_its_image_sets_changes(endpoint: Endpoint) -> None:
    study = new_uid()
    files = {f"{number}.dcm": part10(StudyInstanceUID=study, SeriesNumber=number) for number in (1, 2)}
    first, second = endpoint.import_files(files).image_set_ids
    change = {"updatableAttributes": json.dumps({"Study": {"DICOM": {"AccessionNumber": "NEW"}}}).encode()}
    request = {
        "datastoreId": DATASTORE,
        "imageSetId": first,
        "latestVersionId": "1",
        "updateImageSetMetadataUpdates": {"DICOMUpdates": change},
    }
    with pytest.raises(ClientError) as caught:
        endpoint.imaging.update_image_set_metadata(**request)
    assert refused(caught) == ("ConflictException", 409)
    endpoint.imaging.update_image_set_metadata(**request, includeStudyImageSets=True)
    where = {"datastoreId": DATASTORE, "imageSetId": second}
    image_set = until(lambda: endpoint.imaging.get_image_set(**where), lambda seen: seen["imageSetState"] == "ACTIVE")
    assert image_set["versionId"] == "2"


def test_a_locked_image_set_cannot_be_changed(endpoint: Endpoint) -> None:
    (image_set_id,) = endpoint.import_files({"a.dcm": part10()}).image_set_ids
    where = {"datastoreId": DATASTORE, "imageSetId": image_set_id}
    endpoint.imaging.delete_image_set(**where)
    with pytest.raises(ClientError) as caught:
        endpoint.imaging.delete_image_set(**where)
    assert refused(caught)[0] in {"ConflictException", "ResourceNotFoundException"}


@pytest.mark.parametrize(
    "filters",
    [
        [{"operator": "BETWEEN", "values": [{"DICOMPatientId": "a"}, {"DICOMPatientId": "b"}]}],
        [{"operator": "EQUAL", "values": [{"DICOMPatientId": "a"}, {"DICOMPatientId": "b"}]}],
        [
            {"operator": "EQUAL", "values": [{"DICOMPatientId": "a"}]},
            {"operator": "EQUAL", "values": [{"DICOMStudyId": "b"}]},
        ],
        [{"operator": "BETWEEN", "values": [{"createdAt": 1}, {"updatedAt": 2}]}],
    ],
)
def test_a_search_that_cannot_be_answered_is_refused(endpoint: Endpoint, filters: list[Any]) -> None:
    with pytest.raises(ClientError) as caught:
        endpoint.imaging.search_image_sets(datastoreId=DATASTORE, searchCriteria={"filters": filters})
    assert refused(caught) == ("ValidationException", 400)


def test_wrong_faults_are_refused_by_name(endpoint: Endpoint) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        endpoint.faults({"kind": "manifest_late", "second": 1})
    assert caught.value.code == 400
    assert b"second" in caught.value.read()


def test_a_defect_of_a_handler_is_the_service_s_500_and_is_logged_without_its_text(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_self: Datastores, _row: Any) -> Any:
        raise RuntimeError("CANARY")

    monkeypatch.setattr(Datastores, "_summary", broken)
    with pytest.raises(ClientError) as caught:
        endpoint.imaging.get_datastore(datastoreId=DATASTORE)
    assert refused(caught) == ("InternalServerException", 500)
    assert "GetDatastore broke: RuntimeError" in caplog.text
    assert "CANARY" not in caplog.text


def test_no_key_and_no_tag_value_is_logged(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="localaws"):
        endpoint.import_files({"CANARY.dcm": part10(PatientID="CANARY"), "CANARY.txt": b"CANARY" * 50})
    ours = [record for record in caplog.records if record.name.startswith(("localaws", "uvicorn"))]
    assert [record.getMessage() for record in ours if "imported" in record.getMessage()]
    assert not [record for record in ours if "CANARY" in record.getMessage()]


def test_an_overlapping_copy_can_be_a_conflict(endpoint: Endpoint) -> None:
    _, odd_id = conflicting(endpoint, SOPInstanceUID=new_uid())
    with pytest.raises(ClientError) as caught:
        promote(endpoint, odd_id, "2")
    assert refused(caught) == ("ConflictException", 409)


@pytest.mark.parametrize("beside", [{"isPrimary": True}, {"updatedAt": datetime.now(UTC)}])
def test_a_search_can_be_held_to_one_filter(endpoint: Endpoint, beside: dict[str, Any]) -> None:
    values = [{"DICOMPatientId": "P"}], [beside]
    filters = [{"operator": "EQUAL", "values": value} for value in values]
    with pytest.raises(ClientError) as caught:
        endpoint.imaging.search_image_sets(datastoreId=DATASTORE, searchCriteria={"filters": filters})
    assert refused(caught) == ("ValidationException", 400)


def test_copies_can_merge_and_a_search_lag_behind() -> None:
    choices = {"overlapping_copy": "merge", "search_image_sets_filters": "is_primary"}
    with local_endpoint(choices=choices, image_set_search_lag=3600) as lenient:
        primary_id, odd_id = conflicting(lenient, SOPInstanceUID=new_uid())
        promote(lenient, odd_id, "2")
        assert settled(lenient, primary_id)["imageSetWorkflowStatus"] == "COPIED"
        assert frames(lenient, primary_id) == frames(lenient, odd_id)
        assert search(lenient, equal(isPrimary=True)) == []
