from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from healthaws.exceptions import IncompleteReplyError, ServiceBusyError
from healthaws.hooks.healthimaging_image_sets import (
    HealthImagingImageSetsHook,
    ImageSetLockedError,
    ImageSetNotIndexedError,
)
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


SEARCH: dict[str, Any] = {
    "datastoreId": DATASTORE,
    "searchCriteria": {"filters": [{"operator": "EQUAL", "values": [{"DICOMStudyInstanceUID": "1.2"}]}]},
}


def found(name: str, **more: Any) -> dict[str, Any]:
    return {"imageSetsMetadataSummaries": [{"imageSetId": name, **more}]}


def test_primary_image_sets_are_searched_by_their_study_alone_and_told_apart_in_the_answer() -> None:
    images = hook()
    with Stubber(images.conn) as stub:
        stub.add_response("search_image_sets", found(IMAGE_SET, isPrimary=False) | {"nextToken": "next"}, SEARCH)
        stub.add_response("search_image_sets", found(TARGET, isPrimary=True), SEARCH | {"nextToken": "next"})
        assert images.primaries("1.2", IMAGE_SET) == [TARGET]


def test_a_page_that_leads_back_to_itself_is_refused() -> None:
    images = hook()
    repeated = found(IMAGE_SET, isPrimary=False) | {"nextToken": "next"}
    with Stubber(images.conn) as stub:
        stub.add_response("search_image_sets", repeated, SEARCH)
        stub.add_response("search_image_sets", repeated, SEARCH | {"nextToken": "next"})
        with pytest.raises(IncompleteReplyError, match="the same nextToken twice"):
            images.primaries("1.2", IMAGE_SET)


def test_an_index_that_lags_is_waited_for() -> None:
    images = hook()
    with Stubber(images.conn) as stub:
        stub.add_response("search_image_sets", {"imageSetsMetadataSummaries": []}, SEARCH)
        stub.add_response("search_image_sets", found(IMAGE_SET, isPrimary=False), SEARCH)
        assert images.primaries("1.2", IMAGE_SET) == []


def test_waiting_for_an_index_ends() -> None:
    images = hook(index_timeout=0)
    with Stubber(images.conn) as stub:
        stub.add_response("search_image_sets", found(TARGET, isPrimary=True), SEARCH)
        with pytest.raises(ImageSetNotIndexedError, match="Its index lags"):
            images.primaries("1.2", IMAGE_SET)


def test_an_answer_that_does_not_say_what_is_primary_is_not_guessed_at() -> None:
    images = hook()
    with Stubber(images.conn) as stub:
        stub.add_response("search_image_sets", found(IMAGE_SET), SEARCH)
        with pytest.raises(IncompleteReplyError, match="isPrimary"):
            images.primaries("1.2", IMAGE_SET)


def test_each_version_has_its_status() -> None:
    images = hook()
    listed = [
        {"imageSetId": IMAGE_SET, "imageSetState": "ACTIVE", "versionId": version, "ImageSetWorkflowStatus": status}
        for version, status in (("2", "COPY_FAILED"), ("1", "COPIED"))
    ]
    with Stubber(images.conn) as stub:
        stub.add_response("list_image_set_versions", {"imageSetPropertiesList": listed}, NAMES)
        assert images.versions(IMAGE_SET) == {1: "COPIED", 2: "COPY_FAILED"}


def test_a_promotion_is_asked_for_without_botocore_s_own_retries() -> None:
    client = hook()._without_retries
    assert client.meta.config.retries["total_max_attempts"] == 1
    assert client.meta.service_model.service_name == "medical-imaging"
