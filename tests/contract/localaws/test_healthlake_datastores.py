"""FHIR data stores and their tags."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tests.contract.localaws.endpoint import ON_AWS, until
from tests.contract.localaws.healthlake import new_datastore, patients, status_of

if TYPE_CHECKING:
    from tests.contract.localaws.healthlake import HealthLakeEndpoint

pytestmark = pytest.mark.skipif(ON_AWS, reason="a data store takes half an hour and costs money")
NOWHERE = "0" * 32


def refused(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_data_store_is_made_changed_and_deleted(healthlake: HealthLakeEndpoint) -> None:
    client = healthlake.client
    made = client.create_fhir_datastore(DatastoreTypeVersion="R4", DatastoreName="short-lived")
    datastore_id = made["DatastoreId"]
    assert made["DatastoreStatus"] == "CREATING"
    assert made["DatastoreArn"].endswith(f":datastore/fhir/{datastore_id}")
    until(lambda: status_of(client, datastore_id), lambda status: status == "ACTIVE")
    changed = client.update_fhir_datastore(DatastoreId=datastore_id, DatastoreName="renamed")["DatastoreProperties"]
    assert (changed["DatastoreName"], changed["DatastoreStatus"]) == ("renamed", "UPDATING")
    until(lambda: status_of(client, datastore_id), lambda status: status == "ACTIVE")
    assert client.delete_fhir_datastore(DatastoreId=datastore_id)["DatastoreStatus"] == "DELETING"
    until(lambda: status_of(client, datastore_id), lambda status: status == "DELETED")
    assert client.delete_fhir_datastore(DatastoreId=datastore_id)["DatastoreStatus"] == "DELETED"


def test_the_endpoint_is_the_emulator_s_own_and_ends_in_a_slash(healthlake: HealthLakeEndpoint) -> None:
    answer = healthlake.client.describe_fhir_datastore(DatastoreId=healthlake.datastore_id)["DatastoreProperties"]
    assert answer["DatastoreEndpoint"] == f"{healthlake.places.url}/datastore/{healthlake.datastore_id}/r4/"
    assert answer["DatastoreTypeVersion"] == "R4"


def test_what_a_data_store_was_made_with_is_told_again(healthlake: HealthLakeEndpoint) -> None:
    chosen = {
        "SseConfiguration": {
            "KmsEncryptionConfig": {"CmkType": "CUSTOMER_MANAGED_KMS_KEY", "KmsKeyId": "alias/records"}
        },
        "ProfileConfiguration": {"DefaultProfiles": ["US-Core-5.0.1"]},
        "BackupConfiguration": {"Status": "ENABLED", "BackupType": "CONTINUOUS", "RetentionPeriodInDays": 7},
    }
    datastore_id = new_datastore(healthlake.client, **chosen)
    answer = healthlake.client.describe_fhir_datastore(DatastoreId=datastore_id)["DatastoreProperties"]
    assert answer["SseConfiguration"] == chosen["SseConfiguration"]
    assert answer["ProfileConfiguration"] == chosen["ProfileConfiguration"]
    assert answer["BackupStatusInfo"] == {"Configuration": chosen["BackupConfiguration"]}
    assert answer["IdentityProviderConfiguration"]["AuthorizationStrategy"] == "AWS_AUTH"


def test_the_same_client_token_makes_one_data_store(healthlake: HealthLakeEndpoint) -> None:
    request = {"DatastoreTypeVersion": "R4", "ClientToken": uuid.uuid4().hex}
    first = healthlake.client.create_fhir_datastore(**request)["DatastoreId"]
    assert healthlake.client.create_fhir_datastore(**request)["DatastoreId"] == first
    with pytest.raises(ClientError) as caught:
        healthlake.client.create_fhir_datastore(**request, DatastoreName="another")
    assert refused(caught) == ("ValidationException", 400)


def test_data_stores_are_listed_by_filter_in_pages(healthlake: HealthLakeEndpoint) -> None:
    name = f"listed-{uuid.uuid4().hex}"
    made = [new_datastore(healthlake.client, DatastoreName=name) for _ in range(3)]
    found: list[str] = []
    request: dict[str, Any] = {"Filter": {"DatastoreName": name, "DatastoreStatus": "ACTIVE"}, "MaxResults": 2}
    while True:
        answer = healthlake.client.list_fhir_datastores(**request)
        found += [item["DatastoreId"] for item in answer["DatastorePropertiesList"]]
        if "NextToken" not in answer:
            break
        request["NextToken"] = answer["NextToken"]
    assert found == made[::-1]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for condition, count in (({"CreatedAfter": tomorrow}, 0), ({"CreatedBefore": tomorrow, "DatastoreName": name}, 3)):
        assert len(healthlake.client.list_fhir_datastores(Filter=condition)["DatastorePropertiesList"]) == count


@pytest.mark.parametrize(
    ("operation", "arguments", "code"),
    [
        ("describe_fhir_datastore", {"DatastoreId": NOWHERE}, "ResourceNotFoundException"),
        ("delete_fhir_datastore", {"DatastoreId": NOWHERE}, "ResourceNotFoundException"),
        ("update_fhir_datastore", {"DatastoreId": NOWHERE}, "ResourceNotFoundException"),
        ("describe_fhir_datastore", {"DatastoreId": "semi;colon"}, "ValidationException"),
        ("create_fhir_datastore", {"DatastoreTypeVersion": "R5"}, "ValidationException"),
        ("create_fhir_datastore", {"DatastoreTypeVersion": "R4", "ClientToken": "under_score"}, "ValidationException"),
        (
            "create_fhir_datastore",
            {"DatastoreTypeVersion": "R4", "AnalyticsConfiguration": {"Status": "DISABLED"}},
            "ValidationException",
        ),
        ("list_fhir_datastores", {"NextToken": "foreign"}, "ValidationException"),
    ],
)
def test_a_refused_call_names_its_reason(
    healthlake: HealthLakeEndpoint, operation: str, arguments: dict[str, Any], code: str
) -> None:
    with pytest.raises(ClientError) as caught:
        getattr(healthlake.client, operation)(**arguments)
    assert refused(caught) == (code, 400)
    assert caught.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        (
            "restore_fhir_datastore",
            {
                "SourceDatastoreId": NOWHERE,
                "RestoreConfiguration": {
                    "ContinuousBackupRestoreConfiguration": {"RestorePointTime": datetime(2026, 1, 1, tzinfo=UTC)}
                },
            },
        ),
        (
            "update_profile_with_agent",
            {"ProfileId": NOWHERE, "InputMessage": {"Body": "map the notes", "Type": "normal"}},
        ),
        (
            "create_fhir_datastore",
            {"DatastoreTypeVersion": "R4", "PreloadDataConfig": {"PreloadDataType": "SYNTHEA"}},
        ),
    ],
)
def test_what_is_not_emulated_says_so(healthlake: HealthLakeEndpoint, operation: str, arguments: Any) -> None:
    with pytest.raises(ClientError) as caught:
        getattr(healthlake.client, operation)(**arguments)
    assert refused(caught) == ("NotImplementedException", 501)
    assert "not emulated" in caught.value.response["Error"]["Message"]


def test_a_data_store_with_an_unfinished_job_is_neither_changed_nor_deleted(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "stuck_in_progress"})
    job_id = ill.start(ill.places.upload({"a.ndjson": patients(1)}))
    for call in (ill.client.delete_fhir_datastore, ill.client.update_fhir_datastore):
        with pytest.raises(ClientError) as caught:
            call(DatastoreId=ill.datastore_id)
        assert refused(caught) == ("ConflictException", 400)
    ill.places.faults()
    ill.ended(job_id)


def test_a_data_store_that_is_not_active_imports_nothing(healthlake: HealthLakeEndpoint) -> None:
    uri = healthlake.places.upload({"a.ndjson": patients(1)})
    datastore_id = healthlake.client.create_fhir_datastore(DatastoreTypeVersion="R4")["DatastoreId"]
    with pytest.raises(ClientError, match="CREATING; wait until it is ACTIVE") as caught:
        healthlake.start(uri, DatastoreId=datastore_id)
    assert refused(caught) == ("ValidationException", 400)
    until(lambda: status_of(healthlake.client, datastore_id), lambda status: status == "ACTIVE")
    healthlake.client.delete_fhir_datastore(DatastoreId=datastore_id)
    until(lambda: status_of(healthlake.client, datastore_id), lambda status: status == "DELETED")
    with pytest.raises(ClientError) as caught:
        healthlake.start(uri, DatastoreId=datastore_id)
    assert refused(caught) == ("ResourceNotFoundException", 400)


def test_tags_are_set_listed_and_taken_away(healthlake: HealthLakeEndpoint) -> None:
    client = healthlake.client
    datastore_id = new_datastore(client, Tags=[{"Key": "owner", "Value": "radiology"}])
    arn = client.describe_fhir_datastore(DatastoreId=datastore_id)["DatastoreProperties"]["DatastoreArn"]
    client.tag_resource(ResourceARN=arn, Tags=[{"Key": "owner", "Value": "cardiology"}, {"Key": "cost", "Value": ""}])
    expected = [{"Key": "cost", "Value": ""}, {"Key": "owner", "Value": "cardiology"}]
    assert client.list_tags_for_resource(ResourceARN=arn)["Tags"] == expected
    client.untag_resource(ResourceARN=arn, TagKeys=["cost", "never-set"])
    assert client.list_tags_for_resource(ResourceARN=arn)["Tags"] == expected[1:]
    with pytest.raises(ClientError) as caught:
        client.tag_resource(ResourceARN=arn, Tags=[{"Key": f"k{number}", "Value": "v"} for number in range(51)])
    assert refused(caught) == ("ValidationException", 400)
    with pytest.raises(ClientError) as caught:
        client.list_tags_for_resource(ResourceARN=arn.replace(datastore_id, NOWHERE))
    assert refused(caught) == ("ResourceNotFoundException", 400)
