"""arrivals.yaml with an archive that exists and notifies others: they are notified as before, and the queue as well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import pytest
from botocore.stub import Stubber
from deploy.cloudformation.add_event_bridge import add_event_bridge
from moto.s3.models import s3_backends

from airlock_local.settings import ROOT
from tests.iam_policies import Request, allow
from tests.servers.moto import moto_server
from tests.servers.stack import ACCOUNT, client, deploy, role_policies
from tests.servers.stack_models import REGION, ask_function

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")]

FOLDER = ROOT / "deploy/cloudformation"
ARCHIVE = "hospital-archive"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
THEIRS: dict[str, Any] = {
    "QueueConfigurations": [
        {
            "Id": "the viewer's",
            "QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:viewer",
            "Events": ["s3:ObjectCreated:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "deliveries/"}]}},
        }
    ],
    "TopicConfigurations": [
        {
            "Id": "the archivist's",
            "TopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:removals",
            "Events": ["s3:ObjectRemoved:*"],
        }
    ],
    "LambdaFunctionConfigurations": [
        {
            "Id": "the registry's",
            "LambdaFunctionArn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:registry",
            "Events": ["s3:ObjectCreated:Copy"],
        }
    ],
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Start moto, with an archive whose notifications are those of others."""
    with moto_server() as running:
        s3 = client("s3", running)
        s3.create_bucket(Bucket=ARCHIVE)
        client("sqs", running).create_queue(QueueName="viewer")
        client("sns", running).create_topic(Name="removals")
        s3.put_bucket_notification_configuration(Bucket=ARCHIVE, NotificationConfiguration=THEIRS)
        yield running


@pytest.fixture(scope="module")
def outputs(endpoint: str) -> dict[str, str]:
    """Deploy the template with a role and a key that exist."""
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}]}
    client("iam", endpoint).create_role(RoleName="airlock-mwaa", AssumeRolePolicyDocument=json.dumps(trust))
    key = client("kms", endpoint).create_key()["KeyMetadata"]["Arn"]
    given = {"ArchiveBucket": ARCHIVE, "BucketKeyArn": key, "WorkerRoleName": "airlock-mwaa"}
    given |= {"AddEventBridge": "yes", "AlarmTopicArn": TOPIC}
    return deploy(endpoint, FOLDER / "arrivals.yaml", "arrivals", given)


def keys_in(endpoint: str, queue: str) -> list[str]:
    """Take the messages of a queue, and return the keys that they name; S3's tests of a queue name none."""
    sqs, url = client("sqs", endpoint), address(endpoint, queue)
    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    for message in found:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    bodies = [json.loads(message["Body"]) for message in found]
    notified = [unquote_plus(one["s3"]["object"]["key"]) for body in bodies for one in body.get("Records", [])]
    return [*notified, *(body["detail"]["object"]["key"] for body in bodies if "detail" in body)]


def address(endpoint: str, queue: str) -> str:
    """Return the address of a queue on the local server, by its name or AWS's address."""
    return f"{endpoint}/{ACCOUNT}/{queue.rsplit('/', 1)[-1]}"


