from __future__ import annotations

import pytest
from botocore.exceptions import WaiterError
from botocore.stub import Stubber

from healthaws.hooks.healthimaging import HealthImagingHook
from tests.unit.healthaws.service import WHERE, get_reply

NAME = "dicom_import_job_complete"


@pytest.fixture
def hook() -> HealthImagingHook:
    return HealthImagingHook(aws_conn_id=None, region_name="us-east-1")


def wait(hook: HealthImagingHook, *statuses: str) -> None:
    with Stubber(hook.conn) as stub:
        for status in statuses:
            stub.add_response("get_dicom_import_job", get_reply(status), WHERE)
        hook.get_waiter(NAME).wait(**WHERE, WaiterConfig={"Delay": 0, "MaxAttempts": 3})
        stub.assert_no_pending_responses()


def test_is_listed(hook: HealthImagingHook) -> None:
    assert hook.list_waiters() == [NAME]


def test_knows_every_status_of_the_service_model(hook: HealthImagingHook) -> None:
    expected = [acceptor.expected for acceptor in hook.get_waiter(NAME).config.acceptors]
    assert set(hook.conn.meta.service_model.shape_for("JobStatus").enum) <= set(expected)


def test_waits_until_completed(hook: HealthImagingHook) -> None:
    wait(hook, "SUBMITTED", "IN_PROGRESS", "COMPLETED")


def test_failed_is_terminal(hook: HealthImagingHook) -> None:
    with pytest.raises(WaiterError, match="terminal failure"):
        wait(hook, "IN_PROGRESS", "FAILED")


def test_unknown_status_is_terminal(hook: HealthImagingHook) -> None:
    with pytest.raises(WaiterError, match="terminal failure"):
        wait(hook, "CANCELLED")


def test_gives_up_after_the_attempts(hook: HealthImagingHook) -> None:
    with pytest.raises(WaiterError, match="Max attempts exceeded"):
        wait(hook, "SUBMITTED", "IN_PROGRESS", "IN_PROGRESS")


def test_survives_an_internal_error_of_the_service(hook: HealthImagingHook) -> None:
    with Stubber(hook.conn) as stub:
        stub.add_client_error("get_dicom_import_job", "InternalServerException", http_status_code=500)
        stub.add_response("get_dicom_import_job", get_reply("COMPLETED"), WHERE)
        hook.get_waiter(NAME).wait(**WHERE, WaiterConfig={"Delay": 0, "MaxAttempts": 2})
        stub.assert_no_pending_responses()
