"""The queue of ``arrivals``: that it is there, that poison leaves it, and that S3's notifications reach it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from airlock.stages.doctor.event_patterns import cover_prefix, list_fields, match_value
from airlock.stages.doctor.findings import Check, Result, failed, passed, warned
from airlock.stages.doctor.identity import caller_id
from airlock.stages.doctor.policies import Answer, Request, ask
from airlock.storage.aws import error_code
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import Arrivals, Pipeline
    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.world import World

QUEUE: Final = "arrivals.queue"
MISSING: Final = frozenset(
    {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "com.amazonaws.sqs#QueueDoesNotExist"}
)
_CREATED: Final = "s3:ObjectCreated:"
_OBJECT_CREATED: Final = "Object Created"
_KNOWN_FIELDS: Final = frozenset(
    {
        *("source", "detail-type", "resources", "detail.bucket.name", "detail.object.key"),
        *("version", "account", "region"),  # the same for all events of a bucket
    }
)
_S3, _EVENTS, _SNS = "s3.amazonaws.com", "events.amazonaws.com", "sns.amazonaws.com"


@dataclass(frozen=True)
class _Queues:
    """The queues of a pipeline, asked by their connection."""

    world: World
    settings: Arrivals

    @property
    def pipeline(self) -> Pipeline:
        return self.world.pipeline

    def client(self, service: str) -> Any:
        return self.world.connect(self.settings.aws_conn_id).client(service, self.settings.region_name)

    def s3(self) -> Any:
        return self.world.connect(self.pipeline.source.aws_conn_id).client("s3")

    def read(self, url: str) -> dict[str, str] | None:
        """Return a queue's attributes; None if it does not exist."""
        try:
            answer = self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        except ClientError as error:
            if error_code(error) not in MISSING:
                raise
            return None
        return dict(answer["Attributes"])

    def require(self) -> dict[str, str]:
        """Return the attributes of the queue that exists."""
        return self.read(self.settings.queue_url) or {}


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of a pipeline's queue, if it has one."""
    settings = world.pipeline.arrivals
    if settings is None:
        return
    queues, name = _Queues(world, settings), settings.queue_url.rpartition("/")[2]
    exists = f"{QUEUE} {name}"
    right = "sqs:GetQueueAttributes"
    yield Check(QUEUE, name, partial(_check_queue, queues), (caller_id(settings.aws_conn_id),), right)
    yield Check("arrivals.dead_letter", name, partial(_check_dead_letter, queues), (exists,), right)
    source = f"{name} from source.uri"
    needs = (exists, caller_id(world.pipeline.source.aws_conn_id))
    yield Check(
        "arrivals.notification", source, partial(_check_notification, queues), needs, "s3:GetBucketNotification"
    )
    yield Check("arrivals.schedule", world.pipeline.name, partial(_check_schedule, queues))


def _check_queue(queues: _Queues) -> Finding:
    attributes = queues.read(queues.settings.queue_url)
    if attributes is None:
        return failed(
            "There is no such queue.",
            "Create it (local stack: make demo-arrivals, demo-edge), or correct arrivals.queue_url or its region_name.",
        )
    if attributes.get("FifoQueue") == "true":
        return failed("It is a FIFO queue, to which S3 sends nothing.", "Name a standard queue.")
    kept = int(attributes.get("MessageRetentionPeriod", "345600"))
    if kept < 86_400:
        return warned(
            f"It keeps messages for {kept / 3600:g} hours: what arrives while Airflow is down is only found at night.",
            "Set MessageRetentionPeriod to some days.",
        )
    return passed(f"It keeps messages for {kept / 86_400:g} days.")


def _check_dead_letter(queues: _Queues) -> Finding:
    url = queues.settings.dead_letter_queue_url
    if url is not None and queues.read(url) is None:
        return failed(
            "There is no queue arrivals.dead_letter_queue_url, so messages that are not notifications come again and "
            "again.",
            "Create it, or correct the address.",
        )
    policy = json.loads(queues.require().get("RedrivePolicy", "{}"))
    if url is None and not policy:
        return failed(
            "It has neither a redrive policy nor arrivals.dead_letter_queue_url: poison never leaves it.",
            "Create a dead-letter queue, and name it in both.",
        )
    if not policy and not queues.world.connect(queues.settings.aws_conn_id).is_local("sqs"):
        return warned(
            "It has no redrive policy: a message that the triggerer cannot move stays.",
            "Give the queue a redrive policy to the same dead-letter queue.",
        )
    target = str(policy.get("deadLetterTargetArn", "")).rpartition(":")[2]
    # A dead-letter queue is in the account and Region of its source ("Amazon SQS dead-letter queues").
    if target and queues.read(f"{queues.settings.queue_url.rpartition('/')[0]}/{target}") is None:
        return failed(
            f"Its redrive policy names the queue {target}, which does not exist: poison never leaves it.",
            f"Create {target} again, or name another queue in the redrive policy.",
        )
    return passed("Messages that are not notifications leave it.")


def _check_schedule(queues: _Queues) -> Finding:
    if queues.pipeline.schedule.cron is None:
        return warned(
            "schedule.cron is null: an object whose message is lost waits for the next message.",
            "Give the pipeline a nightly schedule as well.",
        )
    return passed("Scheduled runs take objects whose message was lost.")


def _check_notification(queues: _Queues) -> Finding:
    """Follow the notification from the bucket to the queue, by each of the three ways."""
    source = S3Uri.parse(queues.pipeline.source.uri)
    found = queues.s3().get_bucket_notification_configuration(Bucket=source.bucket)
    ways = [
        *_find_direct(queues, found, source),
        *_find_by_topic(queues, found, source),
        *_find_by_bus(queues, found, source),
    ]
    if not ways:
        return failed(
            "No notification of the bucket leads to the queue: arrivals wake no run.",
            "Add one for s3:ObjectCreated:* (docs/arrivals.md); keep those that the bucket has.",
        )
    return min(ways, key=lambda one: ("pass", "warn", "fail").index(one.result.value))


