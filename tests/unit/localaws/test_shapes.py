"""Values against the model: what is refused, and how the refusal reads."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel

from localaws.shapes import from_json, from_text, problems, unknown_members

MODEL = ServiceModel(Loader().load_service_model("medical-imaging", "service-2"), "medical-imaging")
START = {
    "datastoreId": "d" * 32,
    "dataAccessRoleArn": "arn:aws:iam::123456789012:role/import",
    "clientToken": "t",
    "inputS3Uri": "s3://bucket/prefix/",
    "outputS3Uri": "s3://bucket/out/",
}


def found(operation: str, params: Any) -> list[str]:
    return list(problems(MODEL.operation_model(operation).input_shape, params))


def test_a_legal_request_has_no_problems() -> None:
    assert found("StartDICOMImportJob", START) == []


def test_a_bare_bucket_is_legal_as_at_aws() -> None:
    assert found("StartDICOMImportJob", {**START, "inputS3Uri": "s3://bucket"}) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"jobName": "a:b"}, "$.jobName: must satisfy the pattern"),
        ({"jobName": "x" * 65}, "$.jobName: length must be between 1 and 64"),
        ({"clientToken": 7}, "$.clientToken: must be a string"),
        ({"inputS3Uri": "s3://ab/x"}, "$.inputS3Uri: must satisfy the pattern"),
        ({"importConfiguration": {}}, "$.importConfiguration: exactly one member must be set"),
        ({"importConfiguration": []}, "$.importConfiguration: must be an object"),
    ],
)
def test_a_problem_names_member_and_rule(change: dict[str, Any], problem: str) -> None:
    (text,) = found("StartDICOMImportJob", {**START, **change})
    assert text.startswith(problem)


def test_a_missing_member_is_named() -> None:
    assert found("StartDICOMImportJob", {**START, "outputS3Uri": "s3://bucket/out/"} | {}) == []
    without = {name: value for name, value in START.items() if name != "outputS3Uri"}
    assert found("StartDICOMImportJob", without) == ["$.outputS3Uri: is required"]


def test_no_problem_quotes_a_value() -> None:
    criteria = {
        "filters": [{"operator": "LIKE", "values": [{"DICOMPatientId": 5}, {"DICOMStudyInstanceUID": "SECRET"}]}]
    }
    texts = found("SearchImageSets", {"datastoreId": "d" * 32, "searchCriteria": criteria})
    assert len(texts) == 3
    assert not [text for text in texts if "SECRET" in text or "LIKE" in text]


def test_numbers_have_limits_and_kinds() -> None:
    request = {"datastoreId": "d" * 32}
    assert found("ListDICOMImportJobs", {**request, "maxResults": 50}) == []
    assert found("ListDICOMImportJobs", {**request, "maxResults": 51}) != []
    assert found("ListDICOMImportJobs", {**request, "maxResults": True}) != []
    assert found("ListDICOMImportJobs", {**request, "maxResults": "many"}) != []


def test_texts_become_what_the_model_says() -> None:
    members = MODEL.operation_model("ListDICOMImportJobs").input_shape.members
    assert from_text(members["maxResults"], "7") == 7
    assert from_text(members["maxResults"], "x") == "x"
    assert from_text(MODEL.operation_model("CopyImageSet").input_shape.members["force"], "true") is True


def test_timestamps_and_blobs_of_a_body_are_read() -> None:
    criteria = MODEL.operation_model("SearchImageSets").input_shape.members["searchCriteria"]
    both = [{"updatedAt": "2026-01-01T00:00:00Z"}, {"updatedAt": 5}]
    read = from_json(criteria, {"filters": [{"operator": "BETWEEN", "values": both}]})
    assert read["filters"][0]["values"] == [{"updatedAt": 1767225600.0}, {"updatedAt": 5}]
    updates = MODEL.operation_model("UpdateImageSetMetadata").input_shape.members["updateImageSetMetadataUpdates"]
    assert from_json(updates, {"DICOMUpdates": {"removableAttributes": "e30="}}) == {
        "DICOMUpdates": {"removableAttributes": b"{}"}
    }


def test_members_that_the_model_lacks_are_found_in_depth() -> None:
    shape = MODEL.operation_model("GetDICOMImportJob").output_shape
    assert list(unknown_members(shape, {"jobProperties": {"jobid": "x"}})) == [
        "$.jobProperties.jobid: is not in the model"
    ]
