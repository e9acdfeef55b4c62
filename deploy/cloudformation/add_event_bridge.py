"""Switch EventBridge on for a bucket that exists, and leave its other notifications as they are.

CloudFormation has no resource for the notifications of a bucket that the stack did not make, and S3's call replaces
all of them: so what is there is read first and sent back. When the stack is deleted, EventBridge stays on: others may
use it by then.
"""

import json
import urllib.request

import boto3


def add_event_bridge(s3, bucket, owner):
    """Add EventBridge to the notifications of a bucket; return whether it was off."""
    found = s3.get_bucket_notification_configuration(Bucket=bucket, ExpectedBucketOwner=owner)
    found.pop("ResponseMetadata", None)
    if "EventBridgeConfiguration" in found:
        return False
    wanted = {**found, "EventBridgeConfiguration": {}}
    # The queues and topics of others are theirs to check; a target that is gone must not stop the stack.
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        ExpectedBucketOwner=owner,
        NotificationConfiguration=wanted,
        SkipDestinationValidation=True,
    )
    return True


def handler(event, _):
    """Answer CloudFormation, whatever happens: it would wait for an hour otherwise."""
    answer = {name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    given = event["ResourceProperties"]
    answer.update(Status="SUCCESS", PhysicalResourceId=given["Bucket"])
    try:
        if event["RequestType"] != "Delete":
            add_event_bridge(boto3.client("s3"), given["Bucket"], given["Owner"])
    except Exception as error:  # noqa: BLE001  (the stack shows it as the reason of its failure)
        answer.update(Status="FAILED", Reason=f"EventBridge of {given['Bucket']} was not switched on: {error}")
    body = json.dumps(answer).encode()
    request = urllib.request.Request(event["ResponseURL"], body, {"Content-Type": ""}, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
