from __future__ import annotations

from typing import Any

import pytest
from botocore.stub import Stubber

from healthaws.exceptions import DatastoreNotReadyError, IncompleteReplyError
from healthaws.hooks.healthlake import HealthLakeHook
from tests.unit.healthaws.healthlake import STORE

ENDPOINT = f"https://healthlake.us-east-1.amazonaws.com/datastore/{STORE}/r4/"


@pytest.fixture
def hook() -> HealthLakeHook:
    return HealthLakeHook(aws_conn_id=None, region_name="us-east-1")


@pytest.fixture
def stub(hook: HealthLakeHook) -> Any:
    with Stubber(hook.conn) as stub:
        yield stub
        stub.assert_no_pending_responses()


def datastore(status: str = "ACTIVE", **more: Any) -> dict[str, Any]:
    return {
        "DatastoreId": STORE,
        "DatastoreArn": f"arn:aws:healthlake:us-east-1:123456789012:datastore/fhir/{STORE}",
        "DatastoreStatus": status,
        "DatastoreTypeVersion": "R4",
        "DatastoreEndpoint": ENDPOINT,
        **more,
    }


def test_client_is_that_of_the_service(hook: HealthLakeHook) -> None:
    assert hook.conn.meta.service_model.service_name == "healthlake"
    assert HealthLakeHook(client_type="s3").client_type == "healthlake"


def test_lists_datastores_where_boto_cannot_page(hook: HealthLakeHook, stub: Stubber) -> None:
    wanted = {"Filter": {"DatastoreStatus": "ACTIVE"}}
    reply = {"DatastorePropertiesList": [datastore()], "NextToken": "t"}
    stub.add_response("list_fhir_datastores", reply, wanted)
    stub.add_response("list_fhir_datastores", {"DatastorePropertiesList": []}, wanted | {"NextToken": "t"})
    assert list(hook.list_fhir_datastores(**wanted)) == [datastore()]


def test_a_page_that_leads_back_to_itself_is_refused(hook: HealthLakeHook, stub: Stubber) -> None:
    reply = {"DatastorePropertiesList": [datastore()], "NextToken": "t"}
    stub.add_response("list_fhir_datastores", reply, {})
    stub.add_response("list_fhir_datastores", reply, {"NextToken": "t"})
    with pytest.raises(IncompleteReplyError, match="the same NextToken twice"):
        list(hook.list_fhir_datastores())


class TestDatastoreEndpoint:
    def endpoint(self, hook: HealthLakeHook, stub: Stubber, properties: dict[str, Any]) -> str:
        stub.add_response("describe_fhir_datastore", {"DatastoreProperties": properties}, {"DatastoreId": STORE})
        return hook.datastore_endpoint(STORE)

    @pytest.mark.parametrize("url", [ENDPOINT, ENDPOINT.rstrip("/"), f"{ENDPOINT}/"])
    def test_is_as_described_with_one_slash_at_the_end(self, url: str, hook: HealthLakeHook, stub: Stubber) -> None:
        assert self.endpoint(hook, stub, datastore(DatastoreEndpoint=url)) == ENDPOINT

    def test_is_there_during_an_update(self, hook: HealthLakeHook, stub: Stubber) -> None:
        assert self.endpoint(hook, stub, datastore("UPDATING")) == ENDPOINT

    @pytest.mark.parametrize("status", ["CREATING", "CREATE_FAILED", "DELETING", "DELETED"])
    def test_is_refused_before_and_after_the_store_s_life(
        self, status: str, hook: HealthLakeHook, stub: Stubber
    ) -> None:
        with pytest.raises(DatastoreNotReadyError, match=f"{STORE} is {status}.*ACTIVE"):
            self.endpoint(hook, stub, datastore(status))
