from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from healthaws.exceptions import ServiceBusyError
from healthaws.hooks.healthimaging_image_sets import HealthImagingImageSetsHook, ImageSetLockedError
from healthaws.refusals import Backoff
from tests.unit.healthaws.service import DATASTORE

IMAGE_SET, TARGET = "a" * 32, "b" * 32
NAMES = {"datastoreId": DATASTORE, "imageSetId": IMAGE_SET}


def hook(**settings: Any) -> HealthImagingImageSetsHook:
    patient = {"backoff": Backoff(0.002, 0.002, 5), "poll_seconds": 0.0, "lock_timeout": 5}
    return HealthImagingImageSetsHook(DATASTORE, aws_conn_id=None, region_name="us-east-1", **(patient | settings))


def properties(state: str, status: str = "CREATED") -> dict[str, Any]:
    return {**NAMES, "versionId": "1", "imageSetState": state, "imageSetWorkflowStatus": status}


def test_a_locked_image_set_is_waited_for() -> None:
    images = hook()
    with Stubber(images.conn) as stub:
        stub.add_response("get_image_set", properties("LOCKED", "COPYING"), NAMES)
        stub.add_response("get_image_set", properties("ACTIVE", "SOMETHING_NEW"), NAMES)
        found = images.settled(IMAGE_SET)
    assert found is not None
    assert found["imageSetState"] == "ACTIVE"


def test_an_image_set_that_is_not_there_is_none() -> None:
    images = hook()
    with Stubber(images.conn) as stub:
        stub.add_client_error("get_image_set", "ResourceNotFoundException", http_status_code=404)
        assert images.settled(IMAGE_SET) is None


def test_waiting_for_a_lock_ends() -> None:
    images = hook(lock_timeout=0)
    with Stubber(images.conn) as stub:
        stub.add_response("get_image_set", properties("LOCKED", "UPDATING"), NAMES)
        with pytest.raises(ImageSetLockedError, match="still UPDATING"):
            images.settled(IMAGE_SET)


@pytest.mark.parametrize(("code", "status"), [("ThrottlingException", 429), ("ServiceQuotaExceededException", 402)])
def test_refusals_are_waited_out(code: str, status: int) -> None:
    images = hook()
    reply = {"datastoreId": DATASTORE, "imageSetId": IMAGE_SET, "imageSetState": "LOCKED"}
    with Stubber(images.conn) as stub:
        for _ in range(3):
            stub.add_client_error("delete_image_set", code, http_status_code=status)
        stub.add_response("delete_image_set", reply | {"imageSetWorkflowStatus": "DELETING"}, NAMES)
        images.delete(IMAGE_SET)
        stub.assert_no_pending_responses()


def test_patience_ends() -> None:
    images = hook(backoff=Backoff(0.001, 0.001, 0))
    with Stubber(images.conn) as stub:
        stub.add_client_error("delete_image_set", "ThrottlingException", http_status_code=429)
        with pytest.raises(ServiceBusyError, match="refused 1 times"):
            images.delete(IMAGE_SET)


def test_a_conflict_is_no_refusal_to_wait_out() -> None:
    images = hook()
    with Stubber(images.conn) as stub:
        stub.add_client_error("delete_image_set", "ConflictException", http_status_code=409)
        with pytest.raises(ClientError, match="ConflictException"):
            images.delete(IMAGE_SET)


def test_a_search_takes_all_pages() -> None:
    images = hook()
    filters = [
        {"operator": "EQUAL", "values": [{"DICOMStudyInstanceUID": "1.2"}]},
        {"operator": "EQUAL", "values": [{"isPrimary": True}]},
    ]
    request = {"datastoreId": DATASTORE, "searchCriteria": {"filters": filters}}
    with Stubber(images.conn) as stub:
        first = {"imageSetsMetadataSummaries": [{"imageSetId": IMAGE_SET}], "nextToken": "next"}
        stub.add_response("search_image_sets", first, request)
        rest = {"imageSetsMetadataSummaries": [{"imageSetId": TARGET}]}
        stub.add_response("search_image_sets", rest, request | {"nextToken": "next"})
        assert images.primaries("1.2") == [IMAGE_SET, TARGET]


def test_a_promotion_is_asked_for_without_botocore_s_own_retries() -> None:
    client = hook()._without_retries
    assert client.meta.config.retries["total_max_attempts"] == 1
    assert client.meta.service_model.service_name == "medical-imaging"
