"""CloudFormation stacks on moto, and the rights of their roles, buckets and keys.

Moto makes the resources that it knows. `deploy` gives the rest of a template to the services' own APIs, with the
properties as moto's CloudFormation has resolved them: queue policies, alarms, what it leaves out of buckets, and what
`tests.servers.stack_models` makes.
Policies of buckets are kept from moto, which does not know their conditions: a guard before it judges by them.
"""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any
from unittest import mock

from moto.cloudformation import parsing
from moto.cloudformation.models import cloudformation_backends
from moto.iam.models import iam_backends
from moto.kms.models import kms_backends
from moto.s3.models import s3_backends

from tests.iam_policies import Policy
from tests.servers.guarded_keys import Key, KeyGuard
from tests.servers.stack_models import REGION, client, custom_model, models

if TYPE_CHECKING:
    from pathlib import Path

ACCOUNT = "123456789012"  # moto's
# Moto cuts the short form at each dot, CloudFormation at the first.
_NESTED = re.compile(r"!GetAtt (\w+)\.(\w+\.\w+)")


def deploy(
    endpoint: str, template: Path, name: str, parameters: dict[str, str], emulator: str | None = None
) -> dict[str, str]:
    """Make a stack of a template, all its resources, and return its outputs; the emulator makes data stores."""
    cloudformation = client("cloudformation", endpoint)
    known = parsing.get_model_map() | models(endpoint, emulator)
    with (
        mock.patch.object(parsing, "clean_json", _clean),
        mock.patch.object(parsing, "get_model_map", return_value=known),
        mock.patch.object(parsing, "CustomModel", custom_model(endpoint)),
    ):
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=_NESTED.sub(r'{"Fn::GetAtt": [\1, \2]}', template.read_text(encoding="utf-8")),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
    for kind, logical_id, properties in resolved(name):
        if kind in _MADE_HERE:
            _MADE_HERE[kind](endpoint, logical_id, properties)
    (made,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in made.get("Outputs", ())}


def resolved(name: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return type, logical id and properties of a stack's resources, without functions of CloudFormation."""
    (stack,) = cloudformation_backends[ACCOUNT][REGION].describe_stacks(name)
    known: parsing.ResourceMap = stack.resource_map
    with mock.patch.object(parsing, "clean_json", _clean):
        return [
            (item["Type"], logical_id, _clean(copy.deepcopy(item.get("Properties", {})), known))
            for logical_id, item in known._resource_json_map.items()
            if "Condition" not in item or known.lazy_condition_map[item["Condition"]]
        ]


_clean_with_nulls = parsing.clean_json


def _clean(value: Any, known: parsing.ResourceMap) -> Any:
    """Resolve the functions in a value; moto leaves a null in a list where AWS::NoValue stands, AWS nothing."""
    made = _clean_with_nulls(value, known)
    return [item for item in made if item is not None] if isinstance(made, list) else made


def _finish_bucket(endpoint: str, logical_id: str, properties: dict[str, Any]) -> None:
    s3, bucket = client("s3", endpoint), properties["BucketName"]
    blocked = properties["PublicAccessBlockConfiguration"]
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=blocked)
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=properties["OwnershipControls"])
    rules = [_api_rule(rule) for rule in properties["LifecycleConfiguration"]["Rules"]]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    if "VersioningConfiguration" in properties:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=properties["VersioningConfiguration"])
    if "NotificationConfiguration" in properties:
        wanted = {"EventBridgeConfiguration": {}}
        s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=wanted)


def _api_rule(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a lifecycle rule as S3's API has it."""
    parts = ("Status", "AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration")
    made = {"ID": rule["Id"], "Filter": {"Prefix": rule.get("Prefix", "")}}
    made |= {part: rule[part] for part in parts if part in rule}
    names = {"ExpirationInDays": "Days", "ExpiredObjectDeleteMarker": "ExpiredObjectDeleteMarker"}
    expiration = {name: rule[given] for given, name in names.items() if given in rule}
    return made | ({"Expiration": expiration} if expiration else {})


def _put_queue_policy(endpoint: str, logical_id: str, properties: dict[str, Any]) -> None:
    sqs, policy = client("sqs", endpoint), json.dumps(properties["PolicyDocument"])
    for url in properties["Queues"]:
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})


def _put_alarm(endpoint: str, logical_id: str, properties: dict[str, Any]) -> None:
    given = properties | {"Threshold": float(properties["Threshold"])}
    client("cloudwatch", endpoint).put_metric_alarm(AlarmName=logical_id, **given)


_MADE_HERE = {
    "AWS::S3::Bucket": _finish_bucket,
    "AWS::SQS::QueuePolicy": _put_queue_policy,
    "AWS::CloudWatch::Alarm": _put_alarm,
}


def guard_of(role: str, stack: str) -> KeyGuard:
    """Return a guard that judges as AWS would judge a role at a stack's buckets, and at their keys."""
    policies = {
        properties["Bucket"]: Policy.parse(logical_id, json.dumps(properties["PolicyDocument"]))
        for kind, logical_id, properties in resolved(stack)
        if kind == "AWS::S3::BucketPolicy"
    }
    return KeyGuard(identity=role_policies(role), buckets=policies, caller=role, keys=bucket_keys())


def bucket_keys() -> dict[str, Key]:
    """Return the key with which each bucket encrypts by default."""
    found = {}
    for name, bucket in s3_backends[ACCOUNT]["aws"].buckets.items():
        if bucket.encryption:
            arn = bucket.encryption["Rule"]["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"]
            found[name] = Key(arn, key_policy(arn))
    return found


def role_policies(arn: str) -> list[Policy]:
    """Return the policies of a role, attached and its own."""
    role = iam_backends[ACCOUNT]["aws"].get_role_by_arn(arn)
    attached = [one for policy in role.managed_policies.values() for one in policy.versions if one.is_default]
    documents = (*(one.document for one in attached), *role.policies.values())
    return [Policy.parse(arn, one if isinstance(one, str) else json.dumps(one)) for one in documents]


def key_policy(key: str) -> dict[str, Any]:
    """Return the policy of a KMS key, by its id or ARN."""
    policy = kms_backends[ACCOUNT][REGION].keys[key.rsplit("/", 1)[-1]].policy
    return dict(json.loads(policy) if isinstance(policy, str) else policy)
