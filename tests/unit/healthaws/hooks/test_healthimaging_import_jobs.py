from __future__ import annotations

import pytest
from botocore.stub import Stubber

from healthaws.hooks.healthimaging_import_jobs import HealthImagingDicomImportJobHook
from tests.unit.healthaws.service import (
    DATASTORE,
    INPUT,
    JOB,
    OUTPUT,
    ROLE,
    WHERE,
    get_reply,
    job_properties,
    start_reply,
)

START = {
    "datastoreId": DATASTORE,
    "dataAccessRoleArn": ROLE,
    "inputS3Uri": INPUT,
    "outputS3Uri": OUTPUT,
    "clientToken": "token",
}


@pytest.fixture
def hook() -> HealthImagingDicomImportJobHook:
    return HealthImagingDicomImportJobHook(aws_conn_id=None, region_name="us-east-1")


def start(hook: HealthImagingDicomImportJobHook, **optional: str) -> str:
    return hook.start_dicom_import_job(
        datastore_id=DATASTORE,
        data_access_role_arn=ROLE,
        input_s3_uri=INPUT,
        output_s3_uri=OUTPUT,
        client_token="token",
        **optional,
    )


def test_client_is_that_of_the_service(hook: HealthImagingDicomImportJobHook) -> None:
    assert hook.conn.meta.service_model.service_name == "medical-imaging"
    assert HealthImagingDicomImportJobHook(client_type="s3").client_type == "medical-imaging"


def test_start_sends_the_token_and_leaves_out_what_is_not_given(hook: HealthImagingDicomImportJobHook) -> None:
    with Stubber(hook.conn) as stub:
        stub.add_response("start_dicom_import_job", start_reply(), START)
        assert start(hook) == JOB


def test_start_sends_what_is_given(hook: HealthImagingDicomImportJobHook) -> None:
    given = {"jobName": "night", "inputOwnerAccountId": "123456789012"}
    with Stubber(hook.conn) as stub:
        stub.add_response("start_dicom_import_job", start_reply(), START | given)
        assert start(hook, job_name="night", input_owner_account_id="123456789012") == JOB


def test_job_properties_and_status(hook: HealthImagingDicomImportJobHook) -> None:
    with Stubber(hook.conn) as stub:
        for _ in range(2):
            stub.add_response("get_dicom_import_job", get_reply("IN_PROGRESS"), WHERE)
        assert hook.get_dicom_import_job(DATASTORE, JOB) == job_properties("IN_PROGRESS")
        assert hook.get_dicom_import_job_status(DATASTORE, JOB) == "IN_PROGRESS"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://out/a",
        "s3://out/a/",
        f"s3://out/a/{DATASTORE}-DicomImport-{JOB}",
        f"s3://out/a/{DATASTORE}-DicomImport-{JOB}/",
    ],
)
def test_output_folder_from_each_form_of_the_uri(uri: str) -> None:
    properties = job_properties("COMPLETED", outputS3Uri=uri)
    assert HealthImagingDicomImportJobHook.output_folder(properties) == f"s3://out/a/{DATASTORE}-DicomImport-{JOB}/"


def test_output_folder_in_a_bare_bucket_and_below_the_folder_of_another_job() -> None:
    assert HealthImagingDicomImportJobHook.output_folder(job_properties("COMPLETED", outputS3Uri="s3://out")) == (
        f"s3://out/{DATASTORE}-DicomImport-{JOB}/"
    )
    nested = job_properties("COMPLETED", outputS3Uri="s3://out/x-DicomImport-y/")
    assert (
        HealthImagingDicomImportJobHook.output_folder(nested)
        == f"s3://out/x-DicomImport-y/{DATASTORE}-DicomImport-{JOB}/"
    )