class TestNotifications:
    def test_those_of_others_stay(self, endpoint: str, outputs: dict[str, str]) -> None:
        found = client("s3", endpoint).get_bucket_notification_configuration(Bucket=ARCHIVE)
        assert {name: found.get(name) for name in THEIRS} == THEIRS

    def test_an_object_reaches_the_others_and_the_queue(self, endpoint: str, outputs: dict[str, str]) -> None:
        s3 = client("s3", endpoint)
        for key in ("deliveries/a.dcm", "elsewhere/a.dcm"):
            s3.put_object(Bucket=ARCHIVE, Key=key, Body=b"x")
        assert keys_in(endpoint, "viewer") == ["deliveries/a.dcm"]
        assert keys_in(endpoint, outputs["ArrivalsQueueUrl"]) == ["deliveries/a.dcm"]

    def test_nothing_is_written_where_eventbridge_is_on(self, endpoint: str) -> None:
        s3 = client("s3", endpoint)
        with Stubber(s3) as stubbed:
            asked = {"Bucket": ARCHIVE, "ExpectedBucketOwner": ACCOUNT}
            stubbed.add_response("get_bucket_notification_configuration", {"EventBridgeConfiguration": {}}, asked)
            assert not add_event_bridge(s3, ARCHIVE, ACCOUNT)

    def test_deleting_the_stack_changes_nothing(self, endpoint: str, outputs: dict[str, str]) -> None:
        assert ask_function(endpoint, "Delete", {"Bucket": ARCHIVE, "Owner": ACCOUNT})["Status"] == "SUCCESS"
        assert s3_backends[ACCOUNT]["aws"].buckets[ARCHIVE].notification_configuration.event_bridge is not None

    def test_cloudformation_is_told_of_an_archive_that_is_not_there(self, endpoint: str) -> None:
        """It would wait for an hour otherwise."""
        answer = ask_function(endpoint, "Create", {"Bucket": "no-archive", "Owner": ACCOUNT})
        assert answer["Status"] == "FAILED"
        assert "NoSuchBucket" in answer["Reason"]

    def test_the_function_may_change_the_notifications_of_the_archive_and_nothing_else(
        self, endpoint: str, outputs: dict[str, str]
    ) -> None:
        (role,) = [
            one for one in client("iam", endpoint).list_roles()["Roles"] if "AddEventBridgeRole" in one["RoleName"]
        ]
        actions = ("GetBucketNotification", "PutBucketNotification", "GetObject", "PutObject", "PutBucketPolicy")
        resources = [f"arn:aws:s3:::{name}" for name in (ARCHIVE, "other-archive", f"{ARCHIVE}/deliveries/a")]
        may = [
            (action, resource)
            for resource in resources
            for action in actions
            if allow(role_policies(role["Arn"]), Request(f"s3:{action}", resource))
        ]
        assert may == [(action, f"arn:aws:s3:::{ARCHIVE}") for action in actions[:2]]

    def test_the_function_reserves_nothing_of_the_account(self, endpoint: str, outputs: dict[str, str]) -> None:
        """A new account may run ten functions at a time, and AWS refuses to reserve any of them."""
        (found,) = client("lambda", endpoint).list_functions()["Functions"]
        assert "ReservedConcurrentExecutions" not in client("lambda", endpoint).get_function_concurrency(
            FunctionName=found["FunctionName"]
        )


class TestDeadLetters:
    def test_a_message_that_is_never_deleted_is_set_aside(self, endpoint: str, outputs: dict[str, str]) -> None:
        sqs = client("sqs", endpoint)
        queue, dead = (address(endpoint, outputs[f"Arrivals{name}Url"]) for name in ("Queue", "DeadLetters"))
        keys_in(endpoint, queue)
        sqs.send_message(QueueUrl=queue, MessageBody="a message that stops its reader")
        times = 0
        while sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0).get("Messages"):
            times += 1
        assert times == 10
        (message,) = sqs.receive_message(QueueUrl=dead)["Messages"]
        assert message["Body"] == "a message that stops its reader"
        kept = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["MessageRetentionPeriod"])["Attributes"]
        assert int(kept["MessageRetentionPeriod"]) == 14 * 24 * 3600

    def test_an_event_that_cannot_be_delivered_goes_there_too(self, endpoint: str, outputs: dict[str, str]) -> None:
        events = client("events", endpoint)
        (rule,) = events.list_rules()["Rules"]
        (target,) = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
        queue, dead = (outputs[name].rsplit("/", 1)[-1] for name in ("ArrivalsQueueUrl", "ArrivalsDeadLettersUrl"))
        assert target["Arn"].endswith(f":{queue}")
        assert target["DeadLetterConfig"]["Arn"].endswith(f":{dead}")


def test_every_alarm_tells_the_topic_of_trouble_and_of_its_end(endpoint: str, outputs: dict[str, str]) -> None:
    alarms = client("cloudwatch", endpoint).describe_alarms()["MetricAlarms"]
    assert {alarm["AlarmName"] for alarm in alarms} == {
        "ArrivalsAreNotRead",
        "ArrivalsAreSetAside",
        "EventsAreNotDelivered",
    }
    for alarm in alarms:
        assert alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC]
