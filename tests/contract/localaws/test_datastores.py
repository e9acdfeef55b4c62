"""CreateDatastore, GetDatastore, ListDatastores, DeleteDatastore and the tag operations."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tests.contract.localaws.endpoint import until

if TYPE_CHECKING:
    from tests.contract.localaws.endpoint import Endpoint


def status_of(endpoint: Endpoint, datastore_id: str) -> Any:
    answer = endpoint.imaging.get_datastore(datastoreId=datastore_id)
    return answer["datastoreProperties"]["datastoreStatus"]


def test_a_data_store_is_created_tagged_and_deleted(endpoint: Endpoint) -> None:
    imaging, token = endpoint.imaging, uuid.uuid4().hex
    created = imaging.create_datastore(datastoreName="contract", clientToken=token, tags={"team": "imaging"})
    datastore_id = created["datastoreId"]
    until(lambda: status_of(endpoint, datastore_id), lambda status: status == "ACTIVE")

    properties = imaging.get_datastore(datastoreId=datastore_id)["datastoreProperties"]
    assert properties["datastoreName"] == "contract"
    listed = imaging.get_paginator("list_datastores").paginate(
        datastoreStatus="ACTIVE", PaginationConfig={"PageSize": 1}
    )
    assert datastore_id in [item["datastoreId"] for page in listed for item in page["datastoreSummaries"]]

    arn = properties["datastoreArn"]
    imaging.tag_resource(resourceArn=arn, tags={"stage": "test", "team": "data"})
    assert imaging.list_tags_for_resource(resourceArn=arn)["tags"] == {"stage": "test", "team": "data"}
    imaging.untag_resource(resourceArn=arn, tagKeys=["stage"])
    assert imaging.list_tags_for_resource(resourceArn=arn)["tags"] == {"team": "data"}

    assert imaging.delete_datastore(datastoreId=datastore_id)["datastoreStatus"] in {"DELETING", "DELETED"}


def test_the_creation_of_a_data_store_fails(faulty: Endpoint) -> None:
    faulty.faults({"kind": "create_failed", "times": 1})
    created = faulty.imaging.create_datastore(datastoreName="failing", clientToken=uuid.uuid4().hex)
    until(lambda: status_of(faulty, created["datastoreId"]), lambda status: status == "CREATE_FAILED")


def test_an_unknown_data_store_is_not_found(endpoint: Endpoint) -> None:
    with pytest.raises(endpoint.imaging.exceptions.ResourceNotFoundException) as caught:
        endpoint.imaging.get_datastore(datastoreId="0" * 32)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_an_illegal_name_is_a_validation_error(endpoint: Endpoint) -> None:
    with pytest.raises(ClientError) as caught:
        endpoint.imaging.create_datastore(datastoreName="no spaces allowed", clientToken=uuid.uuid4().hex)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