def _find_direct(queues: _Queues, found: dict[str, Any], source: S3Uri) -> Iterator[Finding]:
    arn = queues.require()["QueueArn"]
    for one in found.get("QueueConfigurations", []):
        if one["QueueArn"] == arn:
            yield (
                _judge_filter(one, source)
                or _judge_policy(queues, _S3, f"arn:aws:s3:::{source.bucket}")
                or passed("S3 sends to the queue.")
            )


def _find_by_topic(queues: _Queues, found: dict[str, Any], source: S3Uri) -> Iterator[Finding]:
    arn = queues.require()["QueueArn"]
    for one in found.get("TopicConfigurations", []):
        topic = one["TopicArn"]
        pages = queues.client("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
        if any(item["Endpoint"] == arn for page in pages for item in page["Subscriptions"]):
            yield (
                _judge_filter(one, source)
                or _judge_policy(queues, _SNS, topic)
                or passed("S3 sends to a topic to which the queue is subscribed.")
            )


def _find_by_bus(queues: _Queues, found: dict[str, Any], source: S3Uri) -> Iterator[Finding]:
    if "EventBridgeConfiguration" not in found:
        return
    events, arn = queues.client("events"), queues.require()["QueueArn"]
    wanted = {"source": "aws.s3", "resources": f"arn:aws:s3:::{source.bucket}", "detail.bucket.name": source.bucket}
    for page in events.get_paginator("list_rule_names_by_target").paginate(TargetArn=arn):
        for name in page["RuleNames"]:
            rule = events.describe_rule(Name=name)
            fields = list_fields(json.loads(rule.get("EventPattern", "{}")))
            answers = [match_value(fields[field], value) for field, value in wanted.items() if field in fields]
            if False not in answers:
                judged = (
                    _judge_rule(rule, fields, source, is_sure=None not in answers),
                    _judge_policy(queues, _EVENTS, rule["Arn"]),
                )
                wrong = [one for one in judged if one is not None]
                sends = passed("S3 sends to EventBridge, and a rule of the bus to the queue.")
                yield min(wrong, key=lambda one: one.result is not Result.FAIL, default=sends)


def _judge_rule(rule: dict[str, Any], fields: dict[str, list[Any]], source: S3Uri, *, is_sure: bool) -> Finding | None:
    """Return what is wrong with a rule of the bus; `is_sure` if it is known to take events of the bucket."""
    if rule.get("State") == "DISABLED":
        return failed("The rule of the bus that sends to the queue is disabled.", "Enable the rule.")
    created = match_value(fields.get("detail-type", [_OBJECT_CREATED]), _OBJECT_CREATED)
    if created is False:
        return failed("The rule of the bus takes no Object Created events.", "Add this detail-type to its pattern.")
    covered = cover_prefix(fields.get("detail.object.key", [{"prefix": ""}]), source.key)
    if covered is False:
        return failed("The rule of the bus does not take all objects below source.uri.", "Correct its prefix.")
    if not is_sure or None in {created, covered} or fields.keys() - _KNOWN_FIELDS:
        return warned(
            "A rule of the bus sends to the queue. Whether its pattern matches all objects below source.uri is not "
            "known to the doctor.",
            "Compare its pattern with docs/arrivals.md.",
        )
    return None


def _judge_filter(one: dict[str, Any], source: S3Uri) -> Finding | None:
    """Return what is wrong with the events and the filter of a notification."""
    if not any(event.startswith(_CREATED) for event in one["Events"]):
        return failed("The notification is not about created objects.", "Add the event s3:ObjectCreated:*.")
    rules = {
        rule["Name"].lower(): rule["Value"] for rule in one.get("Filter", {}).get("Key", {}).get("FilterRules", [])
    }
    prefix = rules.get("prefix", "")
    if not source.key.startswith(prefix):
        slash = " Keys begin without a slash." if prefix.startswith("/") else ""
        return failed(
            "The prefix of the notification does not cover source.uri.",
            f"Make it the prefix of source.uri, or shorter.{slash}",
        )
    if f"{_CREATED}*" not in one["Events"]:
        return warned(
            "The notification leaves out some ways to create an object, such as uploads in parts or copies.",
            "Make its event s3:ObjectCreated:*.",
        )
    if rules.get("suffix"):
        return warned("The notification has a suffix: other objects wait for the night.", "Remove the suffix.")
    return None


def _judge_policy(queues: _Queues, service: str, source_arn: str) -> Finding | None:
    """Return what keeps a service from sending to the queue."""
    attributes = queues.require()
    if not attributes.get("Policy"):
        if queues.world.connect(queues.settings.aws_conn_id).is_local("sqs"):
            return None  # the local queue takes messages from everybody
        return failed(f"The queue has no policy, so {service} may not send to it.", "Give it that of docs/arrivals.md.")
    account = attributes["QueueArn"].split(":")[4]
    context = {"aws:SourceArn": source_arn, "aws:SourceAccount": account, "aws:SecureTransport": "true"}
    request = Request(frozenset({f"Service:{service}"}), "sqs:SendMessage", attributes["QueueArn"], context)
    answer = ask(json.loads(attributes["Policy"]), request)
    if answer is Answer.OPEN:
        return warned(
            f"Whether the queue's policy lets {service} send depends on conditions that the doctor does not know.",
            "Compare it with docs/arrivals.md.",
        )
    if answer is not Answer.ALLOWED:
        return failed(
            f"The queue's policy does not let {service} send for this source.", "Give it that of docs/arrivals.md."
        )
    return None
