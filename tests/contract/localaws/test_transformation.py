"""Data transformation: profiles and their versions, jobs, and what they leave on S3."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from airlock_local.sample.ccda.documents import ccd, entity_bomb
from tests.contract.localaws.endpoint import ON_AWS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.localaws.healthlake import HealthLakeEndpoint

STARTER = {"StarterProfile": {"StarterProfileName": "ccda-starter-kit-v1"}}
ENDED = {"COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED"}


@pytest.fixture(scope="module")
def profile_id(healthlake: HealthLakeEndpoint) -> Iterator[str]:
    """A profile with one published version."""
    made = healthlake.client.create_data_transformation_profile(
        SourceFormat="CCDA", Source=STARTER, ProfileName=f"contract-{uuid.uuid4().hex}"
    )
    profile_id: str = made["ProfileId"]
    healthlake.client.publish_data_transformation_profile(ProfileId=profile_id, SourceFormat="CCDA")
    yield profile_id
    healthlake.client.delete_data_transformation_profile(ProfileId=profile_id)


def start(healthlake: HealthLakeEndpoint, profile_id: str, uri: str, **arguments: Any) -> str:
    request = {
        "InputDataConfig": {"S3Uri": uri},
        "OutputDataConfig": healthlake.output(),
        "DataAccessRoleArn": healthlake.role_arn,
        "ClientToken": uuid.uuid4().hex,
        "ProfileId": profile_id,
        **arguments,
    }
    job_id: str = healthlake.client.start_data_transformation_job(**request)["JobId"]
    return job_id


def described(healthlake: HealthLakeEndpoint, job_id: str) -> dict[str, Any]:
    answer = healthlake.client.describe_data_transformation_job(JobId=job_id)
    properties: dict[str, Any] = answer["TransformationJobProperties"]
    return properties


def ended(healthlake: HealthLakeEndpoint, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = until(lambda: described(healthlake, job_id), lambda seen: seen["JobStatus"] in ENDED)
    return job


def output(healthlake: HealthLakeEndpoint, job: dict[str, Any]) -> dict[str, bytes]:
    folder = job["OutputDataConfig"]["S3Configuration"]["S3Uri"].rstrip("/") + "/"
    if f"/{job['JobId']}/" not in folder:
        folder += f"{job['JobId']}/"
    return {name: healthlake.places.read(f"{folder}{name}") or b"" for name in healthlake.listed(folder)}


def test_a_job_converts_what_it_can_and_names_the_rest(healthlake: HealthLakeEndpoint, profile_id: str) -> None:
    uri = healthlake.places.upload({"a.xml": ccd(1), "b.xml": entity_bomb()})
    job_id = start(healthlake, profile_id, uri, JobName="contract job", DriftDetectionEnabled=True)
    job = ended(healthlake, job_id)
    assert (job["JobStatus"], job["ProfileVersion"], job["JobName"]) == ("COMPLETED_WITH_ERRORS", 1, "contract job")
    assert job["InputDataConfig"] == {"S3Uri": uri, "SourceFormat": "CCDA"}
    assert (job["JobProgressReport"]["TotalFilesConverted"], job["JobProgressReport"]["TotalFilesFailed"]) == (1, 1)
    files = output(healthlake, job)
    assert {"Manifest.json", "converted/a.ndjson", "ERROR/b.json", "jobLevelDriftResult.json"} <= set(files)
    resources = [json.loads(line) for line in files["converted/a.ndjson"].splitlines()]
    assert len(resources) == job["JobProgressReport"]["TotalResourcesGenerated"]
    assert json.loads(files["ERROR/b.json"])["inputFile"].endswith("b.xml")


def test_jobs_and_profiles_are_listed_by_botocores_paginators(healthlake: HealthLakeEndpoint, profile_id: str) -> None:
    client = healthlake.client
    uri = healthlake.places.upload({"a.xml": ccd()})
    name = uuid.uuid4().hex
    started = {start(healthlake, profile_id, uri, JobName=name) for _ in range(2)}
    for job_id in started:
        ended(healthlake, job_id)
    paging = {"PageSize": 1, "MaxItems": 200}
    jobs = client.get_paginator("list_data_transformation_jobs").paginate(JobName=name, PaginationConfig=paging)
    assert {job["JobId"] for page in jobs for job in page["Items"]} == started
    versions = client.get_paginator("list_data_transformation_profile_versions")
    found = [item["Version"] for page in versions.paginate(ProfileId=profile_id) for item in page["Items"]]
    assert found == sorted(found, reverse=True)
    profiles = client.get_paginator("list_data_transformation_profiles").paginate(SourceFormat="CCDA")
    assert profile_id in {item["ProfileId"] for page in profiles for item in page["Items"]}


def test_the_profile_that_runs_is_the_latest_published(healthlake: HealthLakeEndpoint) -> None:
    client = healthlake.client
    source = {"ProfileMapping": {"ProfileMapping": {"map.vtl": "one"}}}
    made = client.create_data_transformation_profile(
        SourceFormat="CCDA", Source=source, ProfileName="contract", ProfileDescription="moves", Tags={"team": "intake"}
    )
    profile_id = made["ProfileId"]
    uri = healthlake.places.upload({"a.xml": ccd()})
    with pytest.raises(client.exceptions.ValidationException):
        start(healthlake, profile_id, uri)
    for mapping in ("two", "three"):
        client.update_data_transformation_profile(ProfileId=profile_id, ProfileMapping={"map.vtl": mapping})
        client.publish_data_transformation_profile(ProfileId=profile_id, SourceFormat="CCDA")
    assert client.get_data_transformation_profile(ProfileId=profile_id)["ProfileMapping"] == {"map.vtl": "three"}
    assert ended(healthlake, start(healthlake, profile_id, uri))["ProfileVersion"] == 2
    assert client.delete_data_transformation_profile(ProfileId=profile_id)["ProfileId"] == profile_id
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_data_transformation_profile(ProfileId=profile_id)


def test_a_repeated_token_is_ignored_without_error(healthlake: HealthLakeEndpoint, profile_id: str) -> None:
    uri, token = healthlake.places.upload({"a.xml": ccd()}), uuid.uuid4().hex
    first = start(healthlake, profile_id, uri, ClientToken=token)
    assert start(healthlake, profile_id, uri, ClientToken=token) == first
    ended(healthlake, first)
    assert start(healthlake, profile_id, uri, ClientToken=token) == first


def test_botocore_makes_up_no_token_for_a_job(healthlake: HealthLakeEndpoint, profile_id: str) -> None:
    request = {"InputDataConfig": {"S3Uri": "s3://in/x/"}, "OutputDataConfig": healthlake.output()}
    with pytest.raises(ParamValidationError, match="ClientToken"):
        healthlake.client.start_data_transformation_job(
            DataAccessRoleArn=healthlake.role_arn, ProfileId=profile_id, **request
        )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ProfileId": "0" * 32}, "ResourceNotFoundException"),
        ({"ProfileId": "Z" * 32}, "ValidationException"),
        ({"ClientToken": "not a token"}, "ValidationException"),
        ({"JobName": "semi;colon"}, "ValidationException"),
        ({"InputDataConfig": {"S3Uri": "s3://contract-input"}}, "ValidationException"),
        ({"DataAccessRoleArn": "arn:aws:iam::123:role/too-short"}, "ValidationException"),
        (
            {"OutputDataConfig": {"S3Configuration": {"S3Uri": "s3://contract-output/x/", "KmsKeyId": "a b"}}},
            "ValidationException",
        ),
    ],
)
def test_a_refused_start_names_its_reason(
    healthlake: HealthLakeEndpoint, profile_id: str, change: dict[str, Any], code: str
) -> None:
    with pytest.raises(ClientError) as caught:
        start(healthlake, **{"profile_id": profile_id, "uri": "s3://contract-input/x/", **change})
    assert caught.value.response["Error"]["Code"] == code


@pytest.mark.skipif(ON_AWS, reason="the agent is there")
def test_the_agent_is_not_emulated(healthlake: HealthLakeEndpoint, profile_id: str) -> None:
    message = {"Body": "map the problem list", "Type": "normal"}
    with pytest.raises(ClientError) as caught:
        healthlake.client.update_profile_with_agent(ProfileId=profile_id, InputMessage=message)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert "UpdateProfileWithAgent" in caught.value.response["Error"]["Message"]


def test_profiles_have_tags(healthlake: HealthLakeEndpoint) -> None:
    client = healthlake.client
    made = client.create_data_transformation_profile(
        SourceFormat="CCDA", Source=STARTER, ProfileName="tagged", Tags={"team": "intake"}
    )
    store = client.describe_fhir_datastore(DatastoreId=healthlake.datastore_id)["DatastoreProperties"]["DatastoreArn"]
    arn = f"{store.rpartition(':')[0]}:dataTransformationProfile/{made['ProfileId']}"
    client.tag_resource(ResourceARN=arn, Tags=[{"Key": "cost", "Value": "1"}])
    client.untag_resource(ResourceARN=arn, TagKeys=["team"])
    assert client.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "cost", "Value": "1"}]
    client.delete_data_transformation_profile(ProfileId=made["ProfileId"])
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.list_tags_for_resource(ResourceARN=arn)


def test_jobs_are_told_apart_by_call_faults_and_counted(ill: HealthLakeEndpoint, profile_id: str) -> None:
    storm = {"kind": "throttle_storm", "operation": "DescribeDataTransformationJob", "job_name": "struck"}
    uri = ill.places.upload({"a.xml": ccd()})
    struck, spared = (start(ill, profile_id, uri, JobName=name) for name in ("struck", "spared"))
    for job_id in (struck, spared):
        ended(ill, job_id)
    ill.places.faults(storm)
    with pytest.raises(ClientError, match="ThrottlingException"):
        described(ill, struck)
    assert described(ill, spared)["JobName"] == "spared"
    jobs = {job["jobId"]: job for job in ill.places.calls()["jobs"]}
    assert (jobs[struck]["service"], jobs[struck]["jobStatus"], jobs[struck]["inputS3Uri"]) == (
        "healthlake",
        "COMPLETED",
        uri,
    )


def test_a_queued_job_runs_in_its_turn(ill: HealthLakeEndpoint, profile_id: str) -> None:
    ill.places.faults({"kind": "stuck_in_progress", "job_name": "first"})
    uri = ill.places.upload({"a.xml": ccd()})
    first, second = (start(ill, profile_id, uri, JobName=name) for name in ("first", "second"))
    until(lambda: described(ill, second), lambda job: job["JobStatus"] == "QUEUED")
    assert described(ill, first)["JobStatus"] == "IN_PROGRESS"
    ill.places.faults()
    assert [ended(ill, job)["JobStatus"] for job in (first, second)] == ["COMPLETED", "COMPLETED"]
