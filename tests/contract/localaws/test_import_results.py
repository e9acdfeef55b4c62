"""What an import job makes of its files, and what it writes about them."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.localaws.dicom_files import new_uid, part10, series

if TYPE_CHECKING:
    from tests.contract.localaws.endpoint import Endpoint


# Values that break their VR are the point of some tests; pydicom warns while writing them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def named(files: list[bytes]) -> dict[str, bytes]:
    return {f"{number}.dcm": body for number, body in enumerate(files)}


def test_the_manifest_accounts_for_every_file(endpoint: Endpoint) -> None:
    files = {**named(series(3)), "sub folder/ä+b.dcm": part10(), "notes.txt": b"not DICOM"}
    job = endpoint.import_files(files, jobName="books")
    summary, properties = job.summary, job.properties
    assert summary["jobId"] == properties["jobId"]
    assert summary["datastoreId"] == endpoint.datastore_id
    assert summary["inputS3Uri"] == properties["inputS3Uri"]
    assert f"{endpoint.datastore_id}-DicomImport-{properties['jobId']}/" in summary["outputS3Uri"]
    for name in ("success", "failure"):
        assert summary[f"{name}OutputS3Uri"] == f"{summary['outputS3Uri']}{name.upper()}/"
    counts = [summary[f"numberOf{what}"] for what in ("ScannedFiles", "ImportedFiles", "FilesWithCustomerError")]
    assert counts == [5, 4, 1]
    assert summary["numberOfFilesWithServerError"] == 0
    assert summary["numberOfGeneratedImageSets"] == len(job.image_set_ids) == 2
    assert sorted(item["numberOfMatchedSOPInstances"] for item in summary["imageSetsSummary"]) == [1, 3]


def test_each_line_names_the_key_as_it_is(endpoint: Endpoint) -> None:
    job = endpoint.import_files({"sub folder/ä+b c%20.dcm": part10(), "x.txt": b"text"})
    prefix = job.properties["inputS3Uri"].removeprefix("s3://").partition("/")[2]
    assert [line["inputFile"] for line in job.success] == [f"{prefix}sub folder/ä+b c%20.dcm"]
    assert job.success[0]["importResponse"]["imageSetId"] in job.image_set_ids
    assert job.success[0]["importResponse"]["isPrimary"] is True
    assert [line["inputFile"] for line in job.failure] == [f"{prefix}x.txt"]


@pytest.mark.parametrize(
    "body",
    [part10(SOPClassUID=None), b"", b"plain text, and enough of it to hold a preamble" * 9],
    ids=["no SOP class", "empty", "text"],
)
def test_a_job_completes_though_every_file_is_rejected(endpoint: Endpoint, body: bytes) -> None:
    job = endpoint.import_files({"bad.dcm": body})
    assert job.properties["jobStatus"] == "COMPLETED"
    assert job.summary["numberOfImportedFiles"] == 0
    assert job.summary["imageSetsSummary"] == []
    assert job.of("bad.dcm")["exception"]["exceptionType"] == "ValidationException"


def test_the_failure_names_a_missing_attribute(endpoint: Endpoint) -> None:
    job = endpoint.import_files({"bad.dcm": part10(SOPClassUID=None)})
    assert job.of("bad.dcm")["exception"]["message"] == "DICOM attribute SOPClassUID does not exist"


@pytest.mark.parametrize(
    ("keyword", "longest"),
    [("PatientID", 256), ("PatientName", 256), ("StudyDescription", 256), ("AccessionNumber", 256)],
)
def test_a_text_beyond_its_limit_is_not_imported(endpoint: Endpoint, keyword: str, longest: int) -> None:
    files = {"at.dcm": part10(**{keyword: "X" * longest}), "beyond.dcm": part10(**{keyword: "X" * (longest + 1)})}
    job = endpoint.import_files(files)
    assert "importResponse" in job.of("at.dcm")
    assert "exception" in job.of("beyond.dcm")


def test_a_gzip_compressed_file_is_not_imported(endpoint: Endpoint) -> None:
    job = endpoint.import_files({"a.dcm.gz": gzip.compress(part10())})
    assert "exception" in job.of("a.dcm.gz")


def test_an_unknown_transfer_syntax_is_imported_with_a_warning(endpoint: Endpoint) -> None:
    job = endpoint.import_files({"odd.dcm": part10("1.2.826.0.1.3680043.10.1579.99")})
    (warning,) = job.warning[0]["importResponse"]["warnings"]
    assert warning["type"].upper().replace("_", "") == "UNSUPPORTEDTRANSFERSYNTAX"
    assert warning["warning_reason_code"] == 0xB120
    assert job.summary["numberOfImportedFiles"] == 1
    assert job.summary["warningsOutputS3Uri"].endswith("/WARNING/")


@pytest.mark.parametrize("element", ["StudyDate", "AccessionNumber", "PatientID", "StudyID", "SeriesNumber"])
def test_a_conflict_with_the_primary_makes_a_non_primary_image_set(endpoint: Endpoint, element: str) -> None:
    common: dict[str, Any] = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid()}
    first = endpoint.import_files({"a.dcm": part10(**common)})
    other = 2 if element == "SeriesNumber" else "20200202"
    second = endpoint.import_files({"b.dcm": part10(**common, **{element: other})})
    assert first.of("a.dcm")["importResponse"]["isPrimary"] is True
    assert second.properties["jobStatus"] == "COMPLETED"
    assert second.of("b.dcm")["importResponse"]["isPrimary"] is False
    assert second.image_set_ids != first.image_set_ids
    assert second.summary["numberOfImportedFiles"] == 1


def test_a_later_job_joins_the_primary_image_set_of_the_series(endpoint: Endpoint) -> None:
    files = series(3)
    first = endpoint.import_files(named(files[:2]))
    second = endpoint.import_files(named(files[2:]))
    assert second.image_set_ids == first.image_set_ids
    image_set = endpoint.imaging.get_image_set(datastoreId=endpoint.datastore_id, imageSetId=first.image_set_ids[0])
    assert (image_set["versionId"], image_set["isPrimary"]) == ("2", True)


def test_the_same_instance_again_replaces_the_older_one(endpoint: Endpoint) -> None:
    common = {name: new_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    first = endpoint.import_files({"a.dcm": part10(**common)})
    second = endpoint.import_files({"a.dcm": part10(**common, ImageComments="newer")})
    assert second.image_set_ids == first.image_set_ids
    versions = endpoint.imaging.get_paginator("list_image_set_versions").paginate(
        datastoreId=endpoint.datastore_id, imageSetId=first.image_set_ids[0]
    )
    assert [item["versionId"] for page in versions for item in page["imageSetPropertiesList"]] == ["2", "1"]


def test_each_series_of_a_study_has_an_image_set_of_its_own(endpoint: Endpoint) -> None:
    study = new_uid()
    files = [*series(2, StudyInstanceUID=study), *series(2, StudyInstanceUID=study, SeriesNumber=2)]
    job = endpoint.import_files(named(files))
    assert len(job.image_set_ids) == 2
    assert all(line["importResponse"]["isPrimary"] for line in job.success)


def test_a_prefix_takes_in_whatever_begins_with_it(endpoint: Endpoint) -> None:
    uri = endpoint.upload({"1.2.3/a.dcm": part10(), "1.2.34/b.dcm": part10()})
    loose = endpoint.output(endpoint.ended(endpoint.start(f"{uri}1.2.3")))
    strict = endpoint.output(endpoint.ended(endpoint.start(f"{uri}1.2.3/")))
    assert [job.summary["numberOfScannedFiles"] for job in (loose, strict)] == [2, 1]
