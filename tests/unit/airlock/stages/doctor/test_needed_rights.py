"""What the doctor asks IAM about is what iam/ allows; tests/unit/iam/test_rights.py compares what it calls itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airlock.pipelines import CcdaPipeline, load_pipeline
from airlock.stages.doctor.findings import passed
from airlock.stages.doctor.job_requests import find_refused_job
from airlock.stages.doctor.needed_rights import list_role_needs, list_worker_needs, queue_arn
from airlock.stages.doctor.policies import as_list
from airlock.stages.doctor.uses import Bucket, list_buckets, list_roles
from airlock.stages.doctor.world import Caller, World
from tests.markdown import ROOT
from tests.unit.airlock.stages.doctor.account import ID, REGION, Account, make_key, policy_of

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline

# What policies allow beyond what is asked about.
_KEYS = {"kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext"}  # key.policy


def actions_of(*files: str) -> set[str]:
    """Return the actions that policies of iam/ allow."""
    return {
        action
        for file in files
        for statement in policy_of(file)["Statement"]
        for action in as_list(statement["Action"])
    }


class NamedAccess:
    """Knows who calls, without asking."""

    region = REGION

    def caller(self) -> Caller:
        return Caller(f"arn:aws:iam::{ID}:role/worker", ID)


def world_of(pipeline: Pipeline, airflow: Any = None) -> World:
    """Return a world in which nothing can be asked but who calls."""
    access: Any = NamedAccess()
    simulator: Any = None
    return World(pipeline, lambda _: access, simulator, airflow, None)


def asked_of(pipeline: Pipeline, connection: str) -> set[str]:
    needs = list_worker_needs(world_of(pipeline), connection)
    return {action for need in needs for action in need.actions}


def ccda() -> CcdaPipeline:
    found = load_pipeline(ROOT / "include/pipelines/ccda.yaml")
    assert isinstance(found, CcdaPipeline)
    return found


def test_the_workers_are_asked_about_what_their_policies_allow(account: Account) -> None:
    arn = f"arn:aws:sns:{REGION}:{ID}:topic"
    account.content["routes"] += [
        {"name": "sns", "sns": {"topic_arn": arn, "aws_conn_id": "hospital"}},
        {"name": "bus", "eventbridge": {"aws_conn_id": "hospital"}},
    ]
    asked = asked_of(account.pipeline(), "hospital") | asked_of(ccda(), "aws_default")
    files = ("worker", "fhir-worker", "arrivals", "routes", "ccda-worker")
    assert asked == actions_of(*(f"{name}-policy.json" for name in files)) - _KEYS


def test_the_roles_are_asked_about_what_their_policies_allow(account: Account) -> None:
    for role, file in zip(
        list_roles(account.pipeline()), ("import-role-policy.json", "fhir-import-role-policy.json"), strict=True
    ):
        asked = {action for need in list_role_needs(account.pipeline(), role) for action in need.actions}
        assert asked == actions_of(file) - _KEYS


def test_a_role_of_conversions_alone_is_asked_about_what_its_policy_allows() -> None:
    pipeline = ccda()
    arn = f"arn:aws:iam::{ID}:role/airlock-transformation"
    own = pipeline.transformation.model_copy(update={"data_access_role_arn": arn})
    imports, converts = list_roles(pipeline.model_copy(update={"transformation": own}))
    assert (converts.arn, converts.converts, imports.converts) == (arn, True, False)
    needs = list(list_role_needs(pipeline, converts))
    assert {action for need in needs for action in need.actions} == actions_of(
        "ccda-transformation-role-policy.json"
    ) - _KEYS
    assert {need.field for need in needs} == {"staging.uri", "transformation.output_uri"}
    assert {need.field for need in list_role_needs(pipeline, imports)} == {"staging.uri", "healthlake.output_uri"}


def test_a_bucket_may_refuse_a_role_whose_jobs_do_not_write_there() -> None:
    arn = f"arn:aws:iam::{ID}:role/airlock-transformation"
    own = ccda().transformation.model_copy(update={"data_access_role_arn": arn})
    pipeline = ccda().model_copy(update={"transformation": own})
    imports, _ = list_roles(pipeline)
    uses = {use.field: use for use in list_buckets(pipeline)}
    statement = {"Effect": "Deny", "Principal": {"AWS": arn}, "Action": "s3:*", "Resource": "*"}
    for field, refused in (("healthlake.output_uri", imports.arn), ("transformation.output_uri", arn)):
        bucket = Bucket(uses[field].uri.bucket, "aws_default", (uses[field],))
        for one in (arn, imports.arn):
            document = {"Statement": [statement | {"Principal": {"AWS": one}}]}
            assert (find_refused_job(pipeline, bucket, document) is not None) is (one == refused), (field, one)


def test_the_role_of_imports_converts_too_if_there_is_no_other() -> None:
    (role,) = list_roles(ccda())
    assert role.converts
    assert {need.field for need in list_role_needs(ccda(), role)} == {
        "staging.uri",
        "healthlake.output_uri",
        "transformation.output_uri",
    }


def test_the_key_policy_of_iam_is_enough_for_a_key_of_a_data_store(account: Account) -> None:
    account.access.store_key = make_key(account.client("kms"))
    policy = json.dumps(policy_of("kms-key-policy.json"))
    account.client("kms").put_key_policy(KeyId=account.access.store_key, PolicyName="default", Policy=policy)
    found = account.examine()["datastore.key healthimaging"]
    assert found == passed("Workers and roles may use it.")


def test_the_route_task_must_be_able_to_tell_the_edge(account: Account) -> None:
    account.content["edge"] = {"queue_url": f"https://sqs.eu-west-1.amazonaws.com/{ID}/edge", "aws_conn_id": "edge"}
    (need,) = list_worker_needs(world_of(account.pipeline()), "edge")
    assert (need.field, need.resource) == ("edge.queue_url", f"arn:aws:sqs:eu-west-1:{ID}:edge")
    assert need.actions == ("sqs:SendMessage",)


def test_a_queue_is_named_by_its_address() -> None:
    assert queue_arn("https://sqs.eu-west-1.amazonaws.com/1/q", None) == "arn:aws:sqs:eu-west-1:1:q"
    assert queue_arn("https://vpce-1.sqs.example/1/q", "eu-west-1") == "arn:aws:sqs:eu-west-1:1:q"


def test_the_doctors_policy_allows_nothing_that_changes_or_reads_data() -> None:
    harmless = ("Get", "List", "Describe", "Simulate")
    assert [one for one in actions_of("doctor-policy.json") if not one.partition(":")[2].startswith(harmless)] == []
    assert "s3:GetObject" not in json.dumps(policy_of("doctor-policy.json"))
