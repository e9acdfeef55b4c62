from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import WaiterError
from botocore.stub import Stubber

from healthaws.hooks.healthlake import HealthLakeHook
from healthaws.hooks.healthlake_export_jobs import FHIR_EXPORT_JOB
from healthaws.hooks.healthlake_import_jobs import FHIR_IMPORT_JOB
from healthaws.hooks.healthlake_jobs import ACTIVE_JOB_STATUS, QUEUED_JOB_STATUS
from healthaws.hooks.healthlake_transformation_jobs import DATA_TRANSFORMATION_JOB
from tests.unit.healthaws.healthlake import EXPORTS, IMPORTS, TRANSFORMATIONS, Jobs
from tests.unit.healthaws.service import JOB

if TYPE_CHECKING:
    from healthaws.jobs import JobKind

KINDS = [(IMPORTS, FHIR_IMPORT_JOB), (EXPORTS, FHIR_EXPORT_JOB), (TRANSFORMATIONS, DATA_TRANSFORMATION_JOB)]
EACH_STATUS = [(jobs, kind, status) for jobs, kind in KINDS for status in sorted(kind.statuses)]


@pytest.fixture(scope="module")
def hook() -> HealthLakeHook:
    return HealthLakeHook(aws_conn_id=None, region_name="us-east-1")


def wait(hook: HealthLakeHook, jobs: Jobs, phase: str, *statuses: str) -> None:
    where = {**jobs.where, "JobId": JOB}
    with Stubber(hook.conn) as stub:
        for status in statuses:
            stub.add_response(f"describe_{jobs.operation}", {jobs.member: jobs.properties(status)}, where)
        waiter = hook.get_waiter(f"{jobs.operation}_{phase}")
        waiter.wait(**where, WaiterConfig={"Delay": 0, "MaxAttempts": len(statuses)})
        stub.assert_no_pending_responses()


def test_are_listed_among_botocore_s(hook: HealthLakeHook) -> None:
    ours = {f"{jobs.operation}_{phase}" for (jobs, _), phase in itertools.product(KINDS, ("begun", "complete"))}
    assert ours <= set(hook.list_waiters())


@pytest.mark.parametrize(
    ("kind", "shape"), [(FHIR_IMPORT_JOB, "JobStatus"), (DATA_TRANSFORMATION_JOB, "TransformationJobStatus")]
)
def test_this_package_knows_every_status_of_the_service_model(kind: JobKind, shape: str, hook: HealthLakeHook) -> None:
    assert kind.statuses == set(hook.conn.meta.service_model.shape_for(shape).enum)


@pytest.mark.parametrize(("jobs", "kind", "status"), EACH_STATUS)
def test_complete_waits_for_active_jobs_and_takes_nothing_but_completed_for_success(
    jobs: Jobs, kind: JobKind, status: str, hook: HealthLakeHook
) -> None:
    if status in ACTIVE_JOB_STATUS:
        wait(hook, jobs, "complete", status, "COMPLETED")
    elif status == "COMPLETED":
        wait(hook, jobs, "complete", status)
    else:
        with pytest.raises(WaiterError, match="terminal failure"):
            wait(hook, jobs, "complete", status)


@pytest.mark.parametrize(("jobs", "kind", "status"), EACH_STATUS)
def test_begun_waits_for_queued_jobs_only(jobs: Jobs, kind: JobKind, status: str, hook: HealthLakeHook) -> None:
    queue = [status, "IN_PROGRESS"] if status in QUEUED_JOB_STATUS else [status]
    wait(hook, jobs, "begun", *queue)


@pytest.mark.parametrize("jobs", [jobs for jobs, _ in KINDS])
def test_unknown_status_ends_both_waits(jobs: Jobs, hook: HealthLakeHook) -> None:
    wait(hook, jobs, "begun", "PAUSED")
    with pytest.raises(WaiterError, match="terminal failure"):
        wait(hook, jobs, "complete", "PAUSED")


@pytest.mark.parametrize("phase", ["begun", "complete"])
def test_survives_an_internal_error_of_the_service(phase: str, hook: HealthLakeHook) -> None:
    with Stubber(hook.conn) as stub:
        stub.add_client_error("describe_fhir_import_job", "InternalServerException", http_status_code=500)
        stub.add_response("describe_fhir_import_job", {IMPORTS.member: IMPORTS.properties("COMPLETED")})
        waiter = hook.get_waiter(f"fhir_import_job_{phase}")
        waiter.wait(**IMPORTS.where, JobId=JOB, WaiterConfig={"Delay": 0, "MaxAttempts": 2})
        stub.assert_no_pending_responses()
