"""What the doctor asks IAM about is what iam/ allows, and what the doctor itself calls is in iam/doctor-policy.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airlock.pipelines import CcdaPipeline, load_pipeline
from airlock.stages.doctor.needed_rights import list_role_needs, list_worker_needs, queue_arn
from airlock.stages.doctor.policies import as_list
from airlock.stages.doctor.uses import list_roles
from airlock.stages.doctor.world import Caller, World
from airlock_local.settings import ROOT
from tests.unit.airlock.stages.doctor.account import ID, REGION, Account, policy_of
from tests.unit.airlock.stages.doctor.test_warnings import send_by_the_bus

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


def test_a_queue_is_named_by_its_address() -> None:
    assert queue_arn("https://sqs.eu-west-1.amazonaws.com/1/q", None) == "arn:aws:sqs:eu-west-1:1:q"
    assert queue_arn("https://vpce-1.sqs.example/1/q", "eu-west-1") == "arn:aws:sqs:eu-west-1:1:q"


# Where an operation and the action that allows it have different names (Service Authorization Reference).
_OTHER_NAMES = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "s3:GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "s3:GetBucketNotificationConfiguration": "s3:GetBucketNotification",
    "s3control:GetPublicAccessBlock": "s3:GetAccountPublicAccessBlock",
}
_NEEDS_NO_RIGHT = {"sts:GetCallerIdentity"}
# Simulated by `MotoSimulator`; by a topic or a profile only other pipelines are reached.
_NOT_CALLED_HERE = {"iam:SimulatePrincipalPolicy", "sns:ListSubscriptionsByTopic"}
_NOT_CALLED_HERE |= {"healthlake:GetDataTransformationProfile", "s3:GetAccountPublicAccessBlock"}


def called_by(account: Account) -> set[str]:
    """Return the actions of the operations that the doctor calls."""
    called: set[str] = set()

    def note(model: Any, **_: Any) -> None:
        called.add(f"{model.service_model.service_name}:{model.name}")

    account.examine()  # makes the clients that it needs
    clients = account.access.clients()
    for client in clients:
        client.meta.events.register("before-call", note)
    account.examine()
    for client in clients:
        client.meta.events.unregister("before-call", note)
    return {_OTHER_NAMES.get(name, name) for name in called} - _NEEDS_NO_RIGHT


def test_the_doctor_calls_what_its_policy_allows(account: Account) -> None:
    send_by_the_bus(account)
    assert called_by(account) == actions_of("doctor-policy.json") - _NOT_CALLED_HERE


def test_the_doctors_policy_allows_nothing_that_changes_or_reads_data() -> None:
    harmless = ("Get", "List", "Describe", "Simulate")
    assert [one for one in actions_of("doctor-policy.json") if not one.partition(":")[2].startswith(harmless)] == []
    assert "s3:GetObject" not in json.dumps(policy_of("doctor-policy.json"))
